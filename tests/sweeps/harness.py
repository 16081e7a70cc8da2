"""Real sweeps for the fault tests: run as a user does, in a process of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from results.storage import SweepFolder
from results.trials import read_trials
from rts_search.search.plan import open_study
from rts_search.spec.folder import read_spec

ROOT = Path(__file__).parents[2]
SPEC: dict[str, Any] = {
    "name": "faulty",
    "data": {"name": "digits", "train_size": 400, "validation_fraction": 0.25},
    "model": {"name": "mlp", "args": {"width": 32}},
    "train": {"epochs": 9, "batch_size": 50},
    "space": "switch",  # all fire: what is trained does not hang on how far the trunk is
    "search": {"trials": 6, "controls": True},
    "stop": {"policy": "asha", "fidelity": "schedule", "first_rung": 1, "eta": 3},
    "checkpoint": {"every_seconds": 0, "keep_top": 2},
}

# Of an epoch, all but what a clock says; of a trial, all but that and what counts restarts.
EPOCH_COLUMNS = ["rung", "epoch", "total_epochs", "lr", "train_loss", "val_loss", "val_accuracy"]
EPOCH_COLUMNS += ["radius", "scale", "perturbing", "trigger_epoch", "gradient_evaluations"]
TRIAL_COLUMNS = ["params", "outcome", "epochs", "gradient_evaluations", "rung", "stopped_rung"]
TRIAL_COLUMNS += ["final_val_accuracy", "test_accuracy", "audited", "lost_rung", "config_json"]

STARTED: list[subprocess.Popen[str]] = []


class Sweep:
    """A sweep in a folder of its own, driven through the command line."""

    def __init__(self, home: Path, **changes: Any) -> None:
        self.home = home
        content = json.loads(json.dumps(SPEC))
        for key, value in changes.items():
            content[key] = {**content.get(key, {}), **value} if isinstance(value, dict) else value
        (home / "spec.yaml").write_text(yaml.safe_dump(content), "utf-8")
        self.folder = home / "sweeps" / content["name"]
        self.name = content["name"]

    def start(self, *arguments: str, python: Sequence[str] = ()) -> subprocess.Popen[str]:
        """Start the command in a session of its own, so that it can be killed with its children;
        `python` are options of the interpreter."""
        command = [sys.executable, *python, "-m", "rts_search.cli", *arguments]
        environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{self.home}"}
        process = subprocess.Popen(
            command,
            cwd=self.home,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        STARTED.append(process)
        return process

    def run(self, *arguments: str, code: int = 0, python: Sequence[str] = ()) -> str:
        """Run the command to its end; its output."""
        process = self.start(*arguments, python=python)
        output, _ = process.communicate(timeout=240)
        assert process.returncode == code, output
        return output

    def table(self, name: str) -> pd.DataFrame:
        """As any user's pandas reads it: raw, with no help of ours."""
        return pd.read_parquet(self.folder / name)

    def searcher(self) -> list[tuple[str, dict[str, Any], Any, dict[int, float]]]:
        """What the search knows of its trials: state, parameters, values, steps."""
        folder = SweepFolder(self.folder.parent, self.name)
        study, _ = open_study(read_spec(folder), read_trials(folder))
        return [(t.state.name, t.params, t.values, t.intermediate_values) for t in study.trials()]

    def checkpoints(self) -> list[str]:
        """Of which trials what is kept."""
        found = self.folder.rglob("checkpoints/**/*.pt")
        return sorted(str(path.relative_to(self.folder)) for path in found)

    def check_ledger(self, trials: int, controls: int = 3) -> pd.DataFrame:
        """The invariants of every sweep that has ended; returns its trials by trial_id."""
        return check_tables(self.table("trials"), self.table("epochs"), trials, controls)


def check_tables(
    rows: pd.DataFrame, epochs: pd.DataFrame, trials: int, controls: int = 3
) -> pd.DataFrame:
    """No trial is missing or unfinished, no epoch is missing or doubled; the trials by id."""
    assert len(rows) == rows.trial_id.nunique() == trials + controls
    assert rows.number.dropna().nunique() == trials
    assert not rows.outcome.isin(["running", "interrupted"]).any()
    assert not epochs.duplicated(["trial_id", "rung", "epoch"]).any()
    by_id = rows.set_index("trial_id")
    for (trial_id, rung), own in epochs.groupby(["trial_id", "rung"]):
        assert sorted(own.epoch) == list(range(1, len(own) + 1)), trial_id
        # a rung below the last is whole
        assert rung == by_id.rung[trial_id] or len(own) == own.total_epochs.iloc[0], trial_id
    counted = epochs.groupby("trial_id").size()
    assert (counted == by_id.epochs[counted.index]).all()
    completed = by_id[by_id.outcome == "completed"]
    assert (completed.epochs >= completed.total_epochs).all()
    assert completed.test_accuracy.notna().all()
    return by_id


def check_equal(sweep: Sweep, whole: Sweep, trials: int, controls: int = 3) -> None:
    """A sweep that was cut off, and went on to its end, equals one that was not."""
    sweep.check_ledger(trials, controls)
    for table, keys, columns in (
        ("trials", ["trial_id"], TRIAL_COLUMNS),
        ("epochs", ["trial_id", "rung", "epoch"], EPOCH_COLUMNS),
    ):
        found, expected = (
            each.table(table).sort_values(keys).set_index("trial_id")[columns]
            for each in (sweep, whole)
        )
        pd.testing.assert_frame_equal(found, expected)
    assert sweep.searcher() == whole.searcher()
    assert sweep.checkpoints() == whole.checkpoints()


def wait_for(
    condition: Callable[[], bool], process: subprocess.Popen[str], limit: float = 90
) -> None:
    """Poll until the condition holds, while the process lives."""
    deadline = time.monotonic() + limit
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def kill_session(process: subprocess.Popen[str]) -> None:
    """SIGKILL for the driver; then for what it leaves behind, Ray's processes included."""
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
