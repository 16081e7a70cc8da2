"""The seams to Ray Tune: our plan as a Searcher, our recorder as a Callback."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from ray.tune import Callback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from rts_search.driver.interrupt import Interrupt
from rts_search.show.metrics import SweepMetrics
from rts_search.show.progress import Progress
from rts_search.spec.model import patience_seconds
from rts_search.trials.failures import error_of, explain_failure
from rts_search.trials.recorder import Recorder
from rts_search.trials.trial import LiveTrial
from trainables.tune import Assignment


class Unsaved:
    """Tune pickles what it is given for a restore that we never do; live objects have no copy."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class PlanSearcher(Unsaved, Searcher):  # type: ignore[misc]
    """Hands the plan's trials to Tune, one at a time. Results reach the study by the recorder."""

    def __init__(
        self,
        plan: Iterator[LiveTrial | None],
        assign: Callable[[LiveTrial], Assignment],
        recorder: Recorder,
    ) -> None:
        super().__init__(metric="objective", mode="max")
        self.plan, self.assign, self.recorder = plan, assign, recorder

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        try:
            trial = next(self.plan)
        except StopIteration:
            return str(Searcher.FINISHED)
        if trial is None:
            return None  # Tune asks again
        self.recorder.start(trial)
        return {"assignment": asdict(self.assign(trial))}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing: the recorder tells the study, after the ledger has the trial's end."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal and the ledger are the only memory."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as `save`."""


class TuneStopper(Unsaved, FIFOScheduler):  # type: ignore[misc]
    """Our stopper as a Tune scheduler. Controls, which have no number, are never judged.

    `places` is how many trials find room at once, as far as is known.
    """

    def __init__(self, recorder: Recorder, places: int) -> None:
        super().__init__()
        self.recorder, self.stopper, self.places = recorder, recorder.stopper, places

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """The next trial. By default Tune would start one worker after the other, each of which
        takes seconds: here as many at once as there are places, and one more if there are none,
        for a node that may join."""
        live = tune_controller.get_live_trials()
        running = sum(trial.status == trial.RUNNING for trial in live)
        tune_controller.update_max_pending_trials(max(1, self.places - running))
        return super().choose_trial_to_run(tune_controller)

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True  # the stopper has both

    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        number = trial.config["assignment"]["number"]
        if number is None:
            return str(TrialScheduler.CONTINUE)
        # epochs that were trained after an earlier driver's last word: it let them go on
        self.stopper.refill(number, self.recorder.steps(result["earlier"]))
        total, epoch = result["metrics/total_epochs"], result["metrics/epoch"]
        stop = self.stopper.judge(number, total, epoch, result["objective"])
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)

    def on_trial_complete(self, controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """A trial that ended by itself: its last value counts for the others."""
        number = trial.config["assignment"]["number"]
        if number is not None and "metrics/epoch" in result:
            total, epoch = result["metrics/total_epochs"], result["metrics/epoch"]
            self.stopper.judge(number, total, epoch, result["objective"])


class RecorderCallback(Unsaved, Callback):  # type: ignore[misc]
    """Feeds what Tune's controller sees to the recorder, the progress display and the metrics."""

    def __init__(self, recorder: Recorder, progress: Progress, interrupt: Interrupt) -> None:
        self.recorder, self.progress, self.interrupt = recorder, progress, interrupt
        self.patience = patience_seconds(recorder.spec)
        name, budget = recorder.spec.name, interrupt.budget
        self.metrics = SweepMetrics(name, recorder.live, progress, budget)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """An epoch; `done` says that the trial ended with it, by itself or by a verdict.

        Both are written together, for a verdict that a crash lost would not be given again.
        """
        live = self._live(trial)
        if live is None:
            return
        live.heard = time.monotonic()
        self.recorder.result(live, result)
        self.interrupt.budget.add(live.trial_id, (*result["earlier"], result["metrics"]))
        self.metrics.result(live)
        if not result["done"]:
            return
        outcome = result["outcome"]
        if outcome == "running":  # not ended by itself
            by_user = live.trial_id in self.interrupt.user_stopped
            outcome = "user_stopped" if by_user else "stopped"
        self._end(live, outcome, result["message"])
        if outcome == "completed" and live.control is None:
            self.interrupt.budget.completed(result["objective"])

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if live := self._live(trial):
            live.heard, live.placed = time.monotonic(), True

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if live := self._live(trial):
            live.placed = False
            self.recorder.retried(live)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if live := self._live(trial):
            silent = time.monotonic() - live.heard
            self._end(live, *explain_failure(error_of(trial), silent, self.patience))

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.recorder.tick()
        self.interrupt.reason = self.interrupt.reason or self.recorder.given_up()
        self.progress.refresh()
        self.metrics.tick()

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        self.metrics.close()

    def _live(self, trial: Any) -> LiveTrial | None:
        return self.recorder.live.get(trial.config["assignment"]["trial_id"])

    def _end(self, live: LiveTrial, outcome: str, message: str | None) -> None:
        self.recorder.end(live, outcome, message)
        self.progress.ended(live, outcome, message)
