"""The ledger of a sweep: one writer, any number of readers.

    <sweep>/epochs/part-<time>-<token>.parquet   rows are appended by adding parts
    <sweep>/trials/part-<number>.parquet         up to TRIALS_PER_PART trials, one row each

Every file is put in place whole. A trial stays in the part that it was first written to, which is
replaced at once when one of its rows changes; so that any Parquet reader, at any moment of a live
sweep, sees each epoch and each trial at most once.

Once a sweep has ended, its many small parts of `epochs` become few. (Parts of `trials` hold many
trials from the start.) A merged part names, in its metadata, the parts that it replaces, and those
are deleted after it is in place. After a crash in between, rows are there twice, never missing;
`finish_compaction` deletes what was replaced.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from results.parts import (
    DAMAGED,
    MERGED,
    BrokenPartError,
    encode,
    epoch_fragments,
    part_names,
    read_epochs,
    read_part,
    read_parts,
    trial_rows,
)
from results.schema import EPOCHS, TRIALS, check_row, to_table
from results.storage import SweepFolder, check_name

MERGED_ROWS = 100_000  # a part of so many rows is left as it is
_REPLACES = b"rts_replaces"
TRIALS_PER_PART = 64  # 600 trials are then read in a tenth of the time that 600 files take

EpochKey = tuple[str, int, int]  # trial_id, rung, epoch


def epoch_keys(folder: SweepFolder) -> set[EpochKey]:
    """The (trial_id, rung, epoch) of all epochs on disk, but for those in damaged parts, which are
    looked for here: a driver should know of them before it trains, not when it compacts."""
    names = ("trial_id", "rung", "epoch")
    keys: set[EpochKey] = set()
    for part in read_parts(folder, "epochs", names, whole=True).values():
        keys.update(zip(*(part[name].to_pylist() for name in names), strict=True))
    return keys


def history(folder: SweepFolder, trial_id: str) -> list[dict[str, Any]]:
    """A trial's epochs on disk, by rung and epoch."""
    import pyarrow.dataset as ds

    rows = read_epochs(folder, None, ds.field("trial_id") == trial_id).to_pylist()
    unique = {(row["rung"], row["epoch"]): row for row in rows}
    return [unique[key] for key in sorted(unique)]


class Ledger:
    """The one writer of a sweep: its driver. Rows wait in memory until `flush`.

    A failed flush raises OSError and keeps its rows; the next one writes them, once. Opening raises
    ValueError, before anything is written, if a part of `trials` cannot be read: a sweep whose
    trials are not all known would lose them for good, and their weights.
    """

    def __init__(self, folder: SweepFolder) -> None:
        self.folder = folder
        trials = _all_trials(folder)
        folder.remove_leftovers()
        finish_compaction(folder)
        self._keys = epoch_keys(folder)
        self._new_epochs: list[dict[str, Any]] = []
        self._epoch_part = _epoch_part_name()
        self._trials: dict[str, dict[str, Any]] = {}
        self._part_of: dict[str, str] = {}  # trial id: its part of `trials`
        self._members: dict[str, list[str]] = {}  # part of `trials`: its trial ids
        self._stale: set[str] = set()  # parts of `trials` to write
        self._waiting_since: float | None = None
        for name, part in trials.items():
            self._members[name] = []
            for row in part:
                self._join(row["trial_id"], name)
                self._trials[row["trial_id"]] = row

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def trials(self) -> list[dict[str, Any]]:
        """The newest row of every trial, in the order in which they were first put."""
        return [dict(row) for row in self._trials.values()]

    def epoch_counts(self) -> Counter[str]:
        """How many epochs of each trial it has."""
        return Counter(trial_id for trial_id, _, _ in self._keys)

    def add_epoch(self, row: Mapping[str, Any]) -> bool:
        """Add an epoch; False, and nothing happens, if its (trial_id, rung, epoch) is known.

        `sweep` and `time` are filled in. Raises ValueError for a row unfit for the schema.
        """
        full = check_row(self._own(row, "time"), EPOCHS)
        check_name("trial_id", full["trial_id"])
        key = full["trial_id"], int(full["rung"]), int(full["epoch"])
        if key in self._keys:
            return False
        self._keys.add(key)
        self._new_epochs.append(full)
        self._wait()
        return True

    def put_trial(self, row: Mapping[str, Any]) -> None:
        """Add a trial's row, or replace its older one as a whole.

        `sweep` and `updated` are filled in. Raises ValueError for a row unfit for the schema.
        """
        full = check_row(self._own(row, "updated"), TRIALS)
        trial_id = check_name("trial_id", full["trial_id"])
        if trial_id not in self._part_of:
            self._join(trial_id, self._open_part())
        self._trials[trial_id] = full
        self._stale.add(self._part_of[trial_id])
        self._wait()

    def flush(self, max_age_seconds: float | None = None) -> bool:
        """Write what waits; with `max_age_seconds`, only if some of it has waited so long.

        True if all is on disk, False if it waits for its age."""
        if self._waiting_since is None:
            return True
        if max_age_seconds and time.monotonic() - self._waiting_since < max_age_seconds:
            return False
        # epochs first: no trial's row ever tells of epochs that are not there
        if self._new_epochs:
            content = encode(to_table(self._new_epochs, EPOCHS))
            # the same name until it is known to be written: a repeat replaces, never doubles
            self.folder.write(f"epochs/{self._epoch_part}", content)
            self._new_epochs, self._epoch_part = [], _epoch_part_name()
        for name in sorted(self._stale):
            rows = [self._trials[trial_id] for trial_id in self._members[name]]
            self.folder.write(f"trials/{name}", encode(to_table(rows, TRIALS)))
            self._stale.remove(name)
        self._waiting_since = None
        return True

    def close(self) -> None:
        self.flush()

    def compact(self) -> None:
        """Merge the small parts of a finished sweep into few."""
        self.flush()
        compact_epochs(self.folder)

    def _own(self, row: Mapping[str, Any], stamp: str) -> dict[str, Any]:
        """The row with this sweep's name, and the time now unless it has one."""
        if row.get("sweep", self.folder.name) != self.folder.name:
            raise ValueError(f"a row of sweep {row['sweep']!r} in sweep {self.folder.name!r}")
        return {"sweep": self.folder.name, stamp: datetime.now(UTC), **row}

    def _join(self, trial_id: str, part: str) -> None:
        self._part_of[trial_id] = part
        self._members[part].append(trial_id)

    def _open_part(self) -> str:
        """The part of `trials` that takes the next new trial."""
        last = next(reversed(self._members), None)
        if last is not None and len(self._members[last]) < TRIALS_PER_PART:
            return last
        taken = [int(match[1]) for name in self._members if (match := re.search(r"-(\d+)\.", name))]
        name = f"part-{max(taken, default=0) + 1:06d}.parquet"
        self._members[name] = []
        return name

    def _wait(self) -> None:
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()


def _all_trials(folder: SweepFolder) -> dict[str, list[dict[str, Any]]]:
    parts = {}
    for name in part_names(folder, "trials"):
        try:
            parts[name] = trial_rows(folder, name)
        except BrokenPartError as error:
            remedy = f"rts-search resume {folder.argument()} --set-aside trials/{name}"
            raise ValueError(
                f"{folder.uri_of(f'trials/{name}')} cannot be read ({error}): its trials would be "
                f"forgotten; put the file back from a copy, or go on without it: {remedy} (trials "
                "whose weights or checkpoints are there come back)"
            ) from None
    return parts


def _epoch_part_name() -> str:
    # never taken, and in the order of time
    return f"part-{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.parquet"


def compact_epochs(folder: SweepFolder) -> None:
    """Merge the small parts of a sweep that nobody writes to; readers may go on."""
    finish_compaction(folder)
    rows = {name: p.metadata.num_rows for name, p in epoch_fragments(folder, whole=True).items()}
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
        replaced = _replaced_by(folder, name) & set(names) if name.startswith(MERGED) else set()
        if replaced and _is_whole(folder, name):
            _delete(folder, sorted(replaced))


def _replaced_by(folder: SweepFolder, name: str) -> set[str]:
    with folder.filesystem.open_input_file(folder.path_of(f"epochs/{name}")) as file:
        try:
            metadata = pq.read_schema(file).metadata or {}
            return set(json.loads(metadata.get(_REPLACES, b"[]")))
        except DAMAGED:
            return set()


def _is_whole(folder: SweepFolder, name: str) -> bool:
    try:
        read_part(folder, "epochs", name)
    except BrokenPartError:
        return False
    return True


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
