"""Stopping rules: must a trial stop, given the values of those that came before it?

Higher is better. A trial's values come in the order of their times; it may skip some. Verdicts are
those of Ray Tune's AsyncHyperBandScheduler and MedianStoppingRule.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

FEWEST = 3  # trials that a median is taken of


@dataclass(frozen=True, slots=True)
class Miss:
    """Why a trial must stop: its value (of ASHA) or its best until then (of the median rule) is
    below the cutoff. `rank` is its place, from 1, `of` so many, itself included."""

    value: float
    cutoff: float
    rank: int
    of: int


class Rule(Protocol):
    miss: Miss | None  # of the last verdict that a trial must stop

    def judge(self, number: int, time: int, value: float) -> bool:
        """Take in a trial's value; True if it must stop."""

    def skip(self, number: int, time: int) -> None:
        """The trial has come to this time, and is not judged at it."""


class Asha:
    """Asynchronous successive halving (arXiv 1810.05934): at each milestone the trials below the
    (1 − 1/η) quantile of those that were there before them stop."""

    def __init__(self, milestones: Sequence[int], eta: float) -> None:
        self.milestones, self.share = list(milestones), 1 - 1 / eta
        self.values: list[list[float]] = [[] for _ in milestones]  # sorted
        self.judged: dict[int, int] = {}  # by trial: its last milestone
        self.miss: Miss | None = None

    def judge(self, number: int, time: int, value: float) -> bool:
        place = bisect_right(self.milestones, time) - 1
        if place <= self.judged.get(number, -1):
            return False
        self.judged[number], before = place, self.values[place]
        stop = bool(before) and value < (cutoff := _quantile(before, self.share))
        if stop:
            self.miss = _miss(value, cutoff, before)
        insort(before, value)
        return stop

    def skip(self, number: int, time: int) -> None:
        place = bisect_right(self.milestones, time) - 1
        self.judged[number] = max(place, self.judged.get(number, -1))


def _miss(value: float, cutoff: float, others: Sequence[float]) -> Miss:
    """`others` are sorted."""
    better = len(others) - bisect_right(others, value)
    return Miss(value, cutoff, better + 1, len(others) + 1)


def _quantile(ordered: Sequence[float], share: float) -> float:
    """As numpy's, to the bit, for a hundredth of its time."""
    place = share * (len(ordered) - 1)
    low, high = ordered[int(place)], ordered[math.ceil(place)]
    after = place - int(place)
    return low + (high - low) * after if after < 0.5 else high - (high - low) * (1 - after)


@dataclass
class _Past:
    """A trial's best value, and the mean of those since the first time; `place` is the next."""

    best: float = -math.inf
    total: float = 0.0
    count: int = 0
    place: int = 0


class Median:
    """Vizier's median rule: at each of `times` the trials stop whose best value is below the median
    of the others' running means since the first of them."""

    def __init__(self, times: Sequence[int]) -> None:
        self.times = list(times)
        self.means: list[list[float]] = [[] for _ in times]  # sorted
        self.pasts: dict[int, _Past] = {}
        self.miss: Miss | None = None

    def judge(self, number: int, time: int, value: float) -> bool:
        past = self.pasts.setdefault(number, _Past())
        past.best = max(past.best, value)
        place = bisect_right(self.times, time) - 1
        if place < 0:
            return False
        if past.count:  # it counts at the times that it skipped, too
            for skipped in self.means[past.place : place]:
                insort(skipped, past.total / past.count)
        past.total, past.count, past.place = past.total + value, past.count + 1, place + 1
        others = self.means[place]
        stop = len(others) >= FEWEST and (median := _middle(others)) > past.best
        if stop:
            self.miss = _miss(past.best, median, others)
        insort(others, past.total / past.count)
        return stop

    def skip(self, number: int, time: int) -> None:
        """Nothing: its best value and its means begin with the first that counts."""


def _middle(ordered: Sequence[float]) -> float:
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
