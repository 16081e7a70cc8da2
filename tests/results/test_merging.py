"""Parts that are merged: few files, and no row twice, also when the driver is killed in between."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from results import ledger
from results.database import query
from results.ledger import Ledger, epoch_keys
from results.parts import merging
from results.parts.names import is_hidden, may_hold_doubles
from results.parts.reading import LedgerWarning, part_names
from results.schema import EPOCHS
from results.storage import SweepFolder
from results.trials import read_trials
from tests.results.builders import READERS, epoch_row, raw_rows, trial_row

ROOT = Path(__file__).parents[2]
TRIALS = [f"t{n}" for n in range(5)]
KEYS = {(trial, 0, 1) for trial in TRIALS}


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    return SweepFolder(tmp_path / "sweeps", "s")


def fill(folder: SweepFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of `epochs` a trial, and of `trials` one for two of them."""
    monkeypatch.setattr(ledger, "TRIALS_PER_PART", 2)
    with Ledger(folder) as store:
        for trial in TRIALS:
            store.add_epoch(epoch_row(trial, 1))
            store.put_trial(trial_row(trial))
            store.flush()


def check_ours(folder: SweepFolder) -> None:
    for table in ("epochs", "trials"):
        found = query(folder.storage, f"SELECT trial_id FROM {table}")["trial_id"].to_pylist()
        assert sorted(found) == TRIALS
    assert epoch_keys(folder) == KEYS
    assert [(trial.trial_id, len(trial.epochs)) for trial in read_trials(folder)] == [
        (trial, 1) for trial in TRIALS
    ]


def check_raw(folder: SweepFolder, whole: bool) -> None:
    for table in ("epochs", "trials"):
        for reader in READERS:
            found = [row["trial_id"] for row in raw_rows(Path(folder.root), table, reader)]
            assert max(Counter(found).values(), default=0) <= 1
            assert not whole or sorted(found) == TRIALS


COMPACTOR = """
import os, signal, sys, threading
from results.ledger import Ledger
from results.storage import SweepFolder

left, lock = [int(sys.argv[2])], threading.Lock()

def counted(plain):
    def method(self, path, *arguments):
        with lock:
            print(plain.__name__, flush=True)
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            plain(self, path, *arguments)
    return method

for name in ("write", "delete", "move"):
    setattr(SweepFolder, name, counted(getattr(SweepFolder, name)))
Ledger(SweepFolder(sys.argv[1], "s")).compact()
"""


def compactor(storage: Path, operations: int) -> subprocess.Popen[str]:
    """Compacts a sweep, and is killed before its next operation on files after so many."""
    command = [sys.executable, "-c", COMPACTOR, str(storage), str(operations)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_no_row_is_twice_wherever_a_compaction_is_killed(
    folder: SweepFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(folder, monkeypatch)
    operations = compactor(Path(folder.storage), -1).communicate()[0].split()
    check_raw(folder, whole=True)
    assert Counter(operations) == {"write": 2, "delete": 5 + 3, "move": 2}
    shutil.rmtree(folder.storage)
    fill(folder, monkeypatch)
    killed = []
    for n in range(len(operations)):
        storage = shutil.copytree(folder.storage, tmp_path / f"killed{n}")
        killed.append((SweepFolder(storage, "s"), compactor(storage, n)))
    hidden = set()
    for copy, process in killed:
        process.communicate()
        assert process.returncode == -9
        hidden.add(any(is_hidden(name) for t in ("epochs", "trials") for name in copy.files(t)))
        check_raw(copy, whole=False)
        check_ours(copy)
        with Ledger(copy) as store:
            assert not store.add_epoch(epoch_row("t0", 1))
        check_raw(copy, whole=True)
        check_ours(copy)
        assert not any(is_hidden(name) for t in ("epochs", "trials") for name in copy.files(t))
    assert hidden == {False, True}


def test_every_prefix_of_a_merge_on_an_object_store(
    s3_storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose rename is a copy and a deletion."""
    left = 0

    def counted(plain: Any) -> Any:
        def method(self: SweepFolder, path: str, *arguments: Any) -> None:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            plain(self, path, *arguments)

        return method

    delete = SweepFolder.delete

    def move(self: SweepFolder, path: str, new: str) -> None:
        copy(self, path, new)
        remove(self, path)

    def copy(self: SweepFolder, path: str, new: str) -> None:
        self.filesystem.copy_file(self.path_of(path), self.path_of(new))

    operations = ["write", *["delete"] * 5, "copy", "delete"]
    copy, remove = counted(copy), counted(delete)
    for n in range(len(operations) + 1):
        folder = SweepFolder(s3_storage, f"s{n}")
        fill(folder, monkeypatch)
        with monkeypatch.context() as patch:
            for name in ("write", "delete"):
                patch.setattr(SweepFolder, name, counted(getattr(SweepFolder, name)))
            patch.setattr(SweepFolder, "move", move)
            patch.setitem(merging.FULL, "trials", 1)  # none of them is small
            left = n
            store = Ledger(folder)
            if n < len(operations):
                with pytest.raises(KeyboardInterrupt):
                    store.compact()
            else:
                store.compact()
            assert left == 0
        for whole in (n in (0, 1, 7, 8), True):
            parts = ds.dataset(folder.path_of("epochs"), EPOCHS, filesystem=folder.filesystem)
            found = parts.to_table()["trial_id"].to_pylist()
            assert len(found) == len(set(found))
            assert not whole or sorted(found) == TRIALS
            assert epoch_keys(folder) == KEYS
            assert [len(trial.epochs) for trial in read_trials(folder)] == [1] * 5
            if not whole:
                Ledger(folder)


def test_two_drivers_at_once(folder: SweepFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """What both have written is shown once, and dropped by whoever opens or compacts it next."""
    monkeypatch.setattr(merging, "FAN", 3)
    drivers = [Ledger(folder), Ledger(folder)]
    for trial in TRIALS:
        for driver in drivers:
            assert driver.add_epoch(epoch_row(trial, 1))
            driver.put_trial(trial_row(trial))
            driver.flush()
    assert len(raw_rows(Path(folder.root), "epochs")) == 10
    assert may_hold_doubles(part_names(folder, "epochs"))
    check_ours(folder)
    copy = SweepFolder(shutil.copytree(folder.storage, f"{folder.storage}2"), "s")
    drivers[1].compact()
    Ledger(copy).close()
    for kept in (folder, copy):
        check_raw(kept, whole=True)
        check_ours(kept)
    assert not may_hold_doubles(part_names(copy, "epochs"))


def test_parts_merge_by_levels_while_a_sweep_runs(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "FAN", 4)
    monkeypatch.setattr(merging, "FULL", {"epochs": 50, "trials": 8})
    monkeypatch.setattr(ledger, "TRIALS_PER_PART", 2)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    written: Counter[str] = Counter()
    write = SweepFolder.write

    def counted(self: SweepFolder, path: str, data: bytes) -> None:
        written[path.partition("/")[0]] += pq.ParquetFile(pa.BufferReader(data)).metadata.num_rows
        write(self, path, data)

    monkeypatch.setattr(SweepFolder, "write", counted)
    most = 0
    with Ledger(folder) as store:
        store.put_trial(trial_row("long", "running"))  # its part stays
        for n in range(200):
            store.put_trial(trial_row(f"t{n:03d}", "running"))
            store.add_epoch(epoch_row(f"t{n:03d}", 1))
            store.put_trial(trial_row(f"t{n:03d}"))
            store.flush()
            assert len(store._rows) <= 2  # in memory
            most = max(most, len(folder.files("epochs")))
        assert store.trials()[0]["trial_id"] == "long"
        assert len(store.trials()) == 201
        store.put_trial(trial_row("t007", message="again"))  # long merged
    assert most <= 3 * 4 + 200 // 50
    assert written["epochs"] <= 200 * 4  # once a level
    assert len(folder.files("trials")) <= 201 // 8 + 4 + 2
    assert len(raw_rows(Path(folder.root), "epochs")) == 200
    trials = {row["trial_id"]: row for row in raw_rows(Path(folder.root), "trials")}
    assert len(trials) == 201
    assert trials["t007"]["message"] == "again"
    with Ledger(folder) as store:
        store.put_trial(trial_row("long"))
        assert not store.add_epoch(epoch_row("t003", 1))  # found again on the disk
        store.compact()
    assert len(folder.files("epochs")) == 4
    assert len(folder.files("trials")) == 26  # 25 of 8 trials


def test_a_merge_that_the_storage_cuts_off_goes_on(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "FAN", 3)
    fails = iter(["delete", "move", "", ""])
    plain = {name: getattr(SweepFolder, name) for name in ("delete", "move")}
    failing = next(fails)

    def flaky(name: str) -> Any:
        def method(self: SweepFolder, *paths: str) -> None:
            nonlocal failing
            if failing == name:
                failing = next(fails)
                raise OSError("connection reset")
            plain[name](self, *paths)

        return method

    with monkeypatch.context() as patch:
        for name in plain:
            patch.setattr(SweepFolder, name, flaky(name))
        store = Ledger(folder)
        for n in range(3):
            store.add_epoch(epoch_row("t", n))
            if n == 2:
                for _ in range(2):
                    with pytest.raises(OSError, match="reset"):
                        store.flush()
            store.flush()
    assert len(folder.files("epochs")) == 1
    assert len(raw_rows(Path(folder.root), "epochs")) == 3


def test_an_unreadable_part_is_never_merged(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "FAN", 3)
    store = Ledger(folder)
    for n in range(6):
        store.add_epoch(epoch_row("t", n))
        store.flush()
        if n == 0:
            (bad,) = folder.files("epochs")
            folder.write(f"epochs/{bad}", b"PAR1")
    assert bad in folder.files("epochs")
    with pytest.warns(LedgerWarning, match="not a whole Parquet file"):
        assert {epoch for _, _, epoch in epoch_keys(folder)} == {1, 2, 3, 4, 5}
