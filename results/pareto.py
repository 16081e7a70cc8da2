"""Accuracy against cost: the trials that no other one beats at both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results.database import Storage, Sweeps
from results.export import check_plot
from results.names import unknown
from results.query import best

ACCURACY = "final_val_accuracy"
DEFAULT_COST = "run_gradient_evaluations"
COSTS = (
    DEFAULT_COST,
    "run_train_seconds",
    "gradient_evaluations",  # of all the rungs that the trial climbed
    "train_seconds",
    "eval_seconds",
    "epoch_seconds",
    "peak_memory_bytes",
)

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Front:
    """Rows of `trials` with the cost, cheapest first: the searched trials on the Pareto front, the
    other completed ones, and the best control of each arm, which are not part of it."""

    cost: str
    trials: list[dict[str, Any]]
    others: list[dict[str, Any]]
    controls: list[dict[str, Any]]

    def beaten_by(self, row: Row) -> str | None:
        """The cheapest trial on the front that is at least as accurate and as cheap as a control,
        and better at one of both; None if there is none."""
        for trial in self.trials:
            if self._place(trial) != self._place(row) and (
                trial[self.cost] <= row[self.cost] and trial[ACCURACY] >= row[ACCURACY]
            ):
                return str(trial["trial_id"])
        return None

    def _place(self, row: Row) -> tuple[float, float]:
        return row[self.cost], row[ACCURACY]


def pareto(
    storage: Storage, sweeps: Sweeps = None, *, cost: str = DEFAULT_COST, where: str | None = None
) -> Front:
    """The Pareto front of final_val_accuracy against a cost of COSTS.

    Only completed trials that have both are compared. The default cost is what a configuration's
    own run of T epochs takes, so that it does not depend on the rungs that its trial climbed
    before. `where` is a condition in SQL on the columns of `trials`, and spares controls. Raises
    ValueError.
    """
    if cost not in COSTS:
        raise unknown("cost", cost, COSTS)
    ranking = best(storage, sweeps, top=2**31, metric=cost, where=where)
    trials = _comparable(ranking.trials)
    controls = _best_of_arms(_comparable(ranking.controls))
    front = on_front([(row[cost], row[ACCURACY]) for row in trials])
    return Front(
        cost,
        [row for row, is_on in zip(trials, front, strict=True) if is_on],
        [row for row, is_on in zip(trials, front, strict=True) if not is_on],
        controls,
    )


def _comparable(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row[ACCURACY] is not None and math.isfinite(row[ACCURACY])]


def _best_of_arms(controls: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """In their order; an arm of a sweep may have had several tries."""
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for row in sorted(controls, key=lambda row: -float(row[ACCURACY])):
        best.setdefault((row["sweep"], row["control"]), row)
    return [row for row in controls if row in best.values()]


def on_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which (cost, accuracy) no other one beats; those that are equal are on it together."""
    front: set[tuple[float, float]] = set()
    highest = -math.inf
    for cost, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if accuracy > highest:
            front.add((cost, accuracy))
            highest = accuracy
    return [point in front for point in points]


def plot_front(front: Front, path: Path) -> None:
    """All completed trials, the front and the controls: accuracy over cost.

    Raises ValueError for another kind of file, OSError if it cannot be written.
    """
    check_plot(path)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none"}):
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.add_subplot()
        axes.scatter(*_points(front, front.others), color="0.7", s=20, label="completed trials")
        axes.step(*_points(front, front.trials), "o-", where="post", label="Pareto front")
        if front.controls:
            axes.scatter(*_points(front, front.controls), color="C3", marker="x", label="controls")
        for row in front.controls:
            axes.annotate(
                row["trial_id"],
                (row[front.cost], row[ACCURACY]),
                textcoords="offset points",
                xytext=(5, 5),
            )
        axes.set_xlabel(front.cost.replace("_", " "))
        axes.set_ylabel(ACCURACY.replace("_", " "))
        axes.legend(loc="lower right")
        figure.savefig(path, dpi=150)


def _points(front: Front, rows: Sequence[dict[str, Any]]) -> tuple[list[float], list[float]]:
    return [row[front.cost] for row in rows], [row[ACCURACY] for row in rows]
