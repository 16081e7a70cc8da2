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


def test_before_a_trial_it_is_the_estimate(tmp_path: Path) -> None:
    asked = spec(tmp_path)
    whole = estimate(asked, 2, 0, probe=False).whole
    left = time_left(asked)([], 8, 3, SPENT)
    assert left == pytest.approx(whole.gradients.likely / 10, rel=0.001)


def trial(number: int | None, epoch: int, spec: SweepSpec) -> LiveTrial:
    rows = [
        {"rung": 0, "epoch": e, "gradient_evaluations": 10 * e, "epoch_seconds": 1.0}
        for e in range(1, epoch + 1)
    ]
    return LiveTrial("x", spec.base, number, history=rows)


def test_what_runs_counts_for_its_rest_and_is_a_bound(tmp_path: Path) -> None:
    asked = spec(tmp_path)
    work = Work(asked, searched=80, control=200)
    two = [trial(0, 2, asked), trial(None, 4, asked)]
    # 60 of the searched one; of the control 12 epochs of 10
    assert [work.rest(each) for each in two] == [60, 120]
    assert work.seconds(two, 4, 1, SPENT) == pytest.approx((180 + 4 * 80 + 200) / 2 / 10)
    assert work.seconds(two, 0, 0, SPENT) == pytest.approx(12.0)  # as long as the longest


def test_a_budget_ends_it_sooner(tmp_path: Path) -> None:
    asked = spec(tmp_path, budget={"hours": 1})
    budget = Budget(asked, lambda: 3590.0)
    assert time_left(asked, budget)([], 8, 3, SPENT) == pytest.approx(10.0)
    asked = spec(tmp_path, budget={"gradient_evaluations": 300})
    budget = Budget(asked, lambda: 0.0)
    budget.gradient_evaluations = 100
    assert time_left(asked, budget)([], 8, 3, SPENT) == pytest.approx(20.0)
