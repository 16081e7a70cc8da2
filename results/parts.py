"""The Parquet files of a table: how they are named, listed, checked and read.

    epochs/part-<time>-<writer>.parquet   a writer is <when it opened the ledger>-<token>
    trials/part-<number>.parquet
    .../part-<...>-m<level>.parquet       merged from many (results/merging.py)
    .../_part-<...>-m<level>              the same until the parts that it replaces are gone

A file that is no part, is truncated, or has another schema is reported as a `LedgerWarning` and
left where it is.
"""

from __future__ import annotations

import io
import json
import os
import re
import time
import uuid
import warnings
import zlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from results.schema import EPOCHS, SCHEMAS, TABLE_KEY, conform, mismatch
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
CHECKSUM = b"rts_crc32"
SET_ASIDE = "set-aside"


class LedgerWarning(UserWarning):
    """A file in the ledger that cannot be read, and why."""


class BrokenPartError(ValueError):
    """A file that is not a whole part of its table."""


# what pyarrow raises where bytes are not what they were, or a footer has insane numbers
DAMAGED = (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError)


def _broken(error: BaseException) -> BrokenPartError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return BrokenPartError(f"not a whole Parquet file: {reason}")


def encode(table: pa.Table, replaces: Sequence[str] = ()) -> bytes:
    """A table as the content of a part, which says what it `replaces`; with checksums, else a
    flipped bit would be believed.

    Small parts, written at every trial's start and end, go without dictionaries and statistics: a
    quarter of the time of writing, and a fifth of the file. Large ones, which merging writes, take
    about half the bytes a row. Pages of `epochs` have checksums of their own, since they are
    scanned. A part of `trials` is replaced while DuckDB may read it, which then needs pages of the
    same lengths as before: its one checksum is in its footer.
    """
    if replaces:
        metadata = {**table.schema.metadata, _REPLACES: json.dumps(list(replaces)).encode()}
        table = table.replace_schema_metadata(metadata)
    scanned = (table.schema.metadata or {}).get(TABLE_KEY) != b"trials"
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, table.schema, write_page_checksum=scanned, **_layout(table)) as out:
        out.write_table(table, row_group_size=20_000)
        if not scanned:
            out.add_key_value_metadata({CHECKSUM: f"{zlib.crc32(sink.getbuffer()):08x}"})
    return sink.getvalue()


def _layout(table: pa.Table) -> dict[str, Any]:
    if table.num_rows < LARGE_ROWS:
        return {"use_dictionary": False, "write_statistics": False}
    encodings = _encodings(table)
    return {
        "use_dictionary": [name for name in table.column_names if name not in encodings],
        "column_encoding": encodings,
        "compression": "zstd",
        "compression_level": 9,
    }


def _check_sum(content: bytes, footer: pq.FileMetaData) -> None:
    """Of all that precedes the footer, where that tells it. Raises BrokenPartError."""
    told = (footer.metadata or {}).get(CHECKSUM)
    data = memoryview(content)[: -8 - footer.serialized_size]
    if told is not None and told != f"{zlib.crc32(data):08x}".encode():
        raise BrokenPartError("its bytes are not those that were written: the checksum differs")


def _encodings(table: pa.Table) -> dict[str, str]:
    """How to store columns whose values seldom repeat; those left out get dictionaries.

    Counts grow by steps; of measured values only the bytes of sign and exponent are alike, which
    are stored together. Where trials are alike until their trigger fires, whole runs repeat: these
    zstd finds in values as they are.
    """
    import pyarrow.compute as pc  # readers start without it: only the driver writes large parts

    encodings = {}
    for field, column in zip(table.schema, table.columns, strict=True):
        distinct = pc.count_distinct(column).as_py() / table.num_rows
        if pa.types.is_integer(field.type) or pa.types.is_timestamp(field.type):
            encodings[field.name] = "DELTA_BINARY_PACKED"
        elif field.type == pa.float64() and distinct > 0.15:
            encodings[field.name] = "BYTE_STREAM_SPLIT" if distinct > 0.6 else "PLAIN"
    return encodings


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
            return list(json.loads(metadata.get(_REPLACES, b"[]")))
        except DAMAGED:
            return []


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
    folder: SweepFolder,
    table: str,
    name: str,
    columns: Sequence[str] | None = None,
    whole: bool = False,
) -> pa.Table:
    """One part, read at once, since a part of `trials` may be replaced at any moment; with `whole`
    all its columns are read, whichever are wanted: damage then shows wherever it is.

    Its `sweep` is the folder's name, whatever the file says: the folder may have been renamed or
    copied. Raises FileNotFoundError, or BrokenPartError for a truncated, damaged or foreign file.
    """
    content, schema = folder.read(f"{table}/{name}"), SCHEMAS[table]
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        if reason := mismatch(file.schema_arrow, schema):
            raise BrokenPartError(reason)
        _check_sum(content, file.metadata)
        wanted = schema if columns is None else pa.schema([schema.field(c) for c in columns])
        rows = conform(file.read(None if whole else columns, use_threads=False), wanted)
        rows.validate(full=True)  # text is text
    except BrokenPartError:
        raise
    except DAMAGED as error:
        raise _broken(error) from None
    if "sweep" not in wanted.names:
        return rows
    own = _repeat(folder.name, rows.num_rows)
    return rows.set_column(wanted.get_field_index("sweep"), wanted.field("sweep"), own)


def set_aside(folder: SweepFolder, file: str) -> str:
    """Move a part that cannot be read, or that a newer version wrote, to where nobody looks for
    parts; returns its new path. It is named by its path, its URI, or relative to the sweep.

    One that has been set aside already stays so. Raises ValueError for any other file.
    """
    path = "/".join(file.partition("?")[0].split("/")[-2:])
    table, _, name = path.partition("/")
    names = (path, folder.uri_of(path), os.path.relpath(folder.path_of(path)))
    if table not in SCHEMAS or not _PART.fullmatch(name) or file.removeprefix("./") not in names:
        raise ValueError(
            f"{file!r} is no part of {folder.uri}: name one as trials/part-000001.parquet"
        )
    earlier = [n for n in folder.files(f"{SET_ASIDE}/{table}") if n.rpartition(".")[0] == name]
    try:
        read_part(folder, table, name)
    except BrokenPartError:
        # with another ending: `**/*.parquet` does not find it
        to = f"{SET_ASIDE}/{path}.{len(earlier) + 1}"
        folder.move(path, to)
        return to
    except FileNotFoundError:
        if earlier:
            return f"{SET_ASIDE}/{table}/{earlier[-1]}"
        raise ValueError(f"there is no {folder.uri_of(path)}") from None
    raise ValueError(f"{folder.uri_of(path)} can be read: it stays where it is")


def _repeat(text: str, count: int) -> pa.StringArray:
    """As `pa.repeat`, which loads pandas (0.25 s)."""
    data = text.encode()
    offsets = array("i", range(0, len(data) * (count + 1), len(data)))
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(data * count))


def read_parts(
    folder: SweepFolder,
    table: str,
    columns: Sequence[str] | None = None,
    whole: bool = False,
) -> dict[str, pa.Table]:
    """All whole parts of a table by name, oldest first; arguments as of `read_part`."""
    return _all_parts(folder, table, lambda name: read_part(folder, table, name, columns, whole))


def epoch_fragments(folder: SweepFolder, whole: bool = False) -> dict[str, ds.ParquetFileFragment]:
    """The parts of `epochs`, footers read and checked; rows too with `whole`, else a damaged page
    shows when it is read. Loads pandas, as pyarrow does.

    As `read_part` has it, their `sweep` is the folder's name: pyarrow takes a column that a
    partition expression fixes from there.
    """
    import pyarrow.dataset as ds

    parquet = _checked_format()
    own = ds.field("sweep") == folder.name

    def open_fragment(name: str) -> ds.ParquetFileFragment:
        path = folder.path_of(f"epochs/{name}")
        fragment = parquet.make_fragment(path, folder.filesystem, partition_expression=own)
        try:
            fragment.ensure_complete_metadata()
            reason = mismatch(fragment.physical_schema, EPOCHS)
        except DAMAGED:
            read_part(folder, "epochs", name)  # is it the file, or the storage?
            raise
        if reason is not None:
            raise BrokenPartError(reason)
        if whole:
            read_part(folder, "epochs", name)
        return fragment

    return _all_parts(folder, "epochs", open_fragment)


def epoch_dataset(folders: Iterable[SweepFolder], whole: bool = False) -> ds.Dataset:
    """The epochs of sweeps; each once, unless `may_hold_doubles`.

    Damaged parts are left aside: those whose footers tell, or with `whole` all of them.
    """
    import pyarrow.dataset as ds

    fragments = [part for folder in folders for part in epoch_fragments(folder, whole).values()]
    return ds.FileSystemDataset(fragments, EPOCHS, _checked_format())


def read_epochs(
    folder: SweepFolder, columns: Sequence[str] | None, where: ds.Expression
) -> pa.Table:
    """The epochs of a sweep that pass, but for those in damaged parts."""
    try:
        return epoch_dataset([folder]).to_table(columns=columns, filter=where)
    except (pa.ArrowException, OSError):  # or a part went away: compaction took it
        return epoch_dataset([folder], whole=True).to_table(columns=columns, filter=where)


def _checked_format() -> ds.ParquetFileFormat:
    import pyarrow.dataset as ds

    options = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    return ds.ParquetFileFormat(default_fragment_scan_options=options)


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
    return {shown(name) for name in names if level(name) or name.startswith("part-_merged-")}


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
