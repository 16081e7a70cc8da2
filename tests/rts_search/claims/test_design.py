"""What is run, and what is claimed: properties of `due` and `decide`, against slow references."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rts_search.claims.design import Design, Run, decide, due, winner

BASELINES = ("sgd", "sgd at equal gradients", "pugd", "sam", "asam")
BLOCKS = tuple(tuple(range(100 + 5 * i, 105 + 5 * i)) for i in range(4))


def world(design: Design, seed: int, gains: list[float], collapse: float) -> dict:
    """All runs that could be asked for, of arms that truly gain so much."""
    rng = np.random.default_rng(seed)
    runs = {}
    for arm, gain in zip((*design.candidates, *design.baselines), gains, strict=False):
        for s in (*design.pick_seeds, *design.seeds):
            collapsed = bool(rng.random() < collapse)
            value = 0.1 if collapsed else 0.9 + gain + 0.003 * rng.standard_normal()
            runs[arm, s] = Run(float(value), collapsed)
    return runs


@st.composite
def designs(draw: st.DrawFn) -> Design:
    candidates = tuple("abcd"[: draw(st.integers(1, 4))])
    thorough = draw(st.booleans())
    return Design(
        candidates,
        BASELINES[: draw(st.integers(1, 4))],
        () if len(candidates) == 1 or thorough else (1, 2, 3),
        BLOCKS[: draw(st.integers(1, 4))],
        thorough=thorough,
    )


GAINS = st.lists(st.sampled_from([-0.01, 0.0, 0.003, 0.006, 0.012]), min_size=8, max_size=8)
WORLDS = st.tuples(designs(), st.integers(0, 999), GAINS, st.sampled_from([0.0, 0.0, 0.1]))


@settings(max_examples=40, deadline=None)
@given(WORLDS, st.randoms(use_true_random=False))
def test_runs_in_any_order_end_in_the_same_decision(given: tuple, shuffle: random.Random) -> None:
    """Also cut off anywhere: runs that are recorded are never asked for again, and it ends."""
    design, *how = given
    truth = world(design, *how)
    decisions, asked = [], []
    for one_by_one in (False, True):
        results: dict = {}
        while wanted := due(design, results):
            assert not decide(design, results).over
            assert len(set(wanted)) == len(wanted)
            assert not results.keys() & set(wanted)
            assert not one_by_one or set(wanted) <= asked[0].keys()
            key = shuffle.choice(wanted) if one_by_one else None
            results |= {k: truth[k] for k in wanted if key in (None, k)}
        decisions.append(decide(design, results))
        asked.append(results)
    assert decisions[0].over
    assert decisions[0] == decisions[1]
    assert asked[0] == asked[1]
    assert decide(design, truth) == decisions[0], "runs that nobody asked for change nothing"


def test_the_test_is_scipys_of_welch() -> None:
    design = Design(("a",), BASELINES, (), BLOCKS)
    truth = world(design, 3, [0.004, 0, 0, 0, 0, 0], 0)
    for one in decide(design, truth).comparisons:
        seeds = design.seeds[: one.n]
        ours = [truth[one.candidate, s].value for s in seeds]
        theirs = [truth[one.baseline, s].value for s in seeds]
        test = stats.ttest_ind(ours, theirs, equal_var=False)
        assert one.p == pytest.approx(test.pvalue)
        interval = test.confidence_interval(1 - design.level)
        assert (one.low, one.high) == pytest.approx((interval.low, interval.high))


def runs_of(means: dict[str, float], spread: float, collapsed: str = "") -> dict:
    """Runs on all seeds, as if each arm's deviated alike; those of one arm all collapsed."""
    seeds = range(100, 120)
    noise = np.random.default_rng(0).standard_normal((len(means), len(seeds)))
    return {
        (arm, seed): Run(0.9 + mean + spread * noise[a, i], arm == collapsed)
        for a, (arm, mean) in enumerate(means.items())
        for i, seed in enumerate(seeds)
    }


def test_names_of_arms_do_not_matter() -> None:
    design = Design(("a", "b"), ("sgd", "pugd", "sam"), (), BLOCKS, thorough=True)
    truth = world(design, 5, [0.006, 0.002, 0, 0.003, 0.001], 0)
    other = {"a": "z", "b": "y", "sgd": "m", "pugd": "n", "sam": "b"}
    renamed = Design(("y", "z"), ("b", "m", "n"), (), BLOCKS, thorough=True)
    moved = {(other[arm], seed): run for (arm, seed), run in truth.items()}
    ours, theirs = decide(design, truth), decide(renamed, moved)
    told = {
        (other[c.candidate], other[c.baseline]): (c.p_holm, c.verdict) for c in ours.comparisons
    }
    assert told == {(c.candidate, c.baseline): (c.p_holm, c.verdict) for c in theirs.comparisons}
    assert {other[arm] for arm in ours.winners} == set(theirs.winners)


def test_what_is_beaten_or_given_up_gets_no_more_runs() -> None:
    design = Design(("a",), ("sgd", "pugd", "sam"), (), BLOCKS)
    runs = runs_of({"a": 0.02, "sgd": 0.0, "pugd": 0.021, "sam": 0.1}, 0.003)
    first = {key: run for key, run in runs.items() if key[1] < 105}
    assert {arm for arm, _ in due(design, first)} == {"a", "pugd"}
    assert [c.verdict for c in decide(design, first).comparisons] == [
        "established",
        "open",
        "worse",
    ]
    assert not decide(design, runs).winners


def test_one_beaten_by_itself_waits_while_all_can_be_beaten() -> None:
    """Its p passes alone, but not by Holm: no more runs for it, until another one is given up."""
    design = Design(("a",), ("sgd", "pugd"), (), BLOCKS)

    def after_one_block(pugd: float, spread: float) -> dict:
        noise = dict(zip(BLOCKS[0], (-0.001, -0.0005, 0.0, 0.0005, 0.001), strict=True))
        runs = {("a", s): Run(0.9 + x) for s, x in noise.items()}
        runs |= {("sgd", s): Run(0.8984 - x) for s, x in noise.items()}
        return runs | {("pugd", s): Run(pugd - spread * x) for s, x in noise.items()}

    def asked(runs: dict) -> set[str]:
        return {arm for arm, _ in due(design, runs)}

    near = after_one_block(0.8994, 3)
    sgd, pugd = decide(design, near).comparisons
    assert sgd.p is not None
    assert sgd.p_holm is not None
    assert sgd.p <= design.level < sgd.p_holm
    assert (sgd.verdict, pugd.verdict) == ("open", "open")
    assert asked(near) == {"a", "pugd"}
    # both beaten, each at its level: both sentences hold
    both = after_one_block(0.8984, 1)
    assert [c.verdict for c in decide(design, both).comparisons] == ["established"] * 2
    assert decide(design, both).winners == ("a",)
    # pugd given up without a verdict: sgd goes on
    futile = after_one_block(0.912, 13)
    sgd, pugd = decide(design, futile).comparisons
    assert (sgd.verdict, pugd.verdict) == ("open", "not established")
    assert asked(futile) == {"a", "sgd"}


def test_where_runs_collapsed_a_sign_flip_test_must_agree() -> None:
    design = Design(("a",), ("sgd",), (), BLOCKS)
    runs = runs_of({"a": 0.02, "sgd": 0.0}, 0.001, collapsed="sgd")
    first = {key: run for key, run in runs.items() if key[1] < 105}
    (one,) = decide(design, first).comparisons
    assert one.collapsed
    assert one.p is not None
    assert one.p < 1e-6
    assert one.p_flip == pytest.approx(2 / 2**5), "five seeds cannot say more"
    assert one.verdict == "open"
    (one,) = decide(design, runs).comparisons
    assert (one.verdict, one.n, one.p_flip) == ("established", 10, pytest.approx(2 / 2**10))


def test_runs_that_do_not_deviate_are_no_proof_by_themselves() -> None:
    design = Design(("a",), ("sgd",), (), BLOCKS)
    alike = runs_of({"a": 0.0, "sgd": 0.0}, 0.0)
    assert [c.verdict for c in decide(design, alike).comparisons] == ["not established"]
    (one,) = decide(design, runs_of({"a": 0.02, "sgd": 0.0}, 0.0)).comparisons
    assert (one.verdict, one.n) == ("established", 10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baselines": ()}, "needs a candidate, a baseline and a block"),
        ({"baselines": ("a",)}, "arms must differ, not a, b, a"),
        ({"pick_seeds": (100,)}, "each seed may be used once"),
        ({"pick_seeds": ()}, "to pick one of 2 candidates needs pick_seeds"),
        ({"blocks": ((100,), (101,))}, "the first block needs two seeds"),
        ({"alpha": 0.0}, "alpha is above 0 and below 0.5, not 0.0"),
        ({"gain": -0.1}, "the smallest gain of interest is above 0, not -0.1"),
        ({"futility": 1.0}, "futility is at least 0 and below 1"),
    ],
)
def test_designs_that_cannot_be_are_refused(changes: dict, message: str) -> None:
    fields = {"candidates": ("a", "b"), "baselines": ("sgd",), "pick_seeds": (1,), "blocks": BLOCKS}
    with pytest.raises(ValueError, match=message):
        Design(**fields | changes)


def test_picks_the_highest_mean() -> None:
    design = Design(("a", "b"), ("sgd",), (1, 2), BLOCKS)
    runs = {("a", 1): Run(0.9), ("a", 2): Run(0.5), ("b", 1): Run(0.8)}
    assert winner(design, runs) is None
    assert due(design, runs) == [("b", 2)]
    assert winner(design, runs | {("b", 2): Run(0.7)}) == "b"


def test_a_value_that_is_no_number_is_refused() -> None:
    design = Design(("a",), ("sgd",), (), BLOCKS)
    runs = {(arm, s): Run(0.5) for arm in ("a", "sgd") for s in BLOCKS[0]}
    with pytest.raises(ValueError, match="sgd with seed 100 ended at nan"):
        decide(design, runs | {("sgd", 100): Run(float("nan"))})
