"""The driver's bookkeeping: every result goes to the ledger, then to the searcher's memory."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from results.ledger import Ledger
from results.storage import SweepFolder
from rts_search.rows import (
    config_columns,
    epoch_row,
    progress_columns,
    provenance_columns,
    tail_mean,
)
from rts_search.spec import SweepSpec
from rts_search.stoppers import Stopper
from rts_search.study import SearchStudy
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
        self.started: dict[str, datetime] = {}
        self.device: dict[str, str] = {}
        # (final accuracy, trial id) of the trials whose weights are kept, best first
        self.kept: list[tuple[float, str]] = []

    def start(self, trial: LiveTrial) -> None:
        self.live[trial.trial_id] = trial
        self.started.setdefault(trial.trial_id, datetime.now(UTC))
        self._put(trial, "running", None)

    def result(self, trial: LiveTrial, result: dict[str, Any]) -> None:
        """An epoch, and those that a checkpoint held before it; what is known already is ignored."""
        self.device[trial.trial_id] = result["device"]
        seen = trial.history[-1]["epoch"] if trial.history else 0
        for metrics in (*result["earlier"], result["metrics"]):
            self.ledger.add_epoch(epoch_row(trial.trial_id, metrics))
            value = metrics[self.spec.search.objective]
            if metrics["epoch"] <= seen:
                continue
            trial.history.append(metrics)
            if trial.number is not None and math.isfinite(value):
                self.study.report(trial.number, value, metrics["epoch"])

    def retried(self, trial: LiveTrial) -> None:
        """A worker was lost; the trial goes on from its checkpoint, which repeats later epochs."""
        trial.retries += 1

    def end(self, trial: LiveTrial, outcome: str, message: str | None = None) -> None:
        """The trial's end: completed, stopped, diverged, collapsed, failed, out_of_memory."""
        self._put(trial, outcome, message)
        self.ledger.flush()
        self._tell(trial, outcome)
        self._keep_or_drop_weights(trial, outcome)
        self.live.pop(trial.trial_id, None)

    def interrupt(self, message: str) -> None:
        """The sweep ends before its trials do: they go on when it is resumed."""
        for trial in self.live.values():
            self._put(trial, "interrupted", message)
        self.ledger.flush()

    def tick(self) -> None:
        self.ledger.flush(max_age_seconds=FLUSH_SECONDS)

    def _put(self, trial: LiveTrial, outcome: str, message: str | None) -> None:
        ended = outcome not in ("running", "interrupted")
        stopped = outcome == "stopped" and trial.history
        epoch = trial.history[-1]["epoch"] if trial.history else 0
        self.ledger.put_trial(
            {
                "trial_id": trial.trial_id,
                "number": trial.number,
                "control": trial.control,
                "family": trial.config.optimizer.family,
                "outcome": outcome,
                "stopped_rung": self.stopper.rung_at(epoch) if stopped else None,
                "stopped_epoch": epoch if stopped else None,
                "message": message,
                "seed": trial.config.train.seed,
                "total_epochs": trial.total_epochs,
                "started": self.started.get(trial.trial_id),
                "ended": datetime.now(UTC) if ended else None,
                "updated": datetime.now(UTC),
                "retries": trial.retries,
                "params": trial.params,
                "device": self.device.get(trial.trial_id),
                **progress_columns(trial.history, trial.total_epochs),
                **config_columns(trial.config),
                **provenance_columns(),
            }
        )

    def _tell(self, trial: LiveTrial, outcome: str) -> None:
        if trial.number is None:
            return
        if outcome == "completed":
            values = [row[self.spec.search.objective] for row in trial.history]
            self.study.complete(trial.number, tail_mean(values, trial.total_epochs))
        elif outcome == "stopped":
            self.study.pruned(trial.number)
        else:
            self.study.fail(trial.number)

    def _keep_or_drop_weights(self, trial: LiveTrial, outcome: str) -> None:
        """Keep the weights of the best completed trials; all other checkpoints go."""
        checkpoints = f"checkpoints/{trial.trial_id}"
        if outcome != "completed" or trial.control is not None:
            self.folder.delete(checkpoints)
            return
        self.folder.delete(f"{checkpoints}/state.pt")
        accuracies = [row["val_accuracy"] for row in trial.history]
        self.kept.append((tail_mean(accuracies, trial.total_epochs), trial.trial_id))
        self.kept.sort(key=lambda kept: (-kept[0], kept[1]))
        for _, dropped in self.kept[self.spec.checkpoint.keep_top :]:
            self.folder.delete(f"checkpoints/{dropped}")
        del self.kept[self.spec.checkpoint.keep_top :]
