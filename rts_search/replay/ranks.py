"""How well a short look at a configuration ranks it: truncated runs against complete short ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from rts_search.replay.curves import Floats, Ints, RecordedCurves
from rts_search.replay.measure import POINTS

Interval = tuple[float, float]


@dataclass(frozen=True)
class RankRow:
    """Spearman's correlation of a signal with the mean over other seeds at T, with 95 % intervals
    over configurations; `top` within the best third by that mean. None where it is undefined."""

    signal: str
    epochs: int
    every: float | None
    every_interval: Interval | None
    top: float | None
    top_interval: Interval | None


@dataclass(frozen=True)
class Spread:
    """In points: how far the means over seeds of the best third spread (standard deviation and
    range) and how far reruns of one configuration of it do (pooled standard deviation)."""

    seeds: int
    top_sd: float
    top_sd_interval: Interval | None
    top_range: float
    rerun_sd: float | None
    rerun_sd_interval: Interval | None


def rank_rows(
    curves: RecordedCurves, looks: Sequence[int] = (), bootstrap: int = 1000, seed: int = 0
) -> list[RankRow]:
    """A row for each complete short schedule, for a run of T cut at the same epochs and at
    `looks`, and for another full run. Empty with one seed: there is no other to compare with.
    """
    top, seeds = curves.epochs, curves.seeds()
    short = sorted({total for total, _ in curves.runs if total < top})
    if len(seeds) < 2:
        return []
    common = [s for s in seeds if all((total, s) in curves.runs for total in short)] or seeds
    at_top = {s: curves.runs[top, s] for s in seeds}

    def row(signal: str, epochs: int, values: dict[int, Floats]) -> RankRow:
        pairs = [
            (values[s], np.mean([at_top[o].filled for o in seeds if o != s], axis=0))
            for s in values
        ]

        def both(rows: Ints) -> Floats:
            found = np.array([spearmans(x[rows], y[rows]) for x, y in pairs])
            mean: Floats = found.mean(axis=0)
            return mean

        point, intervals = _bootstrap(both, len(curves.configs), bootstrap, seed)
        return RankRow(signal, epochs, point[0], intervals[0], point[1], intervals[1])

    rows = []
    for epoch in sorted({*short, *looks}):
        if not 1 <= epoch < top:
            raise ValueError(f"epoch {epoch} to look at must be in 1–{top - 1}")
        cut = {s: at_top[s].at(epoch) for s in common}
        rows.append(row(f"epoch {epoch} of {top}", epoch, cut))
        if epoch in short:
            complete = {s: curves.runs[epoch, s].filled for s in seeds if (epoch, s) in curves.runs}
            complete = {s: values for s, values in complete.items() if s in common} or complete
            rows.append(row(f"complete T = {epoch}", epoch, complete))
    again = {s: at_top[s].filled for s in common}
    return [*rows, row(f"complete T = {top}, another seed", top, again)]


def spearmans(x: Floats, y: Floats) -> tuple[float, float]:
    """Over all configurations, and over the third that is best by y."""
    third = np.argsort(-y, kind="stable")[: max(3, len(y) // 3)]
    return spearman(x, y), spearman(x[third], y[third])


def spearman(x: Floats, y: Floats) -> float:
    """The rank correlation, ties averaged; NaN if one side does not vary."""
    a, b = rankdata(x), rankdata(y)
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else float("nan")


def spread(curves: RecordedCurves, bootstrap: int = 1000, seed: int = 0) -> Spread:
    """The best third, by the mean over all seeds; runs that were lost count as in `filled`."""
    seeds = curves.seeds()
    finals = np.array([curves.runs[curves.epochs, s].filled for s in seeds]) * POINTS

    def figures(rows: Ints) -> Floats:
        means = finals[:, rows].mean(axis=0)
        third = np.argsort(-means, kind="stable")[: max(3, len(rows) // 3)]
        reruns = finals[:, rows][:, third]
        within = reruns.var(axis=0, ddof=1).mean() if len(seeds) > 1 else np.nan
        return np.array([means[third].std(ddof=1), np.ptp(means[third]), np.sqrt(within)])

    point, intervals = _bootstrap(figures, len(curves.configs), bootstrap, seed)
    return Spread(
        len(seeds), point[0] or 0.0, intervals[0], point[1] or 0.0, point[2], intervals[2]
    )


def _bootstrap(
    figures: Callable[[Ints], Floats], count: int, draws: int, seed: int
) -> tuple[list[float | None], list[Interval | None]]:
    """Figures of all configurations, and 95 % intervals over draws with replacement."""
    rng = np.random.default_rng(seed)
    point = figures(np.arange(count))
    drawn = np.array([figures(rng.integers(count, size=count)) for _ in range(draws)])
    intervals: list[Interval | None] = []
    for i in range(len(point)):
        finite = drawn[:, i][np.isfinite(drawn[:, i])] if draws else np.empty(0)
        low_high = np.quantile(finite, [0.025, 0.975]) if finite.size else None
        intervals.append(None if low_high is None else (float(low_high[0]), float(low_high[1])))
    return [float(value) if np.isfinite(value) else None for value in point], intervals
