"""One search in simulated time with W workers, event by event: on recorded curves, or on others."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rts_search.replay.curves import RecordedCurves, Runs
from rts_search.replay.policies import Policy
from rts_search.stopping.stopper import Look, Stopper


class Moment(NamedTuple):
    """A point of a trial's climb at which the stopper is asked or the trial ends.

    `time` (seconds) and `epochs` are counted from the trial's start; so are `gradients`, which its
    configuration costs alone, and `spent`, without those that the trunk has paid.
    """

    time: float
    look: Look
    epochs: int = 0
    gradients: float = 0.0
    spent: float = 0.0


def search(
    stopper: Stopper, climbs: Iterable[Sequence[Moment]], workers: int = 1
) -> tuple[dict[int, Moment], float]:
    """The last moment of each trial, by number, and the time when all have ended.

    `climbs` are all that each trial comes to if nothing stops it. A freed worker takes the next one
    at once; of events at the same time the lower trial's comes first.
    """
    waiting = enumerate(climbs)
    ends: dict[int, Moment] = {}
    now, events = 0.0, list[tuple[float, int, float, Iterator[Moment], Moment]]()

    def await_next(number: int, began: float, moments: Iterator[Moment]) -> bool:
        if (moment := next(moments, None)) is None:
            return False
        heapq.heappush(events, (began + moment.time, number, began, moments, moment))
        return True

    def start() -> None:
        for number, moments in waiting:
            await_next(number, now, iter(moments))
            return

    for _ in range(workers):
        start()
    while events:
        now, number, began, moments, moment = heapq.heappop(events)
        # as live, a trial's last value counts for the others, whatever the verdict on it
        stop = stopper.judge(number, moment.look)
        if stop or not await_next(number, began, moments):
            ends[number] = moment
            start()
    return ends, now


@dataclass(frozen=True)
class Draw:
    """What chance decides in a replay: the order of configurations, seeds, the stopper's seed.

    The first of `seeds` is the search's own; it is used at every rung where it was recorded, and
    the next ones where it was not.
    """

    order: Sequence[int]
    seeds: Sequence[int]
    stopper_seed: int

    def legs(self, curves: RecordedCurves, totals: Iterable[int]) -> tuple[tuple[int, int], ...]:
        """The runs (T, seed) that are trained for complete schedules of these T."""
        return tuple(
            next((total, seed) for seed in self.seeds if (total, seed) in curves.runs)
            for total in totals
        )


@dataclass(frozen=True)
class Outcome:
    """What one search came to. `pick` is a configuration's index, None if no trial completed;
    `spent` are the gradients of all trials and of the trunks that they share."""

    pick: int | None
    epochs: int
    gradients: float
    spent: float
    makespan: float
    completed: int


class Simulation:
    """Searches of one policy over the same curves."""

    def __init__(self, curves: RecordedCurves, policy: Policy, workers: int = 1) -> None:
        if workers < 1:
            raise ValueError(f"workers {workers} must be at least 1")
        self.curves, self.policy, self.workers = curves, policy, workers
        # by the runs of a climb, by configuration
        self.known: dict[tuple[tuple[int, int], ...], dict[int, list[Moment]]] = {}

    def run(self, draw: Draw) -> Outcome:
        """One search, in the drawn order."""
        top = self.curves.epochs
        stopper = self.policy.stopper(top, draw.stopper_seed)
        trunks = self.curves.trunks
        if stopper.by_firing:
            control = trunks[top, draw.seeds[0]].values.tolist()
            stopper.hear_control(dict(enumerate(control, 1)))
        shared = [trunks[leg] for leg in self._legs(stopper, draw) if leg in trunks]
        ends, makespan = search(stopper, self._climbs(stopper, draw), self.workers)
        values = {
            number: end.look.value
            for number, end in ends.items()
            if end.look.epoch == top and math.isfinite(end.look.value)
        }
        best = max(values, key=lambda number: (values[number], -number), default=None)
        return Outcome(
            None if best is None else draw.order[best],
            sum(end.epochs for end in ends.values()),
            sum(end.gradients for end in ends.values()),
            sum(end.spent for end in ends.values()) + sum(trunk.gradients for trunk in shared),
            makespan + sum(trunk.seconds for trunk in shared),
            len(values),
        )

    def _legs(self, stopper: Stopper, draw: Draw) -> tuple[tuple[int, int], ...]:
        """All runs (T, seed) that a trial may train."""
        return draw.legs(self.curves, stopper.rungs if stopper.by_schedule else [stopper.epochs])

    def _climbs(self, stopper: Stopper, draw: Draw) -> Iterator[list[Moment]]:
        found: dict[int, tuple[tuple[int, int], ...]] = {}  # by bracket
        for number, config in enumerate(draw.order):
            bracket = stopper.bracket(number)
            if bracket not in found:
                totals = (total for _, total in stopper.climb(number))
                found[bracket] = draw.legs(self.curves, totals)
            legs = found[bracket]
            climbs = self.known.setdefault(legs, {})
            if config not in climbs:
                climbs[config] = list(self._climb(stopper, config, legs))
            yield climbs[config]

    def _climb(
        self, stopper: Stopper, config: int, legs: Iterable[tuple[int, int]]
    ) -> Iterator[Moment]:
        before = Moment(0.0, Look(0, 0, math.nan))
        for total, seed in legs:
            runs = self.curves.runs[total, seed]
            fired = int(runs.fired[config])
            for epoch in self.shown(stopper, runs, config):
                at = config, epoch - 1
                perturbed = max(0, epoch - fired + 1) if fired else None
                moment = Moment(
                    before.time + float(runs.clock[at]),
                    Look(total, epoch, float(runs.values[at]), perturbed),
                    before.epochs + epoch,
                    before.gradients + float(runs.gradients[at]),
                    before.spent + float(runs.spent[at]),
                )
                yield moment
            if math.isnan(runs.final[config]):
                return
            before = moment

    def shown(self, stopper: Stopper, runs: Runs, config: int) -> Sequence[int]:
        """The epochs of a run to show to the stopper, the last one included: of ASHA's the first
        finite value at or after each rung, for it looks at nothing else."""
        length = int(runs.length[config])
        if stopper.by_schedule or self.policy.stop.policy == "none":
            return [length]
        if self.policy.stop.policy == "median":
            return range(1, length + 1)
        finite = np.flatnonzero(np.isfinite(runs.values[config, :length])) + 1
        rungs = np.array(stopper.rungs)
        if stopper.by_firing:
            rungs = rungs + runs.fired[config] - 1
        first = np.searchsorted(finite, rungs)
        return sorted({*finite[first[first < len(finite)]].tolist(), length})
