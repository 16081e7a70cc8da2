"""Merges parts into few large ones, while a sweep runs and at its end: no row is ever seen twice.

A merged part is written hidden, and names the parts that it replaces. These are deleted, and it is
put in place. In between, or after a crash there, our readers take it for what it replaces; for any
other reader its rows are missing for that moment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pyarrow as pa

from results.parts.files import BrokenPartError, encode, read_part, replaced_by
from results.parts.names import epoch_part, hide, is_hidden, level, shown
from results.parts.reading import read_parts
from results.schema import SCHEMAS
from results.storage import SweepFolder

FAN = 64  # so many parts of a level become one of the next: rows are rewritten log₆₄ times
FULL = {"epochs": 100_000, "trials": 4_096}  # a part of so many rows is left as it is
KEYS = {"epochs": ("trial_id", "rung", "epoch"), "trials": ("trial_id",)}


def due(table: str, rows: Mapping[str, int], every: bool = False) -> Iterator[list[str]]:
    """Groups of parts to be merged, given their rows, oldest first: those of a level of which
    there are FAN, or `every` small one."""
    levels: dict[int, list[str]] = {}
    for name, count in rows.items():
        if count < FULL[table]:
            levels.setdefault(0 if every else level(name), []).append(name)
    for names in levels.values():
        if every or len(names) >= FAN:
            yield from _groups(names, rows, FULL[table])


def _groups(names: list[str], rows: Mapping[str, int], full: int) -> Iterator[list[str]]:
    group: list[str] = []
    total = 0
    for name in names:
        group.append(name)
        total += rows[name]
        if total >= full:
            yield group
            group, total = [], 0
    if len(group) > 1:
        yield group


def merge(
    folder: SweepFolder,
    table: str,
    sources: list[str],
    name: str,
    keep: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Replace parts by one, of those of their rows that `keep` marks, or of all.

    After an OSError it can be called again. Raises FileNotFoundError or BrokenPartError if one
    cannot be read, before anything is written.
    """
    present = folder.files(table)
    if name not in present and hide(name) not in present:
        with ThreadPoolExecutor(8) as pool:
            parts = list(pool.map(partial(read_part, folder, table), sources))
        if keep is not None:
            parts = [p.filter(pa.array(keep[n])) for n, p in zip(sources, parts, strict=True)]
        merged = pa.concat_tables(parts).sort_by([(key, "ascending") for key in KEYS[table]])
        folder.write(f"{table}/{hide(name)}", encode(merged, replaces=sources))
    _put_in_place(folder, table, name, sources)


def finish_merges(folder: SweepFolder) -> None:
    """Put in place what a driver that was killed had merged."""
    for table in SCHEMAS:
        for hidden in filter(is_hidden, folder.files(table)):
            try:
                read_part(folder, table, hidden)
            except BrokenPartError:  # a part that is left aside; what it replaces stays
                folder.move(f"{table}/{hidden}", f"{table}/{shown(hidden)}")
            else:
                _put_in_place(folder, table, shown(hidden), replaced_by(folder, table, hidden))


def _put_in_place(folder: SweepFolder, table: str, name: str, sources: list[str]) -> None:
    present = set(folder.files(table))
    if name in present:  # an object store, which renames by copying
        folder.delete(f"{table}/{hide(name)}")
        return
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(folder.delete, (f"{table}/{n}" for n in sources if n in present)))
    folder.move(f"{table}/{hide(name)}", f"{table}/{name}")


def unique_keys(
    folder: SweepFolder, writer: str, parts: dict[str, pa.Table]
) -> dict[str, pa.Table]:
    """The keys of the epochs on disk, by part; `parts` are those before. Of each epoch the row that
    was written first stays there, the others are dropped."""
    doubles = _doubles(parts)
    for name, keep in doubles.items():
        if keep.any():
            merge(folder, "epochs", [name], epoch_part(writer, level(name) + 1), {name: keep})
        else:
            folder.delete(f"epochs/{name}")
    return read_parts(folder, "epochs", KEYS["epochs"]) if doubles else parts


def _doubles(parts: Mapping[str, pa.Table]) -> dict[str, np.ndarray]:
    """By part that holds rows of earlier ones, or one twice: which of its rows to keep."""
    if not parts:
        return {}
    rows = pa.concat_tables(parts.values())
    trials = rows["trial_id"].combine_chunks().dictionary_encode().indices
    rows = rows.set_column(0, "trial_id", trials)
    rows = rows.append_column("row", pa.array(np.arange(rows.num_rows)))
    first = rows.group_by(list(KEYS["epochs"])).aggregate([("row", "min")])["row_min"]
    if len(first) == rows.num_rows:
        return {}
    keep = np.zeros(rows.num_rows, bool)
    keep[first.to_numpy()] = True
    ends = np.cumsum([part.num_rows for part in parts.values()])[:-1]
    pieces = dict(zip(parts, np.split(keep, ends), strict=True))
    return {name: piece for name, piece in pieces.items() if not piece.all()}
