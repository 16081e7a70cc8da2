"""The four schedules are one family with two parametrisations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from tests.reference.optimizer import alpha, learning_rates
from trainables.schedules import AfterConfig, Schedule

STRATEGIES = ("cos", "isin", "sin", "icos")
RISES = {"cos": False, "isin": False, "sin": True, "icos": True}
positive = st.floats(1e-3, 100)
progress = st.floats(0, 1)


def betas(low: float = 1e-3) -> st.SearchStrategy[tuple[float, float]]:
    pair = st.tuples(st.floats(low, 100), st.floats(low, 100))
    return pair.map(lambda values: (min(values), max(values)))


@given(st.sampled_from(STRATEGIES), betas(), progress)
def test_agrees_with_the_papers_formulas(strategy, beta, at):
    schedule = Schedule(strategy=strategy, beta_min=beta[0], beta_max=beta[1])
    assert schedule(at) == pytest.approx(alpha(strategy, *beta, at * 7, 7), rel=1e-9)


@given(st.sampled_from(STRATEGIES), betas(), st.lists(progress, min_size=2, max_size=20))
def test_bounds_and_monotony(strategy, beta, points):
    schedule = Schedule(strategy=strategy, beta_min=beta[0], beta_max=beta[1])
    low, high = sorted((schedule.alpha_start, schedule.alpha_end))
    values = [schedule(point) for point in sorted(points)]
    assert all(low <= value <= high for value in values)
    rounding = 1e-12 * high
    for before, after in itertools.pairwise(values):
        step = after - before if RISES[strategy] else before - after
        assert step >= -rounding


@given(st.sampled_from(STRATEGIES), betas())
def test_ends(strategy, beta):
    schedule = Schedule(strategy=strategy, beta_min=beta[0], beta_max=beta[1])
    low, high = beta if strategy in ("cos", "sin") else (1 / beta[1], 1 / beta[0])
    expected = (low, high) if RISES[strategy] else (high, low)
    assert (schedule.alpha_start, schedule.alpha_end) == pytest.approx(expected, rel=1e-9)


@given(st.sampled_from(STRATEGIES), betas(), progress)
def test_paper_to_alpha_and_back(strategy, beta, at):
    paper = Schedule(strategy=strategy, beta_min=beta[0], beta_max=beta[1])
    ours = Schedule.from_alpha(paper.alpha_start, paper.alpha_end, paper.shape)
    # 1/β may round two neighbouring β to one α; that schedule is constant
    assert ours.strategy in (strategy, "constant")
    assert ours(at) == pytest.approx(paper(at), rel=1e-9)


@given(positive, positive, st.sampled_from(["plain", "inverse"]))
@example(2.0, 2.0, "inverse")
def test_alpha_form_goes_from_start_to_end(start, end, shape):
    schedule = Schedule.model_validate({"alpha_start": start, "alpha_end": end, "shape": shape})
    assert schedule.alpha_start == pytest.approx(start, rel=1e-9)
    assert schedule.alpha_end == pytest.approx(end, rel=1e-9)


@given(positive, st.sampled_from(["plain", "inverse"]), progress)
def test_alpha_form_is_continuous_through_constant(start, shape, at):
    near = Schedule.from_alpha(start, start * (1 + 1e-9), shape)
    assert near(at) == pytest.approx(Schedule.from_alpha(start, start, shape)(at), rel=1e-8)


after = st.builds(
    AfterConfig, lr_factor=st.floats(1e-3, 1e3), anneal=st.sampled_from(["keep", "own"])
)
switch = st.floats(0, 0.999)


@given(after, switch, st.lists(progress, min_size=1, max_size=20))
def test_lr_agrees_with_the_reference(rule, fired, points):
    times = np.array(points)
    wanted = learning_rates(1.0, times, 1.0, fired, rule.lr_factor, rule.anneal)
    found = [rule.lr_share(at, fired if at >= fired else None) for at in points]
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)


@given(after, switch)
def test_lr_begins_at_its_factor_at_the_switch_and_ends_at_0(rule, fired):
    before = AfterConfig().lr_share(fired, None)
    assert rule.lr_share(fired, fired) == pytest.approx(rule.lr_factor * before, rel=1e-12)
    assert rule.lr_share(1.0, fired) == pytest.approx(0, abs=1e-12 * rule.lr_factor)


@given(after, switch, progress, progress)
def test_lr_falls_after_the_switch_without_a_jump(rule, fired, one, other):
    start, end = sorted(fired + (1 - fired) * share for share in (one, other))
    fall = rule.lr_share(start, fired) - rule.lr_share(end, fired)
    steepest = rule.lr_factor * math.pi / 2  # of the cosine; its own one is as steep in less time
    steepest *= 1 if rule.anneal == "keep" else rule.lr_share(fired, fired) / rule.lr_factor
    time = end - start if rule.anneal == "keep" else (end - start) / (1 - fired)
    assert -1e-9 * rule.lr_factor <= fall <= steepest * time + 1e-9 * rule.lr_factor


@given(switch, progress)
def test_lr_is_the_cosine_by_default_to_the_bit(fired, at):
    assert AfterConfig().lr_share(at, fired) == AfterConfig().lr_share(at, None)
    assert 0.1 * AfterConfig().lr_share(at, None) == 0.1 * 0.5 * (1.0 + math.cos(math.pi * at))


@given(progress)
def test_an_anneal_of_its_own_from_the_start_is_the_cosine(at):
    assert AfterConfig(anneal="own").lr_share(at, 0.0) == AfterConfig().lr_share(at, 0.0)


def test_the_papers_winner_starts_at_a_hundred():
    schedule = Schedule(strategy="isin", beta_min=0.01, beta_max=2)
    assert (schedule(0), schedule(1)) == pytest.approx((100, 0.5))
    assert Schedule(strategy="icos", beta_min=0.01, beta_max=2)(2 / 3) == pytest.approx(
        1 / (0.01 + 1.99 * math.cos(math.pi / 3))
    )


def test_numbers_are_constants_and_progress_is_clipped():
    assert TypeAdapter(Schedule).validate_python(0.3)(0.7) == 0.3
    sine = Schedule(strategy="sin", beta_min=0, beta_max=2)
    assert (sine(-1), sine(2)) == (0.0, 2.0)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"strategy": "cos", "beta_min": 2, "beta_max": 1}, "above beta_max"),
        ({"strategy": "isin", "beta_min": 0, "beta_max": 1}, "above 0"),
        ({"strategy": "icos", "beta_min": 0, "beta_max": 1}, "above 0"),
        ({"strategy": "constant", "beta_min": 0, "beta_max": 1}, "equal to beta_max"),
        ({"strategy": "cosine", "beta_min": 0, "beta_max": 1}, "cos"),
        ({"strategy": "cos", "beta_min": -1, "beta_max": 1}, "greater than or equal to 0"),
        ({"alpha_start": 0, "alpha_end": 1, "shape": "inverse"}, "above 0"),
        ({"alpha_start": 1, "alpha_end": 2, "shape": "bent"}, "plain, inverse"),
        ({"alpha_start": 1, "alpha_end": 2, "beta_min": 1}, "do not go with"),
        ({"alpha_start": "x", "alpha_end": 2}, "must be numbers"),
    ],
)
def test_bad_values_are_refused(value, message):
    with pytest.raises(ValidationError, match=message):
        Schedule.model_validate(value)
