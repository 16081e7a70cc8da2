"""The live display of a sweep that runs elsewhere, fed from its ledger."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from rich.console import Console

from results.query import query
from results.storage import SweepFolder
from rts_search.show.progress import Progress
from rts_search.spec.folder import SPEC, read_spec
from rts_search.trials.rows import UNFINISHED
from rts_search.trials.trial import LiveTrial
from trainables.config import TrialConfig

POLL_SECONDS = 2.0
TRIALS = (
    "SELECT trial_id, number, control, outcome, message, config_json, final_val_accuracy "
    "FROM trials ORDER BY started"
)


def follow(folder: SweepFolder, console: Console, runs: Callable[[], bool]) -> None:
    """Show a sweep's table, as its own driver does, until it no longer `runs`."""
    while not folder.exists(SPEC):
        if not runs():
            return
        time.sleep(POLL_SECONDS)
    from rts_search.trials.trial import trials_in

    view = View(folder)
    with Progress(folder.name, trials_in(read_spec(folder)), view.live, console) as progress:
        progress.restore(view.ended_already())
        going = True
        while going:
            going = runs()  # before the last look, which then misses nothing
            with suppress(OSError):  # a storage that fails is asked again
                for trial, outcome, message in view.look():
                    progress.ended(trial, outcome, message)
            progress.refresh()
            if going:
                time.sleep(POLL_SECONDS)


class View:
    """What a ledger says of a sweep's trials; `live` are those that run."""

    def __init__(self, folder: SweepFolder) -> None:
        self.folder = folder
        self.live: dict[str, LiveTrial] = {}
        self.known: set[str] = set()  # that have ended

    def ended_already(self) -> list[dict[str, Any]]:
        rows = [row for row in self._rows(TRIALS) if row["outcome"] not in UNFINISHED]
        self.known |= {row["trial_id"] for row in rows}
        return rows

    def look(self) -> list[tuple[LiveTrial, str, str | None]]:
        """Bring `live` up to date; the trials that have ended since, with outcome and message."""
        rows = [row for row in self._rows(TRIALS) if row["trial_id"] not in self.known]
        histories = self._histories([row["trial_id"] for row in rows])
        trials = {row["trial_id"]: _trial(row, histories[row["trial_id"]]) for row in rows}
        ended = [row for row in rows if row["outcome"] not in UNFINISHED]
        self.known |= {row["trial_id"] for row in ended}
        self.live.clear()
        self.live |= {name: trial for name, trial in trials.items() if name not in self.known}
        return [(trials[row["trial_id"]], row["outcome"], row["message"]) for row in ended]

    def _histories(self, trial_ids: list[str]) -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in trial_ids}
        if trial_ids:
            named = ", ".join(f"'{name}'" for name in trial_ids)  # our own names: t0001, sgd
            where = f"WHERE trial_id IN ({named}) ORDER BY rung, epoch"
            for row in self._rows(f"SELECT * FROM epochs {where}"):
                found[row["trial_id"]].append(row)
        return found

    def _rows(self, sql: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = query(self.folder.storage, sql, [self.folder.name]).to_pylist()
        return rows


def _trial(row: dict[str, Any], history: list[dict[str, Any]]) -> LiveTrial:
    config = TrialConfig.model_validate_json(row["config_json"])
    return LiveTrial(
        row["trial_id"], config, row["number"], control=row["control"], history=history
    )
