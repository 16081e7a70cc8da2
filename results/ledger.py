"""The ledger of a sweep: one writer, any number of readers.

    <sweep>/epochs/part-<time>-<writer>.parquet  rows are appended by adding parts
    <sweep>/trials/part-<number>.parquet         up to TRIALS_PER_PART trials, one row each

Every file is put in place whole. A trial stays in the part that it was first written to, which is
replaced at once when one of its rows changes; so that any Parquet reader, at any moment of a live
sweep, sees each epoch and each trial at most once. Parts become few while the sweep runs
(results/parts/merging.py): those of `epochs` by levels, those of `trials` once all their trials
have ended.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from results.meanings import Outcome
from results.parts.files import (
    BrokenPartError,
    NewerPartError,
    encode,
    read_part,
    read_trial_part,
    set_aside,
)
from results.parts.merging import KEYS, due, finish_merges, merge, unique_keys
from results.parts.names import epoch_part, is_hidden, level, new_writer, shown
from results.parts.reading import all_parts, part_names, read_epochs, read_parts
from results.schema import EPOCHS, TRIALS, check_row, to_table
from results.storage import SweepFolder, check_name

TRIALS_PER_PART = 64  # 600 trials are then read in a tenth of the time that 600 files take

EpochKey = tuple[str, int, int]  # trial_id, rung, epoch
Row = dict[str, Any]


def epoch_keys(folder: SweepFolder) -> set[EpochKey]:
    """The (trial_id, rung, epoch) of all epochs on disk, but for those in damaged parts."""
    keys: set[EpochKey] = set()
    for part in read_parts(folder, "epochs", KEYS["epochs"], whole=True).values():
        keys.update(_keys(part))
    return keys


def _keys(part: pa.Table) -> Iterator[EpochKey]:
    return zip(*(part[name].to_pylist() for name in KEYS["epochs"]), strict=True)


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
    trials are not all known would lose them for good, and their weights; and if a later version
    wrote a part of `epochs`. What two drivers at once
    have written twice is dropped then. Of trials that have ended nothing stays in memory but their
    names.
    """

    def __init__(self, folder: SweepFolder) -> None:
        self.folder = folder
        trials, epochs = _all_trials(folder), _all_epochs(folder)
        folder.remove_leftovers()
        finish_merges(folder)
        self._waiting_since: float | None = None
        self._merging: tuple[str, list[str], str] | None = None  # table, sources, merged part
        self._unmerged: set[str] = set()  # parts that are left as they are
        self._members: dict[str, list[str]] = {}  # part of `trials`: its trial ids
        self._part_of: dict[str, str] = {}  # trial id: its part of `trials`
        self._rows: dict[str, dict[str, Row]] = {}  # part of `trials` that may change: its rows
        self._stale: set[str] = set()  # parts of `trials` to write
        self._begun: set[str] = set()  # those of them in which more than ends is new
        self._ended: set[str] = set()  # trial ids
        # trial id: its row before it ended, since the last flush; None if it had none
        self._ending: dict[str, Row | None] = {}
        self._take_trials({shown(name): part for name, part in trials.items()})
        self._writer = new_writer(part_names(folder, "epochs"))
        self._known: dict[str, set[tuple[int, int]]] = {}  # trial id: its rungs and epochs
        self._new_epochs: list[Row] = []
        self._epoch_part = epoch_part(self._writer)
        self._take_epochs({shown(name): part for name, part in epochs.items()})

    def _take_trials(self, parts: Mapping[str, pa.Table]) -> None:
        """Know the trials on disk; one that is in two parts stays where its newest row is."""
        columns = ("updated", "trial_id", "outcome")
        rows = {name: [part[c].to_pylist() for c in columns] for name, part in parts.items()}
        found = sorted(
            (*row, name) for name, cells in rows.items() for row in zip(*cells, strict=True)
        )
        self._part_of = {trial_id: name for _, trial_id, _, name in found}
        self._ended = {trial_id for _, trial_id, outcome, _ in found if Outcome(outcome).finished}
        for name, (_, ids, _) in rows.items():
            own = [trial_id for trial_id in dict.fromkeys(ids) if self._part_of[trial_id] == name]
            self._members[name] = own
            if len(own) < len(ids):
                self._stale.add(name)
                self._wait()
            if len(own) < len(ids) or not self._ended.issuperset(own):
                self._load(name)

    def _take_epochs(self, parts: dict[str, pa.Table]) -> None:
        parts = unique_keys(self.folder, self._writer, parts)
        self._epoch_rows = {name: part.num_rows for name, part in parts.items()}
        self._counts: Counter[str] = Counter()
        ended = pa.array(self._ended, pa.string())
        for part in parts.values():
            for count in pc.value_counts(part["trial_id"]).to_pylist():
                self._counts[count["values"]] += count["counts"]
            for trial_id, rung, epoch in _keys(
                part.filter(pc.invert(pc.is_in(part["trial_id"], ended)))
            ):
                self._known.setdefault(trial_id, set()).add((rung, epoch))

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def trials(self) -> list[Row]:
        """The newest row of every trial, in the order in which they were first put."""
        return [dict(row) for name in self._members for row in self._rows_of(name).values()]

    def epoch_counts(self) -> Counter[str]:
        """How many epochs of each trial it has."""
        return self._counts.copy()

    def put_aside(self) -> list[str]:
        """Move the damaged parts of `epochs` away; where they are then. Before their rows are added
        again: these would be there twice for readers that still make something of such a part."""
        whole = set(map(shown, self._epoch_rows))
        moved = []
        for name in part_names(self.folder, "epochs"):
            if shown(name) not in whole and not is_hidden(name):
                with suppress(ValueError):  # it can be read after all
                    moved.append(set_aside(self.folder, f"epochs/{name}"))
        return moved

    def add_epoch(self, row: Mapping[str, Any]) -> bool:
        """Add an epoch; False, and nothing happens, if its (trial_id, rung, epoch) is known.

        `sweep` and `time` are filled in. Raises ValueError for a row unfit for the schema.
        """
        full = check_row(self._own(row, "time"), EPOCHS)
        trial_id = check_name("trial_id", full["trial_id"])
        known = self._epochs_of(trial_id)
        key = int(full["rung"]), int(full["epoch"])
        if key in known:
            return False
        known.add(key)
        self._counts[trial_id] += 1
        self._new_epochs.append(full)
        self._wait()
        return True

    def put_trial(self, row: Mapping[str, Any]) -> None:
        """Add a trial's row, or replace its older one as a whole.

        `sweep` and `updated` are filled in. Raises ValueError for a row unfit for the schema.
        """
        full = check_row(self._own(row, "updated"), TRIALS)
        trial_id = check_name("trial_id", full["trial_id"])
        part = self._part_of.get(trial_id) or self._open_part()
        rows = self._load(part)
        if trial_id not in self._part_of:
            self._part_of[trial_id] = part
            self._members[part].append(trial_id)
        before, rows[trial_id] = rows.get(trial_id), full
        if Outcome(full["outcome"]).finished:
            self._ended.add(trial_id)
            self._ending.setdefault(trial_id, before)
        elif trial_id in self._ended:
            self._epochs_of(trial_id)
            self._ended.remove(trial_id)
            self._ending.pop(trial_id, None)
        if trial_id not in self._ended:
            self._begun.add(part)
        self._stale.add(part)
        self._wait()

    def flush(self, max_age_seconds: float | None = None) -> bool:
        """Write what waits; with `max_age_seconds`, only if some of it has waited so long.

        True if all is on disk, False if it waits for its age."""
        if self._waiting_since is None:
            return True
        if max_age_seconds and time.monotonic() - self._waiting_since < max_age_seconds:
            return False
        # epochs first: no trial that has ended ever lacks epochs
        if self._new_epochs:
            content = encode(to_table(self._new_epochs, EPOCHS))
            # the same name until it is known to be written: a repeat replaces, never doubles
            self.folder.write(f"epochs/{self._epoch_part}", content)
            self._epoch_rows[self._epoch_part] = len(self._new_epochs)
            self._new_epochs, self._epoch_part = [], epoch_part(self._writer)
        for trial_id in self._ending:
            self._known.pop(trial_id, None)
        self._ending = {}
        for name in sorted(self._stale):
            self._write_trials(name)
        self._merge()
        self._waiting_since = None
        return True

    def flush_beginnings(self) -> None:
        """Write the trials' rows that wait, but for ends: these wait for `flush`, with all epochs.
        So a sweep whose trials take a moment writes those of a second at once."""
        for name in sorted(self._begun):
            self._write_trials(name)

    def close(self) -> None:
        self.flush()

    def compact(self) -> None:
        """Merge all small parts of a sweep whose trials have ended."""
        self.flush()
        if set(part_names(self.folder, "epochs")) != self._epoch_rows.keys():
            self._take_epochs(_all_epochs(self.folder))  # another driver has written, too
        for name in [n for n in self._rows if self._ended.issuperset(self._members[n])]:
            del self._rows[name]
        self._merge(every=True)

    def _own(self, row: Mapping[str, Any], stamp: str) -> Row:
        """The row with this sweep's name, and the time now unless it has one."""
        if row.get("sweep", self.folder.name) != self.folder.name:
            raise ValueError(f"a row of sweep {row['sweep']!r} in sweep {self.folder.name!r}")
        return {"sweep": self.folder.name, stamp: datetime.now(UTC), **row}

    def _epochs_of(self, trial_id: str) -> set[tuple[int, int]]:
        """The rungs and epochs that are known: from memory, or of an ended trial from the disk."""
        if trial_id not in self._known:
            rows = history(self.folder, trial_id) if trial_id in self._ended else []
            self._known[trial_id] = {(row["rung"], row["epoch"]) for row in rows}
        return self._known[trial_id]

    def _rows_of(self, part: str) -> dict[str, Row]:
        """A part of `trials`: from memory, or of trials that have all ended from the disk."""
        if part in self._rows:
            return self._rows[part]
        rows = read_part(self.folder, "trials", part).to_pylist()
        by_id = {row["trial_id"]: row for row in rows}
        return {trial_id: by_id[trial_id] for trial_id in self._members[part]}

    def _load(self, part: str) -> dict[str, Row]:
        self._rows[part] = self._rows_of(part)
        return self._rows[part]

    def _write_trials(self, part: str) -> None:
        """A part as it stands; what has ended since the last flush as it stood before."""
        rows = self._rows[part]
        if rows:
            told = [self._ending.get(trial_id, row) for trial_id, row in rows.items()]
            written = to_table([row for row in told if row is not None], TRIALS)
            self.folder.write(f"trials/{part}", encode(written))
        else:  # all its trials are in others
            self.folder.delete(f"trials/{part}")
            del self._members[part], self._rows[part]
        self._begun.discard(part)
        if self._ending.keys() & rows.keys():
            return
        self._stale.remove(part)
        if len(rows) >= TRIALS_PER_PART and self._ended.issuperset(rows):
            del self._rows[part]

    def _open_part(self) -> str:
        """The part of `trials` that takes the next new trial."""
        for name, members in self._members.items():
            if not level(name) and len(members) < TRIALS_PER_PART:
                return name
        taken = [int(match[1]) for n in self._members if (match := re.match(r"part-(\d+)", n))]
        name = f"part-{max(taken, default=0) + 1:06d}.parquet"
        self._members[name], self._rows[name] = [], {}
        return name

    def _merge(self, every: bool = False) -> None:
        """Merge once what is due, or `every` small part. After an OSError the next call goes on."""
        while task := self._merging or self._due(every):
            self._merging = task
            table, sources, name = task
            try:
                merge(self.folder, table, sources, name)
            except (FileNotFoundError, BrokenPartError):  # another driver, or a bad disk
                self._unmerged.update(sources)
            else:
                self._replace(*task)
            self._merging = None
            if not every:
                return

    def _due(self, every: bool) -> tuple[str, list[str], str] | None:
        least = 1 if every else TRIALS_PER_PART
        ended = {n: len(ids) for n, ids in self._members.items() if n not in self._rows}
        sizes = {
            "epochs": self._epoch_rows,
            "trials": {name: count for name, count in ended.items() if count >= least},
        }
        for table, rows in sizes.items():
            free = {n: count for n, count in rows.items() if n not in self._unmerged}
            if sources := next(due(table, free, every), None):
                new = max(map(level, sources)) + 1
                last = re.split(r"-m\d+|\.", sources[-1])[0]
                name = (
                    epoch_part(self._writer, new) if table == "epochs" else f"{last}-m{new}.parquet"
                )
                return table, sources, name
        return None

    def _replace(self, table: str, sources: list[str], name: str) -> None:
        if table == "epochs":
            self._epoch_rows[name] = sum(self._epoch_rows.pop(source) for source in sources)
        else:
            self._members[name] = [i for source in sources for i in self._members.pop(source)]
            self._part_of.update(dict.fromkeys(self._members[name], name))

    def _wait(self) -> None:
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()


def _all_trials(folder: SweepFolder) -> dict[str, pa.Table]:
    parts = {}
    for name in part_names(folder, "trials"):
        try:
            parts[name] = read_trial_part(folder, name)
        except BrokenPartError as error:
            raise _refused(folder, f"trials/{name}", error, "trials would be forgotten") from None
    return parts


def _all_epochs(folder: SweepFolder) -> dict[str, pa.Table]:
    """The keys of all epochs, but for damaged parts, which are looked for here: a driver should
    know of them before it trains."""

    def read(name: str) -> pa.Table:
        try:
            return read_part(folder, "epochs", name, KEYS["epochs"], whole=True)
        except NewerPartError as error:
            path = f"epochs/{name}"
            raise _refused(folder, path, error, "epochs would be trained again") from None

    return all_parts(folder, "epochs", read)


def _refused(folder: SweepFolder, path: str, error: BrokenPartError, loss: str) -> ValueError:
    return ValueError(
        f"{folder.uri_of(path)} cannot be read ({error}): its {loss}; put the file back from a "
        f"copy, or go on without it: rts-search resume {folder.argument()} --set-aside {path} "
        "(trials whose weights or checkpoints are there come back)"
    )
