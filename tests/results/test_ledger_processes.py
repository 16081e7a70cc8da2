"""The ledger across processes: a writer that is killed, and readers beside one that is not."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from results.database import connect, query
from results.ledger import Ledger, epoch_keys
from results.parts.names import level
from results.storage import SweepFolder
from tests.results.builders import READERS, epoch_row, raw_rows, trial_row

_ROOT = Path(__file__).parents[2]
_WRITER = """
import sys
from results.ledger import Ledger
from results.parts.names import level
from results.storage import SweepFolder

ledger = Ledger(SweepFolder(sys.argv[1], "s"))
first = max((row["epochs"] for row in ledger.trials()), default=0) + 1
print(first - 1, flush=True)
for epoch in range(first, first + 100_000):
    for trial in ("a", "b", "c"):
        ledger.add_epoch({"trial_id": trial, "rung": 0, "epoch": epoch, "val_loss": float(epoch)})
        ledger.put_trial({"trial_id": trial, "outcome": "running", "epochs": epoch})
    ledger.flush()
    if "compact" in sys.argv and epoch % 20 == 0:
        ledger.compact()
    print(epoch, flush=True)
"""


@contextmanager
def writer(storage: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A process that adds epochs for ever, and prints each one after its flush."""
    command = [sys.executable, "-c", _WRITER, str(storage), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=_ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def read_lines(process: subprocess.Popen[str], lines: int) -> int:
    assert process.stdout is not None
    return [int(process.stdout.readline()) for _ in range(lines)][-1]


def test_a_writer_killed_in_the_middle_leaves_whole_files(tmp_path: Path) -> None:
    folder, waits = SweepFolder(tmp_path, "s"), random.Random(0)
    for _ in range(3):
        with writer(tmp_path) as process:
            read_lines(process, 5)
            time.sleep(waits.uniform(0.0, 0.05))
            process.send_signal(signal.SIGKILL)
            assert process.stdout is not None
            told = [int(line) for line in process.stdout.read().split("\n")[:-1]]
            assert process.wait() == -signal.SIGKILL
        keys = epoch_keys(folder)
        on_disk = {epoch for _, _, epoch in keys}
        assert on_disk == set(range(1, max(on_disk) + 1))
        assert max(on_disk) >= max(told, default=1)
        assert keys == {(trial, 0, epoch) for trial in "abc" for epoch in on_disk}
        for reader in READERS:
            epochs = raw_rows(tmp_path / "s", "epochs", reader)
            assert len(epochs) == len(keys)
            trials = raw_rows(tmp_path / "s", "trials", reader)
            assert sorted(row["trial_id"] for row in trials) == ["a", "b", "c"]
            assert all(row["epochs"] <= max(on_disk) for row in trials)
    with Ledger(folder) as store:
        assert not store.add_epoch(epoch_row("a", 1))
        store.put_trial(trial_row("a"))
    outcomes = {r["trial_id"]: r["outcome"] for r in raw_rows(tmp_path / "s", "trials")}
    assert outcomes == {"a": "completed", "b": "running", "c": "running"}


@pytest.mark.parametrize("reader", READERS)
def test_raw_readers_see_no_row_twice_while_a_sweep_runs(tmp_path: Path, reader: str) -> None:
    """While parts are merged a file may be gone, or rows be missing, for a moment."""
    with writer(tmp_path) as process:
        told = read_lines(process, 2)
        read = 0
        deadline = time.monotonic() + 60
        while read < 8:
            assert time.monotonic() < deadline
            try:
                epochs = raw_rows(tmp_path / "s", "epochs", reader)
                trials = raw_rows(tmp_path / "s", "trials", reader)
            except (FileNotFoundError, duckdb.IOException):
                continue
            found = {(row["trial_id"], row["epoch"]) for row in epochs}
            assert len(epochs) == len(found)
            if not {("a", n) for n in range(1, told + 1)} <= found:
                continue
            assert sorted(row["trial_id"] for row in trials) == ["a", "b", "c"]
            assert all(row["epochs"] >= told for row in trials)
            read += 1
            told = read_lines(process, 3)


def test_our_readers_see_every_row_once_while_a_sweep_is_compacted(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path, "s")
    sql = "SELECT count(*) AS n, count(DISTINCT (trial_id, epoch)) AS keys FROM epochs"
    with writer(tmp_path, "compact") as process:
        told = read_lines(process, 2)
        for _ in range(15):
            row = query(tmp_path, sql).to_pylist()[0]
            assert row["n"] == row["keys"] >= 3 * told
            assert len(epoch_keys(folder)) >= row["n"]
            told = read_lines(process, 4)
        assert query(tmp_path, "SELECT trial_id FROM trials").num_rows == 3
        assert any(map(level, folder.files("epochs")))
    with connect(tmp_path) as connection:
        assert connection.sql("SELECT count(*) FROM trials").fetchall() == [(3,)]
