"""Many replays: regret, intervals, random search, and how well short looks rank."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rts_search.replay.measure import (
    Settings,
    draw_all,
    measure,
    random_curve,
    random_search,
    truth_all,
)
from rts_search.replay.policies import default_policies, parse_policy
from rts_search.replay.ranks import rank_rows, spread
from tests.rts_search.replay.test_simulate import POLICIES, T, table

BOTH = np.arange(2)
LEVELS = [0.3 + 0.01 * i for i in range(20)]


def test_perfectly_ranked_short_runs_lose_nothing() -> None:
    policies = [parse_policy(name) for name in ("asha:schedule:3:3", "asha:epoch:3:3", "none")]
    for each in measure(table(LEVELS), policies, Settings(replays=10, workers=2)):
        assert each.stats["regret"] == 0
        assert each.stats["within_0.1"] == 1
    assert each.stats["share"] == 1


def test_the_same_seed_gives_the_same_figures_and_another_seed_others() -> None:
    curves, policies = table(LEVELS, noise=0.2), [parse_policy("asha:schedule:3:3")]
    first, again, other = (
        measure(curves, policies, Settings(replays=5, seed=seed, bootstrap=4, bootstrap_replays=2))
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first[0].stats["epochs"] != other[0].stats["epochs"]
    low, high = first[0].intervals["share"]
    assert 0 < low < high


def test_judged_by_seeds_that_no_policy_saw() -> None:
    curves = table([0.5, 0.6], seeds=(1, 2, 3))
    for seed, level in ((1, 0.1), (2, 0.2), (3, 0.3)):
        curves.runs[T, seed].final[:] = level
    draws = draw_all(curves, BOTH, 3, Settings())
    assert [drawn.seeds[0] for drawn in draws] == [1, 2, 3]
    (found, *_) = truth_all(curves, [parse_policy("asha:schedule:3:3")], draws)
    assert found == pytest.approx([0.25, 0.25])
    alone = table([0.5, 0.6], seeds=(7,))
    (found,) = truth_all(alone, [parse_policy("none")], draw_all(alone, BOTH, 1, Settings()))
    assert found == pytest.approx([0.5, 0.6])


@given(st.lists(st.integers(0, 9), min_size=2, max_size=6), st.integers(1, 6), st.booleans())
def test_random_search_is_the_mean_over_all_subsets(
    levels: list[int], trials: int, lost: bool
) -> None:
    """In all orders: of equal ones the first is picked."""
    own = np.array(levels) / 10
    if lost:
        own[0] = np.nan
    true, trials = np.array([7, 2, 5, 1, 8, 3][: len(own)]) / 1000, min(trials, len(levels))
    regrets = []
    for drawn in itertools.permutations(range(len(own)), trials):
        whole = [i for i in drawn if np.isfinite(own[i])]
        pick = max(whole, key=lambda i: own[i]) if whole else int(true.argmin())
        regrets.append(100 * (true.max() - true[pick]))
    found = random_search(own, true, trials)
    assert found["regret"] == pytest.approx(np.mean(regrets), abs=1e-9)
    near = np.mean(np.array(regrets) <= 0.2 + 1e-9)
    if not lost:
        assert found["within_0.2"] == pytest.approx(near)


def test_random_search_over_everything_is_full_search() -> None:
    curves, policy = table(LEVELS, noise=0.3, seeds=(1, 2, 3)), parse_policy("none")
    stats = measure(curves, [policy], Settings(replays=6))[0].stats
    assert stats["regret"] == pytest.approx(stats["full_regret"])
    assert stats["within_0.2_minus_full"] == pytest.approx(0)
    curve = random_curve(curves, [policy], Settings())
    assert curve[-1] == pytest.approx((1.0, stats["regret"]))


def test_200_replays_of_40_runs_of_400_epochs_take_less_than_a_minute() -> None:
    curves = table(
        (0.5 + np.random.default_rng(1).random(40) / 10).tolist(),
        seeds=(1,),
        noise=0.05,
        totals=(400,),
    )
    began = time.perf_counter()
    measure(curves, [parse_policy("asha:epoch:3:5")], Settings(replays=200))
    assert time.perf_counter() - began < 60


def test_defaults_are_what_the_curves_allow() -> None:
    names = [policy.name for policy in default_policies(table(LEVELS))]
    assert names == ["none", "asha:epoch", "hyperband:epoch", "median:epoch"]
    complete = default_policies(table(LEVELS, totals=(7, 27)))
    assert [p.name for p in complete] == ["none", *(name.rpartition(":3:")[0] for name in POLICIES)]


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("bohb", "Input should be 'asha'"),
        ("asha:schedule:3:3:4", "must be POLICY"),
        ("asha:audi=0.2", "did you mean 'audit'"),
        ("asha:seeds=2", "unknown policy setting 'seeds'"),
        ("asha:audit=half", "audit = 'half': Input should be a valid number"),
        ("asha:audit=2", "audit = '2': Input should be less than or equal to 1"),
        ("asha:schedule:1:3", "greater than or equal to 1.01"),
    ],
)
def test_odd_policies_are_refused(policy: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_policy(policy)


@pytest.mark.parametrize(
    ("policy", "settings", "message"),
    [
        ("asha:schedule:3:3", {}, r"none of T = 3, 9 are recorded \(T = 27 are\)"),
        ("none", {"workers": 0}, "workers 0"),
        ("none", {"trials": 21}, "in 1–20"),
        ("none", {"replays": 0}, "at least 1"),
    ],
)
def test_what_was_not_recorded_is_refused(
    policy: str, settings: dict[str, int], message: str
) -> None:
    curves = table(LEVELS, seeds=(1,), totals=(27,))
    with pytest.raises(ValueError, match=message):
        measure(curves, [parse_policy(policy)], Settings(**settings))


def test_rank_rows_compare_short_runs_with_truncated_ones() -> None:
    curves = table(LEVELS, seeds=(1, 2, 3))
    rows = rank_rows(curves, looks=[5], bootstrap=20)
    assert [(row.signal, row.epochs) for row in rows] == [
        ("epoch 3 of 27", 3),
        ("complete T = 3", 3),
        ("epoch 5 of 27", 5),
        ("epoch 9 of 27", 9),
        ("complete T = 9", 9),
        ("complete T = 27, another seed", 27),
    ]
    assert all(row.every == pytest.approx(1) and row.top == pytest.approx(1) for row in rows)
    assert rank_rows(table(LEVELS, seeds=(1,))) == []
    with pytest.raises(ValueError, match="in 1–26"):
        rank_rows(curves, looks=[27])


def test_spread_is_in_points() -> None:
    curves = table([0.5] * 9 + [0.6, 0.62, 0.64], seeds=(1, 2))
    curves.runs[T, 2].final[:] += 0.02
    found = spread(curves.take([*range(9), 9, 10, 11]), bootstrap=10)
    assert found.rerun_sd == pytest.approx(100 * 0.02 / 2**0.5)
    assert found.top_range == pytest.approx(14.0)  # of 4: 0.64, 0.62, 0.6, and one of 0.5
