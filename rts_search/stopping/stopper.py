"""Early stopping: one policy object for live sweeps, resume, replay and estimate.

With fidelity `schedule` a trial climbs rungs that are complete schedules of T/ηᵏ epochs and is
judged at the end of each; with `epoch` it is one run of T epochs, judged at T/ηᵏ of them, or with
the clock `firing` at 2·ηᵏ perturbed ones. Until its trigger fires a trial is plain SGD, as all are:
at rungs before that it is neither judged nor known to the rule.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import accumulate
from typing import Literal, NamedTuple

import numpy as np

from rts_search.spec.model import StopConfig, SweepSpec
from rts_search.stopping.rules import Asha, Median, Miss, Rule
from rts_search.stopping.rungs import HIGHEST, rungs

TIE = 1e-12  # relative; far below what an accuracy or a loss can differ by
_AUDIT, _BRACKET, _TIES = 1, 2, 3  # streams of random numbers


class Look(NamedTuple):
    """A trial after an epoch of a run of `total` epochs. `value` is the mean over the tail until
    then, `trainables.metrics.tail_mean`. `perturbed` counts the run's perturbed epochs so far: 0
    while its trigger has yet to fire, None for plain SGD, which has none to fire."""

    total: int
    epoch: int
    value: float
    perturbed: int | None = None


class Stopper:
    """Judges searched trials by their numbers. Deterministic in the order of its calls.

    `rungs` are the T of each complete schedule (`schedule`) or the epochs at which trials are
    judged, and then T (`epoch`). A trial's bracket (Hyperband) and whether it is audited, which is
    that it goes on whatever the verdict, follow from the seed and its number. With the clock
    `firing` rungs are perturbed epochs, and a trial's value there is its difference to the sgd
    control's at the same epoch.
    """

    def __init__(
        self, config: StopConfig, epochs: int, mode: Literal["max", "min"], seed: int = 0
    ) -> None:
        self.config, self.epochs, self.seed = config, epochs, seed
        self.sign = 1 if mode == "max" else -1
        self.rungs = rungs(config, epochs)
        self.by_schedule = config.by_schedule
        self.by_firing = config.clock == "firing"
        self.control: Mapping[int, float] = {}  # the sgd control's values, by epoch
        self.ahead: list[tuple[int, Look]] = []  # of the control: not judged yet
        self.seen: dict[int, int] = {}  # the last step that the rule knows of a trial
        # trials that go on nevertheless: the rung where they would have ended, or did
        self.lost: dict[int, int] = {}
        self.thawed: dict[int, int] = {}  # those that did: the epoch
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

    def step(self, look: Look) -> int:
        """What rungs are counted in: T, epochs, or perturbed epochs."""
        if self.by_firing:
            return look.perturbed or 0
        return look.total if self.by_schedule else look.epoch

    def rung_at(self, look: Look) -> int | None:
        """The index of the last rung that a trial has reached, None before the first."""
        reached = bisect_right(self.rungs, self.step(look))
        return reached - 1 if reached else None

    def judge(self, number: int, look: Look) -> bool:
        """Must the trial stop after this epoch? Each step counts once, and has one verdict: retried
        and resumed trials repeat epochs. A value that is not finite is never shown: the guard ends
        those trials."""
        step = self.step(look)
        if (
            (self.by_schedule and look.epoch != look.total)
            or not math.isfinite(look.value)
            or number in self.lost
        ):
            return False
        if step <= self.seen.get(number, 0):
            return number in self.misses and self.misses[number][0] == step
        rule, value = self.rules[self.bracket(number)], look.value
        if look.perturbed == 0 and not self.config.judge_unfired:
            self.seen[number] = step
            rule.skip(number, step)
            return False
        if self.by_firing:
            if look.epoch >= HIGHEST * self.epochs:
                return False
            if look.epoch not in self.control:
                self.ahead.append((number, look))
                return False
            value -= self.control[look.epoch]
        self.seen[number] = step
        stop = rule.judge(number, step, self._shown(number, step, value))
        if not stop or look.epoch == self.epochs:  # then it has ended by itself
            return False
        if self.audited(number):
            self.lost[number] = self.rung_at(look) or 0
            return False
        if rule.miss is not None:
            self.misses[number] = step, rule.miss
        return True

    def hear_control(self, values: Mapping[int, float]) -> None:
        """What the sgd control was worth until now, by epoch. Trials that were at a rung before it
        have gone on; the rule knows them from now on, as it will after a resume."""
        self.control = {epoch: value for epoch, value in values.items() if math.isfinite(value)}
        ahead, self.ahead = self.ahead, []
        for number, look in ahead:
            self.judge(number, look)

    def thaw(self, number: int, rung: int, epoch: int) -> None:
        """The trial, which was stopped there, goes on, and is not judged any more."""
        self.lost[number], self.thawed[number] = rung, epoch

    def why(self, number: int) -> str | None:
        """Why a trial was stopped, in words; None if it was not."""
        if number not in self.misses:
            return None
        step, miss = self.misses[number]
        rung = bisect_right(self.rungs, step) - 1
        where = f"T = {step}" if self.by_schedule else f"epoch {step}"
        value, cutoff = (f"{self.sign * each:.4f}" for each in (miss.value, miss.cutoff))
        if self.by_firing:
            where = f"{step} epochs after firing"
            value = f"{self.sign * miss.value:+.4f} to sgd"
            cutoff = f"{self.sign * miss.cutoff:+.4f}"
        equal = miss.cutoff - miss.value <= TIE * max(1.0, abs(miss.value))  # see `_shown`
        return (
            f"rank {miss.rank} of {miss.of} at rung {rung} ({where}): {value}, cutoff {cutoff}"
            + (", equal to it: drawn by lot" if equal else "")
        )

    def refill(self, number: int, looks: Iterable[Look]) -> None:
        """Let the rule know what a trial has come to."""
        for look in looks:
            self.judge(number, look)

    def _shown(self, number: int, step: int, value: float) -> float:
        """What the rule is shown, higher is better. Trials that are equal at a rung, as those are
        whose configurations are the same in effect, stand there in an order drawn by their numbers:
        ASHA lets pass whoever equals the cutoff, and so would promote them all."""
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
    if stopper.by_firing:
        below = ", ".join(map(str, stopper.rungs[:-1]))
        return f"{policy} at {below} epochs after firing, by the difference to sgd"
    return f"{policy} at epochs {rungs} of one schedule"
