"""Arms and trials by name, each with the epochs of its runs over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from results.schema import records
from results.trials import Row
from results.views import literal
from rts_search.answers.compare import runs_named
from rts_search.notebook import Sweep

COLUMNS = (
    *("trial_id", "rung", "epoch", "trigger_epoch", "generalization_gap"),
    *("train_loss", "val_loss", "train_accuracy", "val_accuracy", "value"),
)


@dataclass(frozen=True)
class Runs:
    """What an arm's or a trial's name stands for: the epochs of each run, at the rung reached."""

    name: str
    runs: Sequence[Sequence[Row]]

    @property
    def firings(self) -> list[int]:
        """The first perturbed epochs of those that fired."""
        found = {run[-1]["trigger_epoch"] for run in self.runs}
        return sorted(epoch for epoch in found if epoch is not None)

    def over_epochs(self, column: str) -> dict[int, list[Any]]:
        """The values of its runs at each epoch."""
        found: dict[int, list[Any]] = {}
        for run in self.runs:
            for row in run:
                found.setdefault(row["epoch"], []).append(row[column])
        return dict(sorted(found.items()))


def runs_over_seeds(sweep: Sweep, names: Sequence[str]) -> list[Runs]:
    """Raises ValueError for a name that is neither a trial's nor an arm's; one without an epoch is
    left out."""
    of = runs_named(sweep.folder, dict.fromkeys(names))
    wanted = ", ".join(literal(trial) for trials in of.values() for trial in trials) or "NULL"
    rows = sweep.query(
        f"SELECT {', '.join(COLUMNS)} FROM epochs WHERE trial_id IN ({wanted}) "
        "ORDER BY trial_id, rung, epoch"
    )
    by_trial = groupby(records(rows), key=lambda row: row["trial_id"])
    runs = {trial: last_run([*own]) for trial, own in by_trial}
    found = [
        Runs(name, [runs[each] for each in trials if each in runs]) for name, trials in of.items()
    ]
    return [each for each in found if each.runs]


def last_run(epochs: Sequence[Row]) -> list[Row]:
    """Of a trial's epochs, by rung, those of the last rung."""
    return [row for row in epochs if row["rung"] == epochs[-1]["rung"]]
