"""The ledger on an object store: a real server that speaks the S3 protocol."""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator

import pytest

from results.export import export
from results.ledger import Ledger, epoch_keys, history
from results.query import best, list_sweeps, query, sweep_summary
from results.storage import SweepFolder, sweep_names
from tests.results.builders import epoch_row, trial_row

pytest.importorskip("moto.server")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """host:port of an S3 server in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        try:
            _wait_for(f"http://127.0.0.1:{port}/moto-api/", process)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        assert process.poll() is None, "the S3 server did not start"
        try:
            urllib.request.urlopen(url).close()
            return
        except urllib.error.URLError:
            time.sleep(0.1)
    raise TimeoutError(url)


@pytest.fixture
def storage(server: str) -> str:
    """A storage in a bucket of its own."""
    bucket = f"b{uuid.uuid4().hex}"
    request = urllib.request.Request(f"http://{server}/{bucket}", method="PUT")
    urllib.request.urlopen(request).close()
    return f"s3://{bucket}/deep/sweeps?scheme=http&endpoint_override={server}"


def test_files_of_a_sweep(storage: str) -> None:
    folder = pickle.loads(pickle.dumps(SweepFolder(storage, "s")))
    assert folder.local_path is None
    assert folder.uri_of("spec.yaml") == storage.replace("?", "/s/spec.yaml?")
    assert not folder.exists()
    assert sweep_names(storage) == []
    folder.write("spec.yaml", b"one")
    folder.write("spec.yaml", b"two")
    folder.write("checkpoints/t1/state.pt", bytes(6_000_000))  # in several parts
    assert folder.read("spec.yaml") == b"two"
    assert len(folder.read("checkpoints/t1/state.pt")) == 6_000_000
    assert folder.list() == ["checkpoints", "spec.yaml"]
    assert folder.files() == ["spec.yaml"]
    assert sweep_names(storage) == ["s"]
    with pytest.raises(FileNotFoundError):
        folder.read("nothing")
    folder.delete("checkpoints/t1")
    folder.delete("checkpoints/t1")
    folder.delete("spec.yaml")
    assert not folder.exists("checkpoints/t1")
    assert folder.files() == []


def test_a_ledger_is_written_reopened_compacted_and_queried(storage: str) -> None:
    folder = SweepFolder(storage, "s")
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
        assert query(storage, "SELECT epoch FROM epochs").num_rows == 3
        assert epoch_keys(folder) == {("t0", 0, epoch) for epoch in (1, 2, 3)}
        assert [row["epoch"] for row in history(folder, "t0")] == [1, 2, 3]
        ranking = best(storage, metric="final_val_loss")
        assert [row["final_val_loss"] for row in ranking.trials] == [pytest.approx(1 / 3)]
        assert [row["control"] for row in best(storage).controls] == ["sgd"]
        Ledger(folder).compact()
    assert len(folder.files("epochs")) == 1
    assert sweep_summary(storage, "s").epochs == 3
    assert [listing.best for listing in list_sweeps(storage)] == [0.9]


def test_an_export_from_an_object_store(
    storage: str, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    with Ledger(SweepFolder(storage, "s")) as store:
        store.put_trial(trial_row("t0"))
    assert export(storage, "trials", "csv") == 1
    assert b'"t0"' in capsysbinary.readouterr().out
