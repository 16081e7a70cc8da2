"""Questions to the ledgers of a storage: the best trials, how sweeps stand."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import duckdb
import pyarrow as pa

from results.database import (
    Storage,
    Sweep,
    Sweeps,
    ask,
    connect,
    essence,
    query,
    records,
    sweep_folders,
    tables_in,
)
from results.meanings import MINIMISED, OBJECTIVES
from results.names import unknown
from results.storage import sweep_names

__all__ = [
    "DEFAULT_METRIC",
    "METRICS",
    "Firing",
    "Ranking",
    "SweepListing",
    "SweepSummary",
    "best",
    "connect",
    "find_trial",
    "list_sweeps",
    "lower_is_better",
    "query",
    "records",
    "sweep_summary",
    "trial_curve",
]

DEFAULT_METRIC = "final_val_accuracy"

# what trials may be ranked by: whether lower is better
_OF_TRIALS = {
    "final_val_accuracy": False,
    "best_val_accuracy": False,
    "images_per_second": False,
    "gradient_evaluations": True,
    "train_seconds": True,
    "eval_seconds": True,
    "epoch_seconds": True,
    "peak_memory_bytes": True,
}
# as means over the last max(1, T // 20) epochs, like final_val_accuracy
_OF_EPOCHS = {
    **{f"final_{name}": name in MINIMISED for name in OBJECTIVES if name != "val_accuracy"},
    "final_generalization_gap": True,
    "final_perturbed_loss": True,
    "final_loss_rise": True,
}
# what the run at the rung reached cost: of a completed trial, T epochs without the climb to there
_OF_RUNS = {
    "run_gradient_evaluations": "max(gradient_evaluations)",
    "run_train_seconds": "sum(train_seconds)",
}
METRICS = _OF_TRIALS | _OF_EPOCHS | dict.fromkeys(_OF_RUNS, True)


@dataclass(frozen=True)
class Ranking:
    """Trials, best first, and the controls beside them; rows of `trials` with the metric.

    `ranked` is the number of trials that were compared, of which `trials` are the top.
    """

    metric: str
    lower_is_better: bool
    ranked: int
    trials: list[dict[str, Any]]
    controls: list[dict[str, Any]]


def lower_is_better(metric: str) -> bool:
    """Raises ValueError for a metric that trials are not ranked by."""
    if metric.startswith(("test_", "best_test_")):
        raise ValueError(
            f"trials are not ranked by {metric}: a choice made on the test set makes its figures "
            f"too good; rank by {DEFAULT_METRIC} and read {metric} of the winner"
        )
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS)
    return METRICS[metric]


def best(
    storage: Storage,
    sweeps: Sweeps = None,
    *,
    top: int = 10,
    metric: str = DEFAULT_METRIC,
    where: str | None = None,
    include_all: bool = False,
) -> Ranking:
    """The `top` searched trials by a metric of METRICS, and all controls, which `where` spares.

    Only trials that completed their whole schedule are compared, unless `include_all`; never
    those that have no value. Ties go to the cheaper trial, then by sweep, number and name.
    `where` is a condition in SQL on the columns of `trials`. Raises ValueError.
    """
    ascending = lower_is_better(metric)
    if top < 1:
        raise ValueError(f"top must be at least 1, not {top}")
    sql = _ranking_sql(metric, ascending, _condition(where), include_all, top)
    tables = {"trials", *tables_in(where or ""), *([] if metric in _OF_TRIALS else ["epochs"])}
    rows = records(ask(storage, sql, sweeps=sweeps, tables=tables))
    counts = [row.pop("ranked") for row in rows if row["control"] is None]
    return Ranking(
        metric,
        ascending,
        counts[0] if counts else 0,
        [row for row in rows if row["control"] is None],
        [{k: v for k, v in row.items() if k != "ranked"} for row in rows if row["control"]],
    )


def _condition(where: str | None) -> str:
    if where is None:
        return "true"
    try:
        duckdb.SQLExpression(where)  # one expression, and nothing after it
    except duckdb.Error as error:
        raise ValueError(f"where {where!r} is not a condition: {essence(error)}") from None
    return f"(\n{where}\n)"


def _ranking_sql(metric: str, ascending: bool, condition: str, include_all: bool, top: int) -> str:
    done = "true" if include_all else "outcome = 'completed'"
    join = "" if metric in _OF_TRIALS else _of_last_run(metric)
    order = f"{metric} {'ASC' if ascending else 'DESC'}, gradient_evaluations, sweep, number"
    return f"""
        WITH chosen AS (
            SELECT * FROM trials WHERE {done} AND (control IS NOT NULL OR {condition})
        )
        SELECT *, count(*) OVER (PARTITION BY control IS NULL) AS ranked
        FROM chosen {join}
        WHERE {metric} IS NOT NULL AND NOT isnan({metric}::DOUBLE)
        QUALIFY control IS NOT NULL OR row_number() OVER (
            PARTITION BY control IS NULL ORDER BY {order}, trial_id
        ) <= {top}
        ORDER BY {order}, trial_id
    """


def _of_last_run(metric: str) -> str:
    """The join that adds what the epochs at the rung that each trial reached say: a cost, or the
    mean of an epoch's metric over the last of them."""
    if metric in _OF_RUNS:
        value, since = _OF_RUNS[metric], "0"
    else:
        value = f"avg({metric.removeprefix('final_')})"
        since = (
            "max(epoch) OVER (PARTITION BY sweep, trial_id, rung) - greatest(1, total_epochs // 20)"
        )
    return f"""
        LEFT JOIN (
            SELECT sweep, trial_id, {value} AS {metric} FROM (
                FROM epochs QUALIFY rung = max(rung) OVER (PARTITION BY sweep, trial_id)
                AND epoch > {since}
            ) GROUP BY ALL
        ) USING (sweep, trial_id)
    """


@dataclass(frozen=True)
class SweepListing:
    """A sweep at a glance; `outcomes` counts its searched trials, `best` is the highest
    final_val_accuracy among the completed ones."""

    name: str
    trials: int
    controls: int
    outcomes: dict[str, int]
    best: float | None
    updated: datetime | None


@dataclass(frozen=True)
class Firing:
    """In how many of the searched trials with a trigger it fired."""

    fired: int
    trials: int

    @property
    def share(self) -> float:
        return self.fired / self.trials


@dataclass(frozen=True)
class SweepSummary:
    """How a sweep stands. Epochs and gradient evaluations are those of all trials and controls."""

    listing: SweepListing
    epochs: int
    gradient_evaluations: int
    started: datetime | None
    ended: datetime | None  # of the trial that ended last
    best: dict[str, Any] | None  # its row of `trials`
    firing: dict[str, Firing]  # by kind of trigger


def list_sweeps(storage: Storage) -> list[SweepListing]:
    """All sweeps of a storage by name, those without a trial included; empty if there are none."""
    if not sweep_names(storage):
        return []
    folders = sweep_folders(storage)
    columns = ["sweep", "control", "outcome", "final_val_accuracy", "updated"]
    table = ask(
        storage,
        f"SELECT {', '.join(columns)} FROM trials",
        sweeps=folders,
        tables=["trials"],
        trial_columns=columns,
    )
    rows: dict[str, list[dict[str, Any]]] = {folder.name: [] for folder in folders}
    for row in records(table):
        rows[row["sweep"]].append(row)
    return [_listing(name, own) for name, own in rows.items()]


def _listing(name: str, rows: list[dict[str, Any]]) -> SweepListing:
    searched = [row for row in rows if row["control"] is None]
    finals = [row["final_val_accuracy"] for row in searched if row["outcome"] == "completed"]
    return SweepListing(
        name,
        trials=len(searched),
        controls=len(rows) - len(searched),
        outcomes=dict(Counter(row["outcome"] for row in searched).most_common()),
        best=max((x for x in finals if x is not None and not math.isnan(x)), default=None),
        updated=_latest(row["updated"] for row in rows),
    )


def _latest(times: Iterable[datetime | None]) -> datetime | None:
    return max((time for time in times if time is not None), default=None)


def sweep_summary(storage: Storage, sweep: Sweep) -> SweepSummary:
    """Raises ValueError for an unknown sweep."""
    (folder,) = sweep_folders(storage, sweep)
    columns = [
        *("control", "outcome", "final_val_accuracy", "updated", "gradient_evaluations"),
        *("started", "ended", "config_trigger", "trigger_epoch"),
    ]
    rows = ask(
        storage,
        f"SELECT {', '.join(columns)} FROM trials",
        sweeps=sweep,
        tables=["trials"],
        trial_columns=columns,
    ).to_pylist()
    epochs = ask(storage, "SELECT count(*) AS n FROM epochs", sweeps=sweep, tables=["epochs"])
    winners = best(storage, sweep, top=1).trials
    return SweepSummary(
        _listing(folder.name, rows),
        epochs=epochs["n"][0].as_py(),
        gradient_evaluations=sum(row["gradient_evaluations"] or 0 for row in rows),
        started=min((row["started"] for row in rows if row["started"]), default=None),
        ended=_latest(row["ended"] for row in rows),
        best=winners[0] if winners else None,
        firing=_firing([row for row in rows if row["control"] is None]),
    )


def _firing(rows: list[dict[str, Any]]) -> dict[str, Firing]:
    with_trigger = Counter(row["config_trigger"] for row in rows if row["config_trigger"])
    fired = Counter(row["config_trigger"] for row in rows if row["trigger_epoch"] is not None)
    return {kind: Firing(fired[kind], count) for kind, count in sorted(with_trigger.items())}


def trial_curve(storage: Storage, sweep: Sweep, trial_id: str) -> pa.Table:
    """All epochs of a trial, by rung and epoch. Raises ValueError for an unknown trial."""
    table = ask(
        storage,
        "SELECT * FROM epochs WHERE trial_id = ? ORDER BY rung, epoch",
        [trial_id],
        sweeps=sweep,
        tables=["epochs"],
    )
    if not table.num_rows:
        find_trial(storage, trial_id, sweep, exact=True)
    return table


def find_trial(
    storage: Storage, trial_id: str, sweeps: Sweeps = None, *, exact: bool = False
) -> dict[str, Any]:
    """The row of the one trial with this name, or (unless `exact`) with this unique beginning.

    Raises ValueError if there is none, with the nearest name, or if there are several.
    """
    folders = {folder.name: folder for folder in sweep_folders(storage, sweeps)}
    ids = ask(
        storage,
        "SELECT sweep, trial_id FROM trials ORDER BY sweep, trial_id",
        sweeps=list(folders.values()),
        tables=["trials"],
        trial_columns=["trial_id"],
    ).to_pylist()
    found = [row for row in ids if row["trial_id"] == trial_id]
    if not found and not exact:
        found = [row for row in ids if row["trial_id"].startswith(trial_id)]
    if not found:
        raise unknown("trial", trial_id, list(dict.fromkeys(row["trial_id"] for row in ids)))
    if len(found) > 1:
        listed = ", ".join(f"{row['trial_id']} in {row['sweep']}" for row in found[:10])
        more = ", …" if len(found) > 10 else ""
        raise ValueError(
            f"trial {trial_id!r} may be {listed}{more}: give its whole name and its sweep"
        )
    row: dict[str, Any] = ask(
        storage,
        "SELECT * FROM trials WHERE trial_id = ?",
        [found[0]["trial_id"]],
        sweeps=folders[found[0]["sweep"]],
        tables=["trials"],
    ).to_pylist()[0]
    return row
