"""Questions to the ledgers of a storage: the best trials, how sweeps stand."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
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
from results.meanings import MINIMISED, OBJECTIVES, merit
from results.names import unknown
from results.storage import sweep_names

__all__ = [
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
    "rankings",
    "records",
    "sweep_summary",
    "trial_curve",
]

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

    Runs of one configuration are one row, that of the best of them, ranked by their `mean`; with
    several `seeds`, `deviation` is theirs (ddof 1). `ranked` is the number of trials that were
    compared, of which `trials` are the top.
    """

    metric: str
    lower_is_better: bool
    ranked: int
    trials: list[dict[str, Any]]
    controls: list[dict[str, Any]]

    @property
    def objective(self) -> str | None:
        """That of its sweeps, if it is what they are ranked by."""
        name = self.metric.removeprefix("final_")
        found = {row["objective"] for row in (*self.trials, *self.controls)}
        return name if found == {name} else None

    @property
    def sweeps(self) -> list[str]:
        return sorted({row["sweep"] for row in (*self.trials, *self.controls)})


def lower_is_better(metric: str) -> bool:
    """Raises ValueError for a metric that trials are not ranked by."""
    if metric.startswith(("test_", "best_test_")):
        raise ValueError(
            f"trials are not ranked by {metric}: a choice made on the test set makes its figures "
            f"too good; rank by final_val_accuracy and read {metric} of the winner"
        )
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS)
    return METRICS[metric]


def best(storage: Storage, sweeps: Sweeps = None, **asked: Any) -> Ranking:
    """As `rankings`, of sweeps that can be compared. Raises ValueError if they cannot."""
    found = rankings(storage, sweeps, **asked)
    if len(found) > 1:
        groups = "; ".join(f"{', '.join(each.sweeps)}: {setting(each)}" for each in found)
        raise ValueError(
            f"trials are ranked together where data, model, T and objective agree, not here: "
            f"{groups}; name those that do, or choose them by a condition (where)"
        )
    return found[0]


def rankings(
    storage: Storage,
    sweeps: Sweeps = None,
    *,
    top: int = 10,
    metric: str | None = None,
    where: str | None = None,
    include_all: bool = False,
) -> list[Ranking]:
    """The `top` searched trials by a metric of METRICS, and all controls, which `where` spares.

    Without a metric, by the sweeps' own objective at the end. What does not agree in data, model,
    T and (then) objective is never in one ranking; there is always one. Only trials that completed
    their whole schedule are compared, unless `include_all`; never those that have no value. Ties go
    to the cheaper trial, then by sweep, number and name. `where` is a condition in SQL on the
    columns of `trials`. Raises ValueError.
    """
    if top < 1:
        raise ValueError(f"top must be at least 1, not {top}")
    condition = _condition(where)
    tables = {"trials", *tables_in(where or "")}
    found: list[Ranking] = []
    objectives = [None] if metric else _objectives(storage, sweeps)
    for objective in objectives:
        by = metric or f"final_{objective}"
        ascending = lower_is_better(by)
        done = "true" if include_all else "outcome = 'completed'"
        own = f"{done} AND {OBJECTIVE} = '{objective}'" if objective else done
        sql = _ranking_sql(by, ascending, f"{own} AND (control IS NOT NULL OR {condition})", top)
        read = {*tables, *([] if by in _OF_TRIALS else ["epochs"])}
        groups: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for row in records(ask(storage, sql, sweeps=sweeps, tables=read)):
            groups[row.pop("comparable")].append(row)
        found += [_ranking(by, ascending, groups[key]) for key in sorted(groups)]
    return found or [Ranking(by, ascending, 0, [], [])]


def _objectives(storage: Storage, sweeps: Sweeps) -> list[str]:
    sql = f"SELECT DISTINCT {OBJECTIVE} AS name FROM trials ORDER BY ALL"
    rows = ask(storage, sql, sweeps=sweeps, tables=["trials"], trial_columns=["objective"])
    return rows["name"].to_pylist() or ["val_accuracy"]


def _ranking(metric: str, ascending: bool, rows: list[dict[str, Any]]) -> Ranking:
    counts = [row.pop("ranked") for row in rows if row["control"] is None]
    controls = [{k: v for k, v in row.items() if k != "ranked"} for row in rows if row["control"]]
    trials = [row for row in rows if row["control"] is None]
    return Ranking(metric, ascending, counts[0] if counts else 0, trials, controls)


def setting(ranking: Ranking) -> str:
    """What its trials have in common, as in `data digits (300 images), model mlp, T 9`."""
    row = (ranking.trials or ranking.controls)[0]
    images = f" ({row['config_train_size']:,} images)" if row["config_train_size"] else ""
    what = f"data {row['config_data']}{images}, model {row['config_model']}"
    return f"{what}, T {row['total_epochs']}"


def _condition(where: str | None) -> str:
    if where is None:
        return "true"
    try:
        duckdb.SQLExpression(where)  # one expression, and nothing after it
    except duckdb.Error as error:
        raise ValueError(f"where {where!r} is not a condition: {essence(error)}") from None
    return f"(\n{where}\n)"


# rows of earlier versions have no objective: nothing but the accuracy is known
OBJECTIVE = "coalesce(objective, 'val_accuracy')"
_TOLD = f"""{OBJECTIVE} AS objective,
    CASE WHEN objective IS NULL THEN final_val_accuracy ELSE final_objective END AS final_objective
"""
_OBJECTIVES = ("objective", "final_objective", "final_val_accuracy")  # what that reads
# what must agree for values to be comparable: the images, the network, the length
_SETTING = """[config_data, config_train_size::VARCHAR, config_model, total_epochs::VARCHAR,
    config_json->>'$.data.validation_fraction', config_json->>'$.data.validation_seed',
    config_json->>'$.data.image_size', config_json->>'$.model']"""
# runs that differ in the seed only; a control is compared in its own sweep
_CONFIGURATION = """[CASE WHEN config_json IS NULL THEN trial_id
    ELSE json_merge_patch(config_json, '{"train": {"seed": null}}')::VARCHAR END,
    CASE WHEN control IS NOT NULL OR config_json IS NULL THEN sweep END]"""


def _ranking_sql(metric: str, ascending: bool, condition: str, top: int) -> str:
    """Rows of the top trials and of all controls, best first, with the number of the group in
    which they are `comparable`: a sweep has the settings of all its searched trials, what it
    searches included; a single run has its own."""
    own = metric in _OF_TRIALS
    way = "ASC" if ascending else "DESC"
    rest = "gradient_evaluations, sweep, number, trial_id"
    return f"""
        WITH chosen AS (SELECT * FROM trials WHERE {condition}),
        settings AS (
            SELECT sweep, list_sort(list(DISTINCT {_SETTING})) AS settings
            FROM trials WHERE number IS NOT NULL GROUP BY sweep
        ),
        told AS (
            SELECT sweep, trial_id, number, control, gradient_evaluations, config_seed,
                {metric} AS value, {_CONFIGURATION} AS configuration,
                dense_rank() OVER (ORDER BY coalesce(
                    CASE WHEN number IS NOT NULL OR control IS NOT NULL THEN settings END,
                    [{_SETTING}]
                )) AS comparable
            FROM chosen {"" if own else _of_last_run(metric)} LEFT JOIN settings USING (sweep)
            WHERE value IS NOT NULL AND NOT isnan(value::DOUBLE)
        ),
        grouped AS (
            SELECT *, avg(value) OVER runs AS mean,
                count(DISTINCT coalesce(config_seed, 0)) OVER runs AS seeds,
                CASE WHEN seeds > 1 THEN stddev_samp(value) OVER runs END AS deviation,
                count(*) OVER (PARTITION BY comparable, control IS NULL) AS ranked
            FROM told WINDOW runs AS (PARTITION BY comparable, control, configuration)
        ),
        firsts AS (
            FROM grouped QUALIFY row_number() OVER (
                PARTITION BY comparable, control, configuration ORDER BY value {way}, {rest}
            ) = 1
        ),
        tops AS (
            SELECT sweep, trial_id, value, mean, seeds, deviation, ranked, comparable,
                row_number() OVER (ORDER BY mean {way}, {rest}) AS place
            FROM firsts QUALIFY control IS NOT NULL OR row_number() OVER (
                PARTITION BY comparable, control IS NULL ORDER BY mean {way}, {rest}
            ) <= {top}
        )
        SELECT trials.* REPLACE ({_TOLD}), {"" if own else f"value AS {metric},"}
            mean, seeds, deviation, ranked, comparable
        FROM trials JOIN tops USING (sweep, trial_id) ORDER BY place
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
    """A sweep at a glance; `outcomes` counts its searched trials, `best` is the best final value
    of its objective among the completed ones."""

    name: str
    trials: int
    controls: int
    outcomes: dict[str, int]
    objective: str
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
    columns = ["control", "outcome", "updated", *_OBJECTIVES]
    folders = sweep_folders(storage)
    table = ask(
        storage,
        f"SELECT * REPLACE ({_TOLD}) FROM trials",
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
    objective = rows[0]["objective"] if rows else "val_accuracy"
    finals = [row["final_objective"] for row in searched if row["outcome"] == "completed"]
    known = [value for value in finals if value is not None and not math.isnan(value)]
    return SweepListing(
        name,
        trials=len(searched),
        controls=len(rows) - len(searched),
        outcomes=dict(Counter(row["outcome"] for row in searched).most_common()),
        objective=objective,
        best=max(known, key=lambda value: merit(value, objective), default=None),
        updated=_latest(row["updated"] for row in rows),
    )


def _latest(times: Iterable[datetime | None]) -> datetime | None:
    return max((time for time in times if time is not None), default=None)


def sweep_summary(storage: Storage, sweep: Sweep) -> SweepSummary:
    """Raises ValueError for an unknown sweep."""
    (folder,) = sweep_folders(storage, sweep)
    columns = [
        *("control", "outcome", "updated", "gradient_evaluations", *_OBJECTIVES),
        *("started", "ended", "config_trigger", "trigger_epoch"),
    ]
    rows = ask(
        storage,
        f"SELECT * REPLACE ({_TOLD}) FROM trials",
        sweeps=sweep,
        tables=["trials"],
        trial_columns=columns,
    ).to_pylist()
    epochs = ask(storage, "SELECT count(*) AS n FROM epochs", sweeps=sweep, tables=["epochs"])
    winners = [row for each in rankings(storage, sweep, top=1) for row in each.trials]
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
