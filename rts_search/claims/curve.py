"""`rts-search switch-curve`: accuracy against the epoch at which perturbation begins.

Each seed's plain SGD is trained once, and every point of the curve forks from it: with the cosine
kept, and with a complete anneal of its own after the switch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from results.meanings import in_points, merit, metric_of
from results.statistics import Estimate, estimate
from results.storage import SweepFolder
from results.trials import Row
from rts_search.claims.staged import ended_rows, stages
from rts_search.spec.folder import SPEC
from rts_search.spec.model import SweepSpec
from rts_search.trials.trial import SGD, LiveTrial
from trainables.config import OptimizerConfig, TrialConfig
from trainables.schedules import AfterConfig
from trainables.triggers import EpochTrigger

Anneal = Literal["keep", "own"]
# what is left of T at the switch: all, half, and from LONGEST to SHORTEST in log, so that both
# curves of twelve points take at most eight runs of SGD a seed: 1 + 2·(1 + 2·Σ of the others)
HALF, LONGEST, SHORTEST = 0.5, 0.17, 0.02


@dataclass(frozen=True)
class Point:
    """Runs whose first perturbed epoch is `first`, of T; `gain` is the difference to SGD's run of
    the same seed."""

    first: int
    left: float
    anneal: Anneal
    accuracy: Estimate
    gain: Estimate


@dataclass(frozen=True)
class Curve:
    """`cost` is what a seed took, in runs of plain SGD at T."""

    objective: str
    total: int
    sgd: Estimate
    points: list[Point]
    cost: float


def switch_curve(
    spec: SweepSpec,
    points: int,
    seeds: int,
    console: Console,
    address: str | None,
    verbose: bool,
) -> Curve:
    """Train what is missing of the curve in the spec's folder, and read it.

    Raises EndedEarlyError where it was interrupted, ValueError, in one line, where it cannot run.
    """
    folder = spec.folder
    if folder.exists(SPEC):
        raise ValueError(f"{folder.name!r} is a sweep: give the curve another --name")
    runs = [
        run_of(spec, arm, spec.train.seed + number)
        for arm in arms_of(spec.train.epochs, points)
        for number in range(seeds)
    ]
    check_same(folder, runs)
    rows = ended_rows(folder, "curve", None)
    if runs_due(runs, rows):
        with stages(spec, folder, console, address, verbose) as driver:
            rows = driver.run("curve", None, partial(runs_due, runs))
            driver.drop_trunks(runs)
    wanted = {run.trial_id for run in runs}
    return curve_of(spec, [row for name, row in rows.items() if name in wanted])


def runs_due(runs: Sequence[LiveTrial], rows: Mapping[str, Row]) -> list[LiveTrial]:
    """Plain SGD first: the others fork from it."""
    missing = [run for run in runs if run.trial_id not in rows]
    return [run for run in missing if run.arm == SGD] or missing


def arms_of(total: int, points: int) -> dict[str, tuple[int, Anneal]]:
    """First perturbed epoch and anneal by arm; plain SGD is beyond T. From the first epoch on a
    cosine of its own is the cosine."""
    left = [1.0, HALF, *np.geomspace(LONGEST, SHORTEST, points - 2)]
    firsts = dict.fromkeys(min(total, total - round(share * total) + 1) for share in left)
    arms: dict[str, tuple[int, Anneal]] = {SGD: (total + 1, "keep")}
    for first in firsts:
        arms[f"at{first}"] = first, "keep"
        if first > 1:
            arms[f"at{first}-own"] = first, "own"
    return arms


def run_of(spec: SweepSpec, arm: str, seed: int) -> LiveTrial:
    total = spec.train.epochs
    train = spec.train.model_copy(update={"seed": seed})
    rule = OptimizerConfig(family="sgd")
    if arm != SGD:
        first, _, own = arm.removeprefix("at").partition("-")
        after = AfterConfig(
            lr_factor=spec.optimizer.after.lr_factor, anneal="own" if own else "keep"
        )
        trigger = EpochTrigger(epoch=int(first))
        rule = OptimizerConfig(
            radius=spec.optimizer.radius, scale=spec.optimizer.scale, trigger=trigger, after=after
        )
    config = spec.base.model_copy(update={"train": train, "optimizer": rule})
    return LiveTrial(f"curve-{arm}-T{total}-{seed}", config, stage="curve", arm=arm)


def check_same(folder: SweepFolder, runs: Sequence[LiveTrial]) -> None:
    """Raises ValueError where runs of these names were trained with other settings."""
    known = ended_rows(folder, "curve", None)
    for run in runs:
        row = known.get(run.trial_id)
        if row is None:
            continue
        if TrialConfig.model_validate_json(row["config_json"]).placed() != run.config.placed():
            raise ValueError(
                f"{folder.uri} has a curve of other settings ({run.trial_id}): give --name another"
            )


def curve_of(spec: SweepSpec, rows: Sequence[Row]) -> Curve:
    objective = spec.search.objective
    values: dict[str, dict[int, float]] = {}
    for row in rows:
        values.setdefault(row["arm"], {})[row["seed"]] = row["final_objective"]
    total, sgd = spec.train.epochs, values.pop(SGD)
    points = []
    for arm, by_seed in values.items():
        first, _, own = arm.removeprefix("at").partition("-")
        left = (total - int(first) + 1) / total
        gain = estimate(merit(by_seed[seed] - sgd[seed], objective) for seed in by_seed)
        accuracy = estimate(by_seed.values())
        points.append(Point(int(first), left, "own" if own else "keep", accuracy, gain))
    points.sort(key=lambda point: (point.first, point.anneal))
    one = next(row for row in rows if row["arm"] == SGD)["gradient_evaluations"]
    spent = sum(row["spent_gradient_evaluations"] or 0 for row in rows)
    return Curve(objective, total, estimate(sgd.values()), points, spent / one / len(sgd))


def print_curve(console: Console, curve: Curve) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    share = in_points(curve.objective)
    form, unit = (("{:+.2f}", 100), " points") if share else (("{:+.4g}", 1), "")
    for column in ("perturbed from", "left of T", "anneal", metric_of(curve.objective), "to SGD"):
        table.add_column(column, justify="right")
    table.add_row("never", "", "", _cell(curve.sgd, "{:.4f}", 1), "")
    for point in curve.points:
        accuracy, gain = _cell(point.accuracy, "{:.4f}", 1), _cell(point.gain, *form)
        table.add_row(str(point.first), f"{point.left:.0%}", point.anneal, accuracy, gain)
    console.print(table)
    seeds = curve.sgd.n
    best = max(curve.points, key=lambda point: point.gain.mean)
    known = best.gain.half_width is not None and best.gain.mean > best.gain.half_width
    for line in (
        f"means of {seeds} seeds ± half the 95 % interval; gains over SGD of the same seed"
        + (", in points" if share else ""),
        f"best: perturbed from epoch {best.first} of {curve.total}, anneal {best.anneal}, "
        f"{_cell(best.gain, *form)}{unit} to SGD"
        + ("" if known else ", which may be chance")
        + f"; the best of {len(curve.points)} is lucky: a sweep and rts-search confirm say whether "
        "it holds",
        f"a seed took as many gradient evaluations as {curve.cost:.1f} runs of SGD",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _cell(found: Estimate, form: str, factor: float) -> str:
    text = form.format(factor * found.mean)
    if found.half_width is None:
        return text
    return f"{text} ± {form.replace('+', '').format(factor * found.half_width)}"


def plot_curve(curve: Curve, path: Path) -> None:
    """Means and 95 % intervals over what is left of T at the switch, as .svg or .png."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none"}):
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.add_subplot()
        for number, (anneal, label) in enumerate(
            {"keep": "cosine kept", "own": "an anneal of its own"}.items()
        ):
            points = [p for p in curve.points if p.anneal == anneal or p.first == 1]
            errors: Any = [p.accuracy.half_width or 0.0 for p in points]
            places = [100 * p.left for p in points]
            means = [p.accuracy.mean for p in points]
            axes.errorbar(places, means, errors, fmt=f"C{number}o-", capsize=3, label=label)
        half = curve.sgd.half_width or 0.0
        axes.axhline(curve.sgd.mean, color="0.4", label="plain SGD")
        axes.axhspan(curve.sgd.mean - half, curve.sgd.mean + half, color="0.9", zorder=0)
        axes.set_xscale("log")
        axes.set_xticks([100, 50, 20, 10, 5, 2], ["100", "50", "20", "10", "5", "2"], minor=False)
        axes.minorticks_off()
        axes.invert_xaxis()
        axes.set_xlabel("perturbed for the last … % of T")
        axes.set_ylabel(
            f"{metric_of(curve.objective)} (mean of {curve.sgd.n} seeds, 95 % interval)"
        )
        axes.legend()
        figure.savefig(path, dpi=150)
