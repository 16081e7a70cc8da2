"""Whole sweeps with real Ray, Optuna and Parquet: what lands, and what survives."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from results.database import query
from results.storage import SweepFolder
from tests.sweeps.harness import Sweep, kill_session, wait_for

pytestmark = pytest.mark.slow

SLOW = {
    "data": {"train_size": None},
    "model": {"name": "cnn", "args": {"width": 16}},
    "train": {"epochs": 27},
    "search": {"trials": 6},
    "stop": {"first_rung": 3},
}

FAULTY_SPACE = '''
"""A user's own space and model: trials that raise, diverge, are killed, or just train."""
import os, signal
from pathlib import Path
import torch
from torch import nn

HERE = Path(__file__).parent
KINDS = ("fine", "raises", "diverges", "killed")

def space(trial):
    kind = trial.suggest_categorical("kind", KINDS)
    return {"model": {"name": "faulty_user:model", "args": {"kind": kind, "number": trial.number}}}

class Faulty(nn.Module):
    def __init__(self, kind, number, shape, classes):
        super().__init__()
        self.kind, self.number, self.evaluations = kind, number, 0
        self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))
        self.layers(torch.zeros(1, *shape))

    def eval(self):
        self.evaluations += 1
        with open(HERE / f"evaluations-{self.number}", "a") as log:
            log.write(f"{os.getpid()}\\n")
        return super().eval()

    def forward(self, x):
        if self.evaluations >= 3:
            if self.kind == "raises":
                raise RuntimeError("the user's model broke")
            marker = HERE / f"killed-{self.number}"
            if self.kind == "killed" and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        y = self.layers(x)
        return y * float("nan") if self.kind == "diverges" and self.evaluations >= 2 else y

def model(num_classes, image_shape, kind="fine", number=0):
    return Faulty(kind, number, image_shape, num_classes)
'''


def test_a_sweep_from_the_command_line(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, space="radius", loggers=["tensorboard"], search={"trials": 8})
    output = sweep.run("sweep", "spec.yaml")
    rows = sweep.check_ledger(8)
    assert {"sgd", "sgd-2x", "pugd"} <= set(rows.index)
    controls = rows[rows.control.notna()]
    assert (controls.outcome == "completed").all()
    assert dict(controls.total_epochs) == {"sgd": 9, "pugd": 9, "sgd-2x": 18}
    assert controls.gradient_evaluations["pugd"] == controls.gradient_evaluations["sgd-2x"]
    stopped = rows[rows.outcome == "stopped"]
    assert len(stopped)
    assert (stopped.stopped_rung == stopped.rung).all()
    assert set(stopped.stopped_rung) <= {0, 1}
    assert set(stopped.stopped_epoch) <= {1, 3}
    assert set(rows.rungs.dropna()) == {3}

    # the weights of the top two are kept, and of two controls, and no other checkpoint
    searched = rows[rows.control.isna() & (rows.outcome == "completed")]
    top = searched.sort_values("final_val_accuracy").index[-2:]
    kept = {path.parent.name for path in sweep.folder.glob("checkpoints/*/weights.pt")}
    assert len(kept & set(controls.index)) == 2
    kept -= set(controls.index)
    assert len(kept) == min(2, len(searched))
    assert searched.final_val_accuracy[list(kept)].min() >= searched.final_val_accuracy[top].min()
    assert not list(sweep.folder.glob("checkpoints/*/state.pt"))

    # the sampler knows every trial but the controls, and each as what it was
    states = {"completed": "COMPLETE", "stopped": "PRUNED"}
    bad = dict.fromkeys(("diverged", "collapsed"), "PRUNED")  # without a step: the worst
    known = sweep.searcher()
    for number, (state, params, _, steps) in enumerate(known):
        row = rows.loc[f"t{number:04d}"]
        assert state == (states | bad).get(row.outcome, "FAIL")
        reached = (int(row.rung) + 1) * (row.outcome in states)
        assert sorted(steps) == [1, 3, 9][:reached]  # each rung's T
        assert params == json.loads(row.params)
    assert len(known) == 8

    # none of Tune's own writers, but the tracker that was asked for
    assert not list(tmp_path.rglob("progress.csv")) + list(tmp_path.rglob("result.json"))
    assert len(events := list(sweep.folder.glob("tensorboard/*/events*"))) == 11
    assert all(b"ray/tune/metrics/val_accuracy" in file.read_bytes() for file in events)
    assert "best" in output.lower() or "trial" in output
    assert "dashboard http" in output

    # asked for by name again: refused; without: it gets a number
    assert "rts-search resume faulty" in sweep.run(
        "sweep", "spec.yaml", "--name", "faulty", "--dry-run", code=2
    )
    assert "name: faulty-2" in sweep.run("sweep", "spec.yaml", "--dry-run")


def test_failing_trials_never_end_the_sweep(tmp_path: Path) -> None:
    (tmp_path / "faulty_user.py").write_text(FAULTY_SPACE, "utf-8")
    points = [{"kind": kind} for kind in ("fine", "raises", "diverges", "killed")]
    sweep = Sweep(
        tmp_path,
        space="faulty_user:space",
        train={"epochs": 6},
        search={"trials": 4, "start_from": points},
        stop={"policy": "none"},
        resources={"retries": 1},
    )
    sweep.run("sweep", "spec.yaml")
    rows = sweep.check_ledger(4)
    kinds = {json.loads(row.params)["kind"]: row for row in rows.itertuples() if row.params != "{}"}
    assert kinds["fine"].outcome == "completed"
    assert kinds["raises"].outcome == "failed"
    assert "the user's model broke" in kinds["raises"].message
    assert 'faulty_user.py", line ' in kinds["raises"].traceback
    assert kinds["raises"].retries == 1
    assert kinds["diverges"].outcome == "diverged"
    assert "nan" in kinds["diverges"].message
    # killed in epoch 2, it went on from the checkpoint of epoch 1 and did not train that again
    assert kinds["killed"].outcome == "completed"
    assert kinds["killed"].retries == 1
    assert (tmp_path / "killed-3").exists()
    fine = (tmp_path / "evaluations-0").read_text("utf-8").split()
    first, second = Counter((tmp_path / "evaluations-3").read_text("utf-8").split()).values()
    assert first == 3  # when the model was built, after epoch 1, and in epoch 2
    assert second == len(fine) - 1


def test_interrupted_and_resumed(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, **SLOW | {"search": {"trials": 4, "controls": False}})
    process = sweep.start("sweep", "spec.yaml")
    wait_for(lambda: len(list(sweep.folder.glob("epochs/part-*.parquet"))) >= 2, process)
    os.killpg(process.pid, signal.SIGINT)  # to the whole group, as a terminal's Ctrl-C does
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "rts-search resume faulty" in output
    before = sweep.table("trials")
    assert (before.outcome == "interrupted").any()
    assert not (before.outcome == "running").any()
    ended = before[~before.outcome.isin(["interrupted"])].set_index("trial_id")

    output = sweep.run("resume", "faulty", python=("-X", "importtime"))
    after = sweep.check_ledger(4, controls=0)
    assert (after.ended[ended.index] == ended.ended).all()  # no finished trial ran again
    imported = set(re.findall(r"^import time:.*\| +(\w+)$", output, re.MULTILINE))
    assert {"ray", "optuna", "torch", "torchvision"} & imported == {"ray", "optuna"}


@pytest.mark.very_slow
def test_a_sweep_that_is_refused_has_not_begun(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, search={"trials": 1, "controls": False})
    told = sweep.run("sweep", "spec.yaml", "--set", "resources.cpu=64", code=2)
    assert "rts-search: a trial asks for 64 CPU and 0 GPU, but Ray has" in told
    assert "no sweeps in" in sweep.run("list")
    sweep.run("sweep", "spec.yaml")  # under the same name, with the value corrected
    assert list(sweep.table("trials").trial_id) == ["t0000"]


@pytest.mark.very_slow
def test_a_killed_driver_loses_nothing(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, **SLOW)
    process = sweep.start("sweep", "spec.yaml")
    wait_for(lambda: len(list(sweep.folder.glob("epochs/part-*.parquet"))) >= 2, process)
    assert "has a driver already" in sweep.run("resume", "faulty", code=2)
    kill_session(process)
    before = sweep.table("trials")
    ended = before[before.outcome != "running"].set_index("trial_id")
    assert len(ended) < 9

    sweep.run("resume", "faulty")
    after = sweep.check_ledger(6)
    assert (after.ended[ended.index] == ended.ended).all()


@pytest.mark.very_slow
def test_joins_a_running_cluster(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray = Path(sys.executable).with_name("ray")
    command = [ray, "start", "--head", "--block", f"--port={port}", "--num-cpus=2"]
    # a temporary folder with a short path: sockets live there
    with tempfile.TemporaryDirectory(prefix="ray") as scratch, open(tmp_path / "head", "w") as log:
        command += ["--include-dashboard=false", f"--temp-dir={scratch}"]
        head = subprocess.Popen(command, start_new_session=True, stdout=log, stderr=log)
        try:
            wait_for(lambda: "Ray runtime started" in (tmp_path / "head").read_text("utf-8"), head)
            sweep = Sweep(tmp_path, search={"trials": 2})
            sweep.run("sweep", "spec.yaml", "--address", f"127.0.0.1:{port}")
            sweep.check_ledger(2)
            assert head.poll() is None  # the cluster outlives the sweep
        finally:
            kill_session(head)


def test_an_address_without_ray_is_one_line(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    output = sweep.run("sweep", "spec.yaml", "--address", "127.0.0.1:1", code=2)
    first, error = output.splitlines()
    assert first.startswith("sweep faulty: checks the spec")
    assert "127.0.0.1:1" in error
    output = sweep.run("sweep", "spec.yaml", "--address", "http://127.0.0.1:1", code=2)
    assert "is a dashboard's address: hand a sweep in there with rts-search submit" in output


def test_a_sweep_on_an_object_store(tmp_path: Path, s3_storage: str) -> None:
    sweep = Sweep(tmp_path, storage=s3_storage, search={"trials": 2})
    sweep.run("sweep", "spec.yaml")
    trials = query(s3_storage, "SELECT trial_id, outcome, epochs FROM trials").to_pylist()
    assert len(trials) == 5
    assert query(s3_storage, "SELECT count(*) AS n FROM epochs")["n"][0].as_py() == sum(
        trial["epochs"] for trial in trials
    )
    files = SweepFolder(s3_storage, "faulty")
    assert files.exists("spec.yaml")
    assert files.files() == ["spec.yaml"]  # the ledger is the only memory
    assert all(files.exists(f"checkpoints/{t}/weights.pt") for t in files.list("checkpoints"))
    resumed = sweep.run("resume", "faulty", "--storage", s3_storage)
    assert "nothing left to do" in resumed
    assert not (tmp_path / "sweeps").exists()

    # begun anew, it knows nothing of the trials before
    sweep.run("sweep", "spec.yaml", "--overwrite")
    assert query(s3_storage, "SELECT max(number) AS n FROM trials")["n"][0].as_py() == 1


@pytest.mark.very_slow
def test_a_killed_driver_is_followed_by_one_on_another_machine(
    tmp_path: Path, s3_storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTS_SEARCH_CACHE", str(tmp_path / "first"))
    sweep = Sweep(tmp_path, storage=s3_storage, **SLOW)
    process = sweep.start("sweep", "spec.yaml")
    ended = "SELECT trial_id, ended, params FROM trials WHERE outcome IN ('completed', 'stopped')"
    files = SweepFolder(s3_storage, "faulty")
    wait_for(lambda: files.exists("trials") and query(s3_storage, ended).num_rows > 1, process)
    kill_session(process)
    before = query(s3_storage, ended).to_pylist()

    monkeypatch.setenv("RTS_SEARCH_CACHE", str(tmp_path / "second"))  # no data here
    sweep.run("resume", "faulty", "--storage", s3_storage)
    after = query(s3_storage, "SELECT trial_id, ended, params FROM trials").to_pylist()
    assert len(after) == 9
    assert all(row in after for row in before)  # no finished trial ran again
    counted = query(
        s3_storage,
        "SELECT count(*) AS rows, count(DISTINCT (trial_id, rung, epoch)) AS epochs FROM epochs",
    ).to_pylist()[0]
    assert counted["rows"] == counted["epochs"]
    total = query(s3_storage, "SELECT sum(epochs) AS epochs FROM trials")["epochs"][0].as_py()
    assert counted["epochs"] == total
