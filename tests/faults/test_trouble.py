"""Sweeps on machines in trouble: no memory, no disk, no Ray, strange files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from tests.sweeps.harness import ROOT, Sweep, kill_session, wait_for

pytestmark = pytest.mark.slow


def in_fault_suite(test: Callable[..., None]) -> Callable[..., None]:
    """A minute and more: run by `make faults`."""
    return pytest.mark.faults(pytest.mark.very_slow(test))


SLOW = {
    "model": {"name": "cnn", "args": {"width": 16}},
    "train": {"epochs": 27},
    "stop": {"first_rung": 3},
}

LEAKY = '''
"""A user's own space and model: one trial takes all the memory that there is."""
import time
import torch
from torch import nn

KEPT = []

def space(trial):
    kind = trial.suggest_categorical("kind", ["fine", "leaks", "good"])
    return {"model": {"name": "leaky_user:model", "args": {"kind": kind}}}

class Leaky(nn.Module):
    def __init__(self, kind, shape, classes):
        super().__init__()
        self.kind, self.layers = kind, nn.Linear(shape[0] * shape[1] * shape[2], classes)

    def forward(self, x):
        while self.kind == "leaks" and len(KEPT) < 80:
            KEPT.append(torch.ones(25_000_000))  # 100 MB
            time.sleep(0.1)
        return self.layers(x.flatten(1))

def model(num_classes, image_shape, kind="fine"):
    return Leaky(kind, image_shape, num_classes)
'''


@in_fault_suite
def test_a_trial_that_takes_all_memory_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "leaky_user.py").write_text(LEAKY, "utf-8")
    memory = psutil.virtual_memory()
    if memory.available < 12e9:
        pytest.skip("needs 12 GB of free memory, to leave Ray's memory monitor room to act")
    limit = (memory.total - memory.available + 4e9) / memory.total
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{limit:.3f}")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    points = [{"kind": kind} for kind in ("fine", "leaks", "good")]
    sweep = Sweep(
        tmp_path,
        space="leaky_user:space",
        search={"trials": 3, "start_from": points},
        stop={"policy": "none"},
        resources={"retries": 2},  # Ray may end a neighbour too
    )
    sweep.run("sweep", "spec.yaml")
    rows = sweep.check_ledger(3)
    outcomes = {json.loads(row.params)["kind"]: row for row in rows.itertuples() if row.number >= 0}
    assert outcomes["leaks"].outcome == "out_of_memory"
    assert "memory" in outcomes["leaks"].message
    assert outcomes["fine"].outcome == outcomes["good"].outcome == "completed"


@in_fault_suite
def test_a_full_disk_is_waited_out(tmp_path: Path) -> None:
    """On a disk of 3 MB in a mount namespace, which something else fills for a while: no row, no
    end and no weights are lost."""
    sweep = Sweep(tmp_path, search={"trials": 4}, **SLOW, checkpoint={"keep_top": 9})
    (tmp_path / "sweeps").mkdir()
    script = """
        mount -t tmpfs -o size=3m tmpfs sweeps || exit 77
        "$PYTHON" -m rts_search.cli sweep spec.yaml & driver=$!
        until ls sweeps/faulty/epochs/part-* > /dev/null 2>&1; do sleep 0.2; done
        cat /dev/zero > sweeps/filler 2> /dev/null
        sleep 30
        df sweeps; rm sweeps/filler
        wait $driver; code=$?
        cp -r sweeps copy
        exit $code
    """
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("needs unshare, for a small disk of its own")
    process = subprocess.run(
        [unshare, "-rm", "bash", "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    if process.returncode == 77 or "unshare:" in process.stderr:
        pytest.skip(f"no mount namespace here: {process.stderr.strip()}")
    assert process.returncode == 0, process.stdout + process.stderr
    assert "100%" in process.stdout
    sweep.folder = tmp_path / "copy" / "faulty"
    rows = sweep.check_ledger(4)
    assert "No space left" not in process.stderr
    completed = set(rows[rows.outcome == "completed"].index)
    assert {path.parent.name for path in sweep.folder.glob("checkpoints/*/*.pt")} == completed
    assert len(list(sweep.folder.glob("checkpoints/*/weights.pt"))) == len(completed)
    assert "without weights" not in process.stdout


@pytest.mark.very_slow
def test_strange_files_are_left_aside(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, search={"trials": 4}, **SLOW)
    process = sweep.start("sweep", "spec.yaml")
    wait_for(lambda: len(list(sweep.folder.glob("epochs/part-*.parquet"))) >= 1, process)
    wait_for(lambda: bool(list(sweep.folder.glob("checkpoints/*/state.pt"))), process)
    kill_session(process)
    for checkpoint in sweep.folder.glob("checkpoints/*/state.pt"):
        os.truncate(checkpoint, 100)
    (sweep.folder / "notes.txt").write_text("mine")
    (sweep.folder / "epochs" / "part-zz.parquet").write_bytes(b"PAR1 and no more")
    (sweep.folder / "trials").mkdir(exist_ok=True)
    (sweep.folder / "trials" / "strange.csv").write_text("a,b")
    output = sweep.run("resume", "faulty")
    assert "part-zz.parquet is left aside" in output
    assert "damaged epochs are set aside: " in output
    assert (sweep.folder / "notes.txt").read_text() == "mine"
    aside = sweep.folder / "set-aside" / "epochs" / "part-zz.parquet.1"
    assert aside.read_bytes() == b"PAR1 and no more"
    (sweep.folder / "trials" / "strange.csv").unlink()
    sweep.check_ledger(4)


@pytest.mark.very_slow
def test_a_sweep_of_an_older_version_goes_on_from_its_ledger(tmp_path: Path) -> None:
    """Version 2 of the schema had no column `searcher`; beside it lay a journal."""
    sweep = Sweep(tmp_path, search={"trials": 6}, **SLOW)
    process = sweep.start("sweep", "spec.yaml")
    wait_for(lambda: _ended(sweep) >= 2, process)
    kill_session(process)
    before = sweep.table("trials").set_index("trial_id")
    before = before[before.outcome.isin(["completed", "stopped"])]
    for part in sweep.folder.glob("trials/part-*.parquet"):
        older = pq.read_table(part).drop_columns(["searcher"])
        metadata = {**older.schema.metadata, b"rts_version": b"2"}
        pq.write_table(older.replace_schema_metadata(metadata), part)
    (sweep.folder / "optuna.journal").write_text('{"op_code":')
    sweep.run("resume", "faulty")
    after = sweep.check_ledger(6)
    assert (after.ended[before.index] == before.ended).all()
    assert (after.params[before.index] == before.params).all()


@in_fault_suite
def test_when_ray_is_killed_the_sweep_can_go_on(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, search={"trials": 4}, **SLOW)
    process = sweep.start("sweep", "spec.yaml")
    wait_for(lambda: _ended(sweep) >= 1, process)
    for child in psutil.Process(process.pid).children(recursive=True):
        if child.name() in ("raylet", "gcs_server"):
            child.send_signal(signal.SIGKILL)
    try:
        output, _ = process.communicate(timeout=90)
    except subprocess.TimeoutExpired:
        pytest.fail("the driver hangs")
    assert process.returncode != 0
    assert "Traceback" not in output
    assert "rts-search resume faulty" in output
    kill_session(process)
    sweep.run("resume", "faulty")
    sweep.check_ledger(4)


def _ended(sweep: Sweep) -> int:
    if not list(sweep.folder.glob("trials/part-*.parquet")):
        return 0
    rows = sweep.table("trials")
    return int(rows[rows.number.notna()].outcome.isin(["completed", "stopped"]).sum())
