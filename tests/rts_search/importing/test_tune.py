"""Ray Tune's experiments, of which no pickle is opened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rts_search.cli.calling import cli
from tests.rts_search.importing.imports import run_import, trials

COLUMN = ("--column", "val_accuracy=eval/acc")
EXPERIMENT = """
import ray
from ray import tune

def train(config):
    for epoch in range(4 if config["lr"] < 0.4 else 2):
        tune.report({"eval": {"acc": 0.5 + 0.1 * epoch * config["lr"]}, "train_loss": 1.0})
    if config["lr"] > 0.8:
        raise RuntimeError("theirs")

ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
tune.Tuner(
    train,
    param_space={"lr": tune.grid_search([0.1, 0.3, 0.5, 0.9]), "model": {"width": 8}},
    run_config=tune.RunConfig(name="exp", storage_path=PATH, verbose=0),
).fit()
"""


def test_what_tune_writes(tmp_path: Path) -> None:
    folder = tmp_path / "exp"
    trap = tmp_path / "opened"
    for number, lr in enumerate((0.1, 0.5)):
        trial = folder / f"train_{number}"
        trial.mkdir(parents=True)
        (trial / "params.json").write_text(json.dumps({"lr": lr, "layers": [8, 8]}))
        rows = [
            {"trial_id": f"x_{number}", "training_iteration": i, "timestamp": 1795740034}
            | {"eval": {"acc": 0.5 + i / 100}, "time_this_iter_s": 2.0}
            for i in (1, 2, 3)[: 3 - number]
        ]
        lines = [json.dumps(row) for row in rows]
        lines += ['{"training_iteration": 4, "ev'] if number == 0 else []  # killed as it wrote
        (trial / "result.json").write_text("\n".join(lines))
        (trial / "params.pkl").write_bytes(b"cos\nsystem\n(S'touch %s'\ntR." % os.fsencode(trap))
    (folder / "theirs").mkdir()
    (folder / "theirs" / "result.json").write_text('{"accuracy": 3}')
    done = run_import(tmp_path, folder, *COLUMN)
    assert done.code == 1  # with what is no trial named, and all others imported
    assert f"not imported: {folder}/theirs/result.json: no result of Ray Tune" in done.err
    whole, stopped = trials(tmp_path).values()
    assert (whole.trial_id, whole.params) == ("x_0", {"lr": 0.1, "layers": "[8, 8]"})
    assert (whole.row["outcome"], whole.row["final_val_accuracy"]) == ("completed", 0.53)
    assert (stopped.row["outcome"], stopped.row["stopped_epoch"]) == ("stopped", 2)
    assert whole.row["epoch_seconds"] == 6
    assert whole.row["source"] == str(folder / "train_0" / "result.json")
    assert not trap.exists()


@pytest.mark.slow
def test_a_real_experiment(tmp_path: Path) -> None:
    code = EXPERIMENT.replace("PATH", repr(str(tmp_path)))
    # as theirs, whatever a sweep in this process has set for Ray
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "TUNE_"))}
    command = [sys.executable, "-c", code]
    subprocess.run(command, check=True, capture_output=True, timeout=240, env=plain)
    done = run_import(tmp_path / "sweeps", tmp_path / "exp", *COLUMN)
    assert (done.code, done.err) == (0, "")
    found = sorted(trials(tmp_path / "sweeps").values(), key=lambda trial: trial.params["lr"])
    assert [trial.params["lr"] for trial in found] == [0.1, 0.3, 0.5, 0.9]
    assert [trial.row["outcome"] for trial in found] == ["completed"] * 2 + ["stopped", "failed"]
    assert found[3].row["message"] == "RuntimeError: theirs"
    assert found[1].row["final_val_accuracy"] == pytest.approx(0.59)
    assert found[0].params["model/width"] == 8
    assert [row["train_loss"] for row in found[0].epochs] == [1.0] * 4
    best = cli("best", "old", "--storage", tmp_path / "sweeps").out
    assert best.startswith(f"{found[1].trial_id} is the best of 2 trials")
