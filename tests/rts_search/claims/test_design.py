"""What is run, and what is claimed: properties of `due` and `decide`, against slow references."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rts_search.claims.design import Design, Run, decide, due, winner
from rts_search.claims.inference import MARGIN, nominal_level

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


@settings(max_examples=60, deadline=None)
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


def test_pococks_constant() -> None:
    """Jennison and Turnbull, table 2.1: 2.361 for four looks at 5 %, 2.939 at 1 %."""
    for alpha, constant in ((0.05, 2.361), (0.01, 2.939)):
        assert nominal_level(alpha, (5, 10, 15, 20)) == pytest.approx(
            MARGIN * 2 * stats.norm.sf(constant), rel=2e-3
        )
    assert nominal_level(0.05, (7,)) == pytest.approx(0.05)


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
