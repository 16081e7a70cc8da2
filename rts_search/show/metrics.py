"""A sweep's metrics for Prometheus, which Ray exports as `ray_rts_search_…` on the driver's node.

Ray exports a gauge's value if it was set since the last export (every 10 s), and forgets it 20 s
after its last one. So the driver, which sees every epoch anyway, sets those of the running trials
again every few seconds, and the series of a trial that has ended retire by themselves. Workers
set nothing: one that serves several trials leaves nothing behind.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from ray.util.metrics import Gauge

from results.meanings import Outcome
from rts_search.driver.budget import Budget
from rts_search.show.progress import Progress
from rts_search.trials.observer import Observer
from rts_search.trials.trial import LiveTrial

PREFIX = "rts_search_"
REFRESH_SECONDS = 5.0  # half of Ray's export interval

# fields of EpochMetrics, as of the newest epoch; Ray takes descriptions in ASCII only
TRIAL_METRICS = {
    "val_accuracy": "Validation accuracy, a fraction",
    "epoch": "Epochs of the complete schedule that the trial is in",
    "rung": "Place of that schedule among those that the trial climbs, from 0",
    "radius": "alpha_r at the epoch's first step",
    "scale": "alpha_s at the epoch's first step",
    "perturbing": "1 if the epoch perturbed weights, else 0",
    "loss_rise": "Mean rise of the training loss by the perturbation",
    "images_per_second": "Training images a second",
}
SWEEP_METRICS = {
    "best_objective": "Final objective of the best searched trial completed so far",
    "epochs_spent": "Epochs that all drivers of the sweep have trained",
    "gradient_evaluations_spent": "Gradient evaluations that all drivers of the sweep have spent",
    "last_report_timestamp_seconds": "Unix time of the newest epoch, or of the driver's start",
}
ENDED = tuple(outcome for outcome in Outcome if outcome.finished)


class SweepMetrics(Observer):
    """Gauges of one sweep. Nothing here grows with the number of trials, but with those running.

    What earlier drivers did is in `progress` and `budget`, which a resume restores.
    """

    def __init__(
        self, sweep: str, live: dict[str, LiveTrial], progress: Progress, budget: Budget
    ) -> None:
        self.tags = {"sweep": sweep}
        self.live, self.progress, self.budget = live, progress, budget
        self.last_report = time.time()
        self.refreshed = -math.inf
        self.of_trials = {
            name: Gauge(PREFIX + name, words, ("sweep", "trial"))
            for name, words in TRIAL_METRICS.items()
        }
        self.of_sweep = {
            name: Gauge(PREFIX + name, words, ("sweep",)) for name, words in SWEEP_METRICS.items()
        }
        self.trials = Gauge(
            PREFIX + "trials", "Trials, controls included, by outcome", ("sweep", "outcome")
        )

    def reported(self, trial: LiveTrial, epochs: Sequence[dict[str, Any]]) -> None:
        self.last_report = time.time()

    def ended(self, trial: LiveTrial) -> None:
        self._set_trial(trial)

    def tick(self) -> None:
        """Sets everything again that is to stay."""
        now = time.monotonic()
        if now - self.refreshed < REFRESH_SECONDS:
            return
        self.refreshed = now
        for trial in self.live.values():
            self._set_trial(trial)
        self._set_sweep(running=sum(trial.placed for trial in self.live.values()))

    def close(self) -> None:
        """The sweep's last word. Ray exports it when the driver leaves."""
        self._set_sweep(running=0)

    def _set_trial(self, trial: LiveTrial) -> None:
        if not trial.history:
            return
        last = trial.history[-1]
        for name, gauge in self.of_trials.items():
            _set(gauge, last[name], {**self.tags, "trial": trial.trial_id})

    def _set_sweep(self, running: int) -> None:
        values = {
            "best_objective": self.progress.best.value if self.progress.best else None,
            "epochs_spent": self.budget.epochs,
            "gradient_evaluations_spent": self.budget.gradient_evaluations,
            "last_report_timestamp_seconds": self.last_report,
        }
        for name, gauge in self.of_sweep.items():
            _set(gauge, values[name], self.tags)
        for outcome in ENDED:  # those that are 0 too, so that shares can be computed
            _set(
                self.trials, self.progress.outcomes[outcome], {**self.tags, "outcome": str(outcome)}
            )
        _set(self.trials, running, {**self.tags, "outcome": str(Outcome.RUNNING)})


def _set(gauge: Gauge, value: Any, tags: dict[str, str]) -> None:
    if value is None or not math.isfinite(value):
        return
    with suppress(Exception):  # a sweep does not end for what watches it
        gauge.set(float(value), tags)
