"""Early stopping: Ray's schedulers behind one policy object, for live sweeps and for resume."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    TrialScheduler,
)

from rts_search.spec import SweepSpec

TIME, METRIC = "epoch", "objective"


@dataclass(frozen=True)
class Entrant:
    """A trial as a scheduler knows it: by our own id, which outlives a restart of Tune."""

    trial_id: str


class Stopper(FIFOScheduler):  # type: ignore[misc]
    """Asks a Ray scheduler, but never about exempt trials or values that are not finite.

    Ray's ASHA never stops a NaN trial and its rungs would keep the NaN; the guard ends those.
    """

    def __init__(self, policy: TrialScheduler, milestones: list[int]) -> None:
        super().__init__()
        self.policy = policy
        self.milestones = milestones
        self.seen: dict[str, int] = {}  # the last epoch that the policy knows of a trial

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True  # the policy was given both

    def rung_at(self, epoch: int) -> int | None:
        """The index of the last rung that an epoch has reached, or None before the first."""
        reached = [rung for rung, milestone in enumerate(self.milestones) if epoch >= milestone]
        return reached[-1] if reached else None

    def on_trial_add(self, controller: Any, trial: Any) -> None:
        if entrant := _entrant(trial):
            self.policy.on_trial_add(controller, entrant)

    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        entrant = _entrant(trial)
        if entrant is None or not self._is_new(entrant, result):
            return str(TrialScheduler.CONTINUE)
        return str(self.policy.on_trial_result(controller, entrant, result))

    def on_trial_complete(self, controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if (entrant := _entrant(trial)) and self._is_new(entrant, result):
            self.policy.on_trial_complete(controller, entrant, result)

    def refill(self, trial_id: str, values: dict[int, float]) -> None:
        """Let the policy know an earlier trial's values (by epoch); its verdicts are past."""
        entrant = Entrant(trial_id)
        for epoch in sorted(values):
            result = {TIME: epoch, METRIC: values[epoch]}
            if self._is_new(entrant, result):
                self.policy.on_trial_add(None, entrant)  # each completion forgets the trial
                self.policy.on_trial_complete(None, entrant, result)  # records, judges nothing

    def _is_new(self, entrant: Entrant, result: dict[str, Any]) -> bool:
        """Finite, and of an epoch after those seen: retried and resumed trials repeat epochs."""
        epoch = result.get(TIME, 0)
        if epoch <= self.seen.get(entrant.trial_id, 0) or not math.isfinite(result[METRIC]):
            return False
        self.seen[entrant.trial_id] = epoch
        return True


def make_stopper(spec: SweepSpec) -> Stopper:
    """The spec's stopper. Raises ValueError if its first rung is not below T."""
    stop, epochs = spec.stop, spec.train.epochs
    mode = "max" if spec.direction == "maximize" else "min"
    if stop.policy == "none":
        return Stopper(FIFOScheduler(), [])
    if stop.first_rung >= epochs:
        raise ValueError(
            f"stop.first_rung {stop.first_rung} must be below train.epochs {epochs}, or no trial "
            "could stop early; use a smaller one, or stop.policy none"
        )
    if stop.policy == "median":
        rule = MedianStoppingRule(
            time_attr=TIME,
            metric=METRIC,
            mode=mode,
            grace_period=stop.first_rung,
            min_time_slice=math.inf,  # never pauses trials while it has too few samples
        )
        return Stopper(rule, [stop.first_rung])
    asha = AsyncHyperBandScheduler(
        time_attr=TIME,
        metric=METRIC,
        mode=mode,
        max_t=epochs,
        grace_period=stop.first_rung,
        reduction_factor=stop.eta,
        stop_last_trials=False,
    )
    return Stopper(asha, asha_milestones(stop.first_rung, stop.eta, epochs))


def asha_milestones(first_rung: int, eta: float, epochs: int) -> list[int]:
    """The epochs below T at which ASHA decides: first_rung · ηᵏ, rounded up to whole epochs."""
    milestones, at = [], float(first_rung)
    while math.ceil(at) < epochs:
        milestones.append(math.ceil(at))
        at *= eta
    return milestones


def _entrant(trial: Any) -> Entrant | None:
    assignment = trial.config["assignment"]
    return None if assignment["exempt"] else Entrant(assignment["trial_id"])
