"""The audit: what the trials that could not be stopped say of the stopper."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from results.database import Storage, Sweep, ask, sweep_folders
from results.meanings import OBJECTIVES, column, is_objective, merit
from results.names import unknown
from results.statistics import bootstrap_intervals, rank_correlation, ranks
from results.storage import SweepFolder

Judged = Literal["all", "fired", "gain"]
Values = dict[tuple[int, int], dict[str, float]]  # by rung and its epochs, by trial

FEWEST = 4  # trials for a rank correlation: of three, any order is likely by chance
DRAWS = 2000
MANY = 1000  # trials from which on the interval is known without drawing


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation over n trials with its 95 % interval: a percentile bootstrap, of
    more than `MANY` trials Fisher's z.

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
    judged: Judged = "all",
) -> Soundness:
    """How the searched trials stood at each rung, and in the end; a running sweep's so far.

    Rungs are complete schedules or, with `milestones`, these epochs of the one schedule of T; a
    trial's value there is the objective's mean over the last max(1, T // 20) epochs. `judged`
    there are all trials, or those whose trigger has `fired`; or, with `gain`, milestones are
    perturbed epochs and the value is the difference to the sgd control's. Raises ValueError for an
    unknown sweep or objective.
    """
    if not is_objective(objective):
        raise unknown("objective", objective, OBJECTIVES)
    (folder,) = sweep_folders(storage, sweep)
    trials = _trials(folder)
    ends = _values(folder, _ENDS.format(objective=column(objective)), objective)
    looks = ends
    fired = f"AND {_FIRED}" if judged == "fired" else ""
    if milestones is not None:
        pairs = list(enumerate(sorted(milestones)))
        if judged == "gain":
            each = [_GAIN.format(objective=column(objective), rung=r, epoch=e) for r, e in pairs]
            sql = " UNION ALL ".join(each)
        else:
            told = ", ".join(map(str, pairs))
            sql = (_LOOKS + fired).format(objective=column(objective), looks=told)
        looks = _values(folder, sql, objective) if pairs else {}
    elif fired:
        looks = _values(folder, (_ENDS + fired).format(objective=column(objective)), objective)
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
    names = {name for name, row in trials.items() if row["audited"]}
    ranks = [_ranks(values, names) for values in at_rungs]
    last = _ranks(finals, names)
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
    table = ask(
        folder.storage, sql, sweeps=folder, tables=["trials"], trial_columns=columns, searched=True
    )
    return {row["trial_id"]: row for row in table.to_pylist()}


# what a trial is judged by at an epoch: the mean over the tail until it
_TAIL = "greatest(1, total_epochs // 20)"
_ENDS = f"""
    SELECT trial_id, rung, total_epochs AS epochs, avg({{objective}}) AS value FROM epochs
    WHERE epoch > total_epochs - {_TAIL} AND epoch <= total_epochs
    GROUP BY trial_id, rung, total_epochs HAVING max(epoch) = total_epochs
"""
_LOOKS = f"""
    SELECT trial_id, look.rung, look.epochs, avg({{objective}}) AS value FROM epochs
    JOIN (VALUES {{looks}}) look(rung, epochs)
        ON epoch > look.epochs - {_TAIL} AND epoch <= look.epochs
    WHERE epochs.rung = 0 GROUP BY trial_id, look.rung, look.epochs HAVING max(epoch) = look.epochs
"""
# or plain SGD, which has no trigger to fire; what others wrote says nothing of it
_FIRED = """(
    coalesce(arg_max(perturbing, epoch), true)
    OR trial_id IN (SELECT trial_id FROM trials WHERE config_trigger = 'never')
)
"""
_GAIN = f"""
    SELECT trial_id, {{rung}} AS rung, {{epoch}} AS epochs, avg(value) AS value FROM (
        SELECT
            own.trial_id, own.epoch, own.{{objective}} - sgd.{{objective}} AS value,
            own.total_epochs, max(own.trigger_epoch) OVER (PARTITION BY own.trial_id) AS first
        FROM epochs own JOIN epochs sgd ON sgd.trial_id = 'sgd' AND sgd.epoch = own.epoch
    ) WHERE epoch > first + {{epoch}} - 1 - {_TAIL} AND epoch <= first + {{epoch}} - 1
    GROUP BY trial_id HAVING max(epoch) = any_value(first) + {{epoch}} - 1
"""


def _values(folder: SweepFolder, sql: str, objective: str) -> Values:
    """Finite values, higher is better."""
    finite = f"SELECT * FROM ({sql}) WHERE isfinite(value) ORDER BY rung, epochs, trial_id"
    tables = ["epochs", *(["trials"] if _FIRED in sql else [])]
    columns = ["config_trigger"]
    table = ask(folder.storage, finite, sweeps=folder, tables=tables, trial_columns=columns)
    names = table["trial_id"].to_pylist()
    merits = [merit(value, objective) for value in table["value"].to_pylist()]
    keys = list(zip(table["rung"].to_pylist(), table["epochs"].to_pylist(), strict=True))
    found: Values = {}
    at = 0
    for key, group in itertools.groupby(keys):
        end = at + sum(1 for _ in group)
        found[key] = dict(zip(names[at:end], merits[at:end], strict=True))
        at = end
    return found


def _ranks(values: Mapping[str, float], of: Collection[str]) -> dict[str, Rank]:
    """The places of these trials among all that have a value."""
    places = ranks(-np.array([*values.values()], float))
    pairs = zip(values, places, strict=True)
    return {name: Rank(float(place), len(values)) for name, place in pairs if name in of}


def _correlation(at_rung: Mapping[str, float], finals: Mapping[str, float]) -> Correlation:
    names = [name for name in finals if name in at_rung]  # their order decides what is drawn
    if len(names) < FEWEST:
        return Correlation(len(names))
    return spearman([at_rung[name] for name in names], [finals[name] for name in names])


def spearman(x: Sequence[float], y: Sequence[float], draws: int = DRAWS) -> Correlation:
    """The rank correlation of finite values, ties averaged; the same values, the same interval."""
    a, b = np.array(x, float), np.array(y, float)
    value = float(rank_correlation(a, b))
    if not math.isfinite(value):
        return Correlation(len(x))
    if len(x) > MANY:
        # Bonett and Wright (2000)
        error = 1.96 * math.sqrt((1 + value**2 / 2) / (len(x) - 3))
        middle = math.atanh(max(-1 + 1e-15, min(value, 1 - 1e-15)))
        return Correlation(len(x), value, math.tanh(middle - error), math.tanh(middle + error))
    (interval,) = bootstrap_intervals((a, b), rank_correlation, draws)
    return Correlation(len(x), value, *(interval or ()))
