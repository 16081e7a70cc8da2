"""Where recorded curves come from: the ledgers of sweeps, or a user's Parquet files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from results.database import Storage, Sweeps, essence, sweep_folders
from results.meanings import MAXIMISED, MINIMISED, Outcome
from results.names import unknown
from results.schema import json_object
from results.trials import StoredTrial, read_trials
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
    """Curves from Parquet files with a row an epoch; higher values are better.

    `columns` maps our names (config, total_epochs, epoch, value, seed, gradient_evaluations,
    epoch_seconds, params, trigger_epoch) to the files' ones, which are the same by default but for
    value, `val_accuracy`. `where` is a condition in SQL on the files' columns. Raises ValueError.
    """
    table = pa.concat_tables([_read(Path(file)) for file in files], promote_options="permissive")
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
    table = sweep_rows(storage, sweeps, value)
    return from_rows(dict(zip(table.column_names, table.columns, strict=True)), epochs)


def export(storage: Storage, sweeps: Sweeps, path: Path, value: str = "val_accuracy") -> int:
    """Write the curves of sweeps as one compact Parquet file; returns its rows."""
    table = sweep_rows(storage, sweeps, value)
    names = [value if name == "value" else name for name in table.column_names]
    dictionaries = ["config", "params"]
    pq.write_table(
        table.rename_columns(names), path, compression="zstd", use_dictionary=dictionaries
    )
    return int(table.num_rows)


def sweep_rows(storage: Storage, sweeps: Sweeps, value: str) -> pa.Table:
    """A row an epoch of every whole run of the sweeps' searched trials, and of the sgd control, as
    `_STORED`."""
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
    for trial, name in zip(trials, names, strict=True):
        rows += _trial_rows(trial, name, value)
    _check_unique(rows)
    controls = {
        (trial.row["seed"], trial.row["total_epochs"]): trial
        for trial in found
        if trial.number is None
    }
    for trial in controls.values():
        rows += _trial_rows(trial, SGD, value)
    return pa.Table.from_pylist(rows, schema=pa.schema(list(_STORED.items())))


def _trial_rows(trial: StoredTrial, name: str, value: str) -> Iterable[dict[str, Any]]:
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
                "seed": trial.row["seed"],
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
        config = json_object(trial["config_json"])
        try:
            data = config["data"]
            noise = data.get("label_noise", 0.0)  # ledgers of before have none
            task = json.dumps([data["name"], data["train_size"], noise, config["model"]])
            for name in ("epochs", "seed"):
                config["train"].pop(name)
        except (KeyError, TypeError):
            raise ValueError(
                f"trial {trial['trial_id']!r} of {trial['sweep']!r} has no configuration that can "
                "be read (config_json): replay other sweeps"
            ) from None
        params = trial["params"] if trial["params"] not in (None, "{}") else None
        key = params or json.dumps(config, sort_keys=True)
        sweep, known = tasks.setdefault(key, (trial["sweep"], task))
        if known != task:
            raise ValueError(
                f"sweeps {sweep!r} and {trial['sweep']!r} have the same configurations on "
                "different data or models: replay them apart"
            )
        names.append(numbers.setdefault(key, f"c{len(numbers):03d}"))
    return names


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


def _read(file: Path) -> pa.Table:
    try:
        return pq.read_table(file)
    except FileNotFoundError:
        raise ValueError(f"no file {str(file)!r}: give a Parquet file of curves") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{str(file)!r} is not a Parquet file: {error}") from None


def _names(table: pa.Table, columns: Mapping[str, str]) -> dict[str, str]:
    """The file's column for each of ours that it has."""
    known = (*COLUMNS, *OPTIONAL)
    for ours, theirs in columns.items():
        if ours not in known:
            raise unknown("column of curves", ours, known)
        if theirs not in table.column_names:
            raise unknown("column of the file", theirs, table.column_names)
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
