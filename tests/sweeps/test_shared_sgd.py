"""A sweep whose trials share their plain SGD has the ledger of one whose trials do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.sweeps.harness import Sweep, kill_session, wait_for

pytestmark = pytest.mark.slow
COSTS = {
    "sweep",
    "train_seconds",
    "eval_seconds",
    "epoch_seconds",
    "images_per_second",
    "time",
    "shared",
}
SPENT = {"spent_epochs", "spent_gradient_evaluations", "spent_seconds"}
TIMES = {"started", "ended", "updated", "retries", "searcher", *SPENT, *COSTS}
SPEC: dict[str, Any] = {
    "space": "rts",
    "search": {"sampler": "random", "trials": 8, "seed": 1},
    "stop": {"policy": "none"},
    "checkpoint": {"every_seconds": 0, "keep_top": 2},
}


def by_epoch(sweep: Sweep) -> pd.DataFrame:
    return sweep.table("epochs").set_index(["trial_id", "rung", "epoch"]).sort_index()


def check_same(shared: Sweep, alone: Sweep) -> None:
    """All that the shared sweep has is as without sharing; what it lacks was never perturbed."""
    ours, theirs = shared.table("trials"), alone.table("trials")
    ours, theirs = ours.set_index("trial_id"), theirs.set_index("trial_id")
    common = ours.index.intersection(theirs.index)
    assert len(common) > 6
    lacking = theirs.loc[theirs.index.difference(ours.index)]
    assert lacking.trigger_epoch.isna().all()
    kept = [c for c in ours.columns if c not in TIMES]
    pd.testing.assert_frame_equal(ours.loc[common, kept], theirs.loc[common, kept])
    epochs, others = by_epoch(shared), by_epoch(alone)
    assert epochs.index.is_unique
    kept = [c for c in epochs.columns if c not in COSTS]
    rows = [row for row in epochs.index if row[0] in common]
    pd.testing.assert_frame_equal(epochs.loc[rows, kept], others.loc[rows, kept])
    assert not others.shared.any()
    (fired,) = ours.loc[["t0000"], "trigger_epoch"]
    assert fired > 1
    own = epochs[~epochs.shared].groupby("trial_id").size()
    assert (own.reindex(ours.index, fill_value=0) == ours.spent_epochs).all()


def unshared(folder: Path) -> Sweep:
    folder.mkdir()
    alone = Sweep(folder, **SPEC | {"search": SPEC["search"] | {"share": False}})
    assert "SGD epochs are not shared: search.share false" in alone.run("sweep", "spec.yaml")
    return alone


def test_sharing_changes_cost_and_time_only(tmp_path: Path) -> None:
    alone, shared = unshared(tmp_path / "alone"), Sweep(tmp_path, **SPEC)
    said = shared.run("sweep", "spec.yaml")
    assert "SGD epochs before triggers fire are trained once" in said
    check_same(shared, alone)
    trials = shared.table("trials")
    assert trials.spent_gradient_evaluations.sum() < 0.95 * trials.gradient_evaluations.sum()
    assert "saved: " in said
    never = alone.table("trials").set_index("trial_id").drop(trials.trial_id, errors="ignore")
    if len(never):
        assert "proposals that are never perturbed" in said


@pytest.mark.very_slow
def test_so_it_does_when_the_driver_is_killed_while_the_trunk_grows(tmp_path: Path) -> None:
    alone, killed = unshared(tmp_path / "alone"), Sweep(tmp_path, **SPEC, name="killed")
    process = killed.start("sweep", "spec.yaml")
    wait_for(lambda: len(list(killed.folder.glob("trunks/*/at-*"))) > 4, process)
    kill_session(process)
    killed.run("resume", "killed")
    check_same(killed, alone)
