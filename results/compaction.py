"""Compaction: the many small epoch files of a finished sweep become few.

(Parts of `trials` hold many trials from the start and need none.) A merged part names, in its
metadata, the parts it replaces, and those are deleted after it is in place. After a crash in
between, rows are there twice, never missing; `finish_compaction` deletes what was replaced.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from results.parts import MERGED, encode, epoch_fragments, part_names, read_part
from results.storage import SweepFolder

MERGED_ROWS = 100_000  # a part of so many rows is left as it is
_REPLACES = b"rts_replaces"


def compact_epochs(folder: SweepFolder) -> None:
    """Merge the small parts of a sweep that nobody writes to; readers may go on."""
    finish_compaction(folder)
    rows = {name: part.metadata.num_rows for name, part in epoch_fragments(folder).items()}
    for names in _groups(rows):
        parts = [read_part(folder, "epochs", name) for name in names]
        merged = pa.concat_tables(parts).sort_by(
            [(key, "ascending") for key in ("trial_id", "rung", "epoch")]
        )
        metadata = {**merged.schema.metadata, _REPLACES: json.dumps(names).encode()}
        content = encode(merged.replace_schema_metadata(metadata))
        folder.write(f"epochs/{MERGED}{uuid.uuid4().hex}.parquet", content)
        _delete(folder, names)


def finish_compaction(folder: SweepFolder) -> None:
    """Delete the replaced parts that a compaction which was cut off left behind."""
    names = part_names(folder, "epochs")
    for name in names:
        if name.startswith(MERGED):
            _delete(folder, sorted(_replaced_by(folder, name) & set(names)))


def _replaced_by(folder: SweepFolder, name: str) -> set[str]:
    with folder.filesystem.open_input_file(folder.path_of(f"epochs/{name}")) as file:
        try:
            metadata = pq.read_schema(file).metadata or {}
        except pa.ArrowInvalid:
            return set()  # truncated: what it replaced stays
    return set(json.loads(metadata.get(_REPLACES, b"[]")))


def _groups(rows: Mapping[str, int]) -> Iterator[list[str]]:
    """Parts to merge with each other, oldest first, until they hold MERGED_ROWS."""
    group: list[str] = []
    total = 0
    for name, count in rows.items():
        if count >= MERGED_ROWS:
            continue
        group.append(name)
        total += count
        if total >= MERGED_ROWS:
            yield group
            group, total = [], 0
    if len(group) > 1:
        yield group


def _delete(folder: SweepFolder, names: list[str]) -> None:
    for name in names:
        folder.delete(f"epochs/{name}")
