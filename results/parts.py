"""The Parquet files of a table: how they are named, listed, checked and read.

    epochs/part-<time>-<writer>.parquet   a writer is <when it opened the ledger>-<token>
    trials/part-<number>.parquet
    .../part-<...>-m<level>.parquet       merged from many (results/merging.py)
    .../_part-<...>-m<level>              the same until the parts that it replaces are gone

A file that is no part, is truncated, or has another schema is reported as a `LedgerWarning` and
left where it is.
"""

from __future__ import annotations

import json
import re
import time
import uuid
import warnings
from array import array
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from results.schema import EPOCHS, SCHEMAS, conform, mismatch
from results.storage import SweepFolder

if TYPE_CHECKING:
    import pyarrow.dataset as ds

T = TypeVar("T")

ATTEMPTS = 10  # listings until one holds still: each compaction spoils at most a few
_PART = re.compile(r"part-.+\.parquet")
# a part of `epochs`: when it was written, when its writer had opened the ledger, the writer's token
_WRITTEN = re.compile(r"part-(\d{20})-(\d{20}-[0-9a-f]{8})(?:-m\d+)?\.parquet")
_EARLIER = re.compile(
    r"part-(?:(\d{20})-[0-9a-f]{8}|_merged-[0-9a-f]{32})\.parquet"
)  # without a writer
_LEVEL = re.compile(r"-m(\d+)(?:\.parquet)?$")
_HIDDEN = "_part-"  # neither `*.parquet` nor pyarrow's own listing of a folder finds it
_REPLACES = b"rts_replaces"  # in a merged part's metadata: the names of its sources
LARGE_ROWS = 1_000


class LedgerWarning(UserWarning):
    """A file in the ledger that cannot be read, and why."""


class BrokenPartError(ValueError):
    """A file that is not a whole part of its table."""


def encode(table: pa.Table, replaces: Sequence[str] = ()) -> bytes:
    """A table as the content of a part, which says what it `replaces`.

    Small parts, written at every trial's start and end, go without dictionaries and statistics: a
    quarter of the time of writing, and a fifth of the file.
    """
    if replaces:
        metadata = {**table.schema.metadata, _REPLACES: json.dumps(list(replaces)).encode()}
        table = table.replace_schema_metadata(metadata)
    sink, large = pa.BufferOutputStream(), table.num_rows >= LARGE_ROWS
    pq.write_table(table, sink, row_group_size=20_000, use_dictionary=large, write_statistics=large)
    return bytes(sink.getvalue())


def part_names(folder: SweepFolder, table: str) -> list[str]:
    """The names of a table's parts, oldest first; each row is in one of them.

    A merged part that is not in place yet counts for those that it replaces.
    """
    if folder.leads_out(table):
        warn_aside(folder, table, "", "a link that leads out of the storage")
        return []
    names = []
    for name in folder.files(table):
        hidden = name.startswith(_HIDDEN)
        if name.startswith("_") and not hidden:
            continue
        if not hidden and not _PART.fullmatch(name):
            warn_aside(folder, table, name, "not named part-*.parquet")
        elif folder.leads_out(f"{table}/{name}"):
            warn_aside(folder, table, name, "a link that leads out of the storage")
        else:
            names.append(name)
    if not any(map(is_hidden, names)):
        return names
    waiting = {n for n in names if is_hidden(n) and shown(n) not in names}
    try:
        replaced = {name for one in waiting for name in replaced_by(folder, table, one)}
    except FileNotFoundError:  # it is in place now
        return part_names(folder, table)
    return [n for n in names if n not in replaced and (n in waiting or not is_hidden(n))]


def new_writer(names: Sequence[str]) -> str:
    """A name for one that opens a ledger with these parts of `epochs`, newer than all before."""
    times = [int(digits) for name in names for digits in re.findall(r"-(\d{20})(?=-)", name)]
    opened = max(time.time_ns(), max(times, default=0) + 1)  # clocks differ
    return f"{opened:020d}-{uuid.uuid4().hex[:8]}"


def epoch_part(writer: str, level: int = 0) -> str:
    """A new name for a part of `epochs`: never taken, and in the order of time."""
    return f"part-{time.time_ns():020d}-{writer}{f'-m{level}' if level else ''}.parquet"


def level(name: str) -> int:
    """How often its rows were merged; 0 for a part as it was first written."""
    match = _LEVEL.search(name)
    return int(match[1]) if match else 0


def is_hidden(name: str) -> bool:
    return name.startswith(_HIDDEN)


def hide(name: str) -> str:
    """The name of a merged part while the parts that it replaces may be there."""
    return f"_{name.removesuffix('.parquet')}"


def shown(name: str) -> str:
    """A merged part's name, whether it is in place or not."""
    return f"{name[1:]}.parquet" if is_hidden(name) else name


def replaced_by(folder: SweepFolder, table: str, name: str) -> list[str]:
    """The parts that a merged one replaces; none if it is no whole file, which its reader says."""
    with folder.filesystem.open_input_file(folder.path_of(f"{table}/{name}")) as file:
        try:
            metadata = pq.read_schema(file).metadata or {}
        except pa.ArrowInvalid:
            return []
    return list(json.loads(metadata.get(_REPLACES, b"[]")))


def is_merged(name: str) -> bool:
    return bool(level(name)) or name.startswith("part-_merged-")


def may_hold_doubles(names: Sequence[str]) -> bool:
    """Whether an epoch may be in two of these parts of `epochs`, by their names.

    A writer that opens a ledger drops the doubles that it finds, and adds none. Hence they are
    possible only where another writer has written a part since the newest one opened: two drivers
    at once. Of versions that did not name the writer, all parts until then count.
    """
    parts: list[tuple[str, str]] = []  # time of writing, writer; times have one length
    for name in names:
        if match := _WRITTEN.fullmatch(shown(name)):
            parts.append((match[1], match[2]))
        elif match := _EARLIER.fullmatch(name):
            parts.append((match[1] or "", ""))
        else:
            return True  # put there by hand
    newest = max((writer for _, writer in parts), default="")
    opened = newest.partition("-")[0]
    return any(time >= opened for time, writer in parts if writer != newest or not newest)


def read_part(
    folder: SweepFolder, table: str, name: str, columns: Sequence[str] | None = None
) -> pa.Table:
    """One part, read whole at once, since a part of `trials` may be replaced at any moment.

    Its `sweep` is the folder's name, whatever the file says: the folder may have been renamed or
    copied. Raises FileNotFoundError, or BrokenPartError for a truncated or foreign file.
    """
    content, schema = folder.read(f"{table}/{name}"), SCHEMAS[table]
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        if reason := mismatch(file.schema_arrow, schema):
            raise BrokenPartError(reason)
        wanted = schema if columns is None else pa.schema([schema.field(c) for c in columns])
        rows = conform(file.read(columns=columns, use_threads=False), wanted)
    except (pa.ArrowException, OSError) as error:
        raise BrokenPartError(f"not a whole Parquet file: {error}") from None
    if "sweep" not in wanted.names:
        return rows
    own = _repeat(folder.name, rows.num_rows)
    return rows.set_column(wanted.get_field_index("sweep"), wanted.field("sweep"), own)


def _repeat(text: str, count: int) -> pa.StringArray:
    """As `pa.repeat`, which loads pandas (0.25 s)."""
    data = text.encode()
    offsets = array("i", range(0, len(data) * (count + 1), len(data)))
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(data * count))


def read_parts(
    folder: SweepFolder, table: str, columns: Sequence[str] | None = None
) -> dict[str, pa.Table]:
    """All whole parts of a table by name, oldest first."""
    return _all_parts(folder, table, lambda name: read_part(folder, table, name, columns))


@dataclass(frozen=True)
class LargePart:
    """A merged part, which is rarely changed: where it lies, the columns that it has, and its size
    and time then."""

    folder: SweepFolder
    path: str
    columns: tuple[str, ...]
    stamp: tuple[int | None, int | None]

    def is_as_it_was(self) -> bool:
        return _stamp(self.folder, self.path) == self.stamp


def _stamp(folder: SweepFolder, path: str) -> tuple[int | None, int | None]:
    info = folder.filesystem.get_file_info(folder.path_of(path))
    return info.size, info.mtime_ns


def open_parts(
    folder: SweepFolder, table: str, columns: Sequence[str] | None = None, whole: bool = False
) -> dict[str, pa.Table | LargePart]:
    """All parts of a table by name, oldest first: merged ones with their footers checked (`whole`:
    all of them), to be scanned where they lie; the others, which may be replaced at any moment,
    read as `read_part` does."""

    def open_part(name: str) -> pa.Table | LargePart:
        if not is_merged(name):
            return read_part(folder, table, name, columns)
        path = f"{table}/{name}"
        stamp = _stamp(folder, path)
        with folder.filesystem.open_input_file(folder.path_of(path)) as file:
            try:
                found = pq.ParquetFile(file).schema_arrow
            except (pa.ArrowException, OSError) as error:
                raise BrokenPartError(f"not a whole Parquet file: {error}") from None
        if reason := mismatch(found, SCHEMAS[table]):
            raise BrokenPartError(reason)
        if whole:
            read_part(folder, table, name)
        return LargePart(folder, path, tuple(found.names), stamp)

    return _all_parts(folder, table, open_part)


def epoch_fragments(folder: SweepFolder) -> dict[str, ds.ParquetFileFragment]:
    """The parts of `epochs`, footers read and checked, rows not. Loads pandas, as pyarrow does.

    As `read_part` has it, their `sweep` is the folder's name: pyarrow takes a column that a
    partition expression fixes from there.
    """
    import pyarrow.dataset as ds

    parquet = ds.ParquetFileFormat()
    own = ds.field("sweep") == folder.name

    def open_fragment(name: str) -> ds.ParquetFileFragment:
        path = folder.path_of(f"epochs/{name}")
        fragment = parquet.make_fragment(path, folder.filesystem, partition_expression=own)
        try:
            fragment.ensure_complete_metadata()
        except pa.ArrowInvalid as error:
            raise BrokenPartError(f"not a whole Parquet file: {error}") from None
        if reason := mismatch(fragment.physical_schema, EPOCHS):
            raise BrokenPartError(reason)
        return fragment

    return _all_parts(folder, "epochs", open_fragment)


def epoch_dataset(folders: Iterable[SweepFolder]) -> ds.Dataset:
    """The epochs of sweeps; each once, unless `may_hold_doubles`."""
    import pyarrow.dataset as ds

    fragments = [part for folder in folders for part in epoch_fragments(folder).values()]
    return ds.FileSystemDataset(fragments, EPOCHS, ds.ParquetFileFormat())


def _all_parts(folder: SweepFolder, table: str, read: Callable[[str], T]) -> dict[str, T]:
    """What `read` makes of each whole part, while another process may write and merge.

    Merging writes the merged part and then deletes its sources. Hence a part that is gone, or a
    merged one that was not there before, means that the listing missed rows: list again.
    """
    for _ in range(ATTEMPTS):
        names = part_names(folder, table)
        try:
            parts = _read_names(names, read)
        except FileNotFoundError:
            continue
        if _merged(part_names(folder, table)) - _merged(names):
            continue
        for name, part in parts.items():
            if isinstance(part, BrokenPartError):
                warn_aside(folder, table, name, str(part))
        return {name: p for name, p in parts.items() if not isinstance(p, BrokenPartError)}
    raise OSError(f"{folder.uri_of(table)} changes faster than it can be listed; try again")


def _merged(names: Sequence[str]) -> set[str]:
    return {shown(name) for name in names if is_merged(name)}


def _read_names(names: list[str], read: Callable[[str], T]) -> dict[str, T | BrokenPartError]:
    def attempt(name: str) -> T | BrokenPartError:
        try:
            return read(name)
        except BrokenPartError as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        return dict(zip(names, pool.map(attempt, names), strict=True))


def warn_aside(folder: SweepFolder, table: str, name: str, reason: str) -> None:
    """Say what is not read, and why: a part, a table (no `name`), or a sweep (no `table`)."""
    where = folder.uri_of(f"{table}/{name}" if name else table)
    warnings.warn(f"ledger: {where} is left aside: {reason}", LedgerWarning, stacklevel=4)
