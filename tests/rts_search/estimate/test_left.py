"""The time left of a running sweep is the estimate's, at the speed that is seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from rts_search.driver.budget import Budget
from rts_search.estimate.cost import estimate
from rts_search.estimate.left import Work, time_left
from rts_search.show.progress import Spent
from rts_search.spec.model import SweepSpec
from rts_search.spec.reading import parse
from rts_search.trials.trial import LiveTrial

SPENT = Spent(seconds=10.0, gradients=100)  # a tenth of a second each


def spec(storage: Path, **groups: object) -> SweepSpec:
    content = {
        "storage": str(storage),
        "data": {"name": "digits", "train_size": 200},
        "model": {"name": "mlp"},
        "train": {"epochs": 16, "batch_size": 90},
        "search": {"trials": 8},
    }
    return parse(SweepSpec, content | groups)


def told(asked: SweepSpec, budget: Budget | None = None) -> float:
    """Before the first of 8 trials and 3 controls."""
    left = time_left(asked, budget)
    assert left is not None
    return left([], 8, 3, SPENT)


def test_where_nothing_can_be_known_nothing_is_told(tmp_path: Path) -> None:
    assert time_left(spec(tmp_path, space="no_such_module:space")) is None


def test_before_a_trial_it_is_the_estimate(tmp_path: Path) -> None:
    asked = spec(tmp_path)
    whole = estimate(asked, 2, 0, probe=False).whole
    assert told(asked) == pytest.approx(whole.gradients.likely / 10, rel=0.001)


def trial(number: int | None, epoch: int, spec: SweepSpec) -> LiveTrial:
    rows = [
        {"rung": 0, "epoch": e, "gradient_evaluations": 10 * e, "epoch_seconds": 1.0}
        for e in range(1, epoch + 1)
    ]
    return LiveTrial("x", spec.base, number, history=rows)


def test_what_runs_counts_for_its_rest_and_is_a_bound(tmp_path: Path) -> None:
    asked = spec(tmp_path)
    work = Work(searched=80, control=200)
    two = [trial(0, 2, asked), trial(None, 4, asked)]
    # 60 of the searched one; of the control 12 epochs of 10
    assert [work.rest(each) for each in two] == [60, 120]
    assert work.seconds(two, 4, 1, SPENT) == pytest.approx((180 + 4 * 80 + 200) / 2 / 10)
    assert work.seconds(two, 0, 0, SPENT) == pytest.approx(12.0)  # as long as the longest


def test_a_control_that_was_shared_until_now_has_its_rest_before_it(tmp_path: Path) -> None:
    control = trial(None, 4, spec(tmp_path))
    control.history = [row | {"shared": True} for row in control.history]
    assert Work(searched=80, control=200).rest(control) == 120


def test_a_budget_ends_it_sooner(tmp_path: Path) -> None:
    asked = spec(tmp_path, budget={"hours": 1})
    budget = Budget(asked, lambda: 3590.0)
    assert told(asked, budget) == pytest.approx(10.0)
    asked = spec(tmp_path, budget={"gradient_evaluations": 300})
    budget = Budget(asked, lambda: 0.0)
    budget.gradient_evaluations = 100
    assert told(asked, budget) == pytest.approx(20.0)
