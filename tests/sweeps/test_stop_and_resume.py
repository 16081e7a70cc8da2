"""Real sweeps that end early: by a budget, from another terminal; and that go on for more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from results.database import query
from results.storage import SweepFolder
from rts_search.driver.lock import read_driver
from tests.sweeps.harness import Sweep, kill_session, wait_for

pytestmark = pytest.mark.slow

# trials that take their time, with no stopper to end them
LONG: dict[str, Any] = {
    "train": {"epochs": 2000},
    "search": {"trials": 2, "controls": False},
    "stop": {"policy": "none"},
}
UNSTOPPED: dict[str, Any] = {"search": {"trials": 2, "controls": False}, "stop": {"policy": "none"}}


def parts(sweep: Sweep) -> int:
    return len(list(sweep.folder.glob("epochs/part-*.parquet")))


# what uses them up: tests/rts_search/driver/test_budget.py
@pytest.mark.very_slow
@pytest.mark.parametrize(
    ("budget", "more"),
    [
        ({"epochs": 12}, "--set budget.epochs=null"),
        ({"gradient_evaluations": 80}, "--set budget.gradient_evaluations=100000"),
        ({"target": 0.01}, "--set budget.target=2"),
        ({"hours": 1e-6}, "--hours 1"),
    ],
)
def test_a_budget_ends_a_sweep_that_can_go_on(
    tmp_path: Path, budget: dict[str, Any], more: str
) -> None:
    changes = UNSTOPPED | {"search": {"trials": 5, "controls": False}, "budget": budget}
    sweep = Sweep(tmp_path, **changes)
    (name,) = budget
    assert f"budget.{name} {budget[name]:g} is" in sweep.run("sweep", "spec.yaml")
    rows = sweep.table("trials") if (sweep.folder / "trials").exists() else None
    if rows is not None and name != "hours":
        assert len(rows) < 5 or (rows.outcome == "interrupted").any()
        assert not (rows.outcome == "running").any()
    if name == "epochs":
        assert 12 <= len(sweep.table("epochs")) <= 16  # what was under way may take it over

    again = sweep.run("resume", "faulty")  # with the same budget
    assert f"budget.{name} {budget[name]:g} is" in again
    assert f"rts-search resume faulty {more.split('=')[0].removesuffix(' 1')}" in again

    sweep.run("resume", "faulty", *more.split())
    after = sweep.table("trials")
    assert sorted(after.number) == list(range(5))
    assert after.outcome.isin(["completed", "collapsed"]).all()


@pytest.mark.very_slow
def test_hours_count_over_a_kill(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, **LONG, budget={"hours": 1})
    process = sweep.start("sweep", "spec.yaml")
    folder = SweepFolder(tmp_path / "sweeps", "faulty")

    def beaten() -> bool:
        driver = read_driver(folder)
        return driver is not None and driver.seconds > 10

    wait_for(beaten, process)
    kill_session(process)
    # ten seconds are spent already
    output = sweep.run("resume", "faulty", "--set", f"budget.hours={10 / 3600}")
    assert "budget.hours 0.00277778 is used up" in output
    assert "rts-search resume faulty --hours HOURS" in output


def test_stopped_from_another_terminal_and_resumed_for_more(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, **LONG)
    process = sweep.start("sweep", "spec.yaml")
    wait_for(lambda: parts(sweep) >= 2, process)
    said = sweep.run("stop", "faulty")
    assert "sweep faulty has ended" in said
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    assert "stopped by rts-search stop" in output
    assert "rts-search resume faulty" in output
    assert set(sweep.table("trials").outcome) == {"interrupted"}
    assert "no driver runs" in sweep.run("stop", "faulty", code=2)
    refused = sweep.run("resume", "faulty", "--set", "train.epochs=9", code=2)
    assert refused.startswith("rts-search: train.epochs cannot change: earlier trials were trained")


@pytest.mark.very_slow
def test_one_trial_is_stopped_for_good(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, **LONG)
    process = sweep.start("sweep", "spec.yaml")
    wait_for(lambda: parts(sweep) >= 2, process)
    assert "t0009" in sweep.run("stop", "faulty", "--trial", "t0009", code=2)
    said = sweep.run("stop", "faulty", "--trial", "t0001")
    assert "trial t0001 has ended: user_stopped" in said
    again = sweep.run("stop", "faulty", "--trial", "t0001", code=2)
    assert "has ended already: user_stopped" in again
    assert process.poll() is None  # the others go on
    sweep.run("stop", "faulty")
    process.communicate(timeout=30)
    rows = sweep.table("trials").set_index("trial_id")
    assert dict(rows.outcome) == {"t0000": "interrupted", "t0001": "user_stopped"}
    epochs = rows.epochs["t0001"]

    process = sweep.start("resume", "faulty")
    before = parts(sweep)
    wait_for(lambda: parts(sweep) > before, process)
    sweep.run("stop", "faulty")
    process.communicate(timeout=30)
    rows = sweep.table("trials").set_index("trial_id")
    assert rows.outcome["t0001"] == "user_stopped"
    assert rows.epochs["t0001"] == epochs  # it was not run again


@pytest.mark.very_slow
def test_a_sweep_that_has_ended_goes_on_for_more_trials(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, **UNSTOPPED)
    sweep.run("sweep", "spec.yaml")
    first = sweep.table("trials").set_index("trial_id")
    assert "nothing left to do" in sweep.run("resume", "faulty")
    assert "below the 2 trials" in sweep.run("resume", "faulty", "--trials", "1", code=2)
    # moved and renamed, it goes on as itself
    sweep.folder = sweep.folder.rename(tmp_path / "moved")
    more = ("--trials", "4", "--set", "resources.concurrent=1")
    said = sweep.run("resume", "./moved", *more)
    assert f"go on with: rts-search resume {tmp_path}/moved" in said
    assert set(sweep.table("epochs").sweep) == set(sweep.table("trials").sweep) == {"moved"}
    assert not (tmp_path / "sweeps" / "faulty").exists()
    after = sweep.table("trials").set_index("trial_id")
    assert sorted(after.number) == [0, 1, 2, 3]
    assert (after.ended[first.index] == first.ended).all()
    content = yaml.safe_load((sweep.folder / "spec.yaml").read_text("utf-8"))
    assert content["search"]["trials"] == 4
    assert content["history"][0]["changes"] == {
        "search.trials": {"from": 2, "to": 4},
        "resources.concurrent": {"from": None, "to": 1},
    }
    assert not sweep.table("epochs").duplicated(["trial_id", "rung", "epoch"]).any()


@pytest.mark.very_slow
def test_a_stopped_trial_is_thawed_and_is_as_if_nobody_had_stopped_it(tmp_path: Path) -> None:
    """Its checkpoint is written at the stop, for there is none before."""
    sweep = Sweep(
        tmp_path,
        space="scale",
        search={"trials": 4, "controls": False, "sampler": "random"},
        stop={"fidelity": "epoch", "first_rung": 1, "audit": 0},
        checkpoint={"every_seconds": 3600, "keep_stopped": True},
    )
    sweep.run("sweep", "spec.yaml")
    before = sweep.table("trials").set_index("trial_id")
    stopped = sorted(before.index[before.outcome == "stopped"])
    assert stopped
    best = max(stopped, key=lambda name: before.final_val_accuracy[name])
    assert [f"checkpoints/{name}/state.pt" for name in stopped] == [
        name for name in sweep.checkpoints() if name.endswith("state.pt")
    ]
    said = sweep.run("resume", "faulty", "--thaw", "t0099", code=2)
    assert "unknown trial of faulty 't0099'" in said
    sweep.run("resume", "faulty", "--thaw", best)
    after = sweep.table("trials").set_index("trial_id")
    thawed = after.loc[best]
    assert thawed.outcome in ("completed", "collapsed")
    assert thawed.epochs > before.epochs[best]
    assert thawed.lost_rung == thawed.stopped_rung == before.stopped_rung[best]
    others = before.index.drop(best)
    assert (after.ended[others] == before.ended[others]).all()
    assert "equal to the bit" in sweep.run("reproduce", f"faulty/{best}")


@pytest.mark.very_slow
def test_stopped_on_an_object_store_by_another_machine(
    tmp_path: Path, s3_storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTS_SEARCH_CACHE", str(tmp_path / "first"))
    sweep = Sweep(tmp_path, **LONG, storage=s3_storage)
    process = sweep.start("sweep", "spec.yaml")
    folder = SweepFolder(s3_storage, "faulty")
    wait_for(lambda: len(folder.files("epochs")) >= 2, process)
    monkeypatch.setenv("RTS_SEARCH_CACHE", str(tmp_path / "second"))
    at = ("--storage", s3_storage)
    assert "has a driver already, on " in sweep.run("resume", "faulty", *at, code=2)
    assert "sweep faulty has ended" in sweep.run("stop", "faulty", *at)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    outcomes = query(s3_storage, "SELECT DISTINCT outcome FROM trials")["outcome"].to_pylist()
    assert outcomes == ["interrupted"]
    assert folder.files("control") == ["driver.json"]
