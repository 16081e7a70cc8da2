"""The objective against cost: the trials that no other one beats at both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results.database import Storage, Sweeps
from results.export import check_plot
from results.meanings import merit
from results.names import unknown
from results.ranking import arms, best
from results.statistics import sampling_deviation

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
    """Rows of `trials` with the cost and the `metric`, which is the objective at the end, cheapest
    first: the searched trials on the Pareto front, the other completed ones, and the best control
    of each arm, which are not part of it."""

    cost: str
    trials: list[dict[str, Any]]
    others: list[dict[str, Any]]
    controls: list[dict[str, Any]]
    metric: str = ACCURACY

    def beaten_by(self, row: Row) -> str | None:
        """The cheapest trial on the front that is at least as good and as cheap as a control,
        and better at one of both; None if there is none."""
        for trial in self.trials:
            if self._place(trial) != self._place(row) and (
                trial[self.cost] <= row[self.cost] and self._merit(trial) >= self._merit(row)
            ):
                return str(trial["trial_id"])
        return None

    @property
    def on_test(self) -> bool:
        """Whether what its trials call validation is the test set."""
        return any(row["selected_on"] == "test" for row in (*self.trials, *self.others))

    def _place(self, row: Row) -> tuple[float, float]:
        return row[self.cost], self._merit(row)

    def _merit(self, row: Row) -> float:
        return merit(row[self.metric], self.metric.removeprefix("final_"))


def pareto(
    storage: Storage, sweeps: Sweeps = None, *, cost: str = DEFAULT_COST, where: str | None = None
) -> Front:
    """The Pareto front of the sweeps' objective at the end against a cost of COSTS.

    Only completed trials that have both are compared, and none that is no better than chance: it
    may be cheap because it learns nothing. The default cost is what a configuration's
    own run of T epochs takes, so that it does not depend on the rungs that its trial climbed
    before. `where` is a condition in SQL on the columns of `trials`, and spares controls. Raises
    ValueError.
    """
    if cost not in COSTS:
        raise unknown("cost", cost, COSTS)
    ranking = best(storage, sweeps, top=2**31, metric=cost, where=where)
    objectives = {row["objective"] for row in (*ranking.trials, *ranking.controls)}
    if len(objectives) > 1:
        raise ValueError(f"no one front of sweeps with different objectives: {sorted(objectives)}")
    (objective,) = objectives or {"val_accuracy"}
    metric = f"final_{objective}"
    trials = _comparable(ranking.trials, metric)
    controls = _best_of_arms(_comparable(ranking.controls, metric), objective)
    learned = [row for row in trials if not by_chance(row)]
    front = on_front([(row[cost], merit(row[metric], objective)) for row in learned])
    on = [row for row, is_on in zip(learned, front, strict=True) if is_on]
    named = {(row["sweep"], row["trial_id"]) for row in on}
    others = [row for row in trials if (row["sweep"], row["trial_id"]) not in named]
    return Front(cost, on, others, controls, metric)


def _comparable(rows: Sequence[dict[str, Any]], metric: str) -> list[dict[str, Any]]:
    """Those that have a value, as `metric`."""
    told = [{**row, metric: row["final_objective"]} for row in rows]
    return [row for row in told if row[metric] is not None and math.isfinite(row[metric])]


def by_chance(row: Row) -> bool:
    """Whether its validation accuracy is within two standard errors of a blind guess; False where
    that is not known."""
    accuracy, classes, images = row[ACCURACY], row["classes"], row["validation_images"]
    if accuracy is None or not classes or not images:
        return False
    chance = 1 / classes
    return bool(accuracy <= chance + 2 * sampling_deviation(chance, images))


def _best_of_arms(controls: Sequence[dict[str, Any]], objective: str) -> list[dict[str, Any]]:
    """In their order; an arm of a sweep may have had several tries."""
    ranked = sorted(controls, key=lambda row: -merit(row["final_objective"], objective))
    best = [arm[0] for arm in arms(ranked)]
    return [row for row in controls if row in best]


def on_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which (cost, merit) no other one beats; those that are equal are on it together."""
    front: set[tuple[float, float]] = set()
    highest = -math.inf
    for cost, merits in sorted(points, key=lambda point: (point[0], -point[1])):
        if merits > highest:
            front.add((cost, merits))
            highest = merits
    return [point in front for point in points]


def plot_front(front: Front, path: Path) -> None:
    """All completed trials, the front and the controls: the objective over cost.

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
                (row[front.cost], row[front.metric]),
                textcoords="offset points",
                xytext=(5, 5),
            )
        axes.set_xlabel(front.cost.replace("_", " "))
        axes.set_ylabel(front.metric.replace("_", " "))
        axes.legend(loc="lower right")
        figure.savefig(path, dpi=150)


def _points(front: Front, rows: Sequence[dict[str, Any]]) -> tuple[list[float], list[float]]:
    return [row[front.cost] for row in rows], [row[front.metric] for row in rows]
