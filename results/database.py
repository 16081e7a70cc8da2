"""SQL over the ledgers of a storage: DuckDB in memory, confined to `epochs` and `trials`."""

from __future__ import annotations

import itertools
import os
import re
import threading
import time
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from results.names import unknown
from results.parts.reading import ATTEMPTS, LargePart, warn_aside
from results.schema import SCHEMAS
from results.storage import DEFAULT, SweepFolder, is_name, sweep_names
from results.views import make_views

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
    r"query|json_execute_serialized_sql|python_\w+|(arrow|pandas)_scan\w*|"
    r"\w+_external_resource\w*"
)
# after the name of a WITH query: its columns
_OF_WITH = re.compile(r"\( \w+( , \w+)* \) as ((not )?materialized )?\(")
_BEGIN_PIVOT = {"pivot", "pivot_wider", "from", "select", "with", "("}
# what no file is to blame for
_OF_SQL = (
    duckdb.ParserException,
    duckdb.SyntaxException,
    duckdb.BinderException,
    duckdb.CatalogException,
    duckdb.ConversionException,
    duckdb.OutOfRangeException,
    duckdb.OutOfMemoryException,
    duckdb.PermissionException,
)
THREAD = "rts-search SQL"
POLL_SECONDS = 0.1
GRACE_SECONDS = 1.0  # for DuckDB to follow an interrupt
_MORE_TIME = "ask for less, or allow more seconds (--timeout)"
_MORE_MEMORY = "ask for less, or allow more (--memory)"


@dataclass(frozen=True)
class Limits:
    """What a statement may take; None: anything."""

    seconds: float | None = None
    gigabytes: float | None = None


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
) -> duckdb.DuckDBPyConnection:
    """A confined connection with the views `epochs` and `trials` (or those named in `tables`).

    A trial appears once, with its newest row, and an epoch once.
    """
    return _connect(sweep_folders(storage, sweeps), tables, None, Limits(), whole=False)[0]


def _connect(
    folders: Sequence[SweepFolder],
    tables: Collection[str],
    trial_columns: Sequence[str] | None,
    limits: Limits,
    whole: bool,
    searched: bool = False,
) -> tuple[duckdb.DuckDBPyConnection, list[LargePart]]:
    """As `connect`, and the merged parts, which are read when they are asked for; small ones are in
    memory, of trials all columns or `trial_columns` beside the key."""
    config: dict[str, Any] = {"temp_directory": ""}  # else ./.tmp
    if limits.gigabytes is not None:
        config["memory_limit"] = f"{limits.gigabytes}GB"
    connection = duckdb.connect(config=config)
    parts = make_views(connection, folders, tables, trial_columns, whole, searched)
    with suppress(duckdb.InvalidInputException):  # a notebook without ipywidgets, which has none
        connection.execute("SET enable_progress_bar = false")
    connection.execute(_CONFINE)
    return connection, parts


def ask(
    storage: Storage,
    sql: str,
    *,
    sweeps: Sweeps = None,
    tables: Collection[str] = tuple(SCHEMAS),
    trial_columns: Sequence[str] | None = None,
    limits: Limits | None = None,
    searched: bool = False,
) -> pa.Table:
    """The answer to one SELECT over `tables`, whole. Raises ValueError with DuckDB's reason.

    `trials` has all rows or, if `searched`, only the search's and its controls', as questions about
    a search need them: not the runs of claims, curves and tuned baselines, which have a stage.

    A file that went away meanwhile is looked for again; and where one cannot be read, all are
    looked through, so that it is left aside and named.
    """
    limits, whole = limits or Limits(), False
    folders = sweep_folders(storage, sweeps)
    for _ in range(ATTEMPTS):
        parts = None
        try:
            connection, parts = _connect(folders, tables, trial_columns, limits, whole, searched)
            _check_select(connection, sql)
            answer = _watched(connection, sql, limits)
        except duckdb.Error as error:
            unchanged = parts is not None and all(part.is_as_it_was() for part in parts)
            if unchanged and (whole or isinstance(error, _OF_SQL)):
                raise ValueError(_reason(error, limits)) from None
            whole = whole or unchanged
        else:
            connection.close()
            if all(part.is_as_it_was() for part in parts):
                return answer
    raise OSError("the ledger changes faster than it can be read; try again")


def _watched(connection: duckdb.DuckDBPyConnection, sql: str, limits: Limits) -> pa.Table:
    """The answer, computed in a thread: so Ctrl-C and the limits end any statement at once, also
    those that DuckDB itself does not interrupt; of these the thread is left behind."""
    answer: Future[pa.Table] = Future()

    def work() -> None:
        try:
            answer.set_result(connection.sql(sql).to_arrow_table())
        except BaseException as error:
            answer.set_exception(error)

    thread = threading.Thread(target=work, name=THREAD, daemon=True)
    began, before = time.monotonic(), _memory()
    thread.start()
    try:
        while True:
            with suppress(TimeoutError):
                return answer.result(POLL_SECONDS)
            if limits.seconds is not None and time.monotonic() - began > limits.seconds:
                raise ValueError(f"SQL: no answer within {limits.seconds:g} s: {_MORE_TIME}")
            if limits.gigabytes is not None and _memory() - before > limits.gigabytes * 1e9:
                raise ValueError(_too_large(limits))
    finally:
        if not answer.done():
            connection.interrupt()
            thread.join(GRACE_SECONDS)


def left_behind() -> bool:
    """Whether a statement still runs that nobody waits for: the process cannot end in order."""
    return any(thread.name == THREAD for thread in threading.enumerate())


def _memory() -> int:
    """Bytes that this process holds; 0 where the system does not tell."""
    with suppress(OSError), open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _too_large(limits: Limits) -> str:
    return f"SQL: the query needs more than {limits.gigabytes:g} GB of memory: {_MORE_MEMORY}"


def _reason(error: duckdb.Error, limits: Limits) -> str:
    if isinstance(error, duckdb.OutOfMemoryException) and limits.gigabytes is not None:
        return _too_large(limits)
    return f"SQL: {essence(error)}"


def query(
    storage: Storage, sql: str, sweeps: Sweeps = None, limits: Limits | None = None
) -> pa.Table:
    """The answer to a user's SELECT over `trials` and `epochs` of the sweeps; columns of one name
    are numbered, as in `x`, `x_1`.

    Raises ValueError for other statements, several statements, what DuckDB refuses, or an answer
    that does not come within the limits.
    """
    tables = tables_in(sql) or tuple(SCHEMAS)
    table = ask(storage, sql, sweeps=sweeps, tables=tables, limits=limits)
    names: list[str] = []
    for name in table.column_names:
        others = (f"{name}_{number}" for number in itertools.count(1))
        names.append(next(n for n in itertools.chain([name], others) if n not in names))
    return table.rename_columns(names)


def tables_in(sql: str) -> list[str]:
    """The tables that the SQL may read: those whose names occur in it."""
    return [table for table in SCHEMAS if re.search(rf"\b{table}\b", sql, re.IGNORECASE)]


def _check_select(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise ValueError(f"SQL: one statement at a time, not {len(statements)}")
    words = _words(sql)
    # a PIVOT without a list of values is several statements for DuckDB, whatever it is part of
    kind = "SELECT" if words[0] in _BEGIN_PIVOT else None
    if kind is None or statements[0].type != duckdb.StatementType.MULTI:
        kind = statements[0].type.name
    if kind != "SELECT":
        raise ValueError(
            f"SQL: only SELECT (or FROM, WITH, PIVOT, DESCRIBE, SUMMARIZE, SHOW), not {kind}: the "
            "ledger is read-only"
        )
    for at, (name, after) in enumerate(itertools.pairwise(words)):
        if (
            after == "("
            and _UNSAFE.fullmatch(name)
            and not _OF_WITH.match(" ".join(words[at + 1 :]))
        ):
            raise ValueError(f"SQL: the function {name} is not allowed: write the SELECT itself")


def _words(sql: str) -> list[str]:
    """What a statement consists of but for comments, lower case; names without their quotes,
    and texts with them."""
    text = sql.encode()
    tokens = duckdb.tokenize(sql)
    ends = [offset for offset, _ in tokens[1:]] + [len(text)]
    kinds = [(text[at:end].decode(), kind) for (at, kind), end in zip(tokens, ends, strict=True)]
    words = [word.strip() for word, kind in kinds if kind != duckdb.token_type.comment]
    return [word.strip('"').lower() for word in words]


def essence(error: duckdb.Error) -> str:
    """DuckDB's message in one line, without the picture of the statement."""
    return " ".join(re.split(r"\n+LINE \d+:", str(error))[0].split())
