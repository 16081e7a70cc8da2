"""The views `epochs` and `trials` of DuckDB over the parts of sweeps, on any storage."""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias

import duckdb
import pyarrow as pa
from pyarrow import fs

from results.parts.names import is_driven, may_hold_doubles
from results.parts.reading import LargePart, open_parts, part_names
from results.schema import SCHEMAS, TIME
from results.storage import SweepFolder

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_KEYS = {"epochs": "sweep, trial_id, rung, epoch", "trials": "sweep, trial_id"}
_SQL_TYPES = {
    pa.string(): "VARCHAR",
    pa.bool_(): "BOOLEAN",
    pa.float64(): "DOUBLE",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    TIME: "TIMESTAMPTZ",
}
# by value: `year` is 1 in the year before the year 1, too
_FIRST, _LAST = "TIMESTAMPTZ '0001-01-01 00:00:00Z'", "TIMESTAMPTZ '9999-12-31 23:59:59.999999Z'"
_PROTOCOL = "ledger"  # of parts that DuckDB does not read itself
_PATTERN = re.compile(r"[*?\[\]{}]")  # what DuckDB would expand in a path


def make_views(
    connection: duckdb.DuckDBPyConnection,
    folders: Sequence[SweepFolder],
    tables: Collection[str],
    trial_columns: Sequence[str] | None,
    whole: bool,
    searched: bool = False,
) -> list[LargePart]:
    """Make a view of each table, and allow the files that they read: the merged parts, which are
    returned. Of `trials` all rows or, if `searched`, only those without a stage."""
    opened = [_Rows.of(table, folders, trial_columns, whole) for table in tables]
    parts = [part for rows in opened for part in rows.large]
    if any(map(_is_remote, parts)):
        held = {_address(p): (p.folder.filesystem, p.folder.path_of(p.path)) for p in parts}
        connection.register_filesystem(_as_fsspec(held))
    for rows in opened:
        rows.make_view(connection, searched)
    connection.execute(f"SET allowed_paths = {_literals([_address(part) for part in parts])}")
    return parts


Part: TypeAlias = pa.Table | LargePart


@dataclass(frozen=True)
class _Rows:
    """The parts of a table: those of one writer after the other, and those where two drivers may
    have written the same rows at once."""

    table: str
    schema: pa.Schema
    parts: list[Part]
    doubtful: list[Part]

    @classmethod
    def of(
        cls,
        table: str,
        folders: Sequence[SweepFolder],
        trial_columns: Sequence[str] | None,
        whole: bool,
    ) -> _Rows:
        schema = SCHEMAS[table]
        if table == "trials" and trial_columns is not None:
            columns = dict.fromkeys(["sweep", "trial_id", "updated", "stage", *trial_columns])
            schema = pa.schema([schema.field(name) for name in columns])
        rows = cls(table, schema, [], [])
        for folder in folders:
            own = open_parts(folder, table, schema.names, whole)
            names = list(own) if table == "epochs" else part_names(folder, "epochs")
            foreign = table == "trials" and not all(map(is_driven, own))
            doubtful = len(own) > 1 and (foreign or may_hold_doubles(names))
            (rows.doubtful if doubtful else rows.parts).extend(own.values())
        return rows

    @property
    def large(self) -> list[LargePart]:
        return [part for part in self.parts + self.doubtful if isinstance(part, LargePart)]

    def make_view(self, connection: duckdb.DuckDBPyConnection, searched: bool) -> None:
        sources = [_union(connection, f"{self.table}_rows", self.schema, self.parts)]
        if self.doubtful:
            newest = " ORDER BY updated DESC" if self.table == "trials" else ""
            twice = _union(connection, f"{self.table}_twice", self.schema, self.doubtful)
            distinct = f"SELECT DISTINCT ON ({_KEYS[self.table]}) * FROM ({twice}){newest}"
            sources.append(f"SELECT * FROM ({distinct})")
        rows = " UNION ALL ".join(sources)
        if searched and self.table == "trials":
            rows = f"SELECT * FROM ({rows}) WHERE stage IS NULL"
        connection.execute(f"CREATE VIEW {self.table} AS {rows}")


def _union(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    schema: pa.Schema,
    parts: Sequence[Part],
) -> str:
    """The SELECT of all rows of the parts, those in memory under the name."""
    rows = [part for part in parts if isinstance(part, pa.Table)]
    by_columns: dict[tuple[str, ...], list[str]] = {}
    for part in parts:
        if isinstance(part, LargePart):
            by_columns.setdefault(part.columns, []).append(_address(part))
    selects = []
    if rows or not by_columns:
        connection.register(name, pa.concat_tables(rows) if rows else schema.empty_table())
        selects.append(f"SELECT {', '.join(_cell_sql(f) for f in schema)} FROM {name}")
    for columns, paths in by_columns.items():
        cells = [_cell_sql(field, columns) for field in schema]
        files = f"read_parquet({_literals(paths)}, filename = true, hive_partitioning = false)"
        selects.append(f"SELECT {', '.join(cells)} FROM {files}")
    return " UNION ALL ".join(selects)


def _cell_sql(field: pa.Field, columns: Sequence[str] | None = None) -> str:
    """A column of a view, from rows in memory or from files that have these `columns`."""
    value = field.name
    if columns is not None and field.name == "sweep":
        # the folder's name, whatever the file says: it may have been renamed or copied
        value = "parse_path(filename, 'forward_slash')[-3]"
    elif columns is not None and field.name not in columns:
        value = f"NULL::{_SQL_TYPES[field.type]}"
    elif field.type == TIME:  # Python has no others
        value = f"CASE WHEN {value} BETWEEN {_FIRST} AND {_LAST} THEN {value} END"
    return value if value == field.name else f"{value} AS {field.name}"


def _is_remote(part: LargePart) -> bool:
    """Whether DuckDB reads it through our file system; so it does what it took for a pattern."""
    return part.folder.local_path is None or _PATTERN.search(part.folder.root) is not None


def _address(part: LargePart) -> str:
    """Where DuckDB finds a part; it ends in <sweep>/<table>/<name>."""
    if not _is_remote(part):
        return part.folder.path_of(part.path)
    return f"{_PROTOCOL}://{zlib.crc32(part.folder.uri.encode())}/{part.folder.name}/{part.path}"


def literal(text: str) -> str:
    """A text in SQL."""
    return "'{}'".format(text.replace("'", "''"))


def _literals(texts: Sequence[str]) -> str:
    return f"[{', '.join(map(literal, texts))}]"


def _as_fsspec(files: Mapping[str, tuple[fs.FileSystem, str]]) -> AbstractFileSystem:
    """These files, by their addresses, as a file system that only reads: what DuckDB takes."""
    from fsspec import AbstractFileSystem

    class Files(AbstractFileSystem):  # type: ignore[misc]
        cachable = False

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return path

        def glob(self, path: str, **options: Any) -> list[str]:
            return [path] if path in files else []

        def info(self, path: str, **options: Any) -> dict[str, Any]:
            filesystem, inner = files[path]
            size = filesystem.get_file_info(inner).size
            return {"name": path, "size": size, "type": "file"}

        def modified(self, path: str) -> datetime:
            return datetime.fromtimestamp(0, UTC)  # nobody changes them

        def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
            if mode != "rb":
                raise PermissionError(f"{path} is only read")
            filesystem, inner = files[path]
            return filesystem.open_input_file(inner)

    Files.protocol = _PROTOCOL
    return Files()
