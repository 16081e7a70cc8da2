"""The ledger: nothing lost, nothing twice, the newest row of a trial, whatever happens."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from results import ledger
from results.database import query
from results.ledger import TRIALS_PER_PART, Ledger, epoch_keys, history
from results.parts import merging, reading
from results.parts.files import encode
from results.parts.names import hide
from results.parts.reading import LedgerWarning
from results.schema import VERSION
from results.storage import SweepFolder
from tests.results.builders import READERS, epoch_row, raw_rows, trial_row

Key = tuple[str, int, int]
_TRIALS = st.integers(0, 6).map(lambda n: f"t{n}")
_OPERATIONS = st.one_of(
    st.tuples(st.just("epoch"), _TRIALS, st.integers(0, 1), st.integers(1, 3)),
    st.tuples(st.just("trial"), _TRIALS, st.sampled_from(["running", "completed"])),
    st.tuples(st.sampled_from(["flush", "flush_beginnings", "crash", "close", "compact"])),
)


class Model:
    """The obvious ledger: dictionaries, and what of them is on disk."""

    def __init__(self) -> None:
        self.epochs: dict[Key, float] = {}
        self.trials: dict[str, int] = {}
        self.flush()

    def put(self, trial: str, outcome: str, step: int) -> None:
        self.trials[trial] = step
        if outcome == "running":
            self.begun[trial] = step

    def flush(self) -> None:
        self.disk = dict(self.epochs), dict(self.trials)
        self.begun: dict[str, int] = {}  # newest rows since then that are no ends

    def flush_beginnings(self) -> None:
        self.disk[1].update(self.begun)

    def crash(self) -> None:
        self.epochs, self.trials = dict(self.disk[0]), dict(self.disk[1])
        self.begun = {}


def apply(operation: tuple[Any, ...], step: int, store: Ledger, model: Model) -> Ledger:
    match operation:
        case ("epoch", trial, rung, epoch):
            new = store.add_epoch(epoch_row(trial, epoch, rung, val_loss=float(step)))
            assert new == ((trial, rung, epoch) not in model.epochs)
            model.epochs.setdefault((trial, rung, epoch), float(step))
        case ("trial", trial, outcome):
            store.put_trial(trial_row(trial, outcome, number=step))
            model.put(trial, outcome, step)
        case ("crash",):
            model.crash()
            return Ledger(store.folder)
        case (name,):
            getattr(store, name)()
            getattr(model, "flush_beginnings" if name == "flush_beginnings" else "flush")()
            return Ledger(store.folder) if name == "close" else store
    return store


def check_disk(folder: Path, model: Model, reader: str) -> None:
    epochs = raw_rows(folder, "epochs", reader)
    assert len(epochs) == len(model.disk[0])
    seen = {(row["trial_id"], row["rung"], row["epoch"]): row["val_loss"] for row in epochs}
    assert seen == model.disk[0]
    trials = raw_rows(folder, "trials", reader)
    assert len(trials) == len(model.disk[1])
    assert {row["trial_id"]: row["number"] for row in trials} == model.disk[1]


@given(st.lists(_OPERATIONS, max_size=40))
@settings(max_examples=50, deadline=None)
def test_any_history_of_writes_flushes_crashes_and_compactions(
    operations: list[tuple[Any, ...]],
) -> None:
    with tempfile.TemporaryDirectory() as storage, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "TRIALS_PER_PART", 2)
        patch.setattr(merging, "FAN", 3)
        patch.setattr(merging, "FULL", {"epochs": 4, "trials": 5})
        patch.setattr(os, "fsync", lambda _: None)  # power cuts are not tested here
        store, model = Ledger(SweepFolder(storage, "s")), Model()
        for step, operation in enumerate(operations):
            store = apply(operation, step, store, model)
            check_disk(Path(storage) / "s", model, "pyarrow")
            assert {row["trial_id"]: row["number"] for row in store.trials()} == model.trials
        assert epoch_keys(store.folder) == set(model.disk[0])
        for reader in READERS:
            check_disk(Path(storage) / "s", model, reader)


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    return SweepFolder(tmp_path, "s")


def test_what_is_left_out_is_filled_in_and_foreign_sweeps_are_refused(folder: SweepFolder) -> None:
    with Ledger(folder) as store:
        store.add_epoch(epoch_row("t", 1))
        store.put_trial(trial_row("t"))
        with pytest.raises(ValueError, match="a row of sweep 'x' in sweep 's'"):
            store.put_trial(trial_row("u", sweep="x"))
        with pytest.raises(ValueError, match=r"trial_id '\.\./t' must be letters"):
            store.add_epoch(epoch_row("../t", 1))
    (epoch,) = raw_rows(Path(folder.root), "epochs")
    (trial,) = raw_rows(Path(folder.root), "trials")
    assert epoch["sweep"] == trial["sweep"] == "s"
    assert epoch["time"] <= trial["updated"]


def test_a_trial_begins_after_a_flush_that_failed_halfway(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, write = Ledger(folder), SweepFolder.write
    for n in range(65):  # two parts
        store.put_trial(trial_row(f"t{n}", "running"))

    def full(self: SweepFolder, path: str, data: bytes) -> None:
        if path.endswith("2.parquet"):
            raise OSError("no space left")
        write(self, path, data)

    monkeypatch.setattr(SweepFolder, "write", full)
    with pytest.raises(OSError, match="no space"):
        store.flush()
    monkeypatch.undo()
    store.put_trial(trial_row("t65", "running"))
    store.flush_beginnings()
    assert len(raw_rows(Path(folder.root), "trials")) == 66


def test_flush_waits_for_the_age_asked_for(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("results.ledger.time.monotonic", lambda: now)
    store = Ledger(folder)
    store.add_epoch(epoch_row("t", 1))
    now = 104.0
    store.add_epoch(epoch_row("t", 2))
    store.flush(max_age_seconds=5)
    assert folder.files("epochs") == []
    now = 105.0  # the older of the two
    store.flush(max_age_seconds=5)
    assert len(raw_rows(Path(folder.root), "epochs")) == 2
    store.flush()
    assert len(folder.files("epochs")) == 1  # nothing new: no part


def test_a_failed_flush_keeps_its_rows_and_writes_them_once(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Ledger(folder)
    write, written = SweepFolder.write, []

    def flaky(self: SweepFolder, path: str, data: bytes) -> None:
        if path.startswith("epochs/"):
            write(self, path, data)  # there, but the answer is lost
        written.append(path)
        if len(written) <= 2:
            raise OSError("connection reset")
        if path.startswith("trials/"):
            write(self, path, data)

    monkeypatch.setattr(SweepFolder, "write", flaky)
    store.add_epoch(epoch_row("t", 1))
    store.put_trial(trial_row("t"))
    for epoch in (2, 3):
        with pytest.raises(OSError, match="reset"):
            store.flush()
        store.add_epoch(epoch_row("t", epoch))
    store.flush()
    assert sorted(row["epoch"] for row in raw_rows(Path(folder.root), "epochs")) == [1, 2, 3]
    assert len(raw_rows(Path(folder.root), "trials")) == 1


def test_a_trials_history_is_in_order(folder: SweepFolder) -> None:
    with Ledger(folder) as store:
        for rung, epoch in [(1, 2), (0, 1), (1, 1)]:
            store.add_epoch(epoch_row("t", epoch, rung))
            store.add_epoch(epoch_row("u", epoch, rung))
            store.flush()
    keys = [(row["trial_id"], row["rung"], row["epoch"]) for row in history(folder, "t")]
    assert keys == [("t", 0, 1), ("t", 1, 1), ("t", 1, 2)]


def test_many_trials_are_few_files(folder: SweepFolder) -> None:
    with Ledger(folder) as store:
        for n in range(200):
            store.put_trial(trial_row(f"t{n}", "running"))
    with Ledger(folder) as store:
        for n in range(0, 200, 2):
            store.put_trial(trial_row(f"t{n}"))
    assert len(folder.files("trials")) == 4
    rows = raw_rows(Path(folder.root), "trials")
    assert Counter(row["outcome"] for row in rows) == {"running": 100, "completed": 100}


def test_truncated_and_foreign_files_are_reported_and_left_alone(folder: SweepFolder) -> None:
    with Ledger(folder) as store:
        for n in range(2):
            store.add_epoch(epoch_row(f"t{n}", 1))
            store.put_trial(trial_row(f"t{n}"))
            store.flush()
    whole = folder.read("trials/part-000001.parquet")
    foreign = {
        "epochs/part-0-truncated.parquet": folder.read(f"epochs/{folder.files('epochs')[0]}")[:-9],
        "epochs/part-0-trials.parquet": whole,
        "epochs/notes.txt": b"hello",
        "trials/notes.txt": b"hello",
    }
    for path, content in foreign.items():
        folder.write(path, content)
    with pytest.warns(LedgerWarning) as reports:
        store = Ledger(folder)
    messages = " ".join(str(report.message) for report in reports)
    assert all(path in messages for path in foreign)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LedgerWarning)
        for n in range(1, 90):  # into a second part
            store.put_trial(trial_row(f"t{n}", "stopped"))
            store.add_epoch(epoch_row(f"t{n}", 1))
        store.close()
        store.compact()
        counts = query(folder.storage, "SELECT outcome, count(*) n FROM trials GROUP BY 1")
        epochs = query(folder.storage, "SELECT trial_id FROM epochs")
    assert {r["outcome"]: r["n"] for r in counts.to_pylist()} == {"completed": 1, "stopped": 89}
    assert epochs.num_rows == 90
    assert all(folder.read(path) == content for path, content in foreign.items())


@pytest.mark.parametrize(
    "damage",
    ["empty", "half", "flipped", "newer", "foreign", "no outcome", "outcome", "date", "name"],
)
def test_a_part_of_trials_that_cannot_be_read_refuses_the_writer(
    folder: SweepFolder, damage: str
) -> None:
    """Or its trials would be forgotten: nothing is written, and nothing deleted."""
    with Ledger(folder) as store:
        for n in range(TRIALS_PER_PART + 1):  # two parts
            store.put_trial(trial_row(f"t{n}"))
        store.add_epoch(epoch_row("t0", 1))
    folder.write("checkpoints/t0/weights.pt", b"mine")
    path = "trials/part-000002.parquet"
    whole = folder.read(path)
    newer = pq.read_table(pa.BufferReader(whole))
    metadata = {**newer.schema.metadata, b"rts_version": str(VERSION + 1).encode()}

    def with_column(name: str, values: pa.Array) -> bytes:
        index = newer.column_names.index(name)
        return encode(newer.set_column(index, name, values))

    contents = {
        "no outcome": with_column("outcome", pa.array([None], pa.string())),
        "name": with_column("trial_id", pa.array(["../../mine"])),
        "outcome": with_column("outcome", pa.array(["paused"])),
        "date": with_column("started", pa.array([2**62]).cast(pa.timestamp("us", tz="UTC"))),
        "empty": b"",
        "half": whole[: len(whole) // 2],
        "flipped": whole[:-40] + bytes(40),
        "newer": encode(newer.replace_schema_metadata(metadata)),
        "foreign": folder.read(f"epochs/{folder.files('epochs')[0]}"),
    }
    folder.write(path, contents[damage])
    before = {p: p.read_bytes() for p in Path(folder.root).rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match=r"trials/part-000002\.parquet cannot be read \(.*\): its"):
        Ledger(folder)
    assert {p: p.read_bytes() for p in Path(folder.root).rglob("*") if p.is_file()} == before


PLACES: list[tuple[Callable[[Path], object], str]] = [
    (Path.mkdir, "is a folder, not a file"),
    (os.mkfifo, "is a pipe, not a file"),
    (lambda path: path.symlink_to("nowhere"), "a link that leads nowhere"),
    (lambda path: path.symlink_to(path.name), "a link that leads nowhere"),
]


@pytest.mark.parametrize("form", ["part", "merged", "hidden"])
@pytest.mark.parametrize(("put", "words"), PLACES)
def test_what_is_no_file_is_named_and_not_waited_for(
    folder: SweepFolder, put: Callable[[Path], object], words: str, form: str
) -> None:
    with Ledger(folder) as store:
        for n in range(TRIALS_PER_PART + 1):  # two parts
            store.put_trial(trial_row(f"t{n}"))
        for n in range(2):
            store.add_epoch(epoch_row("t0", n + 1))
            store.flush()
    parts = [f"epochs/{folder.files('epochs')[1]}", "trials/part-000002.parquet"]
    for part in parts:
        path = Path(folder.path_of(part))
        path.unlink()
        name = path.name if form == "part" else f"{path.stem}-m1.parquet"
        put(path.with_name(hide(name) if form == "hidden" else name))
    for table, rows in (("epochs", 1), ("trials", TRIALS_PER_PART)):
        with pytest.warns(LedgerWarning, match=f"is left aside: .*{words}"):
            assert query(folder.storage, f"SELECT trial_id FROM {table}").num_rows == rows
    with pytest.raises(ValueError, match=rf"trials/.?part-000002\S* cannot be read \(.*{words}\)"):
        Ledger(folder)


def fill(folder: SweepFolder, parts: int) -> None:
    with Ledger(folder) as store:
        for n in range(parts):
            store.add_epoch(epoch_row(f"t{n % 3}", n + 1, val_loss=float(n)))
            store.flush()


def test_compaction_merges_up_to_its_limit(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(merging.FULL, "epochs", 8)
    fill(folder, 20)
    before = raw_rows(Path(folder.root), "epochs")
    Ledger(folder).compact()
    files = folder.files("epochs")
    assert len(files) == 3
    Ledger(folder).compact()
    assert folder.files("epochs") == files  # nothing left to do
    after = raw_rows(Path(folder.root), "epochs")
    assert sorted(before, key=lambda r: r["epoch"]) == sorted(after, key=lambda r: r["epoch"])


@pytest.mark.parametrize("seen", [6, 3, 0])  # of the six parts, by a listing during compaction
def test_a_listing_that_compaction_overtakes_is_repeated(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch, seen: int
) -> None:
    fill(folder, 6)
    list_parts = reading.part_names

    def list_then_compact(folder: SweepFolder, table: str) -> list[str]:
        monkeypatch.setattr(reading, "part_names", list_parts)
        names = list_parts(folder, table)
        Ledger(folder).compact()
        return names[:seen]

    monkeypatch.setattr(reading, "part_names", list_then_compact)
    assert len(epoch_keys(folder)) == 6
    assert len(folder.files("epochs")) == 1


def test_a_query_survives_a_compaction_under_its_feet(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(folder, 3)
    Ledger(folder).compact()
    fill(folder, 6)
    from results import database

    connect, connections = database._connect, []

    def connect_then_compact(*arguments: Any, **options: Any) -> Any:
        connections.append(connect(*arguments, **options))
        Ledger(folder).compact()  # takes away the file that the first connection knows
        return connections[-1]

    monkeypatch.setattr(database, "_connect", connect_then_compact)
    assert query(folder.storage, "SELECT epoch FROM epochs").num_rows == 6
    assert len(connections) == 2
