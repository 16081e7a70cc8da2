"""The driver's bookkeeping: every result goes to the ledger, then to the searcher's memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from results.ledger import Ledger, history
from results.storage import SweepFolder
from rts_search.rows import epoch_row, tail_mean, trial_row
from rts_search.spec import SweepSpec
from rts_search.stoppers import Stopper
from rts_search.study import SearchStudy
from rts_search.sweep_files import save_journal
from rts_search.trials import LiveTrial

FLUSH_SECONDS = 5.0


class Recorder:
    """Writes a sweep's ledger and tells its study.

    Order matters for crashes: a trial's end is on disk before Optuna hears of it, and its
    checkpoint goes last, so that whatever is missing can be had from what came before.
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
        # (final accuracy, trial id) of the trials whose weights are kept, best first
        self.kept: list[tuple[float, str]] = []

    def restore(self, row: dict[str, Any]) -> None:
        """A trial that an earlier driver saw to its end, as the ledger has it."""
        self._keep_or_drop(
            row["trial_id"], row["outcome"], row["control"], row["final_val_accuracy"]
        )

    def catch_up(self, row: dict[str, Any]) -> None:
        """Tell the study of an end, and of epochs, that only the ledger knows."""
        epochs = history(self.folder, row["trial_id"])
        for metrics in epochs:
            value = metrics[self.spec.search.objective]
            self.study.report(row["number"], value, metrics["epoch"])
        self._tell(row["number"], row["outcome"], epochs, row["total_epochs"])

    def start(self, trial: LiveTrial) -> None:
        """The trial was handed to a worker, for the first time or after a resume."""
        self.live[trial.trial_id] = trial
        self.started.setdefault(trial.trial_id, datetime.now(UTC))
        self._put(trial, "running", None)
        save_journal(self.folder)  # it knows of this trial, and of all that ended before

    def result(self, trial: LiveTrial, result: dict[str, Any]) -> None:
        """An epoch, and those that a checkpoint held before it; what is known is ignored."""
        self.device[trial.trial_id] = result["device"]
        seen = trial.history[-1]["epoch"] if trial.history else 0
        for metrics in (*result["earlier"], result["metrics"]):
            if metrics["epoch"] <= seen:
                continue
            self.ledger.add_epoch(epoch_row(trial.trial_id, metrics))
            trial.history.append(metrics)
            value = metrics[self.spec.search.objective]
            if trial.number is not None and math.isfinite(value):
                self.study.report(trial.number, value, metrics["epoch"])

    def retried(self, trial: LiveTrial) -> None:
        """A worker was lost; the trial goes on from its checkpoint, and repeats later epochs."""
        trial.retries += 1

    def end(self, trial: LiveTrial, outcome: str, message: str | None = None) -> None:
        """The trial's end: completed, stopped, diverged, collapsed, failed, out_of_memory."""
        self._put(trial, outcome, message)
        self.ledger.flush()
        if trial.number is not None:
            self._tell(trial.number, outcome, trial.history, trial.total_epochs)
        accuracies = [row["val_accuracy"] for row in trial.history]
        final = tail_mean(accuracies, trial.total_epochs) if accuracies else None
        self._keep_or_drop(trial.trial_id, outcome, trial.control, final)
        self.live.pop(trial.trial_id, None)

    def interrupt(self, message: str) -> None:
        """The sweep ends before its trials do: they go on when it is resumed."""
        for trial in self.live.values():
            self._put(trial, "interrupted", message)
        self.ledger.flush()

    def tick(self) -> None:
        """Called often: writes what has waited for some seconds."""
        self.ledger.flush(max_age_seconds=FLUSH_SECONDS)

    def _put(self, trial: LiveTrial, outcome: str, message: str | None) -> None:
        row = trial_row(
            trial,
            outcome,
            message,
            started=self.started[trial.trial_id],
            device=self.device.get(trial.trial_id),
        )
        if outcome == "stopped":
            row |= {
                "stopped_epoch": row["epochs"],
                "stopped_rung": self.stopper.rung_at(row["epochs"]),
            }
        self.ledger.put_trial(row)

    def _tell(
        self, number: int, outcome: str, epochs: Sequence[dict[str, Any]], total_epochs: int
    ) -> None:
        if outcome == "completed":
            values = [row[self.spec.search.objective] for row in epochs]
            self.study.complete(number, tail_mean(values, total_epochs))
        elif outcome == "stopped":
            self.study.pruned(number)
        else:
            self.study.fail(number)

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
