"""Plots of the ledger as PNG or SVG. Matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from results.pareto import ACCURACY, Front

KINDS = (".png", ".svg")


def check_plot(path: Path) -> None:
    """Raises ValueError for a kind of file that is not drawn."""
    if path.suffix not in KINDS:
        raise ValueError(f"plot {path.name!r}: plots are drawn as {' or '.join(KINDS)}")


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
