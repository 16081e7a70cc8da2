"""Means over seeds, rank correlations, bootstrap intervals.

`scipy.stats` is not used: to load it takes longer than all else that `status` does.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from results.schema import json_object

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over n runs, their standard deviation (ddof 1) and the half width of its t interval.

    With one run, `sd` and `half_width` are None: nothing is known of the spread.
    """

    mean: float
    n: int
    sd: float | None
    half_width: float | None


def estimate(values: Iterable[float], confidence: float = 0.95) -> Estimate:
    """The mean of finite values, ± t(n-1)·sd/√n. Raises ValueError for none or others."""
    runs = list(values)
    if not runs or not all(math.isfinite(value) for value in runs):
        raise ValueError(f"an estimate needs finite values, not {runs}")
    n, mean = len(runs), statistics.fmean(runs)
    if n == 1:
        return Estimate(mean, 1, None, None)
    from scipy.special import stdtrit

    sd = statistics.stdev(runs)
    return Estimate(mean, n, sd, float(stdtrit(n - 1, (1 + confidence) / 2)) * sd / math.sqrt(n))


@dataclass(frozen=True, slots=True)
class Difference:
    """Of two means, and the half width of its interval: None where one side has a single run."""

    mean: float
    half_width: float | None


def difference(
    values: Sequence[float], reference: Sequence[float], confidence: float = 0.95
) -> Difference:
    """The mean of `values` less that of `reference`, with Welch's interval: each side has its own
    spread, with Satterthwaite's degrees of freedom. Raises ValueError as `estimate` does."""
    a, b = estimate(values), estimate(reference)
    if a.sd is None or b.sd is None:
        return Difference(a.mean - b.mean, None)
    from scipy.special import stdtrit

    parts = [(each.sd or 0.0) ** 2 / each.n for each in (a, b)]
    if not any(parts):
        return Difference(a.mean - b.mean, 0.0)
    freedom = sum(parts) ** 2 / sum(
        v**2 / (each.n - 1) for v, each in zip(parts, (a, b), strict=True)
    )
    width = float(stdtrit(freedom, (1 + confidence) / 2)) * math.sqrt(sum(parts))
    return Difference(a.mean - b.mean, width)


def sampling_deviation(accuracy: float, images: int) -> float:
    """The standard deviation of an accuracy that is measured on so many images drawn at random."""
    return math.sqrt(max(0.0, accuracy * (1 - accuracy)) / images)


def config_without_seed(config_json: str) -> str:
    """A trial's `config_json` without `train.seed`, and without `data.residence`, which changes no
    bit: equal for runs that differ in the seed only."""
    config = json_object(config_json)
    if not isinstance(train := config.get("train"), dict):
        return config_json  # nobody's that we know
    train.pop("seed", None)
    if isinstance(data := config.get("data"), dict):
        data.pop("residence", None)
    return json.dumps(config, sort_keys=True)


def over_seeds(rows: Iterable[Mapping[str, Any]], metric: str) -> dict[tuple[str, str], Estimate]:
    """By (sweep, trial_id): the estimate over the trials of that sweep with the same config.

    `rows` are rows of `trials`; those without `config_json` or a finite `metric` are left out.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        value = row[metric]
        if row["config_json"] and value is not None and math.isfinite(value):
            groups[row["sweep"], config_without_seed(row["config_json"])].append(row)
    estimates: dict[tuple[str, str], Estimate] = {}
    for group in groups.values():
        shared = estimate([row[metric] for row in group])
        estimates |= {(row["sweep"], row["trial_id"]): shared for row in group}
    return estimates


def rank_correlation(x: Array, y: Array) -> Floats:
    """Spearman's along the last axis, ties averaged; NaN where one side does not vary."""
    a, b = (places - (places.shape[-1] + 1) / 2 for places in (ranks(x), ranks(y)))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return np.asarray(np.clip(found, -1, 1))


def ranks(values: Array) -> Floats:
    """Places along the last axis, the lowest is 1, ties averaged."""

    def of(row: Array) -> Floats:
        ordered = np.sort(row)
        ends = (np.searchsorted(ordered, row, side) for side in ("left", "right"))
        return np.asarray((1 + sum(ends)) / 2)

    return np.asarray(np.apply_along_axis(of, -1, values))


def bootstrap_intervals(
    samples: Sequence[Array], statistic: Callable[..., Floats], draws: int
) -> list[tuple[float, float] | None]:
    """95 % percentile intervals of the figures that `statistic(*samples)` gives, each sample's
    values along its last axis, draws along the others; figures are along the first axis.

    The samples are drawn from together. Draws in which a figure is not finite are left out, None
    if all are. The same values have the same intervals.
    """
    n = samples[0].shape[-1]
    chosen = np.random.default_rng(0).integers(0, n, (draws, n))
    drawn = statistic(*(sample[..., chosen] for sample in samples))
    finite = [figure[np.isfinite(figure)] for figure in np.atleast_2d(drawn)]
    ends = [np.quantile(each, [0.025, 0.975]).tolist() if each.size else None for each in finite]
    return [(end[0], end[1]) if end else None for end in ends]
