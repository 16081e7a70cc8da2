"""The seams to Ray Tune: our plan as a Searcher, our recorder as a Callback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.exceptions import OutOfMemoryError, RayTaskError
from ray.tune import Callback
from ray.tune.search import Searcher

from results.storage import SweepFolder
from rts_search.layout import Layout
from rts_search.progress import Progress
from rts_search.recorder import Recorder
from rts_search.spec import SweepSpec
from rts_search.trials import LiveTrial
from trainables.tune import Assignment, package_fingerprints


class Unsaved:
    """Tune pickles what it is given for a restore that we never do; live objects have no copy."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class PlanSearcher(Unsaved, Searcher):  # type: ignore[misc]
    """Hands the plan's trials to Tune, one at a time. Results reach the study by the recorder."""

    def __init__(
        self,
        plan: Iterator[LiveTrial],
        assign: Callable[[LiveTrial], Assignment],
        recorder: Recorder,
    ) -> None:
        super().__init__(metric="objective", mode="max")
        self.plan, self.assign, self.recorder = plan, assign, recorder

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        trial = next(self.plan, None)
        if trial is None:
            return str(Searcher.FINISHED)
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


class RecorderCallback(Unsaved, Callback):  # type: ignore[misc]
    """Feeds what Tune's controller sees to the recorder and the progress display."""

    def __init__(self, recorder: Recorder, progress: Progress) -> None:
        self.recorder, self.progress = recorder, progress

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if live := self._live(trial):
            self.recorder.result(live, result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        live = self._live(trial)
        if live is None:
            return
        outcome = trial.last_result.get("outcome", "failed")
        if outcome == "running":  # ended by the scheduler, not by itself
            outcome = "stopped"
        self._end(live, outcome, trial.last_result.get("message"))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if live := self._live(trial):
            self.recorder.retried(live)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if live := self._live(trial):
            self._end(live, *explain_failure(_error_of(trial)))

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.recorder.tick()
        self.progress.refresh()

    def _live(self, trial: Any) -> LiveTrial | None:
        return self.recorder.live.get(trial.config["assignment"]["trial_id"])

    def _end(self, live: LiveTrial, outcome: str, message: str | None) -> None:
        self.recorder.end(live, outcome, message)
        self.progress.ended(live, outcome, message)


def _error_of(trial: Any) -> BaseException:
    """The exception that ended a trial, as Tune keeps it on the driver's disk."""
    path = trial.pickled_error_file
    if path is None or not Path(path).exists():
        return RuntimeError("the worker was lost and gave no reason")
    error: BaseException = cloudpickle.loads(Path(path).read_bytes())
    return error


def explain_failure(error: BaseException) -> tuple[str, str]:
    """The outcome and one line for a trial's exception: out_of_memory or failed."""
    cause: BaseException = error
    while isinstance(cause, RayTaskError) and cause.cause is not None:
        cause = cause.cause
    line = " ".join(str(cause).split())[:500] or "no message"
    exhausted = isinstance(cause, OutOfMemoryError | MemoryError)
    exhausted = exhausted or type(cause).__name__ == "OutOfMemoryError"  # torch's, by name
    return "out_of_memory" if exhausted else "failed", f"{type(cause).__name__}: {line}"


def make_assign(
    spec: SweepSpec, folder: SweepFolder, layout: Layout
) -> Callable[[LiveTrial], Assignment]:
    """How the sweep turns a trial into what its worker is told."""
    packages = package_fingerprints()

    def assign(trial: LiveTrial) -> Assignment:
        return Assignment(
            trial_id=trial.trial_id,
            config=trial.config.model_dump_json(),
            checkpoints=folder.uri_of(f"checkpoints/{trial.trial_id}"),
            checkpoint_seconds=spec.checkpoint.every_seconds,
            objective=spec.search.objective,
            threads=layout.threads,
            gpus=layout.gpu,
            exempt=trial.control is not None,
            packages=packages,
        )

    return assign
