"""Confirms on real sweeps: killed and resumed, verified elsewhere, and a switch curve."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.sweeps.harness import Sweep, kill_session, wait_for

pytestmark = pytest.mark.slow
SPEC = {
    "data": {"name": "digits", "train_size": 200, "validation_fraction": 0.25, "test_size": 200},
    "model": {"name": "mlp", "args": {"width": 16}},
    "train": {"epochs": 4, "batch_size": 50},
    "search": {"trials": 3, "controls": {"families": ["sgd"]}, "sampler": "random"},
    "stop": {"policy": "none"},
}
# what a clock, or how far another run was, does not change
SAME = ["arm", "seed", "outcome", "test_accuracy", "test_hits", "gradient_evaluations", "claim"]


def claim_of(sweep: Sweep) -> Path:
    (found,) = (sweep.folder / "claims").glob("*.yaml")
    return found


def staged(sweep: Sweep, stage: str) -> pd.DataFrame:
    trials = sweep.table("trials")
    return trials[trials.stage == stage].sort_values("trial_id").set_index("trial_id")


def test_a_confirm_goes_on_after_a_kill(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, **SPEC, name="whole")
    assert "rts-search confirm whole" in sweep.run("sweep", "spec.yaml")
    process = sweep.start("confirm", "whole", "--looks", "2", "--top", "1")
    wait_for(lambda: len(list(sweep.folder.glob("claims/*.yaml"))) > 0, process)
    wait_for(lambda: len(staged(sweep, "confirm")) > 2, process)
    kill_session(process)
    assert "not decided yet; go on with: rts-search confirm whole" in sweep.run("status", "whole")
    claim = yaml.safe_load(claim_of(sweep).read_text())
    said = sweep.run("confirm", "whole")
    after = yaml.safe_load(claim_of(sweep).read_text())
    assert after["claim"] == claim["claim"]
    assert after["verdicts"]["headline"] in said.splitlines()
    runs = staged(sweep, "confirm")
    assert set(runs.claim) == {claim["id"]}
    assert len(runs) == after["verdicts"]["runs"] == 2 * 6
    assert set(runs.outcome) == {"completed"}
    assert not sweep.table("epochs").duplicated(["trial_id", "rung", "epoch"]).any()


@pytest.mark.very_slow
def test_a_confirm_that_is_killed_equals_one_that_is_not(tmp_path: Path) -> None:
    whole = Sweep(tmp_path, **SPEC, name="whole")
    said = whole.run("sweep", "spec.yaml")
    assert "rts-search confirm whole" in said
    found = whole.table("trials")
    (tmp_path / "killed").mkdir()
    killed = Sweep(tmp_path / "killed", **SPEC, name="whole")
    asked = ("confirm", "whole", "--looks", "2", "--top", "2", "--tune", "2")
    begun = ("confirm", "whole", "--looks", "2")
    shutil.copytree(whole.folder, killed.folder)
    process = killed.start(*asked)
    wait_for(lambda: len(list(killed.folder.glob("claims/*.yaml"))) > 0, process)
    wait_for(lambda: len(staged(killed, "confirm")) > 4, process)
    kill_session(process)
    assert "not decided yet; go on with: rts-search confirm whole" in killed.run("status", "whole")
    written = claim_of(killed).read_text("utf-8")

    # the search itself knows nothing of it
    assert "nothing left to do" in killed.run("resume", "whole")
    # the same claim, so that the same is trained, run by a driver that nobody kills
    shutil.copytree(killed.folder / "claims", whole.folder / "claims")
    ended = whole.run(*begun)
    again = killed.run(*begun)
    assert (
        claim_of(killed).read_text("utf-8").partition("verdicts:")[0]
        == (written.partition("verdicts:")[0])
    )
    ours, theirs = (yaml.safe_load(claim_of(each).read_text()) for each in (killed, whole))
    costs = ("decided", "spent_gradient_evaluations")
    for each in (ours, theirs):
        for name in costs:
            del each["verdicts"][name]
    assert ours == theirs
    assert ours["verdicts"]["headline"] in ended.splitlines()
    pd.testing.assert_frame_equal(staged(killed, "confirm")[SAME], staged(whole, "confirm")[SAME])
    epochs = killed.table("epochs")
    assert not epochs.duplicated(["trial_id", "rung", "epoch"]).any()
    # the search's own rows, and its weights, are as they were
    left = killed.table("trials")
    left = left[left.stage.isna()].set_index("trial_id").loc[found.trial_id]
    assert left.test_accuracy.tolist() == found.test_accuracy.tolist()
    assert killed.checkpoints() == [p for p in killed.checkpoints() if "/t0" in p or "/sgd" in p]
    tuned = staged(killed, "tune")
    assert set(tuned.arm) == {"sgd", "sgd-2x", "pugd", "sam", "asam"}
    # decided: it says so again, and trains nothing
    assert killed.run("confirm", "whole").splitlines()[-3:] == again.splitlines()[-3:]
    refused = killed.run("confirm", "whole", "--looks", "6", code=2)
    assert "was begun with blocks of seeds (2,), not (6,)" in refused


@pytest.mark.very_slow
def test_a_claim_is_verified_from_its_file_alone(tmp_path: Path) -> None:
    whole = Sweep(tmp_path, **SPEC, name="whole")
    whole.run("sweep", "spec.yaml")
    whole.run("confirm", "whole", "--looks", "5", "--top", "1")
    (tmp_path / "elsewhere").mkdir()
    other = Sweep(tmp_path / "elsewhere", **SPEC)
    shutil.copy(claim_of(whole), other.home / "claim.yaml")
    said = other.run("verify", "claim.yaml")
    assert "\nthe claim " in said
    (folder,) = (other.home / "sweeps").iterdir()
    rows = pd.read_parquet(folder / "trials")
    assert set(rows.stage) == {"verify"}
    assert not set(rows.seed) & {*staged(whole, "confirm").seed, 42}
    status = other.run("status", folder.name)
    assert f"claim {yaml.safe_load(next(folder.glob('claims/*')).read_text())['id']}" in status


@pytest.mark.very_slow
def test_a_switch_curve(tmp_path: Path) -> None:
    curve = Sweep(tmp_path, **SPEC, name="c")
    asked = ("switch-curve", "spec.yaml", "--points", "3", "--seeds", "2", "--plot", "c.svg")
    process = curve.start(*asked)
    folder = tmp_path / "sweeps" / "c-curve"
    wait_for(lambda: len(list(folder.glob("trials/*.parquet"))) > 0, process)
    kill_session(process)
    said = curve.run(*asked)
    assert "runs of SGD" in said.splitlines()[-1]
    assert (tmp_path / "c.svg").stat().st_size > 1000
    rows = pd.read_parquet(folder / "trials").set_index("trial_id")
    assert set(rows.outcome) == {"completed"}
    assert sorted(rows.arm.unique()) == ["at1", "at3", "at3-own", "at4", "at4-own", "sgd"]
    fired = rows[rows.arm.str.startswith("at")]
    assert (fired.trigger_epoch == fired.arm.str.extract(r"at(\d)", expand=False).astype(int)).all()
    found = json.loads(curve.run(*asked[:-2], "--json").splitlines()[-1])
    means = rows.groupby("arm").final_objective.mean()
    assert found["sgd"]["mean"] == pytest.approx(means["sgd"])
    points = {(p["first"], p["anneal"]): p["accuracy"]["mean"] for p in found["points"]}
    assert points[3, "own"] == pytest.approx(means["at3-own"])
    changed = curve.run(*asked, "--set", "train.lr=0.5", code=2)
    assert "has a curve of other settings" in changed
