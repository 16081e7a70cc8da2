"""The live table of a sweep that runs elsewhere is drawn from its ledger."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from rts_search.show import follow as following
from rts_search.show.follow import View, follow
from rts_search.spec.folder import write_spec
from rts_search.spec.model import SweepSpec
from rts_search.spec.reading import parse
from tests.rts_search.trials.test_recorder import Driver, climb, result


@pytest.fixture
def spec(tmp_path: Path) -> SweepSpec:
    content = {
        "name": "s",
        "storage": str(tmp_path),
        "train": {"epochs": 6},
        "search": {"trials": 3, "controls": False},
        "stop": {"fidelity": "schedule", "first_rung": 2, "audit": 0},
    }
    return parse(SweepSpec, content)


def test_running_trials_and_ends_are_seen(spec: SweepSpec) -> None:
    driver, rows = Driver(spec), climb(0.3)
    first = driver.begin()
    driver.run(first, rows, "completed")
    view = View(driver.recorder.folder)
    assert [trial.trial_id for trial in view.ended_already(spec)] == [first.trial_id]

    second, third = driver.begin(), driver.begin()
    driver.result(second, result(rows[:3], held=2))
    driver.recorder.ledger.flush()
    assert view.look() == []
    assert set(view.live) == {second.trial_id, third.trial_id}
    assert view.live[second.trial_id].place == (1, 1)
    assert view.live[third.trial_id].history == []

    driver.result(second, result(rows[:4], done=True))
    driver.recorder.settle()
    (trial,) = view.look()
    assert (trial.trial_id, trial.outcome, trial.message) == (second.trial_id, "stopped", None)
    assert len(trial.history) == 4
    assert set(view.live) == {third.trial_id}
    assert view.look() == []


def test_the_table_is_that_of_a_local_run(spec: SweepSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "POLL_SECONDS", 0.0)
    driver, rows = Driver(spec), climb(0.3)
    folder, live = driver.recorder.folder, driver.seam.live

    def story() -> Callable[[], bool]:
        """What happens between two looks; the sweep begins after the first one."""
        trials = []

        def runs() -> bool:
            if not folder.exists("spec.yaml"):
                write_spec(folder, spec)
            elif len(trials) < 3:
                trials.append(driver.begin())
                driver.result(trials[-1], result(rows[:1]))
                driver.recorder.ledger.flush()
            elif live:
                whole = result(rows, held=len(rows) - 1, done=True, outcome="completed")
                driver.result(next(iter(live.values())), whole)
                driver.recorder.settle()
            return bool(live) or len(trials) < 3

        return runs

    console = Console(force_terminal=True, width=120, record=True)
    monkeypatch.setattr("rts_search.show.progress.REFRESH_SECONDS", 0.0)
    follow(folder, console, story())
    shown = console.export_text()
    assert "t0000  rts       1/2        0.3100" in shown
    assert "s: 3/3 trials (3 completed)" in shown
    assert "best t0000 0.4600" in shown


def test_a_sweep_that_never_begins_is_not_waited_for(spec: SweepSpec) -> None:
    follow(Driver(spec).recorder.folder, Console(), lambda: False)
