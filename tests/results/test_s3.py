"""The ledger on an object store: a real server that speaks the S3 protocol."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from pyarrow import fs

from results.database import query
from results.export import export
from results.ledger import Ledger, epoch_keys, history
from results.query import list_sweeps, sweep_summary
from results.ranking import best
from results.storage import SweepFolder, sweep_names
from tests.results.builders import epoch_row, trial_row


def test_files_of_a_sweep(s3_storage: str) -> None:
    folder = pickle.loads(pickle.dumps(SweepFolder(s3_storage, "s")))
    assert folder.local_path is None
    assert folder.uri_of("spec.yaml") == s3_storage.replace("?", "/s/spec.yaml?")
    assert not folder.exists()
    assert sweep_names(s3_storage) == []
    folder.write("spec.yaml", b"one")
    folder.write("spec.yaml", b"two")
    folder.write("checkpoints/t1/state.pt", bytes(6_000_000))  # in several parts
    assert folder.read("spec.yaml") == b"two"
    assert len(folder.read("checkpoints/t1/state.pt")) == 6_000_000
    assert folder.list() == ["checkpoints", "spec.yaml"]
    assert folder.files() == ["spec.yaml"]
    assert sweep_names(s3_storage) == ["s"]
    with pytest.raises(FileNotFoundError):
        folder.read("nothing")
    folder.delete("checkpoints/t1")
    folder.delete("checkpoints/t1")
    folder.delete("spec.yaml")
    assert not folder.exists("checkpoints/t1")
    assert folder.files() == []


class ReplacedWhenOpened:
    """A file system on which another process replaces a file between its size and its content."""

    def __init__(self, filesystem: fs.FileSystem, other: SweepFolder) -> None:
        self.filesystem, self.other = filesystem, other

    def __getattr__(self, name: str) -> Any:
        return getattr(self.filesystem, name)

    def open_input_stream(self, path: str, compression: str | None) -> Any:
        stream = self.filesystem.open_input_stream(path, compression=compression)
        self.other.write("driver.json", b"a longer one")
        return stream


def test_a_file_replaced_while_it_is_read_is_read_whole(s3_storage: str) -> None:
    folder, other = SweepFolder(s3_storage, "s"), SweepFolder(s3_storage, "s")
    folder.write("driver.json", b"short")
    folder.filesystem = ReplacedWhenOpened(folder.filesystem, other)
    assert folder.read("driver.json") == b"a longer one"


def test_a_ledger_is_written_reopened_compacted_and_queried(s3_storage: str) -> None:
    folder = SweepFolder(s3_storage, "s")
    for epoch in (1, 2, 3):
        with Ledger(folder) as store:
            assert store.add_epoch(epoch_row("t0", epoch, val_loss=1.0 / epoch))
            assert not store.add_epoch(epoch_row("t0", 1))
            store.put_trial(trial_row("t0", "running", epochs=epoch))
    with Ledger(folder) as store:
        store.put_trial(trial_row("t0", final_val_accuracy=0.9, epochs=3))
        store.put_trial(trial_row("sgd", control="sgd", final_val_accuracy=0.8))
    assert len(folder.files("epochs")) == 3
    for _ in range(2):
        assert query(s3_storage, "SELECT epoch FROM epochs").num_rows == 3
        assert epoch_keys(folder) == {("t0", 0, epoch) for epoch in (1, 2, 3)}
        assert [row["epoch"] for row in history(folder, "t0")] == [1, 2, 3]
        ranking = best(s3_storage, metric="final_val_loss")
        assert [row["final_val_loss"] for row in ranking.trials] == [pytest.approx(1 / 3)]
        assert [row["control"] for row in best(s3_storage).controls] == ["sgd"]
        Ledger(folder).compact()
    assert len(folder.files("epochs")) == 1
    assert sweep_summary(s3_storage, "s").epochs == 3
    assert [listing.best for listing in list_sweeps(s3_storage)] == [0.9]


def test_an_export_from_an_object_store(
    s3_storage: str, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    with Ledger(SweepFolder(s3_storage, "s")) as store:
        store.put_trial(trial_row("t0"))
    assert export(s3_storage, "trials", "csv") == 1
    assert b'"t0"' in capsysbinary.readouterr().out
