"""A part as a file: how it is encoded, checked, read and set aside."""

from __future__ import annotations

import io
import json
import os
import zlib
from array import array
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from results.meanings import Outcome
from results.parts.names import PART, shown
from results.schema import SCHEMAS, TABLE_KEY, TRIALS, conform, is_newer, mismatch
from results.storage import SweepFolder, check_file, check_name

_REPLACES = b"rts_replaces"  # in a merged part's metadata: the names of its sources
LARGE_ROWS = 1_000
CHECKSUM = b"rts_crc32_whole"  # of all but its own digits
UNTOLD = b"00000000"  # in their place
_DIGITS = b"\x18\x08"  # between key and digits: a field of eight bytes
EARLIER_CHECKSUM = b"rts_crc32"  # of all that precedes the footer
SET_ASIDE = "set-aside"


class BrokenPartError(ValueError):
    """A file that is not a whole part of its table."""


class NewerPartError(BrokenPartError):
    """A part that a later version wrote."""


# what pyarrow raises where bytes are not what they were, or a footer has insane numbers
DAMAGED = (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError)


def broken(error: BaseException) -> BrokenPartError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return BrokenPartError(f"not a whole Parquet file: {reason}")


def encode(table: pa.Table, replaces: Sequence[str] = ()) -> bytes:
    """A table as the content of a part, which says what it `replaces`; with checksums, else a
    flipped bit would be believed.

    Small parts, written at every trial's start and end, go without dictionaries and statistics: a
    quarter of the time of writing, and a fifth of the file. Large ones, which merging writes, take
    about half the bytes a row. A checksum in the footer is of the whole part, footer included: a
    flip there may rename a column, which would read as null. Pages of `epochs` have checksums of
    their own, since they are scanned. A part of `trials` is replaced while DuckDB may read it,
    which then needs pages of the same lengths as before.
    """
    if replaces:
        metadata = {**table.schema.metadata, _REPLACES: json.dumps(list(replaces)).encode()}
        table = table.replace_schema_metadata(metadata)
    scanned = (table.schema.metadata or {}).get(TABLE_KEY) != b"trials"
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, table.schema, write_page_checksum=scanned, **_layout(table)) as out:
        out.write_table(table, row_group_size=20_000)
        out.add_key_value_metadata({CHECKSUM: UNTOLD})
    content = bytearray(sink.getvalue())
    at = content.rindex(CHECKSUM + _DIGITS + UNTOLD) + len(CHECKSUM + _DIGITS)
    content[at : at + len(UNTOLD)] = b"%08x" % zlib.crc32(content)
    return bytes(content)


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


def check_sum(content: bytes, footer: pq.FileMetaData) -> None:
    """Of a part whose footer tells it. Raises BrokenPartError."""
    metadata = footer.metadata or {}
    told, found = metadata.get(CHECKSUM), None
    if told is not None:
        head, digits, tail = content.rpartition(CHECKSUM + _DIGITS + told)
        untold = digits[: len(CHECKSUM + _DIGITS)] + UNTOLD
        found = zlib.crc32(tail, zlib.crc32(untold, zlib.crc32(head)))
    elif (told := metadata.get(EARLIER_CHECKSUM)) is not None:
        found = zlib.crc32(memoryview(content)[: -8 - footer.serialized_size])
    if found is not None and told != b"%08x" % found:
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


def replaced_by(folder: SweepFolder, table: str, name: str) -> list[str]:
    """The parts that a merged one replaces; none if it is no whole file, which its reader says."""
    try:
        with open_file(folder, f"{table}/{name}") as file:
            metadata = pq.read_schema(file).metadata or {}
            return list(json.loads(metadata.get(_REPLACES, b"[]")))
    except FileNotFoundError:
        raise
    except DAMAGED:
        return []


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
    check_is_file(folder, f"{table}/{name}")
    content, schema = folder.read(f"{table}/{name}"), SCHEMAS[table]
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        if reason := mismatch(file.schema_arrow, schema):
            raise (NewerPartError if is_newer(file.schema_arrow) else BrokenPartError)(reason)
        check_sum(content, file.metadata)
        wanted = schema if columns is None else pa.schema([schema.field(c) for c in columns])
        rows = conform(file.read(None if whole else columns, use_threads=False), wanted)
        rows.validate(full=True)  # text is text
    except BrokenPartError:
        raise
    except DAMAGED as error:
        raise broken(error) from None
    if "sweep" not in wanted.names:
        return rows
    own = _repeat(folder.name, rows.num_rows)
    return rows.set_column(wanted.get_field_index("sweep"), wanted.field("sweep"), own)


def read_trial_part(folder: SweepFolder, name: str) -> pa.Table:
    """A part of `trials` such as this version writes, whole. Raises BrokenPartError also for an
    unknown outcome, a null or a date out of range: a driver would not know what to do with it."""
    rows = read_part(folder, "trials", name)
    try:
        for field in TRIALS:
            if not field.nullable and rows[field.name].null_count:
                raise ValueError(f"{field.name} is null")
            if pa.types.is_timestamp(field.type):
                rows[field.name].cast(pa.timestamp("us")).to_pylist()
        for trial_id in rows["trial_id"].to_pylist():
            check_name("trial_id", trial_id)
        for outcome in set(rows["outcome"].to_pylist()):
            Outcome(outcome)
    except (ValueError, OverflowError) as error:
        raise BrokenPartError(str(error)) from None
    return rows


def check_is_file(folder: SweepFolder, path: str) -> None:
    """Raises BrokenPartError where no file is: a pipe would be waited for, for ever."""
    if folder.local_path is None:
        return
    here = folder.path_of(path)
    try:
        check_file(here)
    except ValueError as error:
        raise BrokenPartError(str(error)) from None
    except OSError:
        if not os.path.islink(here):
            raise
        raise BrokenPartError("a link that leads nowhere") from None


def open_file(folder: SweepFolder, path: str) -> pa.NativeFile:
    """To be read here and there. Raises as `check_is_file` does."""
    check_is_file(folder, path)
    return folder.filesystem.open_input_file(folder.path_of(path))


def set_aside(folder: SweepFolder, file: str) -> str:
    """Move a part that cannot be read, or that a newer version wrote, to where nobody looks for
    parts; returns its new path. It is named by its path, its URI, or relative to the sweep.

    One that has been set aside already stays so. Raises ValueError for any other file.
    """
    path = "/".join(file.partition("?")[0].split("/")[-2:])
    table, _, name = path.partition("/")
    names = (path, folder.uri_of(path), os.path.relpath(folder.path_of(path)))
    if (
        table not in SCHEMAS
        or not PART.fullmatch(shown(name))
        or file.removeprefix("./") not in names
    ):
        raise ValueError(
            f"{file!r} is no part of {folder.uri}: name one as trials/part-000001.parquet"
        )
    earlier = [n for n in folder.files(f"{SET_ASIDE}/{table}") if n.rpartition(".")[0] == name]
    try:
        read_trial_part(folder, name) if table == "trials" else read_part(folder, table, name)
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
