"""Live progress: plain lines where there is no terminal, one table where there is."""

from __future__ import annotations

import io
import re
from collections.abc import Collection
from typing import Any

import pytest
from rich.console import Console

from results.meanings import Outcome
from results.schema import TRIALS, check_row
from results.trials import StoredTrial
from rts_search.show.cell import drawn
from rts_search.show.console import duration, in_cell
from rts_search.show.progress import SHOWN, Progress, Spent
from rts_search.spec.model import SweepSpec
from rts_search.trials.rows import trial_row
from rts_search.trials.trial import LiveTrial
from tests.rts_search.trials.drivers import metrics
from trainables.config import TrialConfig


def trial(name: str, family: str = "rts", control: str | None = None) -> LiveTrial:
    config = TrialConfig.model_validate(
        {"optimizer": {"family": family}, "train": {"epochs": 9}, "model": {"name": "mlp"}}
    )
    return LiveTrial(name, config, None if control else 1, control=control)


def after(live: LiveTrial, epoch: int, accuracy: float, **values: Any) -> LiveTrial:
    row = metrics(1, epoch, accuracy)
    shape = {"rung": 0, "total_epochs": 9, "radius": 2.0, "scale": 0.25, "perturbing": True}
    live.history.append({**row, **shape, **values})
    return live


def stored(live: LiveTrial) -> StoredTrial:
    """As a ledger has it."""
    row = {"trial_id": live.trial_id, "control": live.control, "outcome": str(live.outcome)}
    return StoredTrial(check_row({"sweep": "demo", **trial_row(live), **row}, TRIALS), live.history)


def ended(live: LiveTrial, outcome: str, message: str | None = None) -> LiveTrial:
    live.outcome, live.message = Outcome(outcome), message
    return live


def spec(**search: Any) -> SweepSpec:
    """Five trials and the three controls."""
    return SweepSpec.model_validate({"name": "demo", "search": {"trials": 5, **search}})


def make(terminal: bool, live: dict[str, LiveTrial] | None = None) -> Progress:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, record=True)
    return Progress(spec(), live if live is not None else {}, console)


def printed(progress: Progress) -> list[str]:
    return progress.console.export_text().splitlines()


def test_lines_without_a_terminal() -> None:
    with make(terminal=False) as progress:
        progress.ended(ended(after(trial("t0000"), 9, 0.9123), "completed"))
        progress.ended(ended(after(trial("t0001", "sam"), 3, 0.5), "stopped"))
        progress.ended(ended(trial("t0002"), "failed", "ValueError: no [such] file"))
        progress.ended(ended(after(trial("sgd", "sgd", "sgd"), 9, 0.8), "completed"))
    assert printed(progress) == [
        "[1/8] t0000    rts   completed     epoch 9/9  val_accuracy 0.9123",
        "[2/8] t0001    sam   stopped       epoch 3/9  val_accuracy 0.5000",
        "[3/8] t0002    rts   failed        epoch 0/9  ValueError: no [such] file",
        "[4/8] sgd      sgd   completed     epoch 9/9  val_accuracy 0.8000",
    ]


def test_a_long_line_is_not_broken() -> None:
    progress = make(terminal=False)
    progress.ended(ended(trial("t0000"), "failed", "x" * 300))
    assert len(printed(progress)) == 1


def test_the_summary_tells_the_best_against_the_controls() -> None:
    progress = make(terminal=False)
    assert re.fullmatch(r"demo: 0/8 trials · \d+ s elapsed", progress.summary())
    progress.ended(ended(after(trial("t0000"), 9, 0.7), "completed"))
    progress.ended(ended(after(trial("t0001"), 9, 0.9), "completed"))
    progress.ended(ended(after(trial("t0002"), 9, 0.8), "completed"))
    progress.ended(ended(after(trial("t0003"), 3, 0.99), "stopped"))  # not a whole run
    progress.ended(ended(after(trial("sgd", "sgd", "sgd"), 9, 0.95), "completed"))
    assert re.fullmatch(
        r"demo: 5/8 trials \(4 completed, 1 stopped\) · best t0001 0\.9000 · sgd 0\.9500"
        r" · \d+ s elapsed",
        progress.summary(),
    )


def test_the_summary_tells_the_best_of_an_arm_of_controls() -> None:
    progress = make(terminal=False)
    for name, accuracy in (("sgd", 0.8), ("sgd.1", 0.9), ("sgd.2", 0.7)):
        progress.ended(ended(after(trial(name, "sgd", "sgd"), 9, accuracy), "completed"))
    assert " · sgd 0.9000 · " in progress.summary()


def test_trials_that_ended_before_a_resume_count() -> None:
    trials = [
        ended(after(trial("t0000"), 9, 0.6), "completed"),
        ended(trial("t0001"), "failed"),
        ended(after(trial("pugd", "pugd", "pugd"), 9, 0.5), "completed"),
    ]
    progress = Progress(spec(), {}, Console(quiet=True), map(stored, trials))
    summary = progress.summary()
    assert "3/8 trials (2 completed, 1 failed) · best t0000 0.6000 · pugd 0.5000" in summary
    assert "left" not in summary  # nobody knows


def test_the_table_shows_running_trials() -> None:
    live = {"t0000": after(trial("t0000"), 4, 0.8765), "t0001": trial("t0001", "asam")}
    progress = make(terminal=True, live=live)
    progress.console.print(progress.table())
    header, first, second, summary = printed(progress)
    names = ["trial", "family", "epoch", "val", "accuracy", "radius", "scale", "perturbing"]
    assert header.split() == names
    assert first.split() == ["t0000", "rts", "4/9", "0.8765", "2", "0.25", "yes"]
    assert second.split() == ["t0001", "asam", "0/9", "–", "–", "–", "–"]
    assert summary.startswith("demo: 0/8 trials")


def test_the_table_stays_small() -> None:
    live = {f"t{i:04d}": trial(f"t{i:04d}") for i in range(SHOWN + 5)}
    progress = make(terminal=True, live=live)
    progress.console.print(progress.table())
    lines = printed(progress)
    assert len(lines) == SHOWN + 3
    assert lines[-2] == "… and 5 more running"


def test_on_a_terminal_only_trouble_leaves_a_line() -> None:
    live = {"t0000": after(trial("t0000"), 4, 0.8)}
    with make(terminal=True, live=live) as progress:
        progress.tick()
        progress.ended(ended(after(trial("t0001"), 9, 0.9), "completed"))
        progress.ended(
            ended(after(trial("t0002"), 2, 0.1), "diverged", "train_loss is nan at epoch 2")
        )
    assert isinstance(progress.console.file, io.StringIO)
    screen = progress.console.file.getvalue()
    assert "4/9" in screen
    assert "train_loss is nan at epoch 2" in screen
    assert "t0001" not in screen


def test_refresh_is_rare_without_a_terminal() -> None:
    progress = make(terminal=False)
    progress.refreshed = float("-inf")
    progress.tick()  # nothing has ended yet
    progress.refreshed = float("-inf")
    progress.ended(ended(after(trial("t0000"), 9, 0.9), "completed"))
    for _ in range(3):
        progress.tick()
    assert [line.startswith("demo: 1/8") for line in printed(progress)] == [False, True]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (45.4, "45 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3600, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_objective_rules_with_its_direction() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, record=True)
    live = {"t0009": after(trial("t0009"), 4, 0.5, val_loss=0.75)}
    progress = Progress(spec(objective="val_loss"), live, console)
    for number, (accuracy, loss) in enumerate([(0.9, 0.5), (0.8, 0.2), (0.95, 0.4)]):
        done = after(trial(f"t000{number}"), 9, accuracy, val_loss=loss)
        progress.ended(ended(done, "completed"))
    for loss in (0.7, 0.3, 0.6):  # the best of an arm counts
        done = after(trial("sgd", "sgd", "sgd"), 9, 0.9, val_loss=loss)
        progress.ended(ended(done, "completed"))
    assert "best t0001 0.2000 · sgd 0.3000" in progress.summary()
    console.print(progress.table())
    header, running, best, *_ = printed(progress)
    assert "val loss" in header
    assert running.split()[:4] == ["t0009", "rts", "4/9", "0.7500"]
    assert best.startswith("best so far t0001, val_loss 0.2000: rts radius 1 · scale 1")
    assert all(len(line) <= 80 for line in printed(progress))


def test_the_time_left_is_asked_of_what_is_known() -> None:
    asked = []

    def left(live: Collection[LiveTrial], searched: int, controls: int, spent: Spent) -> float:
        asked.append(([trial.trial_id for trial in live], searched, controls, spent))
        return 100.0

    old = stored(ended(after(trial("t0000"), 9, 0.6, epoch_seconds=2.0), "completed"))
    live = {"t0001": after(trial("t0001"), 3, 0.5, epoch_seconds=1.5), "pugd": trial("pugd")}
    live["pugd"].number = None
    progress = Progress(spec(), live, Console(quiet=True), [old], left)
    assert "about 1 min 40 s left" in progress.summary()
    # of five trials one has ended and one runs; of three controls one runs
    assert asked == [(["t0001", "pugd"], 3, 2, Spent(3.5, 12))]
    young = Progress(spec(), {}, Console(quiet=True), [], left)
    assert "left" not in young.summary()  # before the first epoch


def test_a_notebooks_cell_shows_all_at_a_glance() -> None:
    live = {"t0009": after(trial("t0009"), 4, 0.5), "t0010": trial("t0010", "asam")}
    progress = make(terminal=False, live=live)
    progress.ended(ended(after(trial("t0000"), 9, 0.7, gradient_evaluations=1234), "completed"))
    progress.ended(ended(after(trial("t0001"), 3, 0.9), "stopped"))
    progress.ended(ended(after(trial("sgd", "sgd", "sgd"), 9, 0.6), "completed"))
    cell = drawn(progress, ended=False)
    first, best, controls, cost = cell["text/plain"].splitlines()
    assert first == "demo: 3/8 trials (2 completed, 1 stopped), 2 running"
    assert best.startswith("best so far t0000, val_accuracy 0.7000: rts radius 1 · scale 1")
    assert controls == "controls: sgd 0.6000"
    assert re.fullmatch(r"1,2\d\d gradient evaluations · \d+ s elapsed", cost)
    html = cell["text/html"]
    assert "<progress value='3' max='8'" in html
    assert all(line in html for line in (first, best, controls, cost))
    told = re.findall(r"<td>(.*?)</td>", html)
    assert told[:4] == ["t0009", "rts", "4/9", "0.5000"]
    last = drawn(progress, ended=True)
    assert last["text/plain"].startswith("demo: 3/8 trials (2 completed, 1 stopped)\n")
    assert "<table" not in last["text/html"]


def test_what_a_cell_shows_is_text() -> None:
    progress = make(terminal=False)
    progress.name = "<img onerror=x>\x1b[2J"
    cell = drawn(progress, ended=False)
    assert cell["text/plain"].startswith("<img onerror=x>\\u001b[2J: 0/8 trials")
    assert "&lt;img onerror=x&gt;\\u001b[2J: 0/8 trials" in cell["text/html"]


def test_where_there_is_no_kernel_there_is_no_cell() -> None:
    assert not in_cell()
    assert make(terminal=False).screen is None
