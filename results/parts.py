"""The Parquet files of a table: how they are named, listed, checked and read.

A file that is no part, is truncated, or has another schema is reported as a `LedgerWarning` and
left where it is.
"""

from __future__ import annotations

import io
import os
import re
import warnings
import zlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from results.schema import EPOCHS, SCHEMAS, TABLE_KEY, TRIALS, check_row, conform, mismatch
from results.storage import SweepFolder, check_file, check_name

if TYPE_CHECKING:
    import pyarrow.dataset as ds

T = TypeVar("T")

ATTEMPTS = 10  # listings until one holds still: each compaction spoils at most a few
_PART = re.compile(r"part-.+\.parquet")
LARGE_ROWS = 1_000
CHECKSUM = b"rts_crc32"
SET_ASIDE = "set-aside"
MERGED = "part-_merged-"  # the prefix of parts that compaction wrote


class LedgerWarning(UserWarning):
    """A file in the ledger that cannot be read, and why."""


class BrokenPartError(ValueError):
    """A file that is not a whole part of its table."""


# what pyarrow raises where bytes are not what they were, or a footer has insane numbers
DAMAGED = (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError)


def _broken(error: BaseException) -> BrokenPartError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return BrokenPartError(f"not a whole Parquet file: {reason}")


def encode(table: pa.Table) -> bytes:
    """A table as the content of a part, with checksums, else a flipped bit would be believed.

    Small parts, written at every trial's start and end, go without dictionaries and statistics: a
    quarter of the time of writing, and a fifth of the file. Pages of `epochs` have checksums of
    their own, since they are scanned. A part of `trials` is replaced while DuckDB may read it,
    which then needs pages of the same lengths as before: its one checksum is in its footer.
    """
    sink, large = io.BytesIO(), table.num_rows >= LARGE_ROWS
    scanned = (table.schema.metadata or {}).get(TABLE_KEY) != b"trials"
    options = {"use_dictionary": large, "write_statistics": large, "write_page_checksum": scanned}
    with pq.ParquetWriter(sink, table.schema, **options) as writer:
        writer.write_table(table, row_group_size=20_000)
        if not scanned:
            writer.add_key_value_metadata({CHECKSUM: f"{zlib.crc32(sink.getbuffer()):08x}"})
    return sink.getvalue()


def _check_sum(content: bytes, footer: pq.FileMetaData) -> None:
    """Of all that precedes the footer, where that tells it. Raises BrokenPartError."""
    told = (footer.metadata or {}).get(CHECKSUM)
    data = memoryview(content)[: -8 - footer.serialized_size]
    if told is not None and told != f"{zlib.crc32(data):08x}".encode():
        raise BrokenPartError("its bytes are not those that were written: the checksum differs")


def part_names(folder: SweepFolder, table: str) -> list[str]:
    """The names of a table's parts, oldest first."""
    if folder.leads_out(table):
        warn_aside(folder, table, "", "a link that leads out of the storage")
        return []
    names = []
    for name in folder.list(table):
        if name.startswith("_"):
            continue
        if not _PART.fullmatch(name):
            warn_aside(folder, table, name, "not named part-*.parquet")
        elif folder.leads_out(f"{table}/{name}"):
            warn_aside(folder, table, name, "a link that leads out of the storage")
        else:
            names.append(name)
    return names


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
    _check_file(folder, f"{table}/{name}")
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


def trial_rows(folder: SweepFolder, name: str) -> list[dict[str, Any]]:
    """The rows of a part of `trials`, all such as this version writes. Raises BrokenPartError for
    another outcome, a null or a date out of range: a driver would not know what to do with it."""
    try:
        rows = [check_row(row, TRIALS) for row in read_part(folder, "trials", name).to_pylist()]
        for row in rows:
            check_name("trial_id", row["trial_id"])
    except (ValueError, OverflowError) as error:
        raise BrokenPartError(str(error)) from None
    return rows


def _check_file(folder: SweepFolder, path: str) -> None:
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
        trial_rows(folder, name) if table == "trials" else read_part(folder, table, name)
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
        _check_file(folder, f"epochs/{name}")
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
    """The epochs of sweeps. While one is compacted, an epoch may appear twice.

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
    """What `read` makes of each whole part, while another process may write and compact.

    Compaction writes a merged part and then deletes its sources. Hence a part that is gone, or a
    merged one that was not there before, means that the listing missed rows: list again.
    """
    for _ in range(ATTEMPTS):
        names = part_names(folder, table)
        try:
            parts = _read_names(names, read)
        except FileNotFoundError:
            continue
        since = set(part_names(folder, table)) - set(names)
        if any(name.startswith(MERGED) for name in since):
            continue
        for name, part in parts.items():
            if isinstance(part, BrokenPartError):
                warn_aside(folder, table, name, str(part))
        return {name: p for name, p in parts.items() if not isinstance(p, BrokenPartError)}
    raise OSError(f"{folder.uri_of(table)} changes faster than it can be listed; try again")


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
