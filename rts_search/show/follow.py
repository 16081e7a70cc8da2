"""The live display of a sweep that runs elsewhere, fed from its ledger."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from rich.console import Console

from results.meanings import column
from results.schema import json_object
from results.storage import SweepFolder
from results.trials import LONG_AGO, StoredTrial, read_trials
from rts_search.show.progress import Left, Progress
from rts_search.spec.folder import SPEC, read_spec
from rts_search.spec.model import SweepSpec
from rts_search.spec.reading import parse
from rts_search.trials.trial import LiveTrial
from trainables.config import TrialConfig

POLL_SECONDS = 2.0
COLUMNS = (
    "total_epochs",
    "gradient_evaluations",
    "epoch_seconds",
    "shared",
)  # beside the objective


def follow(
    folder: SweepFolder,
    console: Console,
    runs: Callable[[], bool],
    time_left: Callable[[SweepSpec], Left | None] = lambda spec: None,
) -> None:
    """Show a sweep's table, as its own driver does, until it no longer `runs`."""
    while not folder.exists(SPEC):
        if not runs():
            return
        time.sleep(POLL_SECONDS)
    view = View(folder)
    spec = read_spec(folder)
    ended = view.ended_already(spec)
    with Progress(spec, view.live, console, ended, time_left(spec)) as progress:
        going = True
        while going:
            going = runs()  # before the last look, which then misses nothing
            with suppress(OSError):  # a storage that fails is asked again
                for trial in view.look():
                    progress.ended(trial)
            progress.tick()
            if going:
                time.sleep(POLL_SECONDS)


class View:
    """What a ledger says of a sweep's trials; `live` are those that run."""

    def __init__(self, folder: SweepFolder) -> None:
        self.folder = folder
        self.live: dict[str, LiveTrial] = {}
        self.known: set[str] = set()  # that have ended

    def ended_already(self, spec: SweepSpec) -> list[StoredTrial]:
        stored = read_trials(self.folder, [*COLUMNS, column(spec.search.objective)])
        ended = [trial for trial in stored if trial.outcome.finished]
        self.known |= {trial.trial_id for trial in ended}
        return ended

    def look(self) -> list[LiveTrial]:
        """Bring `live` up to date; returns the trials that have ended since."""
        stored = read_trials(self.folder, where=lambda row: row["trial_id"] not in self.known)
        stored.sort(key=lambda trial: trial.row["started"] or LONG_AGO)
        trials = [_live(trial) for trial in stored]
        ended = [trial for trial in trials if trial.outcome.finished]
        self.known |= {trial.trial_id for trial in ended}
        self.live.clear()
        self.live |= {t.trial_id: t for t in trials if not t.outcome.finished}
        return ended


def _live(stored: StoredTrial) -> LiveTrial:
    return LiveTrial(
        stored.trial_id,
        parse(TrialConfig, json_object(stored.row["config_json"])),
        stored.number,
        control=stored.row["control"],
        history=[dict(row) for row in stored.epochs],
        outcome=stored.outcome,
        message=stored.row["message"],
    )
