"""Budgets: what is counted, over resumes too, and what ends a sweep."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from results.ledger import Ledger
from results.meanings import Outcome
from results.storage import SweepFolder
from results.trials import StoredTrial, read_trials
from rts_search.driver.budget import Budget
from rts_search.spec.model import SweepSpec
from rts_search.spec.reading import parse
from rts_search.trials.trial import LiveTrial
from tests.results.builders import epoch_row, trial_row
from trainables.config import TrialConfig


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def budget(
    objective: str = "val_accuracy", stored: Sequence[StoredTrial] = (), **limits: Any
) -> tuple[Budget, Clock]:
    clock = Clock()
    spec = parse(SweepSpec, {"budget": limits, "search": {"objective": objective}})
    return Budget(spec, clock, stored), clock


def run(rung: int, epochs: int, per_epoch: int = 4) -> list[dict[str, Any]]:
    return [
        {"rung": rung, "epoch": epoch, "gradient_evaluations": epoch * per_epoch}
        for epoch in range(1, epochs + 1)
    ]


def test_without_limits_nothing_is_used_up() -> None:
    free, clock = budget()
    clock.seconds = 1e9
    free.add("t0000", run(0, 1000))
    free.completed(1.0)
    assert free.used_up() is None


def test_what_is_shared_is_not_spent_again() -> None:
    spent, _ = budget()
    epochs = run(0, 9)
    spent.add("t0000", [row | {"shared": row["epoch"] < 6} for row in epochs])
    assert (spent.epochs, spent.gradient_evaluations) == (4, 16)
    spent.add("t0000", epochs)  # as a worker that took its place may report them
    assert (spent.epochs, spent.gradient_evaluations) == (4, 16)


def test_epochs_and_gradients_of_all_rungs_are_counted() -> None:
    spent, _ = budget()
    spent.add("t0000", run(0, 3))
    spent.add("t0000", run(1, 9, per_epoch=8))
    spent.add("sgd", run(0, 27, per_epoch=4))
    assert (spent.epochs, spent.gradient_evaluations) == (39, 12 + 72 + 108)


@pytest.mark.parametrize(
    ("limits", "line", "option"),
    [
        (
            {"epochs": 3},
            "budget.epochs 3 is used up: 3 were trained",
            "--set budget.epochs=NUMBER",
        ),
        (
            {"gradient_evaluations": 10},
            "budget.gradient_evaluations 10 is used up: 12 were spent",
            "--set budget.gradient_evaluations=NUMBER",
        ),
        ({"hours": 0.5}, "budget.hours 0.5 is used up", "--hours HOURS"),
        (
            {"target": 0.9},
            "budget.target 0.9 is reached: 0.9123",
            "--set budget.target=VALUE",
        ),
        (
            {"target": 0.9123, "hours": 100, "epochs": 99, "gradient_evaluations": 99},
            "budget.target 0.9123 is reached: 0.9123",
            "--set budget.target=VALUE",
        ),
    ],
)
def test_whichever_comes_first_ends_the_sweep(
    limits: dict[str, Any], line: str, option: str
) -> None:
    spent, clock = budget(**limits)
    spent.add("t0000", run(0, 2))
    spent.completed(0.8999)
    spent.completed(None)
    clock.seconds = 1799.9
    assert spent.used_up() is None
    spent.add("t0000", run(0, 3))
    spent.completed(0.9123)
    spent.completed(0.1)
    clock.seconds = 1800.0
    used_up = spent.used_up()
    assert used_up is not None
    assert (str(used_up), used_up.option) == (line, option)


def test_a_minimised_target_is_reached_from_above() -> None:
    spent, _ = budget("val_loss", target=0.5)
    spent.completed(0.51)
    assert spent.used_up() is None
    spent.completed(0.5)
    assert spent.used_up() is not None


@given(
    lengths=st.dictionaries(
        st.tuples(st.sampled_from(["t0000", "t0001", "sgd"]), st.integers(0, 2)),
        st.integers(1, 6),
    ),
    seed=st.integers(0, 1000),
)
def test_each_epoch_counts_once_however_often_it_comes(
    lengths: dict[tuple[str, int], int], seed: int
) -> None:
    """Resumed trials report again what a checkpoint held, retried ones what they repeat."""
    spent, _ = budget()
    pieces = [
        (trial, rows[:end])
        for (trial, rung), epochs in lengths.items()
        for rows in [run(rung, epochs)]
        for end in range(1, epochs + 1)
    ]
    random.Random(seed).shuffle(pieces)
    for trial, rows in pieces:
        spent.add(trial, rows)
    assert spent.epochs == sum(lengths.values())
    assert spent.gradient_evaluations == 4 * sum(lengths.values())


def test_a_resume_takes_up_what_the_ledger_knows(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path, "s")
    live, _ = budget(target=0.8)
    best = {"t0000": 0.7, "t0001": 0.75, "pugd": 0.9}
    with Ledger(folder) as ledger:
        for trial, rung, epochs in [("t0000", 0, 3), ("t0000", 1, 2), ("pugd", 0, 4)]:
            for row in run(rung, epochs):
                value = {"val_accuracy": best[trial], "total_epochs": epochs}
                ledger.add_epoch(epoch_row(trial, **row) | value)
                live.add(trial, [row])
                ledger.flush()
        for number, trial in enumerate(best):
            control = {"number": None, "control": trial} if trial == "pugd" else {"number": number}
            ledger.put_trial(trial_row(trial, "completed") | control)
        ledger.flush()
        ledger.compact()
    resumed, _ = budget(stored=read_trials(folder), target=0.8)
    assert (resumed.epochs, resumed.gradient_evaluations) == (live.epochs, 36) == (9, 36)
    assert resumed.best == 0.7  # controls have none, nor have trials whose epochs are lost
    assert resumed.used_up() is None
    resumed.add("t0000", run(1, 3))  # of which two are known
    assert resumed.epochs == 10
    trial = LiveTrial("t0002", TrialConfig(), 2, outcome=Outcome.COMPLETED)
    trial.history.append({"rung": 0, "epoch": 1, "total_epochs": 1, "val_accuracy": 0.85})
    resumed.ended(trial)
    assert resumed.epochs == 10
    assert resumed.used_up() is not None
