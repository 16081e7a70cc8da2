"""One search on recorded curves, in simulated time with W workers, event by event."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rts_search.replay.curves import RecordedCurves, Runs
from rts_search.replay.policies import Policy
from rts_search.replay.searchers import InOrder, Search
from rts_search.stopping.stopper import Stopper


@dataclass(frozen=True)
class Draw:
    """What chance decides in a replay: the order of configurations, seeds, the stopper's seed.

    The first of `seeds` is the search's own; it is used at every rung where it was recorded, and
    the next ones where it was not, or where more are averaged.
    """

    order: Sequence[int]
    seeds: Sequence[int]
    stopper_seed: int

    def seeds_at(self, curves: RecordedCurves, total: int, count: int) -> list[int]:
        return [seed for seed in self.seeds if (total, seed) in curves.runs][:count]

    def below(self, curves: RecordedCurves, policy: Policy) -> set[int]:
        """The seeds of the runs that the policy trains at rungs below T."""
        stopper = policy.stopper(curves.epochs, self.stopper_seed)
        totals = stopper.rungs[:-1] if stopper.by_schedule else []
        return {seed for total in totals for seed in self.seeds_at(curves, total, policy.seeds)}

    def at_top(self, curves: RecordedCurves, policy: Policy) -> list[int]:
        """The seeds of the runs of T: its own, and the finalists' second, which is one that it
        has seen below if there is one."""
        own, *others = [seed for seed in self.seeds if seed in curves.seeds()]
        if not policy.finalists:
            return [own]
        seen = self.below(curves, policy)
        return [own, min(others, key=lambda seed: seed not in seen)]


@dataclass(frozen=True)
class Outcome:
    """What one search came to. `pick` is a configuration's index, None if no trial completed."""

    pick: int | None
    epochs: int
    gradients: float
    makespan: float
    completed: int


@dataclass(frozen=True)
class Moment:
    """A point of a trial's climb at which the stopper is asked or the trial ends.

    `time` (seconds), `epochs` and `gradients` are counted from the trial's start.
    """

    time: float
    total: int
    epoch: int
    value: float
    epochs: int
    gradients: float


@dataclass
class Trial:
    config: int
    began: float
    moments: list[Moment]
    at: int = 0


class Simulation:
    """Searches of one policy over the same curves. `every_epoch` shows the stopper every epoch,
    also those that cannot matter to it: slower, with the same result."""

    def __init__(
        self, curves: RecordedCurves, policy: Policy, workers: int = 1, every_epoch: bool = False
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers {workers} must be at least 1")
        self.curves, self.policy, self.workers = curves, policy, workers
        self.every_epoch = every_epoch
        self.known: dict[tuple[int, tuple[tuple[int, int], ...]], list[Moment]] = {}

    def run(self, draw: Draw, search: Search | None = None) -> Outcome:
        """One search, by default in the drawn order. A freed worker takes the next configuration
        at once; of events at the same time the lower trial's comes first."""
        return _Run(self, draw, search or InOrder(draw.order)).run()

    def moments(self, stopper: Stopper, config: int, number: int, draw: Draw) -> list[Moment]:
        """All that a trial comes to if nothing stops it, from the recorded runs."""
        legs = []
        for _, total in stopper.climb(number):
            top = total == self.curves.epochs
            seeds = draw.seeds_at(self.curves, total, 1 if top else self.policy.seeds)
            legs += [(total, seed) for seed in seeds]
        key = config, tuple(legs)
        if key not in self.known:
            self.known[key] = list(self._climb(stopper, config, legs))
        return self.known[key]

    def _climb(
        self, stopper: Stopper, config: int, legs: Sequence[tuple[int, int]]
    ) -> Iterator[Moment]:
        time, epochs, gradients, values = 0.0, 0, 0.0, list[float]()
        for place, (total, seed) in enumerate(legs):
            runs = self.curves.runs[total, seed]
            length = int(runs.length[config])
            lost = math.isnan(runs.final[config])
            values.append(float(runs.final[config]))
            if place + 1 < len(legs) and legs[place + 1][0] == total and not lost:
                shown = []  # another seed of this rung follows
            else:
                shown = self._shown(stopper, runs, config)
            for epoch in shown:
                value = float(runs.values[config, epoch - 1])
                if epoch == total:
                    value = math.fsum(values) / len(values)
                spent = float(runs.gradients[config, epoch - 1])
                yield Moment(
                    time + float(runs.clock[config, epoch - 1]),
                    total,
                    epoch,
                    value,
                    epochs + epoch,
                    gradients + spent,
                )
            if lost:
                return
            if shown:
                values = []
            time += float(runs.clock[config, length - 1])
            epochs += length
            gradients += float(runs.gradients[config, length - 1])

    def _shown(self, stopper: Stopper, runs: Runs, config: int) -> list[int]:
        """The epochs of a run to show to the stopper, the last one included.

        ASHA looks at the first finite value at or after each milestone, and at nothing else.
        """
        length = int(runs.length[config])
        judged = self.policy.stop.policy
        milestones = float(self.policy.stop.eta).is_integer()  # else Ray rounds them its own way
        if self.every_epoch or (
            not stopper.by_schedule
            and (judged == "median" or (judged != "none" and not milestones))
        ):
            return list(range(1, length + 1))
        if stopper.by_schedule or judged == "none":
            return [length]
        finite = np.flatnonzero(np.isfinite(runs.values[config, :length])) + 1
        first = np.searchsorted(finite, stopper.rungs)
        return sorted({*finite[first[first < len(finite)]].tolist(), length})


class _Run:
    def __init__(self, simulation: Simulation, draw: Draw, search: Search) -> None:
        self.simulation, self.draw, self.search = simulation, draw, search
        self.top = simulation.curves.epochs
        self.stopper = simulation.policy.stopper(self.top, draw.stopper_seed)
        self.trials: list[Trial] = []
        self.events: list[tuple[float, int]] = []
        self.completed: dict[int, float] = {}  # final values by trial
        self.epochs, self.gradients, self.now = 0, 0.0, 0.0

    def run(self) -> Outcome:
        for _ in range(self.simulation.workers):
            self._start()
        while self.events:
            self.now, number = heapq.heappop(self.events)
            trial = self.trials[number]
            moment = trial.moments[trial.at]
            # as live, a trial's last value counts for the others, whatever the verdict on it
            stop = self.stopper.judge(number, moment.total, moment.epoch, moment.value)
            trial.at += 1
            if trial.at < len(trial.moments) and not stop:
                self._await(number)
            else:
                self._end(number, moment)
                self._start()
        pick = self._pick()
        return Outcome(pick, self.epochs, self.gradients, self.now, len(self.completed))

    def _start(self) -> None:
        if (config := self.search.ask()) is None:
            return
        number = len(self.trials)
        moments = self.simulation.moments(self.stopper, config, number, self.draw)
        self.trials.append(Trial(config, self.now, moments))
        self._await(number)

    def _await(self, number: int) -> None:
        trial = self.trials[number]
        heapq.heappush(self.events, (trial.began + trial.moments[trial.at].time, number))

    def _end(self, number: int, moment: Moment) -> None:
        self.epochs += moment.epochs
        self.gradients += moment.gradients
        trial = self.trials[number]
        if trial.at == len(trial.moments):  # by itself: completed, or lost
            if moment.epoch != self.top or not math.isfinite(moment.value):
                self.search.tell(number, {}, None)
                return
            self.completed[number] = moment.value
        by_schedule = self.stopper.by_schedule
        steps = {
            m.total if by_schedule else m.epoch: m.value
            for m in trial.moments[: trial.at]
            if math.isfinite(m.value) and (m.epoch == m.total or not by_schedule)
        }
        self.search.tell(number, steps, self.completed.get(number))

    def _pick(self) -> int | None:
        """The best completed trial, after finalists were trained with a second seed."""
        ranked = sorted(self.completed, key=lambda number: (-self.completed[number], number))
        policy = self.simulation.policy
        if not ranked or not policy.finalists:
            return self.trials[ranked[0]].config if ranked else None
        second = self.draw.at_top(self.simulation.curves, policy)[1]
        runs = self.simulation.curves.runs[self.top, second]
        free, began = [self.now] * self.simulation.workers, self.now
        scores: dict[int, float] = {}
        for number in ranked[: policy.finalists]:
            config = self.trials[number].config
            length = int(runs.length[config])
            self.epochs += length
            self.gradients += float(runs.gradients[config, length - 1])
            end = heapq.heappop(free) + float(runs.clock[config, length - 1])
            heapq.heappush(free, end)
            began = max(began, end)
            scores[config] = (self.completed[number] + float(runs.final[config])) / 2
        self.now = began
        whole = [config for config, score in scores.items() if math.isfinite(score)]
        best = self.trials[ranked[0]].config
        return max(whole, key=lambda config: scores[config]) if whole else best
