"""A driver that takes a sweep up, without Ray; and what its workers report."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from results.ledger import Ledger
from results.storage import SweepFolder
from results.trials import read_trials
from rts_search.runner import refill
from rts_search.search.known import COLUMNS
from rts_search.search.plan import Teller, open_study, plan
from rts_search.spec.model import SweepSpec
from rts_search.stopping.stopper import make_stopper
from rts_search.trials.recorder import Recorder
from rts_search.trials.rows import LOOKED
from rts_search.trials.thaw import thaw
from rts_search.trials.trial import LiveTrial
from rts_search.trials.tune import Seam

RUNGS = [2, 6]


class Driver:
    """What `run_sweep` makes before Ray starts: a driver that takes the sweep up."""

    def __init__(self, spec: SweepSpec, thawed: Collection[str] = ()) -> None:
        folder = SweepFolder(spec.storage, spec.name)
        Path(str(folder.local_path)).mkdir(parents=True, exist_ok=True)
        ledger, self.stopper = Ledger(folder), make_stopper(spec)
        thaw(folder, ledger, thawed)
        stored = read_trials(folder, [*COLUMNS, *LOOKED, spec.search.objective])
        self.study, _ = open_study(spec, stored)
        refill(self.stopper, spec, stored)
        ended = [trial for trial in stored if trial.outcome.finished]
        self.ended = [trial.row for trial in ended]
        self.recorder = Recorder(spec, folder, ledger, self.stopper, ended)
        self.plan = plan(spec, self.study, {row["trial_id"] for row in self.ended})
        observers = [self.recorder, Teller(spec, self.study, print)]
        self.seam = Seam(spec, {}, observers, user_stopped=())

    def begin(self) -> LiveTrial:
        trial = next(self.plan)
        self.seam.begin(trial)
        return trial

    def result(self, trial: LiveTrial, result: dict[str, Any]) -> None:
        """As Tune's controller has it."""
        tune = SimpleNamespace(config={"assignment": {"trial_id": trial.trial_id}})
        self.seam.on_trial_result(0, [], tune, result)

    def run(
        self, trial: LiveTrial, rows: list[dict[str, Any]], outcome: str, settle: bool = True
    ) -> None:
        for count in range(1, len(rows) + 1):
            if count < len(rows):
                self.result(trial, result(rows[:count]))
            else:
                self.result(trial, result(rows, done=True, outcome=outcome))
        if settle:
            self.recorder.settle()


def metrics(rung: int, epoch: int, accuracy: float) -> dict[str, Any]:
    numbers = dict.fromkeys(
        (
            *("lr", "train_loss", "train_accuracy", "val_loss", "generalization_gap"),
            *("radius", "scale", "train_seconds", "eval_seconds", "epoch_seconds"),
            "images_per_second",
        ),
        1.0,
    )
    nothing = dict.fromkeys(
        ("perturbed_loss", "loss_rise", "trigger_statistic", "trigger_threshold")
    )
    known = {"epoch": epoch, "total_epochs": RUNGS[rung], "rung": rung, "val_accuracy": accuracy}
    rest = {"perturbing": True, "trigger_epoch": 1, "gradient_evaluations": epoch}
    rest |= {"peak_memory_bytes": None}
    return {**numbers, **nothing, **known, **rest, "test": None}


def climb(level: float) -> list[dict[str, Any]]:
    """All epochs of a trial: each rung is better, and each epoch."""
    return [
        metrics(rung, epoch, level + rung / 10 + epoch / 100)
        for rung, epochs in enumerate(RUNGS)
        for epoch in range(1, epochs + 1)
    ]


def result(
    rows: list[dict[str, Any]], held: int = 0, done: bool = False, outcome: str = "running"
) -> dict[str, Any]:
    """The newest of `rows` is reported, with the last `held` before it. The outcome of a trial
    that the stopper ended is `running`."""
    return {
        "epochs": rows[-1 - held :],
        "classes": 10,
        "validation_images": 100,
        "device": "cpu",
        "host": "node1",
        "threads": 1,
        "precision": "fp32",
        "done": done,
        "outcome": outcome,
        "message": None,
    }
