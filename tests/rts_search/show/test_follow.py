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
from tests.rts_search.trials.test_recorder import climb, next_trial, recorder_of, result, run


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
    recorder = recorder_of(spec)
    first, rows = next_trial(spec, recorder), climb(0.3)
    run(recorder, first, rows, "completed")
    view = View(recorder.folder)
    assert [row["trial_id"] for row in view.ended_already()] == [first.trial_id]

    second, third = next_trial(spec, recorder), next_trial(spec, recorder)
    recorder.result(second, result(rows[:3], held=2))
    recorder.ledger.flush()
    assert view.look() == []
    assert set(view.live) == {second.trial_id, third.trial_id}
    assert view.live[second.trial_id].place == (1, 1)
    assert view.live[third.trial_id].history == []

    recorder.result(second, result(rows[:4], done=True))
    recorder.end(second, "stopped", None)
    ((trial, outcome, message),) = view.look()
    assert (trial.trial_id, outcome, message) == (second.trial_id, "stopped", None)
    assert len(trial.history) == 4
    assert set(view.live) == {third.trial_id}
    assert view.look() == []


def test_the_table_is_that_of_a_local_run(spec: SweepSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "POLL_SECONDS", 0.0)
    recorder = recorder_of(spec)
    rows = climb(0.3)

    def story() -> Callable[[], bool]:
        """What happens between two looks; the sweep begins after the first one."""
        trials = []

        def runs() -> bool:
            if not recorder.folder.exists("spec.yaml"):
                write_spec(recorder.folder, spec)
            elif len(trials) < 3:
                trials.append(next_trial(spec, recorder))
                recorder.result(trials[-1], result(rows[:1]))
                recorder.ledger.flush()
            elif recorder.live:
                trial = next(iter(recorder.live.values()))
                recorder.result(trial, result(rows, held=len(rows) - 1, done=True))
                recorder.end(trial, "completed")
            return bool(recorder.live) or len(trials) < 3

        return runs

    console = Console(force_terminal=True, width=120, record=True)
    monkeypatch.setattr("rts_search.show.progress.REFRESH_SECONDS", 0.0)
    follow(recorder.folder, console, story())
    shown = console.export_text()
    assert "t0000  rts       1/2        0.3100" in shown
    assert "s: 3/3 trials (3 completed)" in shown
    assert "best t0000 0.4600" in shown


def test_a_sweep_that_never_begins_is_not_waited_for(spec: SweepSpec) -> None:
    follow(recorder_of(spec).folder, Console(), lambda: False)
