"""The driver's bookkeeping: every result goes to the ledger, then to the searcher's memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from results.ledger import Ledger, history
from results.storage import SweepFolder
from rts_search.driver.lock import save_journal
from rts_search.search.study import SearchStudy
from rts_search.spec.model import SweepSpec
from rts_search.stopping.stopper import Stopper
from rts_search.trials.rows import (
    epoch_row,
    final_accuracy,
    last_run,
    progress_columns,
    step_values,
    trial_row,
)
from rts_search.trials.trial import LiveTrial

FLUSH_SECONDS = 5.0
RETRY_SECONDS = 2.0  # between attempts to write while the storage fails
GIVE_UP_SECONDS = 120.0
JOURNAL_SHARE = 20.0  # times as long as a journal's last writing took, until its next

Steps = dict[int, float]


class Recorder:
    """Writes a sweep's ledger and tells its study.

    Order matters for crashes: a trial's end is on disk before Optuna hears of it, and its
    checkpoint goes last, so that whatever is missing can be had from what came before. While the
    storage cannot be written (a full disk, a server that is down) rows and ends wait in memory.
    """

    def __init__(
        self,
        spec: SweepSpec,
        folder: SweepFolder,
        ledger: Ledger,
        study: SearchStudy,
        stopper: Stopper,
    ) -> None:
        self.spec, self.folder, self.ledger = spec, folder, ledger
        self.study, self.stopper = study, stopper
        self.live: dict[str, LiveTrial] = {}
        self.started = {row["trial_id"]: row["started"] for row in ledger.trials()}
        self.device: dict[str, str] = {}
        self.host: dict[str, str] = {}
        # (final accuracy, trial id) of the trials whose weights are kept, best first
        self.kept: list[tuple[float, str]] = []
        self.unsaved: list[Callable[[], None]] = []  # what ends do once they are on disk
        self.failing_since: float | None = None
        self.failure = ""
        self.tried = 0.0
        self.journal_due = 0.0

    def steps(self, epochs: Sequence[dict[str, Any]]) -> Steps:
        """What searcher and stopper know of these epochs."""
        return step_values(epochs, self.spec.search.objective, self.stopper.by_schedule)

    def restore(self, row: dict[str, Any]) -> None:
        """A trial that an earlier driver saw to its end, as the ledger has it."""
        self._keep_or_drop(
            row["trial_id"], row["outcome"], row["control"], row["final_val_accuracy"]
        )

    def catch_up(self, row: dict[str, Any]) -> None:
        """Tell the study of an end, and of epochs, that only the ledger knows."""
        self._tell(row["number"], row["outcome"], history(self.folder, row["trial_id"]))

    def start(self, trial: LiveTrial) -> None:
        """The trial was handed to a worker, for the first time or after a resume."""
        self.live[trial.trial_id] = trial
        self.started.setdefault(trial.trial_id, datetime.now(UTC))
        self._put(trial, "running", None)
        self._save_journal()  # it knows of this trial, and of all that ended before

    def result(self, trial: LiveTrial, result: dict[str, Any]) -> None:
        """An epoch, and those that a checkpoint held before it; what is known is ignored.

        Unless the trial is `done`, the study is told at once.
        """
        self.device[trial.trial_id] = result["device"]
        self.host[trial.trial_id] = result["host"]
        known = len(trial.history)
        for metrics in (*result["earlier"], result["metrics"]):
            if (metrics["rung"], metrics["epoch"]) > trial.place:
                self.ledger.add_epoch(epoch_row(trial.trial_id, metrics))
                trial.history.append(metrics)
        if len(trial.history) == known or trial.number is None or result["done"]:
            return
        steps = self.steps(trial.history if result["earlier"] else last_run(trial.history))
        if not result["earlier"]:  # the newest epoch, where it is a step
            steps = dict(list(steps.items())[-1:])
        try:
            for step, value in steps.items():
                self.study.report(trial.number, value, step)
        except OSError as error:  # the journal gets it with its next write
            self._failed(error)

    def retried(self, trial: LiveTrial) -> None:
        """A worker was lost; the trial goes on from its checkpoint, and repeats later epochs."""
        trial.retries += 1

    def end(self, trial: LiveTrial, outcome: str, message: str | None = None) -> None:
        """The trial's end: completed, stopped, user_stopped, diverged, collapsed, failed,
        out_of_memory."""
        self._put(trial, outcome, message)
        final = final_accuracy(trial.history)

        def when_on_disk() -> None:
            if trial.number is not None:
                self._tell(trial.number, outcome, trial.history)
            self._keep_or_drop(trial.trial_id, outcome, trial.control, final)

        self.unsaved.append(when_on_disk)
        self.live.pop(trial.trial_id, None)
        self._flush()

    def interrupt(self, message: str) -> None:
        """The sweep ends before its trials do: they go on when it is resumed."""
        for trial in self.live.values():
            self._put(trial, "interrupted", message)
        self._flush()

    def tick(self) -> None:
        """Called often: writes what has waited for some seconds."""
        if not self.unsaved:
            self._flush(FLUSH_SECONDS)
        elif time.monotonic() - self.tried > RETRY_SECONDS:
            self._flush()

    def settle(self) -> bool:
        """Write all that waits, and the journal; False if the storage fails for too long."""
        while True:
            self._flush()
            self._save_journal(at_once=True)
            if self.failing_since is None:
                return True
            if self.given_up():
                return False
            time.sleep(RETRY_SECONDS)

    def tidy(self) -> None:
        """Once all trials have ended: only the kept weights stay. A worker on a node that was cut
        off may have saved a trial after it had ended elsewhere."""
        kept = {trial_id for _, trial_id in self.kept}
        for trial_id in self.folder.list("checkpoints"):
            stray = f"checkpoints/{trial_id}" + ("/state.pt" if trial_id in kept else "")
            self.folder.delete(stray)

    def given_up(self) -> str | None:
        """Why the sweep must end: its storage has not been writable for two minutes."""
        if self.failing_since is None or time.monotonic() - self.failing_since < GIVE_UP_SECONDS:
            return None
        return f"{self.folder.uri} cannot be written: {self.failure}"

    def _flush(self, max_age_seconds: float | None = None) -> None:
        self.tried = time.monotonic()
        try:
            self.ledger.flush(max_age_seconds)
            while self.unsaved:
                self.unsaved[0]()
                self.unsaved.pop(0)
        except OSError as error:
            self._failed(error)
        else:
            self.failing_since = None

    def _save_journal(self, at_once: bool = False) -> None:
        began = time.monotonic()
        if not at_once and began < self.journal_due:
            return
        try:
            self.study.save()
            save_journal(self.folder)
        except OSError as error:
            self._failed(error)
        # on an object store the whole journal is put each time: no more than a twentieth of the
        # time goes into that, and what is not stored yet is also in the ledger
        now = time.monotonic()
        self.journal_due = now + JOURNAL_SHARE * (now - began)

    def _failed(self, error: OSError) -> None:
        self.failure = str(error)
        self.failing_since = self.failing_since or time.monotonic()

    def _put(self, trial: LiveTrial, outcome: str, message: str | None) -> None:
        row = trial_row(
            trial,
            outcome,
            message,
            started=self.started[trial.trial_id],
            device=self.device.get(trial.trial_id),
            host=self.host.get(trial.trial_id),
        )
        if trial.number is not None:
            row |= {
                "rungs": len(self.stopper.rungs),
                "audited": self.stopper.audited(trial.number),
                "lost_rung": self.stopper.lost.get(trial.number),
            }
        if outcome == "stopped":
            last = trial.history[-1]
            row |= {
                "stopped_epoch": last["epoch"],
                "stopped_rung": self.stopper.rung_at(last["total_epochs"], last["epoch"]),
            }
        self.ledger.put_trial(row)

    def _tell(self, number: int, outcome: str, epochs: Sequence[dict[str, Any]]) -> None:
        """Tell the study of an end, with all the steps that it does not know, at once."""
        steps = self.steps(epochs)
        if outcome == "completed":
            run = last_run(epochs)
            final = step_values(run, self.spec.search.objective, True)[run[-1]["total_epochs"]]
            against = self.spec.search.against
            cost = float(progress_columns(run)[against]) if against else None
            self.study.complete(number, final, steps, cost)
        elif outcome in ("stopped", "user_stopped") and steps:
            self.study.pruned(number, steps)
        else:
            self.study.fail(number, outcome)

    def _keep_or_drop(
        self, trial_id: str, outcome: str, control: str | None, final: float | None
    ) -> None:
        """Keep the weights of the best completed trials; all other checkpoints go."""
        if outcome != "completed" or control is not None or final is None:
            self.folder.delete(f"checkpoints/{trial_id}")
            return
        self.folder.delete(f"checkpoints/{trial_id}/state.pt")
        self.kept.append((final, trial_id))
        self.kept.sort(key=lambda kept: (-kept[0], kept[1]))
        for _, dropped in self.kept[self.spec.checkpoint.keep_top :]:
            self.folder.delete(f"checkpoints/{dropped}")
        del self.kept[self.spec.checkpoint.keep_top :]
