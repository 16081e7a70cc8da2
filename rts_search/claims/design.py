"""How a claim is tested: picking, blocks of seeds, looks, and when to stop. Pure functions of runs.

**One comparison** is Welch's t-test of a candidate's and a baseline's runs on the same seeds, with
a look after each block at the same two-sided level (`inference.nominal_level`). By simulation it
errs less often than the paired t-test and needs fewer runs, since pairs of five seeds leave only
four degrees of freedom; pairing wins where runs of a seed correlate by more than about 0.2, and
0.14 was measured. Where a run of either arm collapsed, or none deviates at all, a sign-flip test of
the pairs must agree. Variances are never pooled over arms.

**Over every baseline** is an intersection-union test: each comparison at its level, no correction.
**A single sentence** ("better than SGD") is Holm's over the baselines. Where all comparisons pass
at their level, each sentence holds too: Hochberg's step-up of Holm's levels contains both, and is
valid for comparisons that share the winner's runs.

**Which runs are made.** A baseline gets no further runs once it is beaten at the level of one
comparison, or given up: the winner is significantly below it, or the power that is left for the
smallest gain of interest is under `futility`. The others go on, each for its own sake: that RTS
beats SGD is worth knowing where it does not beat PUGD too. Once a baseline is given up, "over every
baseline" cannot be reached, and those beaten at the level of one comparison, but not at Holm's, get
the runs that were saved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from scipy.special import ndtr, stdtrit

from rts_search.claims.inference import (
    Array,
    half_width,
    holm,
    nominal_level,
    seeds_needed,
    sign_flip,
    two_sided,
    welch,
)

Verdict = Literal["established", "not established", "worse", "open"]

# Seeds between looks, at 5, 8, 11, 15, 20: a true gain of 0.5 points at a deviation of 0.3 takes
# 69 runs of ten arms on average, with looks at 5, 10, 15, 20 it takes 73.
BLOCKS = (5, 3, 3, 4, 5)
EXACT = 1e-9  # an error of this part of the difference: no run deviates


@dataclass(frozen=True)
class Run:
    """One run of an arm on a seed: test accuracy of final weights, also where it collapsed."""

    value: float
    collapsed: bool = False


Results = Mapping[tuple[str, int], Run]  # by (arm, seed)


@dataclass(frozen=True)
class Design:
    """What will be run and how it will be judged: fixed before the first run."""

    candidates: tuple[str, ...]  # distinct in effect; one alone is not picked
    baselines: tuple[str, ...]
    pick_seeds: tuple[int, ...] = ()  # of candidates only
    blocks: tuple[tuple[int, ...], ...] = ()  # a look after each
    alpha: float = 0.05
    gain: float = 0.005  # smallest gain of interest, a fraction
    futility: float = 0.10  # power left under which a baseline is given up
    thorough: bool = False  # all candidates against all baselines, each at its share of alpha

    def __post_init__(self) -> None:
        arms = (*self.candidates, *self.baselines)
        seeds = (*self.pick_seeds, *(seed for block in self.blocks for seed in block))
        if not self.candidates or not self.baselines or not self.blocks:
            raise ValueError("a claim needs a candidate, a baseline and a block of seeds")
        if len(set(arms)) < len(arms):
            raise ValueError(f"arms must differ, not {', '.join(arms)}")
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"each seed may be used once, not {', '.join(map(str, seeds))}")
        if not all(self.blocks) or len(self.blocks[0]) < 2:
            raise ValueError("the first block needs two seeds or more, the others one")
        if self.picks and not self.pick_seeds:
            raise ValueError(f"to pick one of {len(self.candidates)} candidates needs pick_seeds")
        if not 0 < self.alpha < 0.5:
            raise ValueError(f"alpha is above 0 and below 0.5, not {self.alpha}")
        if not 0 < self.gain < math.inf:
            raise ValueError(f"the smallest gain of interest is above 0, not {self.gain}")
        if not 0 <= self.futility < 1:
            raise ValueError(f"futility is at least 0 and below 1, not {self.futility}")

    @property
    def picks(self) -> bool:
        return len(self.candidates) > 1 and not self.thorough

    @cached_property
    def looks(self) -> tuple[int, ...]:
        """The number of seeds at each look."""
        return tuple(int(n) for n in np.cumsum([len(block) for block in self.blocks]))

    @cached_property
    def level(self) -> float:
        """The two-sided level of one comparison at one look."""
        share = self.alpha / len(self.candidates) if self.thorough else self.alpha
        return nominal_level(share, self.looks)

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """Those of all blocks."""
        return tuple(seed for block in self.blocks for seed in block)


@dataclass(frozen=True)
class Comparison:
    """A candidate against a baseline, at the baseline's last look."""

    candidate: str
    baseline: str
    n: int  # seeds that both ran, of complete looks
    difference: float | None  # None before the first look, as the next four
    low: float | None  # the repeated confidence interval: holds at all looks together
    high: float | None
    deviation: float | None  # of one difference: the root of the sum of both arms' variances
    p: float | None  # two-sided, Welch's at this look; to be held against `Decision.level`
    p_holm: float | None  # of the greater of p and p_flip, over this candidate's baselines
    verdict: Verdict
    collapsed: bool  # runs collapsed, of either arm: the sign-flip test must agree
    p_flip: float | None  # the sign-flip test's p, where it was needed
    needed: int | None  # about how many seeds a gain of this size needs; None for none, or absurd


@dataclass(frozen=True)
class Decision:
    """What the runs say so far."""

    picked: str | None  # the candidate that is compared; None while picking, and if thorough
    winners: tuple[str, ...]  # candidates that beat every baseline
    comparisons: tuple[Comparison, ...]  # none while picking
    over: bool
    level: float


def winner(design: Design, results: Results) -> str | None:
    """The candidate with the highest mean over the pick seeds, once all of these have run."""
    if not design.picks:
        return None if design.thorough else design.candidates[0]
    if _missing(results, [(arm, s) for arm in design.candidates for s in design.pick_seeds]):
        return None
    return max(
        design.candidates,
        key=lambda arm: math.fsum(_run(results, arm, seed).value for seed in design.pick_seeds),
    )


def due(design: Design, results: Results) -> list[tuple[str, int]]:
    """The runs that are missing before the next look, a seed's together; none once decided."""
    racers = _racers(design, results)
    if not racers:
        return _missing(results, [(arm, s) for s in design.pick_seeds for arm in design.candidates])
    return _missing(results, _wanted(design, racers, _raced(design, racers, results)))


def decide(design: Design, results: Results) -> Decision:
    """Who is better than whom, by complete looks only: valid at any moment."""
    racers = _racers(design, results)
    if not racers:
        return Decision(None, (), (), False, design.level)
    race = _raced(design, racers, results)
    comparisons = tuple(
        _comparison(design, results, race, (row, column), (candidate, baseline))
        for row, candidate in enumerate(racers)
        for column, baseline in enumerate(design.baselines)
    )
    return Decision(
        picked=None if design.thorough else racers[0],
        winners=tuple(arm for row, arm in enumerate(racers) if race.beats_all[0, row]),
        comparisons=comparisons,
        over=not race.open.any(),
        level=design.level,
    )


# One comparison at every look -----------------------------------------------------------------


@dataclass(frozen=True)
class Looks:
    """Comparisons at every look: arrays, the last axis over looks."""

    mean: Array
    p: Array  # the greater of the t-test's and the sign-flip test's, where that is needed
    futile: Array


def at_looks(design: Design, ours: Array, theirs: Array, suspect: Array) -> Looks:
    """`ours` and `theirs` broadcast to comparisons × seeds; `suspect`: one of the two collapsed."""
    ns = np.array(design.looks)

    def over_looks(statistic: Callable[..., Any], runs: Array, **how: int) -> Array:
        return np.stack([statistic(runs[..., :n], axis=-1, **how) for n in ns], axis=-1)

    mean = over_looks(np.mean, ours) - over_looks(np.mean, theirs)
    error, freedom = welch(over_looks(np.var, ours, ddof=1), over_looks(np.var, theirs, ddof=1), ns)
    p = two_sided(mean, error, freedom)
    doubtful = over_looks(np.any, suspect) | (error <= EXACT * np.abs(mean))
    differences = np.broadcast_to(ours - theirs, suspect.shape)
    for place in np.argwhere(doubtful & (p <= design.level)):
        *one, look = place
        flipped = sign_flip(differences[tuple(one)][: ns[look]])
        p[tuple(place)] = max(p[tuple(place)], flipped)
    return Looks(mean, p, power_left(design, mean, error * np.sqrt(ns)) < design.futility)


def power_left(design: Design, mean: Array, deviation: Array) -> Array:
    """At each look: the chance of passing at the best of those to come if `design.gain` is true.

    `deviation` is that of one difference; it is taken as if it stayed.
    """
    ns = np.array(design.looks)
    bounds = stdtrit(2 * (ns - 1), 1 - design.level / 2) * np.sqrt(ns)
    power = np.zeros_like(mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        for now, n in enumerate(ns):
            spread = deviation[..., now]
            for bound, ahead in zip(bounds[now + 1 :], ns[now + 1 :] - n, strict=True):
                surplus = n * mean[..., now] + ahead * design.gain - bound * spread
                passed = ndtr(surplus / (spread * math.sqrt(ahead)))
                power[..., now] = np.fmax(power[..., now], passed)
    return power


# All comparisons, from look to look --------------------------------------------------------------


@dataclass(frozen=True)
class Race:
    """How comparisons stand: arrays (simulation or 1, candidate, baseline), `beats_all` without it.

    `looks` counts those taken; `open` are those that want another.
    """

    looks: Array
    mean: Array
    p: Array
    p_holm: Array
    better: Array  # at the level of one comparison
    established: Array
    worse: Array
    lost: Array  # given up, or not better at the last look
    open: Array

    @property
    def beats_all(self) -> Array:
        every: Array = np.all(self.better, axis=-1)
        return every


def race(looks: Looks, level: float, ready: Array) -> Race:
    """Takes look after look, while every comparison that wants one has the runs.

    `ready` counts the complete looks of each comparison.
    """
    taken = np.zeros(ready.shape, dtype=int)
    while True:
        now = _stand(looks, level, taken)
        unready = now.open & (ready <= taken)
        go = now.open & ~unready.any(axis=(1, 2), keepdims=True)
        if not go.any():
            return now
        taken = taken + go


def _stand(looks: Looks, level: float, taken: Array) -> Race:
    def last(values: Array, before: float) -> Array:
        picked = np.take_along_axis(values, np.maximum(taken - 1, 0)[..., None], axis=-1)[..., 0]
        return np.where(taken > 0, picked, before)

    mean, p = last(looks.mean, 0.0), last(looks.p, 1.0)
    end = taken == looks.p.shape[-1]
    p_holm = holm(p)
    better, below = (p <= level) & (mean > 0), (p <= level) & (mean < 0)
    lost = below | (last(looks.futile, False).astype(bool) & ~better) | (end & ~better)
    reachable = ~lost.any(axis=-1, keepdims=True)
    sure = (p_holm <= level) | better.all(axis=-1, keepdims=True)
    return Race(
        looks=taken,
        mean=mean,
        p=p,
        p_holm=p_holm,
        better=better,
        established=better & sure,
        worse=below & sure,
        lost=lost,
        open=~lost & ~(better & (sure | reachable)) & ~end,
    )


# Between recorded runs and arrays -----------------------------------------------------------


def _run(results: Results, arm: str, seed: int) -> Run:
    run = results[arm, seed]
    if not math.isfinite(run.value):
        raise ValueError(
            f"{arm} with seed {seed} ended at {run.value}: a run that diverged counts with the "
            "accuracy of its last weights, a finite number"
        )
    return run


def _missing(results: Results, wanted: list[tuple[str, int]]) -> list[tuple[str, int]]:
    return [key for key in wanted if key not in results]


def _racers(design: Design, results: Results) -> tuple[str, ...]:
    """The candidates that are compared; none while picking."""
    if design.thorough:
        return design.candidates
    picked = winner(design, results)
    return () if picked is None else (picked,)


def _raced(design: Design, racers: tuple[str, ...], results: Results) -> Race:
    """The race as far as its runs are recorded."""

    def of(arms: tuple[str, ...], what: str) -> Array:
        return np.array(
            [
                [
                    getattr(_run(results, arm, seed), what) if (arm, seed) in results else np.nan
                    for seed in design.seeds
                ]
                for arm in arms
            ],
            dtype=float,
        )

    ours, theirs = of(racers, "value")[None, :, None], of(design.baselines, "value")[None, None]
    suspect = (of(racers, "collapsed")[None, :, None] > 0) | (
        of(design.baselines, "collapsed")[None, None] > 0
    )
    complete = np.cumprod(np.isfinite(ours - theirs), axis=-1)[..., np.array(design.looks) - 1]
    ready = complete.sum(axis=-1).astype(int)
    return race(at_looks(design, ours, theirs, suspect), design.level, ready)


def _wanted(design: Design, racers: tuple[str, ...], race: Race) -> list[tuple[str, int]]:
    """The runs of the next look of every comparison that wants one, seed by seed."""
    wanted = {
        (arm, seed)
        for _, row, column in np.argwhere(race.open)
        for seed in design.blocks[race.looks[0, row, column]]
        for arm in (racers[row], design.baselines[column])
    }
    arms = (*racers, *design.baselines)
    return [(arm, seed) for seed in design.seeds for arm in arms if (arm, seed) in wanted]


def _comparison(
    design: Design, results: Results, race: Race, at: tuple[int, int], arms: tuple[str, str]
) -> Comparison:
    place = (0, *at)
    taken = int(race.looks[place])
    verdict: Verdict = "open" if race.open[0, at[0]].any() else "not established"
    if race.established[place]:
        verdict = "established"
    elif race.worse[place]:
        verdict = "worse"
    elif race.lost[place]:
        verdict = "not established"
    if not taken:
        nothing = (None,) * 6
        return Comparison(*arms, 0, *nothing, verdict, False, None, None)
    n = design.looks[taken - 1]
    pairs = [[_run(results, arm, seed) for arm in arms] for seed in design.seeds[:n]]
    values = np.array([[run.value for run in pair] for pair in pairs])
    collapsed = any(run.collapsed for pair in pairs for run in pair)
    error, freedom = welch(values[:, 0].var(ddof=1), values[:, 1].var(ddof=1), n)
    mean, deviation = float(race.mean[place]), float(error) * math.sqrt(n)
    half = half_width(float(error), float(freedom), design.level)
    return Comparison(
        *arms,
        n=n,
        difference=mean,
        low=mean - half,
        high=mean + half,
        deviation=deviation,
        p=float(two_sided(mean, error, freedom)),
        p_holm=float(race.p_holm[place]),
        verdict=verdict,
        collapsed=collapsed,
        p_flip=sign_flip(values[:, 0] - values[:, 1])
        if collapsed or error <= EXACT * abs(mean)
        else None,
        needed=seeds_needed(mean, deviation / math.sqrt(2), design.level),
    )
