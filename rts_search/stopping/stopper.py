"""Early stopping: one policy object for live sweeps, resume, replay and estimate.

With fidelity `schedule` a trial climbs rungs that are complete schedules of T/ηᵏ epochs and is
judged at the end of each; with `epoch` it is one run of T epochs, judged at T/ηᵏ of them.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from functools import lru_cache
from itertools import accumulate
from typing import Literal

import numpy as np

from rts_search.spec.model import StopConfig, SweepSpec
from rts_search.stopping.rules import Asha, Median, Miss, Rule
from rts_search.stopping.rungs import rungs

TIE = 1e-12  # relative; far below what an accuracy or a loss can differ by
_AUDIT, _BRACKET, _TIES = 1, 2, 3  # streams of random numbers


class Stopper:
    """Judges searched trials by their numbers. Deterministic in the order of its calls.

    `rungs` are the T of each complete schedule (`schedule`) or the epochs at which trials are
    judged, and then T (`epoch`). A trial's value at an epoch is the mean over the tail until it,
    `trainables.metrics.tail_mean`. A trial's bracket (Hyperband) and whether it is audited, which
    is that it goes on whatever the verdict, follow from the seed and its number.
    """

    def __init__(
        self, config: StopConfig, epochs: int, mode: Literal["max", "min"], seed: int = 0
    ) -> None:
        self.config, self.epochs, self.seed = config, epochs, seed
        self.sign = 1 if mode == "max" else -1
        self.rungs = rungs(config, epochs)
        self.by_schedule = config.by_schedule
        self.seen: dict[int, int] = {}  # the last step that the rule knows of a trial
        self.lost: dict[int, int] = {}  # audited trials: the rung where they would have ended
        self.misses: dict[int, tuple[int, Miss]] = {}  # stopped trials: the step, and why
        if config.policy == "median":
            # in epoch, each one from the first rung on is a judgement
            times = self.rungs if self.by_schedule else range(self.rungs[0], epochs + 1)
            self.rules: list[Rule] = [Median(times)]
        else:
            brackets = len(self.rungs) if config.policy == "hyperband" else 1
            self.rules = [Asha(self.rungs[start:-1], config.eta) for start in range(brackets)]
        # Hyperband's bracket s begins at rung s; shares ∝ η⁻ˢ give all the same cost
        self.shares = list(accumulate(config.eta**-start for start in range(len(self.rules))))

    def audited(self, number: int) -> bool:
        if self.config.policy == "none":
            return False
        return _draw(self.seed, number, _AUDIT) < self.config.audit

    def bracket(self, number: int) -> int:
        if len(self.rules) == 1:
            return 0
        return bisect_right(self.shares, self.shares[-1] * _draw(self.seed, number, _BRACKET))

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
        reached = bisect_right(self.rungs, total_epochs if self.by_schedule else epoch)
        return reached - 1 if reached else None

    def judge(self, number: int, total_epochs: int, epoch: int, value: float) -> bool:
        """Must the trial stop after this epoch of a run of `total_epochs`? Each step counts once:
        retried and resumed trials repeat epochs. A value that is not finite is never shown: the
        guard ends those trials."""
        step = total_epochs if self.by_schedule else epoch
        if (
            (self.by_schedule and epoch != total_epochs)
            or step <= self.seen.get(number, 0)
            or not math.isfinite(value)
            or number in self.lost
        ):
            return False
        self.seen[number] = step
        rule = self.rules[self.bracket(number)]
        stop = rule.judge(number, step, self._shown(number, step, value))
        if not stop or epoch == self.epochs:  # then it has ended by itself
            return False
        if self.audited(number):
            self.lost[number] = self.rung_at(total_epochs, epoch) or 0
            return False
        if rule.miss is not None:
            self.misses[number] = step, rule.miss
        return True

    def why(self, number: int) -> str | None:
        """Why a trial was stopped, in words; None if it was not."""
        if number not in self.misses:
            return None
        step, miss = self.misses[number]
        rung = bisect_right(self.rungs, step) - 1
        where = f"T = {step}" if self.by_schedule else f"epoch {step}"
        equal = miss.cutoff - miss.value <= TIE * max(1.0, abs(miss.value))  # see `_shown`
        return (
            f"rank {miss.rank} of {miss.of} at rung {rung} ({where}): "
            f"{self.sign * miss.value:.4f}, cutoff {self.sign * miss.cutoff:.4f}"
            + (", equal to it: drawn by lot" if equal else "")
        )

    def refill(self, number: int, values: Mapping[int, float]) -> None:
        """Let the rule know an earlier trial's values, by step: the T of its complete schedules
        (`schedule`) or its epochs (`epoch`). Their verdicts are past, but those of audited trials
        are found again."""
        for step in sorted(values):
            self.judge(number, step if self.by_schedule else self.epochs, step, values[step])

    def _shown(self, number: int, step: int, value: float) -> float:
        """What the rule is shown, higher is better. Trials that are equal at a rung, as all are
        whose trigger has not fired in it, stand there in an order drawn by their numbers: ASHA lets
        pass whoever equals the cutoff, and so would promote them all."""
        if self.config.policy != "median" and step in self.rungs[:-1]:
            value += TIE * max(1.0, abs(value)) * _draw(self.seed, number, _TIES)
        return self.sign * value


@lru_cache(maxsize=100_000)  # a replay asks again for the same seeds and numbers
def _draw(seed: int, number: int, stream: int) -> float:
    """In 0–1, uniform."""
    return float(np.random.default_rng([seed, number, stream]).random())


def make_stopper(spec: SweepSpec) -> Stopper:
    """The spec's stopper. Raises ValueError if its first rung is not below T."""
    mode: Literal["max", "min"] = "max" if spec.direction == "maximize" else "min"
    return Stopper(spec.stop, spec.train.epochs, mode, spec.search.seed)


def describe_stop(spec: SweepSpec) -> str:
    """The stopper in words, as in `asha over complete schedules of 3, 9, 27 epochs`."""
    stopper, policy = make_stopper(spec), spec.stop.policy
    if policy == "none":
        return f"every trial to T = {spec.train.epochs}"
    rungs = ", ".join(map(str, stopper.rungs))
    if stopper.by_schedule:
        return f"{policy} over complete schedules of {rungs} epochs"
    return f"{policy} at epochs {rungs} of one schedule"
