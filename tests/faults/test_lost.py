"""Drivers whose folder goes, whose storage fails for good, or that are told to end as they wait."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.rts_search.cli.calling import CONFIG, cli
from tests.sweeps.harness import ROOT, Sweep, wait_for

LONG: dict[str, Any] = {
    "train": {"epochs": 20_000},
    "search": {"trials": 2, "controls": False},
    "stop": {"policy": "none"},
}
GONE = " is gone: the sweep was deleted or moved while this driver ran"


def lose(sweep: Sweep, how: str) -> None:
    if how == "renamed":
        sweep.folder.rename(sweep.folder.with_name("moved"))
    while sweep.folder.exists():  # workers may write into it while it is deleted
        shutil.rmtree(sweep.folder, ignore_errors=True)


def ended(process: subprocess.Popen[str], seconds: float) -> str:
    """What a driver says that ends within so many seconds."""
    try:
        return process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        pytest.fail(f"it has not ended within {seconds:g} s")


@pytest.mark.very_slow
@pytest.mark.slow
def test_a_signal_to_ray_as_well_ends_the_sweep_in_seconds(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, **LONG)
    process = sweep.start("sweep", "spec.yaml")
    wait_for(lambda: bool(list(sweep.folder.glob("checkpoints/*/state.pt"))), process)
    wait_for(lambda: bool(list(sweep.folder.glob("epochs/part-*"))), process)
    os.killpg(process.pid, signal.SIGTERM)
    said = ended(process, 45)  # Ray itself gives up after 60
    assert process.returncode == 130, said
    assert "interrupted by SIGTERM, and Ray with it: the ledger is kept; go on with: " in said
    assert "Traceback" not in said
    assert not sweep.table("epochs").duplicated(["trial_id", "rung", "epoch"]).any()
    assert "rts-search resume" in sweep.run("status", sweep.name)


@pytest.mark.very_slow
@pytest.mark.slow
@pytest.mark.parametrize("how", ["deleted", pytest.param("renamed", marks=pytest.mark.very_slow)])
def test_a_sweep_whose_folder_goes_ends_and_leaves_nothing(tmp_path: Path, how: str) -> None:
    sweep = Sweep(tmp_path, **LONG)  # whose workers write a checkpoint an epoch
    process = sweep.start("sweep", "spec.yaml")
    wait_for(lambda: bool(list(sweep.folder.glob("checkpoints/*/state.pt"))), process)
    wait_for(lambda: bool(list(sweep.folder.glob("epochs/part-*"))), process)
    lose(sweep, how)
    said = ended(process, 30)
    assert process.returncode == 2, said
    assert GONE in said
    assert "Traceback" not in said
    time.sleep(2)
    assert [path.name for path in (tmp_path / "sweeps").iterdir()] == (
        ["moved"] if how == "renamed" else []
    )


def begin_training(sweep: Sweep) -> subprocess.Popen[str]:
    """A single run that takes its time, once its epochs are in the ledger."""
    (sweep.home / "config.yaml").write_text(CONFIG)
    sweep.folder = sweep.home / "sweeps" / "train"
    # an epoch takes its time: nobody reads the lines, of which a pipe takes some hundreds
    slowly = ("--set", "train.epochs=100000", "--set", "train.batch_size=2")
    process = sweep.start("train", "config.yaml", *slowly)
    wait_for(lambda: bool(list(sweep.folder.glob("epochs/part-*"))), process)
    return process


@pytest.mark.very_slow
@pytest.mark.slow
@pytest.mark.parametrize("how", ["deleted", pytest.param("renamed", marks=pytest.mark.very_slow)])
def test_a_single_run_whose_folder_goes_ends_and_leaves_nothing(tmp_path: Path, how: str) -> None:
    sweep = Sweep(tmp_path)
    process = begin_training(sweep)
    lose(sweep, how)
    said = ended(process, 20)
    assert process.returncode == 2, said
    assert GONE in said
    assert not sweep.folder.exists()


@pytest.mark.very_slow
@pytest.mark.slow
def test_a_single_run_that_is_killed_is_not_said_to_run(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    process = begin_training(sweep)
    process.kill()
    process.wait()
    gone, at = "train: driver gone; a single run does not go on: train it again", ("--storage",)
    at += (str(tmp_path / "sweeps"),)
    for verb in (("list",), ("status", "train"), ("show", "train/run0000")):
        assert gone in " ".join(cli(*verb, *at).out.split())
        assert '"running"' not in (document := cli(*verb, *at, "--json").out)
        assert verb == ("list",) or json.loads(document)["gone"] == gone
    # as it would be found where neither its lock nor its process can be looked at
    file = sweep.folder / "control" / "driver.json"
    row = json.loads(file.read_text()) | {"host": "elsewhere", "heard": time.time() - 50}
    file.write_text(json.dumps(row))
    assert "driver gone" not in cli("list", *at).out
    file.write_text(json.dumps(row | {"heard": time.time() - 61}))
    assert gone in cli("list", *at).out

    said = sweep.run("train", "config.yaml")
    assert "run0000: its process was lost after" in said
    rows = sweep.table("trials").set_index("trial_id")
    assert dict(rows.outcome) == {"run0000": "failed", "run0001": "completed"}
    counted = sweep.table("epochs").groupby("trial_id").size()
    assert rows.epochs["run0000"] == counted["run0000"] > 0
    assert "driver gone" not in cli("list", *at).out


@pytest.mark.slow
def test_a_single_run_that_is_terminated_ends_in_order(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    process = begin_training(sweep)
    process.terminate()
    ended(process, 20)
    assert process.returncode == 130
    (row,) = sweep.table("trials").to_dict("records")
    assert (row["outcome"], row["message"]) == ("user_stopped", "interrupted by SIGTERM")
    assert row["epochs"] == len(sweep.table("epochs"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.very_slow)]
)
def test_a_signal_while_ray_starts_ends_the_sweep_and_ray(tmp_path: Path, number: int) -> None:
    sweep = Sweep(tmp_path, **LONG)
    process = sweep.start("sweep", "spec.yaml")

    def ray() -> list[psutil.Process]:
        children = psutil.Process(process.pid).children(recursive=True)
        return [child for child in children if child.name() in ("gcs_server", "raylet")]

    wait_for(lambda: bool(ray()), process)
    started = ray()
    process.send_signal(number)
    said = ended(process, 30)
    assert process.returncode == 130, said
    assert f"interrupted by {signal.Signals(number).name}: everything so far is kept" in said
    assert "Traceback" not in said
    assert not [child for child in psutil.wait_procs(started, 10)[1] if child.is_running()]


def on_a_small_disk(script: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run it in a mount namespace of its own."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("needs unshare, for a small disk of its own")
    here = {key: value for key, value in os.environ.items() if key != "RAY_TMPDIR"}  # other tests'
    done = subprocess.run(
        [unshare, "-rm", "bash", "-c", script],
        cwd=home,
        env=here | {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT)} | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode == 77 or "unshare:" in done.stderr:
        pytest.skip(f"no mount namespace here: {done.stderr.strip()}")
    return done


FULL = """
    mount -t tmpfs -o size=2m tmpfs sweeps || exit 77
    "$PYTHON" -m rts_search.cli sweep spec.yaml > said 2>&1 & driver=$!
    until [ -e sweeps/faulty/spec.yaml ]; do sleep 0.1; done
    cat /dev/zero > sweeps/filler 2> /dev/null
    if [ "$SIGNAL" ]; then
        until grep -q "ledger" said; do sleep 0.2; done
        sleep 8  # until Tune asks for the first trial
        kill -s "$SIGNAL" $driver
    fi
    date +%s > began; wait $driver; echo $? > code; date +%s > ended
"""


@pytest.mark.slow
@pytest.mark.very_slow
@pytest.mark.parametrize(("number", "least", "most"), [("TERM", 0, 15), ("", 100, 170)])
def test_a_full_disk_while_no_trial_runs_ends_the_sweep(
    tmp_path: Path, number: str, least: float, most: float
) -> None:
    """At once if it is told to end, else after two minutes."""
    Sweep(tmp_path, **LONG)
    (tmp_path / "sweeps").mkdir()
    on_a_small_disk(FULL, tmp_path, SIGNAL=number)
    said = (tmp_path / "said").read_text()
    assert (tmp_path / "code").read_text() == "130\n", said
    began, end = (int((tmp_path / name).read_text()) for name in ("began", "ended"))
    assert least <= end - began <= most, said
    assert "cannot be written: " in said
    assert ("interrupted by SIGTERM" in said) is bool(number)
    assert "rts-search resume faulty" in said


FULL_TMP = """
    mount -t tmpfs -o size=3m tmpfs tmp || exit 77
    cat /dev/zero > tmp/filler 2> /dev/null
    TMPDIR=$PWD/tmp "$PYTHON" -m rts_search.cli sweep spec.yaml
    echo "code $?"; ls sweeps
"""


def test_a_full_folder_for_temporary_files_is_told_before_ray_starts(tmp_path: Path) -> None:
    Sweep(tmp_path)
    (tmp_path / "tmp").mkdir()
    began = time.monotonic()
    done = on_a_small_disk(FULL_TMP, tmp_path)
    assert time.monotonic() - began < 45  # of which it waits none
    (line,) = done.stderr.splitlines()[:1]
    assert line.startswith(f"rts-search: {tmp_path}/tmp has no room for Ray's session (No space")
    assert "0 MB are free, 20 MB needed" in line
    assert "RAY_TMPDIR=" in line
    assert done.stdout == "code 2\n"  # and no sweep was begun
