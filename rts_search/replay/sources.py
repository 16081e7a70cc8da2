"""Where recorded curves come from: the ledgers of sweeps, or a user's Parquet files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from results.database import Storage, Sweeps, essence, sweep_folders
from results.meanings import MAXIMISED, MINIMISED, Outcome
from results.schema import json_object
from results.trials import StoredTrial, read_trials
from rts_search.importing.columns import check_columns, read_table
from rts_search.replay.curves import COLUMNS, OPTIONAL, SGD, RecordedCurves, from_rows

_STORED = {
    "config": pa.string(),
    "seed": pa.int32(),
    "total_epochs": pa.int32(),
    "epoch": pa.int32(),
    "value": pa.float32(),
    "gradient_evaluations": pa.int32(),
    "epoch_seconds": pa.float32(),
    "params": pa.string(),
    "trigger_epoch": pa.int32(),
}


def from_files(
    files: Sequence[Path | str],
    columns: Mapping[str, str] | None = None,
    where: str | None = None,
    epochs: int | None = None,
) -> RecordedCurves:
    """Curves from Parquet or CSV files with a row an epoch; higher values are better.

    `columns` maps our names (config, total_epochs, epoch, value, seed, gradient_evaluations,
    epoch_seconds, params, trigger_epoch) to the files' ones, which are the same by default but for
    value, `val_accuracy`. `where` is a condition in SQL on the files' columns. Raises ValueError.
    """
    tables = [read_table(Path(file)) for file in files]
    table = pa.concat_tables(tables, promote_options="permissive")
    names = _names(table, columns or {})
    quoted = ", ".join(f'"{theirs}" AS {ours}' for ours, theirs in names.items())
    with duckdb.connect() as connection:
        connection.register("curves", table)
        connection.execute("SET enable_external_access = false")
        condition = f"WHERE {where}" if where else ""
        try:
            found = connection.sql(f"SELECT {quoted} FROM curves {condition}").to_arrow_table()
        except duckdb.Error as error:
            raise ValueError(f"--where {where!r}: {essence(error)}") from None
    rows = dict(zip(found.column_names, found.columns, strict=True))
    rows.setdefault("seed", pa.chunked_array([pa.array([0] * found.num_rows, pa.int32())]))
    return from_rows(rows, epochs)


def from_sweeps(
    storage: Storage,
    sweeps: Sweeps = None,
    value: str = "val_accuracy",
    epochs: int | None = None,
) -> RecordedCurves:
    """Curves from the ledgers of one, several or (None) all sweeps of a storage.

    The same parameters in several sweeps are one configuration; what differs is seed and T. The
    rungs of one sweep's trials are runs too. Raises ValueError.
    """
    table, notes = sweep_rows(storage, sweeps, value)
    curves = from_rows(dict(zip(table.column_names, table.columns, strict=True)), epochs)
    return replace(curves, notes=[*notes, *curves.notes])


def export(storage: Storage, sweeps: Sweeps, path: Path, value: str = "val_accuracy") -> int:
    """Write the curves of sweeps as one compact Parquet file; returns its rows."""
    table, _ = sweep_rows(storage, sweeps, value)
    names = [value if name == "value" else name for name in table.column_names]
    dictionaries = ["config", "params"]
    pq.write_table(
        table.rename_columns(names), path, compression="zstd", use_dictionary=dictionaries
    )
    return int(table.num_rows)


def sweep_rows(storage: Storage, sweeps: Sweeps, value: str) -> tuple[pa.Table, list[str]]:
    """A row an epoch of every whole run of the sweeps' searched trials, and of the sgd control, as
    `_STORED`; and notes on those that were imported."""
    if value not in MAXIMISED:
        raise ValueError(f"value {value!r} must be one of {', '.join(MAXIMISED)}: higher is better")
    columns = ["total_epochs", value, "gradient_evaluations", "epoch_seconds", "trigger_epoch"]
    found = [
        trial
        for folder in sweep_folders(storage, sweeps)
        for trial in read_trials(
            folder, columns, lambda row: row["number"] is not None or row["trial_id"] == SGD
        )
    ]
    trials = [trial for trial in found if trial.number is not None]
    if not trials:
        raise ValueError("the sweeps have no searched trials: nothing to replay")
    trials.sort(key=lambda trial: (trial.number, trial.row["sweep"]))
    names = _config_names([trial.row for trial in trials])
    rows: list[dict[str, Any]] = []
    imported: set[tuple[str, int, int]] = set()
    again: list[str] = []
    for trial, name in zip(trials, names, strict=True):
        if trial.row["source"] is not None:
            run = (name, trial.row["seed"] or 0, trial.row["total_epochs"])
            if run in imported:
                again.append(trial.trial_id)
                continue
            imported.add(run)
        rows += _trial_rows(trial, name, value)
    _check_unique(rows)
    controls = {
        (trial.row["seed"], trial.row["total_epochs"]): trial
        for trial in found
        if trial.number is None
    }
    for trial in controls.values():
        rows += _trial_rows(trial, SGD, value)
    table = pa.Table.from_pylist(rows, schema=pa.schema(list(_STORED.items())))
    return table, _about_imported(trials, again)


def _about_imported(trials: Sequence[StoredTrial], again: Sequence[str]) -> list[str]:
    """`again` are those of which another one counts."""
    notes = []
    if again:
        notes.append(
            f"{len(again)} imported runs repeat another's configuration, seed and T, and are left "
            f"out: {', '.join(again[:5])}{', …' if len(again) > 5 else ''}"
        )
    if tested := sum(trial.row["selected_on"] == "test" for trial in trials):
        notes.append(
            f"{tested} of the runs were validated on the test set: their values are too good to be "
            "compared with others"
        )
    return notes


def _trial_rows(trial: StoredTrial, name: str, value: str) -> Iterable[dict[str, Any]]:
    if not trial.has_all_epochs:  # some are lost, or were never told
        return
    runs = [list(run) for _, run in groupby(trial.epochs, key=lambda row: row["total_epochs"])]
    for run in runs:
        total, outcome = run[0]["total_epochs"], trial.outcome
        whole, last = len(run) == total, run is runs[-1]
        if not whole and not (last and outcome.whole):
            continue  # cut short by a stopper, a user or a crash: nothing is known of its end
        lost = whole and last and outcome in (Outcome.DIVERGED, Outcome.COLLAPSED)
        for row in run:
            yield {
                "config": name,
                "seed": trial.row["seed"] or 0,  # not known of what was imported
                "total_epochs": total,
                "epoch": row["epoch"],
                "value": None if lost and row["epoch"] == total else row[value],
                "gradient_evaluations": row["gradient_evaluations"],
                "epoch_seconds": row["epoch_seconds"],
                "params": trial.row["params"],
                "trigger_epoch": row["trigger_epoch"],
            }


def _config_names(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each trial's configuration, the same for the same parameters on the same task."""
    numbers: dict[str, str] = {}
    tasks: dict[str, tuple[str, str]] = {}
    names = []
    for trial in trials:
        params = trial["params"] if trial["params"] not in (None, "{}") else None
        try:
            task, config = _task(trial)
        except (KeyError, TypeError):
            raise ValueError(
                f"trial {trial['trial_id']!r} of {trial['sweep']!r} has no configuration that can "
                "be read (config_json): replay other sweeps"
            ) from None
        key = params or config
        sweep, known = tasks.setdefault(key, (trial["sweep"], task))
        if known != task:
            raise ValueError(
                f"sweeps {sweep!r} and {trial['sweep']!r} have the same configurations on "
                "different data or models: replay them apart"
            )
        names.append(numbers.setdefault(key, f"c{len(numbers):03d}"))
    return names


def _task(trial: Mapping[str, Any]) -> tuple[str, str]:
    """Data and model, and the whole configuration but for T and seed. Of an imported run that does
    not tell it, what its columns do."""
    if trial["source"] is not None and trial["config_json"] is None:
        names = ("config_data", "config_train_size", "config_model")
        return json.dumps([trial[name] for name in names]), str(trial["trial_id"])
    config = json_object(trial["config_json"])
    if "task" in config:
        raise ValueError(
            f"trial {trial['trial_id']!r} of {trial['sweep']!r} is of a task of your own, whose "
            "objective replay does not know: replay other sweeps"
        )
    data = config["data"]
    noise = data.get("label_noise", 0.0)  # ledgers of before have none
    task = json.dumps([data["name"], data["train_size"], noise, config["model"]])
    for name in ("epochs", "seed"):
        config["train"].pop(name)
    data.pop("residence", None)  # changes no bit
    return task, json.dumps(config, sort_keys=True)


def _check_unique(rows: Iterable[Mapping[str, Any]]) -> None:
    seen = set()
    for row in rows:
        key = (row["config"], row["seed"], row["total_epochs"], row["epoch"])
        if key in seen:
            raise ValueError(
                f"configuration {key[0]} was trained twice with seed {key[1]} and T = {key[2]}: "
                "name sweeps that differ in seed or T"
            )
        seen.add(key)


def _names(table: pa.Table, columns: Mapping[str, str]) -> dict[str, str]:
    """The file's column for each of ours that it has."""
    known = (*COLUMNS, *OPTIONAL)
    check_columns(columns, known, table.column_names)
    names = {**{name: name for name in known}, "value": "val_accuracy", **columns}
    if names["value"] in MINIMISED:
        raise ValueError(f"value {names['value']!r}: higher must be better; use an accuracy")
    found = {ours: theirs for ours, theirs in names.items() if theirs in table.column_names}
    missing = [name for name in COLUMNS if name not in found and name != "seed"]
    if missing:
        raise ValueError(
            f"the curves have no column {names[missing[0]]!r}; name theirs with "
            f"--column {missing[0]}=THEIRS (they have {', '.join(table.column_names[:12])})"
        )
    return found
