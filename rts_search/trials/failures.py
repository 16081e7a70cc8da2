"""Lost workers: what Tune makes of them, and what the ledger says."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayActorError, RayTaskError
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial

from results.meanings import Outcome

COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # Ray's
MOST_TRACEBACK = 10_000  # characters
MOST_LOST = 20  # nodes that a trial may lose: more, and it is what kills them


class WorkerOutOfMemory(RayActorError):  # type: ignore[misc]
    """Ray's memory monitor killed a trial's worker."""


@contextmanager
def failures_as_they_are() -> Iterator[None]:
    """Three corrections of what Tune (2.60) makes of a lost worker.

    The actor manager knows RayActorError and RayTaskError only: an OutOfMemoryError would end the
    whole sweep, whatever `max_failures` says. It becomes the failure of one trial, as a dead
    worker is. A worker that is lost while it is handed its next trial is told twice, of the actor
    and of its task; the second time ends the trial, whatever retries it has left, so it is not
    heard. And a node that vanishes is no failure of its trials, which Tune grants only to nodes
    whose end was announced: they go on from their checkpoints, MOST_LOST times.
    """
    task_failed, handle_error = RayActorManager._actor_task_failed, Trial.handle_error
    trial_failure = TuneController._trial_task_failure
    lost: Counter[str] = Counter()
    told: dict[str, Exception] = {}

    def failed(manager: Any, tracked_actor_task: Any, exception: Exception) -> None:
        task_failed(manager, tracked_actor_task, as_actor_error(exception))

    def handle(trial: Trial, exc: Exception | None = None) -> None:
        exc = as_actor_error(exc)
        if node_is_lost(exc):
            lost[trial.trial_id] += 1
            exc._preempted = lost[trial.trial_id] <= MOST_LOST  # type: ignore[union-attr]
        handle_error(trial, exc)

    def fail_once(controller: TuneController, trial: Trial, exception: Exception) -> None:
        if told.get(trial.trial_id) is not exception:
            told[trial.trial_id] = exception
            controller._resetting_trials.discard(trial)
            trial_failure(controller, trial, exception)

    RayActorManager._actor_task_failed, Trial.handle_error = failed, handle
    TuneController._trial_task_failure = fail_once
    try:
        yield
    finally:
        RayActorManager._actor_task_failed, Trial.handle_error = task_failed, handle_error
        TuneController._trial_task_failure = trial_failure


def as_actor_error(error: Exception | None) -> Exception | None:
    """A kill by Ray's memory monitor as the actor's death that it is; other errors as they are."""
    if isinstance(error, OutOfMemoryError):
        return WorkerOutOfMemory(error_msg=f"OutOfMemoryError: {error}")
    return error


def node_is_lost(error: BaseException | None) -> bool:
    """Whether a worker went with its node: Ray says so, or cannot reach it at first."""
    died = isinstance(error, RayActorError) and "its node has died" in str(error)
    return died or isinstance(error, ActorUnavailableError)


def error_of(trial: Any) -> BaseException:
    """The exception that ended a trial, as Tune keeps it on the driver's disk."""
    path = trial.pickled_error_file
    if path is None or not Path(path).exists():
        return RuntimeError("the worker was lost and gave no reason")
    error: BaseException = cloudpickle.loads(Path(path).read_bytes())
    return error


def traceback_of(error: BaseException) -> str | None:
    """The traceback in the worker, its end at least; None if the worker itself was lost."""
    if not isinstance(error, RayTaskError):
        return None
    lines = COLOURS.sub("", str(error)).splitlines()
    # Ray leaves out its own frames, but not the marks below them
    return "\n".join(line for line in lines if line.strip(" ^~"))[-MOST_TRACEBACK:]


def explain_failure(
    error: BaseException, silent: float = 0.0, patience: float | None = None
) -> tuple[Outcome, str]:
    """The outcome and one line for a trial's exception: out_of_memory or failed.

    A worker that died after more than `patience` seconds without a report ended itself.
    """
    cause: BaseException = error
    while isinstance(cause, RayTaskError) and cause.cause is not None:
        cause = cause.cause
    notes: list[str] = getattr(cause, "__notes__", [])  # where in the user's own code
    line = " ".join([" ".join(str(cause).split())[:500] or "no message", *notes])
    if isinstance(cause, RayActorError) and patience is not None and silent >= patience:
        minutes = f"no epoch within resources.patience_minutes {patience / 60:g}"
        return Outcome.FAILED, f"hung: {minutes}; where it hung is in its worker's log"
    exhausted = isinstance(cause, OutOfMemoryError | MemoryError | WorkerOutOfMemory)
    exhausted = exhausted or type(cause).__name__ == "OutOfMemoryError"  # torch's, by name
    outcome = Outcome.OUT_OF_MEMORY if exhausted else Outcome.FAILED
    return outcome, f"{type(cause).__name__}: {line}"
