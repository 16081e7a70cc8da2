"""Means over seeds, against scipy's own interval."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from results.statistics import Difference, Estimate, difference, estimate, over_seeds

RUNS = st.lists(st.integers(0, 1000).map(lambda n: n / 1000), min_size=2, max_size=20, unique=True)


@settings(deadline=None)  # SciPy is loaded on the way
@given(RUNS, st.sampled_from([0.9, 0.95]))
def test_the_t_interval(values: list[float], confidence: float) -> None:
    found = estimate(values, confidence)
    low, high = stats.t.interval(
        confidence, len(values) - 1, loc=stats.tmean(values), scale=stats.sem(values)
    )
    assert found.half_width is not None
    assert found.mean - found.half_width == pytest.approx(low, abs=1e-9)
    assert found.mean + found.half_width == pytest.approx(high, abs=1e-9)
    assert (found.n, found.sd) == (len(values), pytest.approx(stats.tstd(values)))


def test_one_run_says_nothing_of_the_spread() -> None:
    assert estimate([0.5]) == Estimate(0.5, 1, None, None)
    for values in ([], [0.5, float("nan")]):
        with pytest.raises(ValueError, match="finite values"):
            estimate(values)


@settings(deadline=None)  # SciPy is loaded on the way
@given(RUNS, RUNS, st.sampled_from([0.9, 0.95]))
def test_a_difference_is_welchs(a: list[float], b: list[float], confidence: float) -> None:
    found = difference(a, b, confidence)
    theirs = stats.ttest_ind(a, b, equal_var=False).confidence_interval(confidence)
    assert found.half_width is not None
    assert found.mean - found.half_width == pytest.approx(theirs.low, abs=1e-9)
    assert found.mean + found.half_width == pytest.approx(theirs.high, abs=1e-9)


def test_a_difference_to_a_single_run_has_no_interval() -> None:
    for a, b in (([0.5], [0.25]), ([0.25, 0.75], [0.25]), ([0.5], [0.0, 0.5])):
        assert difference(a, b) == Difference(0.25, None)
    assert difference([0.5, 0.5], [0.25, 0.25]) == Difference(0.25, 0.0)


def test_seeds_of_one_configuration_are_taken_together() -> None:
    def row(sweep: str, trial: str, lr: float, seed: int, value: float | None) -> dict[str, object]:
        config = json.dumps({"train": {"lr": lr, "seed": seed}, "data": {"validation_seed": 0}})
        return {"sweep": sweep, "trial_id": trial, "config_json": config, "x": value}

    rows = [
        row("a", "t0", 0.1, 1, 0.5),
        row("a", "t1", 0.1, 2, 0.7),
        row("a", "t2", 0.1, 3, float("nan")),
        row("a", "t3", 0.2, 1, 0.9),
        row("b", "t0", 0.1, 1, 0.1),
        {**row("a", "t4", 0.1, 4, 0.3), "config_json": None},
    ]
    found = over_seeds(rows, "x")
    assert found[("a", "t0")] == found[("a", "t1")] == estimate([0.5, 0.7])
    assert found[("a", "t3")] == estimate([0.9])
    assert found[("b", "t0")].n == 1
    assert found.keys() == {("a", "t0"), ("a", "t1"), ("a", "t3"), ("b", "t0")}
