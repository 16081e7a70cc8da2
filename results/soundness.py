"""Was the stopper right? What a sweep's audited trials, which it could not stop, say of it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from results.database import Storage, Sweep, ask, sweep_folders
from results.names import unknown
from results.storage import SweepFolder

Floats = npt.NDArray[np.float64]
Values = dict[tuple[int, int], dict[str, float]]  # by rung and its epochs, by trial

OBJECTIVES = {"val_accuracy": 1, "train_accuracy": 1, "val_loss": -1, "train_loss": -1}
FEWEST = 4  # trials for a rank correlation: of three, any order is likely by chance
DRAWS = 2000


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation over n trials with its 95 % interval, a percentile bootstrap.

    All None with fewer than `FEWEST` trials, or where all have the same value.
    """

    n: int
    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Rung:
    """A rung below T: `epochs` is its T (or the milestone), `reached` counts the searched trials
    that have a value there. Correlations of that value with the final one: over audited trials,
    which the stopper did not choose, and over all completed ones, which it did."""

    rung: int
    epochs: int
    reached: int
    audited: Correlation
    completed: Correlation


@dataclass(frozen=True)
class Rank:
    """A place among `of` trials, from 1, the best; those that are equal share their mean place."""

    place: float
    of: int


@dataclass(frozen=True)
class Audited:
    """A trial that went on whatever the stopper said. `ranks` are by rung, among all trials that
    reached it, None where it has no value; `final` is among the completed trials."""

    trial_id: str
    outcome: str
    ranks: tuple[Rank | None, ...]
    final: Rank | None
    lost_rung: int | None


@dataclass(frozen=True)
class Soundness:
    """Audited trials are those that completed first, the best first. `top` counts the best third
    of the completed ones (at least one, if there is one), `top_lost` those among them that the
    stopper would have ended."""

    sweep: str
    trials: int
    completed: int
    rungs: tuple[Rung, ...]
    audited: tuple[Audited, ...]
    top: int
    top_lost: int

    @property
    def lost(self) -> int:
        """Audited trials that the stopper would have ended."""
        return sum(trial.lost_rung is not None for trial in self.audited)


def soundness(
    storage: Storage,
    sweep: Sweep,
    *,
    milestones: Sequence[int] | None = None,
    objective: str = "val_accuracy",
) -> Soundness:
    """How the searched trials stood at each rung, and in the end; a running sweep's so far.

    Rungs are complete schedules, and a trial's value there is the objective's mean over the last
    max(1, T // 20) epochs; or, with `milestones`, the objective at these epochs of the one
    schedule of T. Raises ValueError for an unknown sweep or objective.
    """
    if objective not in OBJECTIVES:
        raise unknown("objective", objective, OBJECTIVES)
    (folder,) = sweep_folders(storage, sweep)
    trials = _trials(folder)
    ends = _values(folder, _ENDS, objective)
    looks = ends
    if milestones is not None:
        looks = _values(folder, _LOOKS.format(epochs=sorted(milestones) or [0]), objective)
    finals = {
        name: value
        for (_, epochs), values in ends.items()
        for name, value in values.items()
        if name in trials and trials[name]["outcome"] == "completed"
        if epochs == trials[name]["total_epochs"]
    }
    longest = max((row["total_epochs"] or 0 for row in trials.values()), default=0)
    at_rungs = {
        key: {name: value for name, value in looks[key].items() if name in trials}
        for key in sorted(looks)
        if key[1] < longest
    }
    unchosen = {name: finals[name] for name in finals if trials[name]["audited"]}
    rungs = tuple(
        Rung(
            rung, epochs, len(values), _correlation(values, unchosen), _correlation(values, finals)
        )
        for (rung, epochs), values in at_rungs.items()
    )
    return _report(folder.name, trials, rungs, list(at_rungs.values()), finals)


def _report(
    sweep: str,
    trials: Mapping[str, Mapping[str, Any]],
    rungs: tuple[Rung, ...],
    at_rungs: Sequence[Mapping[str, float]],
    finals: Mapping[str, float],
) -> Soundness:
    ranks = [_ranks(values) for values in at_rungs]
    last = _ranks(finals)
    audited = [
        Audited(
            name,
            row["outcome"],
            tuple(rank.get(name) for rank in ranks),
            last.get(name),
            row["lost_rung"],
        )
        for name, row in trials.items()
        if row["audited"]
    ]
    audited.sort(key=lambda each: (each.final.place if each.final else math.inf, each.trial_id))
    ended = sum(each.final is not None for each in audited)
    top = audited[: max(1, ended // 3)] if ended else []
    return Soundness(
        sweep,
        len(trials),
        len(finals),
        rungs,
        tuple(audited),
        len(top),
        sum(each.lost_rung is not None for each in top),
    )


def _trials(folder: SweepFolder) -> dict[str, dict[str, Any]]:
    """The searched trials by name."""
    columns = ["control", "outcome", "total_epochs", "audited", "lost_rung"]
    sql = f"SELECT trial_id, {', '.join(columns)} FROM trials WHERE control IS NULL ORDER BY ALL"
    table = ask(folder.storage, sql, sweeps=folder, tables=["trials"], trial_columns=columns)
    return {row["trial_id"]: row for row in table.to_pylist()}


_ENDS = """
    SELECT trial_id, rung, total_epochs AS epochs, avg({objective}) AS value FROM epochs
    WHERE epoch > total_epochs - greatest(1, total_epochs // 20)
    GROUP BY trial_id, rung, total_epochs HAVING max(epoch) = total_epochs
"""
_LOOKS = """
    SELECT trial_id, list_position({epochs}, e.epoch) - 1 AS rung, e.epoch AS epochs,
        {{objective}} AS value
    FROM epochs e WHERE e.rung = 0 AND list_contains({epochs}, e.epoch)
"""


def _values(folder: SweepFolder, sql: str, objective: str) -> Values:
    """Finite values, higher is better."""
    filled = sql.format(objective=objective)
    table = ask(folder.storage, filled, sweeps=folder, tables=["epochs"])
    found: Values = defaultdict(dict)
    for row in table.to_pylist():
        if row["value"] is not None and math.isfinite(row["value"]):
            value = OBJECTIVES[objective] * row["value"]
            found[row["rung"], row["epochs"]][row["trial_id"]] = value
    return found


def _ranks(values: Mapping[str, float]) -> dict[str, Rank]:
    places = mean_ranks(-value for value in values.values())
    return {name: Rank(place, len(values)) for name, place in zip(values, places, strict=True)}


def mean_ranks(values: Iterable[float]) -> list[float]:
    """The places of values from 1, the lowest; equal ones share their mean place."""
    x = np.array(list(values))
    ranks: list[float] = _weighted_ranks(x, np.ones((1, len(x))))[0].tolist()
    return ranks


def _correlation(at_rung: Mapping[str, float], finals: Mapping[str, float]) -> Correlation:
    names = sorted(finals.keys() & at_rung.keys())  # the order decides what the bootstrap draws
    if len(names) < FEWEST:
        return Correlation(len(names))
    return spearman([at_rung[name] for name in names], [finals[name] for name in names])


def spearman(x: Sequence[float], y: Sequence[float], draws: int = DRAWS) -> Correlation:
    """The rank correlation of finite values, ties averaged; the same values, the same interval."""
    n, a, b = len(x), np.array(x, float), np.array(y, float)
    (value,) = _spearmans(a, b, np.ones((1, n)))
    if not math.isfinite(value):
        return Correlation(n)
    counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=draws)
    drawn = _spearmans(a, b, counts.astype(float))
    low, high = np.quantile(drawn[np.isfinite(drawn)], [0.025, 0.975])
    return Correlation(n, float(value), float(low), float(high))


def _spearmans(x: Floats, y: Floats, counts: Floats) -> Floats:
    """A row of `counts` says how often each trial was drawn; NaN where one side does not vary."""
    total = counts.sum(1, keepdims=True)
    a, b = (_weighted_ranks(values, counts) - (total + 1) / 2 for values in (x, y))
    covered = (counts * a * b).sum(1)
    scale = np.sqrt((counts * a * a).sum(1) * (counts * b * b).sum(1))
    found: Floats = np.divide(covered, scale, out=np.full(len(counts), np.nan), where=scale > 0)
    return found


def _weighted_ranks(values: Floats, counts: Floats) -> Floats:
    """Mean places where each value occurs as often as a row of `counts` says."""
    distinct, inverse = np.unique(values, return_inverse=True)
    drawn = np.zeros((len(counts), len(distinct)))
    for column, group in enumerate(inverse):
        drawn[:, group] += counts[:, column]
    places: Floats = (np.cumsum(drawn, axis=1) - (drawn - 1) / 2)[:, inverse]
    return places
