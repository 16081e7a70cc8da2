"""The seams to Ray Tune: our plan as a Searcher, our stopper as a Scheduler, and the one Callback
that tells the observers."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ray.tune import Callback
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from results.meanings import Outcome
from rts_search.spec.model import SweepSpec, patience_seconds
from rts_search.stopping.stopper import Stopper
from rts_search.trials.failures import error_of, explain_failure, traceback_of
from rts_search.trials.observer import Observer
from rts_search.trials.rows import look_at, looks
from rts_search.trials.trial import LiveTrial
from trainables.tune import Assignment

END = object()  # of a plan
KEPT = 16  # ended trials that Tune goes on knowing: it may still hear of their workers


class Unsaved:
    """Tune pickles what it is given for a restore that we never do; live objects have no copy."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Seam(Unsaved, Callback):  # type: ignore[misc]
    """Tells the observers, in their order, what Tune's controller sees.

    `live` are the trials that were handed out and have not ended. `user_stopped` are those that a
    user has ended.
    """

    def __init__(
        self,
        spec: SweepSpec,
        live: dict[str, LiveTrial],
        observers: Sequence[Observer],
        user_stopped: Container[str],
    ) -> None:
        self.live, self.observers, self.user_stopped = live, observers, user_stopped
        self.patience = patience_seconds(spec)

    def begin(self, trial: LiveTrial) -> None:
        """Raises OSError if it cannot begin now."""
        for observer in self.observers:
            observer.begins(trial)
        self.live[trial.trial_id] = trial

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """An epoch, after those that a checkpoint held before it; what is known is left out.

        `done` says that the trial ended with it, by itself or by a verdict: both are told in one
        go, and so written together.
        """
        live = self._live(trial)
        if live is None:
            return
        live.heard, live.host, live.device = time.monotonic(), result["host"], result["device"]
        live.threads, live.precision = result["threads"], result["precision"]
        live.classes, live.validation_images = result["classes"], result["validation_images"]
        new = []
        for metrics in result["epochs"]:
            if (metrics["rung"], metrics["epoch"]) > live.place:
                live.history.append(metrics)
                new.append(metrics)
        for observer in self.observers:
            observer.reported(live, new)
        if result["done"]:
            outcome = Outcome(result["outcome"])
            if not outcome.finished:  # not by itself
                by_user = live.trial_id in self.user_stopped
                outcome = Outcome.USER_STOPPED if by_user else Outcome.STOPPED
            self._end(live, outcome, result["message"])

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if live := self._live(trial):
            live.heard, live.placed = time.monotonic(), True

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if live := self._live(trial):
            live.placed = False
            live.retries += 1
            for observer in self.observers:
                observer.retried(live)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if live := self._live(trial):
            silent = time.monotonic() - live.heard
            error = error_of(trial)
            live.traceback = traceback_of(error)
            self._end(live, *explain_failure(error, silent, self.patience))

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        for observer in self.observers:
            observer.tick()

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        for observer in self.observers:
            observer.close()

    def _live(self, trial: Any) -> LiveTrial | None:
        return self.live.get(trial.config["assignment"]["trial_id"])

    def _end(self, live: LiveTrial, outcome: Outcome, message: str | None) -> None:
        live.outcome, live.message = outcome, message
        del self.live[live.trial_id]
        for observer in self.observers:
            observer.ended(live)


class NoPrinting(TrialProgressCallback):  # type: ignore[misc]
    """In the place of the one that Tune adds where there is none: it keeps every trial, to print of
    it what we print ourselves."""

    def log_result(self, trial: Any, result: dict[str, Any], error: bool = False) -> None:
        pass

    def on_trial_complete(self, *arguments: Any, **info: Any) -> None:
        pass


class PlanSearcher(Unsaved, Searcher):  # type: ignore[misc]
    """Hands the plan's trials to Tune, one at a time. Results reach the search as an observer.
    A plan whose next trial hangs on the results of those that run gives None until it is known.

    `ends` says that the sweep is at its end, whatever the plan has: while no trial runs, Tune waits
    here for one, and asks nobody else.
    """

    def __init__(
        self,
        plan: Iterator[LiveTrial | None],
        assign: Callable[[LiveTrial], Assignment],
        seam: Seam,
        ends: Callable[[], bool],
    ) -> None:
        super().__init__(metric="objective", mode="max")
        self.plan, self.assign, self.seam, self.ends = plan, assign, seam, ends
        self.offered: LiveTrial | None = None  # while it cannot begin

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        trial = END if self.ends() else self.offered or next(self.plan, END)
        if trial is END:
            return str(Searcher.FINISHED)
        if trial is None:
            return None  # Tune asks again
        assert isinstance(trial, LiveTrial)
        try:
            self.seam.begin(trial)
        except OSError:
            self.offered = trial
            return None
        self.offered = None
        return {"assignment": asdict(self.assign(trial))}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing, as with `save` and `restore`: the ledger is the only memory."""

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        pass


class TuneStopper(Unsaved, FIFOScheduler):  # type: ignore[misc]
    """Our stopper as a Tune scheduler. Controls, which have no number, are never judged.

    `live` are the seam's trials. `places` is how many find room at once, as far as is known.
    """

    def __init__(
        self, stopper: Stopper, live: Mapping[str, LiveTrial], objective: str, places: int
    ) -> None:
        super().__init__()
        self.stopper, self.live = stopper, live
        self.objective, self.places = objective, places

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """The first trial whose worker is not starting yet.

        Tune would give a worker that becomes free to the trial that waits for its own to start, end
        the one that starts, and start another for the next trial: where trials are shorter than
        that takes, none but the first worker ever came to train. Here that trial waits, and the
        next has the free one.
        """
        self._make_room(tune_controller)
        workers, starts = tune_controller._trial_to_actor, tune_controller._actor_manager
        for trial in tune_controller.get_trials():
            worker = workers.get(trial)
            if trial.status == trial.PENDING and not (worker and starts.is_actor_started(worker)):
                return trial
        return None

    def _make_room(self, controller: Any, ending: Any = None) -> None:
        """By default Tune would start one worker after the other, each of which takes seconds: here
        as many at once as there are places, and one more if there are none, for a node that may
        join."""
        live = controller.get_live_trials()
        running = sum(trial.status == trial.RUNNING for trial in live if trial is not ending)
        controller.update_max_pending_trials(max(1, self.places - running))

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True  # the stopper has both

    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        live = self.live.get(trial.config["assignment"]["trial_id"])
        stop = live is not None and live.number is not None and self._judge(live, result)
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)

    def on_trial_complete(self, controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """A trial has ended; what it reached the recorder has shown to the stopper. The next has
        its worker, whatever others start."""
        self._make_room(controller, trial)
        forget_ended(controller, trial)

    def on_trial_error(self, controller: Any, trial: Any) -> None:
        forget_ended(controller, trial)

    def _judge(self, live: LiveTrial, result: dict[str, Any]) -> bool:
        assert live.number is not None
        sgd, by_schedule = live.is_sgd, self.stopper.by_schedule
        *earlier, newest = result["epochs"]
        shared = {row["epoch"] for row in earlier if row.get("shared")}
        for look in looks(earlier, self.objective, by_schedule, sgd):
            # others were trained after an earlier driver's last word: it let them go on
            if self.stopper.judge(live.number, look) and look.epoch in shared:
                return True
        return self.stopper.judge(live.number, look_at(newest, result["objective"], sgd))


def forget_ended(controller: Any, ending: Any) -> None:
    """Tune (2.60) keeps the results of every trial, 0.18 MB each, and writes them all to a file
    every few seconds, for a restore that we never do: here only those of the last KEPT of the
    ended. The one that is `ending` may yet be tried again."""
    trials, busy = controller.get_trials(), controller._trial_to_actor
    ended = [t for t in trials if t.is_finished() and t not in busy and t is not ending]
    for trial in ended[:-KEPT]:
        trials.remove(trial)
        # those that failed stay among the live ones, in Tune
        for known in ("_live_trials", "_stopped_trials", "_failed_trials", "_trials_to_cache"):
            getattr(controller, known).discard(trial)
        controller._trial_metadata.pop(trial.trial_id, None)
