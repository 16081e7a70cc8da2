"""The parts of a table: how they are listed, and read while another process writes and merges them.

A file that is no part, is truncated or damaged, or has another schema is reported as a
`LedgerWarning` and left where it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from results.parts.files import (
    DAMAGED,
    BrokenPartError,
    check_is_file,
    check_sum,
    open_file,
    read_part,
    replaced_by,
)
from results.parts.names import (
    PART,
    is_hidden,
    is_merged,
    merged_in,
    shown,
)
from results.schema import EPOCHS, SCHEMAS, mismatch
from results.storage import SweepFolder

if TYPE_CHECKING:
    import pyarrow.dataset as ds


T = TypeVar("T")
ATTEMPTS = 10  # listings until one holds still: each compaction spoils at most a few
SUMMED_BYTES = 2**20  # a merged part up to this size is compared with its checksum at every look


class LedgerWarning(UserWarning):
    """A file in the ledger that cannot be read, and why."""


def part_names(folder: SweepFolder, table: str) -> list[str]:
    """The names of a table's parts, oldest first; each row is in one of them.

    A merged part that is not in place yet counts for those that it replaces.
    """
    if folder.leads_out(table):
        warn_aside(folder, table, "", "a link that leads out of the storage")
        return []
    names = []
    for name in folder.list(table):
        hidden = is_hidden(name)
        if name.startswith("_") and not hidden:
            continue
        if not hidden and not PART.fullmatch(name):
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


def read_parts(
    folder: SweepFolder,
    table: str,
    columns: Sequence[str] | None = None,
    whole: bool = False,
) -> dict[str, pa.Table]:
    """All whole parts of a table by name, oldest first; arguments as of `read_part`."""
    return all_parts(folder, table, lambda name: read_part(folder, table, name, columns, whole))


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
    """All parts of a table by name, oldest first. Merged ones, to be scanned where they lie, with
    their footers checked (small ones, and with `whole` all, to the last byte); the others, which
    may be replaced at any moment, as `read_part` reads them."""

    def open_part(name: str) -> pa.Table | LargePart:
        if not is_merged(name):
            return read_part(folder, table, name, columns)
        path = f"{table}/{name}"
        stamp = _stamp(folder, path)
        content = None
        if stamp[0] is not None and stamp[0] <= SUMMED_BYTES:
            content = folder.read(path)
        try:
            source = content and pa.BufferReader(content)
            with source or open_file(folder, path) as opened:
                file = pq.ParquetFile(opened)
                found, footer = file.schema_arrow, file.metadata
            reason = mismatch(found, SCHEMAS[table])
        except (FileNotFoundError, BrokenPartError):
            raise
        except DAMAGED:
            read_part(folder, table, name)  # is it the file, or the storage?
            raise
        if reason is not None:
            raise BrokenPartError(reason)
        if content is not None:
            check_sum(content, footer)
        if whole:
            read_part(folder, table, name, whole=True)
        return LargePart(folder, path, tuple(found.names), stamp)

    return all_parts(folder, table, open_part)


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
        check_is_file(folder, f"epochs/{name}")
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

    return all_parts(folder, "epochs", open_fragment)


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


def all_parts(folder: SweepFolder, table: str, read: Callable[[str], T]) -> dict[str, T]:
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
        if merged_in(part_names(folder, table)) - merged_in(names):
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

    if len(names) < 2:  # of hundreds of sweeps most have one: threads would take longer
        return {name: attempt(name) for name in names}
    with ThreadPoolExecutor(8) as pool:
        return dict(zip(names, pool.map(attempt, names), strict=True))


def warn_aside(folder: SweepFolder, table: str, name: str, reason: str) -> None:
    """Say what is not read, and why: a part, a table (no `name`), or a sweep (no `table`)."""
    where = folder.uri_of(f"{table}/{name}" if name else table)
    warnings.warn(f"ledger: {where} is left aside: {reason}", LedgerWarning, stacklevel=4)
