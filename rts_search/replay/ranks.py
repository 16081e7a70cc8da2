"""How well a short look at a configuration ranks it: truncated runs against complete short ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from results.statistics import bootstrap_intervals, rank_correlation
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
    curves: RecordedCurves, looks: Sequence[int] = (), bootstrap: int = 1000
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
    every = np.arange(len(curves.configs))

    def row(signal: str, epochs: int, values: dict[int, Floats]) -> RankRow:
        pairs = [
            (values[s], np.mean([at_top[o].filled for o in seeds if o != s], axis=0))
            for s in values
        ]

        def both(rows: Ints) -> Floats:
            found = np.array([rank_correlations(x[rows], y[rows]) for x, y in pairs])
            mean: Floats = found.mean(axis=0)
            return mean

        point = _or_none(both(every))
        intervals = bootstrap_intervals((every,), both, bootstrap)
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


def rank_correlations(x: Floats, y: Floats) -> Floats:
    """Over all configurations, along the last axis, and over the third that is best by y."""
    third = _best_third(y)
    within = (np.take_along_axis(side, third, axis=-1) for side in (x, y))
    return np.array([rank_correlation(x, y), rank_correlation(*within)])


def _best_third(values: Floats) -> Ints:
    return np.argsort(-values, axis=-1, kind="stable")[..., : max(3, values.shape[-1] // 3)]


def spread(curves: RecordedCurves, bootstrap: int = 1000) -> Spread:
    """The best third, by the mean over all seeds; runs that were lost count as in `filled`."""
    seeds, every = curves.seeds(), np.arange(len(curves.configs))
    finals = np.array([curves.runs[curves.epochs, s].filled for s in seeds]) * POINTS

    def figures(rows: Ints) -> Floats:
        means = finals.mean(axis=0)[rows]
        third = _best_third(means)
        means = np.take_along_axis(means, third, axis=-1)
        reruns = finals[:, np.take_along_axis(rows, third, axis=-1)]
        within = (
            reruns.var(axis=0, ddof=1).mean(axis=-1)
            if len(seeds) > 1
            else np.full(means.shape[:-1], np.nan)
        )
        return np.array([means.std(axis=-1, ddof=1), np.ptp(means, axis=-1), np.sqrt(within)])

    sd, reach, rerun = _or_none(figures(every))
    intervals = bootstrap_intervals((every,), figures, bootstrap)
    return Spread(len(seeds), sd or 0.0, intervals[0], reach or 0.0, rerun, intervals[2])


def _or_none(figures: Floats) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in figures.tolist()]
