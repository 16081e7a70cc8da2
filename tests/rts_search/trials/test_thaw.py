"""A stopped trial that is kept can go on, exempt from the stopper, whatever dies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from results.ledger import Ledger
from rts_search.spec.model import SweepSpec
from rts_search.spec.reading import parse
from rts_search.stopping.stopper import Look
from rts_search.trials.thaw import is_thawed, thaw
from tests.rts_search.trials.drivers import RUNGS, Driver, climb, result

FIDELITIES = ("schedule", "epoch")


def make_spec(tmp_path: Path, fidelity: str, keep: bool = True) -> SweepSpec:
    content = {
        "name": "s",
        "storage": str(tmp_path),
        "train": {"epochs": RUNGS[-1]},
        "search": {"trials": 4, "controls": False},
        "stop": {"fidelity": fidelity, "first_rung": 2, "audit": 0, "eta": 3},
        "checkpoint": {"keep_stopped": keep},
    }
    return parse(SweepSpec, content)


def rows_of(level: float, fidelity: str) -> list[dict[str, Any]]:
    if fidelity == "schedule":
        return climb(level)
    return [row | {"rung": 0} for row in climb(level) if row["rung"] == 1]


def stop_one(spec: SweepSpec) -> Driver:
    """The first trial ends well; the second is stopped at the first rung, of 2 epochs."""
    driver, fidelity = Driver(spec), spec.stop.fidelity
    for level, reported, outcome in ((0.9, None, "completed"), (0.1, 2, "running")):
        trial, rows = driver.begin(), rows_of(level, fidelity)
        driver.recorder.folder.write(f"checkpoints/{trial.trial_id}/state.pt", b"")
        driver.recorder.folder.write(f"checkpoints/{trial.trial_id}/weights.pt", b"")
        for row in rows[:reported]:
            look = Look(row["total_epochs"], row["epoch"], row["val_accuracy"], row["epoch"])
            driver.stopper.judge(trial.number or 0, look)
        driver.run(trial, rows[:reported], outcome)
    driver.recorder.tidy()
    return driver


def rows(driver: Driver) -> dict[str, dict[str, Any]]:
    return {row["trial_id"]: row for row in driver.recorder.ledger.trials()}


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_a_thawed_trial_goes_on_and_is_not_judged_any_more(tmp_path: Path, fidelity: str) -> None:
    spec = make_spec(tmp_path, fidelity)
    first = stop_one(spec)
    assert rows(first)["t0001"]["outcome"] == "stopped"
    all_rows = rows_of(0.1, fidelity)

    second = Driver(spec, ["t0001"])
    assert second.stopper.lost == {1: 0}
    trial = second.begin()
    assert trial.trial_id == "t0001"
    second.result(trial, result(all_rows[:3], held=2))
    second.recorder.ledger.flush()  # the driver dies here

    third = Driver(spec)  # goes on with it, without being told again
    assert third.stopper.lost == {1: 0}
    assert third.stopper.rules[0].values == second.stopper.rules[0].values  # type: ignore[attr-defined]
    trial = third.begin()
    assert trial.trial_id == "t0001"
    last = all_rows[-1]
    look = Look(last["total_epochs"], last["epoch"], last["val_accuracy"], last["epoch"])
    assert not third.stopper.judge(1, look)
    third.result(trial, result(all_rows, held=len(all_rows), done=True, outcome="completed"))
    third.recorder.settle()
    row = rows(third)["t0001"]
    assert (row["outcome"], row["epochs"], row["message"]) == ("completed", len(all_rows), None)
    assert (row["stopped_epoch"], row["stopped_rung"], row["lost_rung"]) == (2, 0, 0)
    assert not row["audited"]
    assert is_thawed(row)
    assert third.recorder.folder.list("checkpoints/t0001") == ["weights.pt"]
    assert [(t.state.name, t.value) for t in third.study.trials()][1][0] == "COMPLETE"

    fourth = Driver(spec)
    assert fourth.stopper.rules[0].values == third.stopper.rules[0].values  # type: ignore[attr-defined]


def test_checkpoints_of_stopped_trials_are_kept_only_if_asked_for(tmp_path: Path) -> None:
    kept = stop_one(make_spec(tmp_path / "kept", "epoch"))
    assert kept.recorder.folder.list("checkpoints") == ["t0000", "t0001"]
    assert Driver(make_spec(tmp_path / "kept", "epoch")).recorder.frozen == {"t0001"}
    dropped = stop_one(make_spec(tmp_path / "dropped", "epoch", keep=False))
    assert dropped.recorder.folder.list("checkpoints") == ["t0000"]
    # and once they are not wanted any more they go
    Driver(make_spec(tmp_path / "kept", "epoch", keep=False))
    assert kept.recorder.folder.list("checkpoints") == ["t0000"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("t0007", "unknown trial of s 't0007': did you mean 't0001'?"),
        ("t0000", "trial t0000 of s is completed: only one that the stopper ended is thawed"),
        (
            "t0001",
            "trial t0001 of s has no checkpoint to go on from; those of trials that are stop",
        ),
    ],
)
def test_what_cannot_be_thawed_is_told_and_nothing_changes(
    tmp_path: Path, name: str, why: str
) -> None:
    driver = stop_one(make_spec(tmp_path, "epoch", keep=False))
    folder = driver.recorder.folder
    before = rows(driver)
    with pytest.raises(ValueError, match=why.replace("?", "[?]")) as error:
        thaw(folder, Ledger(folder), [name])
    assert "\n" not in str(error.value)
    assert rows(Driver(make_spec(tmp_path, "epoch"))) == before


def test_thawed_twice_is_thawed_once(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, "epoch")
    stop_one(spec)
    first = rows(Driver(spec, ["t0001"]))["t0001"]
    assert first["outcome"] == "interrupted"
    assert rows(Driver(spec, ["t0001"]))["t0001"] == first


def test_a_row_that_lacks_the_stop_is_of_no_thawed_trial() -> None:
    row = {"lost_rung": 1, "audited": False, "stopped_epoch": 3}
    assert is_thawed(row)
    assert not is_thawed(row | {"stopped_epoch": None})
    assert not is_thawed(row | {"audited": True})
