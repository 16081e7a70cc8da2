"""SQL over the ledgers of a storage: DuckDB in memory, confined to `epochs` and `trials`."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from datetime import UTC
from typing import Any

import duckdb
import pyarrow as pa

from results.names import unknown
from results.parts import ATTEMPTS, epoch_dataset, read_parts, warn_aside
from results.schema import SCHEMAS, TRIALS
from results.storage import DEFAULT, SweepFolder, is_name, sweep_names

Storage = str | os.PathLike[str]
Sweep = str | SweepFolder  # by its name in the storage, or wherever it lies
Sweeps = Sweep | Sequence[Sweep] | None

# nothing outside of the registered tables can be read or written, and that cannot be undone
_CONFINE = """
SET TimeZone = 'UTC';
SET python_enable_replacements = false;
SET enable_external_access = false;
SET lock_configuration = true;
"""
# table functions that take SQL as text, or addresses in memory, from which DuckDB would crash
_UNSAFE = re.compile(
    r"\b(query|json_execute_serialized_sql|python_\w+|(arrow|pandas)_scan\w*|"
    r"\w+_external_resource\w*)\b",
    re.IGNORECASE,
)
# what DuckDB makes of a file that cannot be read, among other errors
_OF_READING = (duckdb.InvalidInputException, duckdb.IOException)


def sweep_folders(storage: Storage, sweeps: Sweeps = None) -> list[SweepFolder]:
    """The folders of one, several or (None) all sweeps of a storage.

    Text is a name in the storage, never a path. Raises ValueError if there are none, for one that
    is a link to elsewhere, and for two of the same name. Of all sweeps, those that are links or
    cannot be read are left aside with a warning.
    """
    if sweeps is None:
        found = [SweepFolder(storage, name) for name in _names(storage)]
        return [folder for folder in found if _is_readable(folder)]
    wanted = [sweeps] if isinstance(sweeps, Sweep) else sweeps
    folders = list({f.uri: f for f in (_folder(storage, sweep) for sweep in wanted)}.values())
    for folder in folders:
        if twin := next((f for f in folders if f.name == folder.name and f is not folder), None):
            raise ValueError(
                f"{folder.uri} and {twin.uri} have the same name, {folder.name!r}, by which their "
                "rows could not be told apart: rename one, or ask them one after the other"
            )
        if folder.leads_out():
            raise ValueError(
                f"{folder.uri} is a link that leads out of the storage: name the sweeps that are "
                "in it, or give the folder that it leads to as the storage"
            )
    return folders


def find_sweep(sweep: str | os.PathLike[str], storage: Storage = DEFAULT) -> SweepFolder:
    """The folder of a sweep that is there, named as `SweepFolder.at` says.

    Raises ValueError if there is none, with the nearest name in its storage.
    """
    folder = SweepFolder.at(sweep, storage)
    return sweep_folders(folder.storage, folder.name)[0]


def _folder(storage: Storage, sweep: Sweep) -> SweepFolder:
    if isinstance(sweep, SweepFolder):
        return sweep
    if is_name(sweep) and (folder := SweepFolder(storage, sweep)).is_sweep():
        return folder
    raise unknown(f"sweep in {os.fspath(storage)}", sweep, _names(storage))


def _is_readable(folder: SweepFolder) -> bool:
    reason = "a link that leads out of the storage" if folder.leads_out() else None
    if reason is None and folder.local_path is not None:  # an object store has no such damage
        try:
            for table in SCHEMAS:
                folder.files(table)
        except OSError as error:
            reason = str(error)
    if reason is not None:
        warn_aside(folder, "", "", reason)
    return reason is None


def _names(storage: Storage) -> list[str]:
    names = sweep_names(storage)
    if not names:
        raise ValueError(f"no sweeps in {os.fspath(storage)}")
    return names


def connect(
    storage: Storage,
    sweeps: Sweeps = None,
    tables: Collection[str] = tuple(SCHEMAS),
    trial_columns: Sequence[str] | None = None,
    whole: bool = False,
) -> duckdb.DuckDBPyConnection:
    """A confined connection with the views `epochs` and `trials` (or those named in `tables`).

    A trial appears once, with its newest row, and an epoch once. Trials are in memory, of all
    columns or of `trial_columns` beside the key; epochs are read when asked for, so that
    compaction may take their files away in between: `ask` and `query` then try again, as they do
    where a file is damaged: all parts of epochs are then read (`whole`), and those left aside.
    """
    folders = sweep_folders(storage, sweeps)
    connection = duckdb.connect()
    if "trials" in tables:
        connection.register("trial_rows", _trial_rows(folders, trial_columns))
        connection.execute(
            "CREATE TABLE trials AS SELECT DISTINCT ON (sweep, trial_id) * FROM trial_rows "
            "ORDER BY sweep, trial_id, updated DESC"
        )
        connection.unregister("trial_rows")
    if "epochs" in tables:
        connection.register("epoch_rows", epoch_dataset(folders, whole))
        connection.execute(
            "CREATE VIEW epochs AS "
            "SELECT DISTINCT ON (sweep, trial_id, rung, epoch) * FROM epoch_rows"
        )
    connection.execute(_CONFINE)
    return connection


def _trial_rows(folders: list[SweepFolder], columns: Sequence[str] | None) -> pa.Table:
    wanted = columns and list(dict.fromkeys(["sweep", "trial_id", "updated", *columns]))
    parts = [part for f in folders for part in read_parts(f, "trials", wanted).values()]
    return pa.concat_tables(parts) if parts else TRIALS.empty_table()


def ask(
    storage: Storage,
    sql: str,
    parameters: Sequence[Any] = (),
    *,
    sweeps: Sweeps = None,
    tables: Collection[str] = tuple(SCHEMAS),
    trial_columns: Sequence[str] | None = None,
) -> pa.Table:
    """The answer to one SELECT over `tables`, whole. Raises ValueError with DuckDB's reason."""
    whole = False
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with connect(storage, sweeps, tables, trial_columns, whole) as connection:
                _check_select(connection, sql)
                # None, since DuckDB loads pandas as soon as there are parameters
                values = list(parameters) or None
                return connection.sql(sql, params=values).to_arrow_table()
        except duckdb.Error as error:
            if _is_interrupt(error):
                raise KeyboardInterrupt from None
            gone = "[errno 2]" in str(error).lower()
            damaged = not (gone or whole) and isinstance(error, _OF_READING)
            whole = whole or damaged
            if not (gone or damaged) or attempt == ATTEMPTS:
                raise ValueError(f"SQL: {essence(error)}") from None
    raise AssertionError("unreachable")


def records(table: pa.Table) -> list[dict[str, Any]]:
    """A table's rows, like `to_pylist`, which loads pandas (0.25 s) for times with a zone."""
    zoned = [i for i, f in enumerate(table.schema) if f.type == pa.timestamp("us", tz="UTC")]
    for i in zoned:
        name = table.schema.names[i]
        table = table.set_column(i, name, table.column(i).cast(pa.timestamp("us")))
    rows: list[dict[str, Any]] = table.to_pylist()
    for name in {table.schema.names[i] for i in zoned}:
        for row in rows:
            row[name] = row[name] and row[name].replace(tzinfo=UTC)
    return rows


def query(storage: Storage, sql: str, sweeps: Sweeps = None) -> pa.Table:
    """The answer to a user's SELECT over `trials` and `epochs` of the sweeps.

    Raises ValueError for other statements, several statements, or what DuckDB refuses.
    """
    return ask(storage, sql, sweeps=sweeps, tables=tables_in(sql) or tuple(SCHEMAS))


def tables_in(sql: str) -> list[str]:
    """The tables that the SQL may read: those whose names occur in it."""
    return [table for table in SCHEMAS if re.search(rf"\b{table}\b", sql, re.IGNORECASE)]


def _check_select(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise ValueError(f"SQL: one statement at a time, not {len(statements)}")
    if statements[0].type != duckdb.StatementType.SELECT:
        raise ValueError(
            f"SQL: only SELECT (or FROM, WITH, DESCRIBE, SUMMARIZE, SHOW), not "
            f"{statements[0].type.name}: the ledger is read-only"
        )
    if unsafe := _UNSAFE.search(sql):
        raise ValueError(f"SQL: {unsafe[1]} is not allowed: write the SELECT itself")


def _is_interrupt(error: duckdb.Error) -> bool:
    """Whether it is Ctrl-C, of which DuckDB makes an error of its own while it calls pyarrow."""
    return isinstance(error, duckdb.InterruptException) or "failed: KeyboardInterrupt" in str(error)


def essence(error: duckdb.Error) -> str:
    """DuckDB's message in one line, without the picture of the statement."""
    return " ".join(re.split(r"\n+LINE \d+:", str(error))[0].split())
