"""Early stopping: Ray's schedulers behind one policy object, for live sweeps, resume and replay.

With fidelity `schedule` a trial climbs rungs that are complete schedules of T/ηᵏ epochs and is
judged at the end of each; with `epoch` it is one run of T epochs, judged at first_rung·ηᵏ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    TrialScheduler,
)

from rts_search.spec.model import StopConfig, SweepSpec
from rts_search.stopping.rules import QuickMedian
from rts_search.stopping.rungs import first_rung, rungs

TIME, METRIC = "time", "objective"
TIE = 1e-12  # relative; far below what an accuracy or a loss can differ by
_AUDIT, _BRACKET, _TIES = 1, 2, 3  # streams of random numbers


@dataclass(frozen=True)
class Entrant:
    """A trial as a Ray scheduler knows it: by our own number, which outlives a restart of Tune."""

    trial_id: int


class Stopper:
    """Judges searched trials by their numbers. Deterministic in the order of its calls.

    `rungs` are the T of each complete schedule (`schedule`) or the epochs at which trials are
    judged, and then T (`epoch`). A trial's bracket (Hyperband) and whether it is audited, which
    is that it goes on whatever the verdict, follow from the seed and its number.
    """

    def __init__(
        self, config: StopConfig, epochs: int, mode: Literal["max", "min"], seed: int = 0
    ) -> None:
        self.config, self.epochs, self.seed = config, epochs, seed
        self.rungs = rungs(config, epochs)
        self.seen: dict[int, int] = {}  # the last step that the policy knows of a trial
        self.lost: dict[int, int] = {}  # audited trials: the rung where they would have ended
        first = 1 if self.by_schedule else min(first_rung(config, epochs), epochs)
        if config.policy == "median":
            # in schedule, as in epoch, the first rung is the first judgement
            self.policies: list[TrialScheduler] = [_median(first, mode)]
        elif config.policy == "none":
            self.policies = [FIFOScheduler()]
        else:
            brackets = len(self.rungs) if config.policy == "hyperband" else 1
            top = config.eta ** (len(self.rungs) - 1) if self.by_schedule else epochs
            self.policies = [
                _asha(first * config.eta**bracket, top, config.eta, mode)
                for bracket in range(brackets)
                if first * config.eta**bracket <= top
            ]

    @property
    def by_schedule(self) -> bool:
        return self.config.by_schedule

    def audited(self, number: int) -> bool:
        if self.config.policy == "none":
            return False
        return float(self._draw(number, _AUDIT).random()) < self.config.audit

    def bracket(self, number: int) -> int:
        """Hyperband's bracket s begins at rung s; shares ∝ η⁻ˢ give all the same cost."""
        if len(self.policies) == 1:
            return 0
        weights = self.config.eta ** -np.arange(len(self.policies), dtype=float)
        return int(self._draw(number, _BRACKET).choice(len(weights), p=weights / weights.sum()))

    def climb(self, number: int) -> list[tuple[int, int]]:
        """The (rung, epochs) of the complete schedules that a trial trains, the last of T epochs.

        All begin at the first rung (of their bracket), also those whose trigger cannot fire in it:
        left out, they would end completed more often, and the sampler would take that for merit.
        """
        if not self.by_schedule:
            return [(0, self.epochs)]
        return list(enumerate(self.rungs))[self.bracket(number) :]

    @property
    def top(self) -> int:
        return len(self.rungs) - 1

    def rung_at(self, total_epochs: int, epoch: int) -> int | None:
        """The index of the last rung that an epoch of a run has reached, None before the first."""
        if self.by_schedule:
            return self.rungs.index(total_epochs)
        reached = [rung for rung, milestone in enumerate(self.rungs) if epoch >= milestone]
        return reached[-1] if reached else None

    def judge(self, number: int, total_epochs: int, epoch: int, value: float) -> bool:
        """Must the trial stop after this epoch of a run of `total_epochs`? Each step counts once:
        retried and resumed trials repeat epochs."""
        step = self._step(total_epochs, epoch)
        if step is None or not self._is_new(number, step, value) or number in self.lost:
            return False
        policy, entrant = self.policies[self.bracket(number)], Entrant(number)
        policy.on_trial_add(None, entrant)
        result = self._result(number, step, value)
        stop: bool = policy.on_trial_result(None, entrant, result) == TrialScheduler.STOP
        if epoch == self.epochs:
            return False  # it has ended by itself
        if stop and self.audited(number):
            self.lost[number] = self.rung_at(total_epochs, epoch) or 0
            return False
        return stop

    def refill(self, number: int, values: Mapping[int, float]) -> None:
        """Let the policy know an earlier trial's values, by step: the T of its complete schedules
        (`schedule`) or its epochs (`epoch`). Their verdicts are past, but those of audited trials
        are found again."""
        policy, entrant = self.policies[self.bracket(number)], Entrant(number)
        for step in sorted(values):
            if self.audited(number):
                total = step if self.by_schedule else self.epochs
                self.judge(number, total, step, values[step])
            elif self._is_new(number, step, values[step]):
                policy.on_trial_add(None, entrant)  # each completion forgets the trial
                result = self._result(number, step, values[step])
                policy.on_trial_complete(None, entrant, result)  # records, judges nothing

    def _step(self, total_epochs: int, epoch: int) -> int | None:
        if not self.by_schedule:
            return epoch
        return total_epochs if epoch == total_epochs else None

    def _result(self, number: int, step: int, value: float) -> dict[str, float]:
        """What Ray's scheduler is shown.

        Its time is ηᵏ at the k-th complete schedule, so that rungs rounded to whole epochs meet
        its milestones exactly; else the epoch. Trials that are equal at a rung, as all are whose
        trigger has not fired in it, stand there in an order drawn by their numbers: Ray's ASHA
        lets pass whoever equals the cutoff, and so would promote them all.
        """
        if self.config.policy != "median" and step in self.rungs:
            value += TIE * max(1.0, abs(value)) * float(self._draw(number, _TIES).random())
        time = self.config.eta ** self.rungs.index(step) if self.by_schedule else step
        return {TIME: float(time), METRIC: value}

    def _is_new(self, number: int, step: int, value: float) -> bool:
        """A NaN is never shown: Ray's ASHA would keep it in its rung. The guard ends those."""
        if step <= self.seen.get(number, 0) or not math.isfinite(value):
            return False
        self.seen[number] = step
        return True

    def _draw(self, number: int, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, number, stream])


def make_stopper(spec: SweepSpec) -> Stopper:
    """The spec's stopper. Raises ValueError if its first rung is not below T."""
    mode: Literal["max", "min"] = "max" if spec.direction == "maximize" else "min"
    return Stopper(spec.stop, spec.train.epochs, mode, spec.search.seed)


def _asha(first: float, last: float, eta: float, mode: str) -> AsyncHyperBandScheduler:
    return AsyncHyperBandScheduler(
        time_attr=TIME,
        metric=METRIC,
        mode=mode,
        max_t=last,
        grace_period=first,
        reduction_factor=eta,
        stop_last_trials=False,
    )


def _median(first: float, mode: str) -> QuickMedian:
    return QuickMedian(
        time_attr=TIME,
        metric=METRIC,
        mode=mode,
        grace_period=first,
        min_time_slice=math.inf,  # never pauses trials while it has too few samples
    )


def describe_stop(spec: SweepSpec) -> str:
    """The stopper in words, as in `asha over complete schedules of 3, 9, 27 epochs`."""
    stopper, policy = make_stopper(spec), spec.stop.policy
    if policy == "none":
        return f"every trial to T = {spec.train.epochs}"
    rungs = ", ".join(map(str, stopper.rungs))
    if stopper.by_schedule:
        return f"{policy} over complete schedules of {rungs} epochs"
    return f"{policy} at epochs {rungs} of one schedule"
