"""How a claim is tested: picking, blocks of seeds, looks, and when to stop. Pure functions of runs.

**One comparison** is a one-sample t-test of the paired differences by seed, looked at after each
block at the same two-sided level (Pocock). That level is `nominal_level`: it makes all looks
together as wrong as `alpha` allows. Where a run of either arm collapsed, or the differences do not
differ at all, a sign-flip test must agree. Variances are never pooled over arms.

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
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri, stdtr, stdtrit

Array = npt.NDArray[Any]
Verdict = Literal["established", "not established", "worse", "open"]

# Of Pocock's level, which is for deviations that are known: t-tests of few seeds err more often,
# and Holm takes the level's m-th part, a little more than the level of the m-th part of alpha.
MARGIN = 0.9
FLIPS = 20  # so many seeds are flipped in all 2^n ways; more, in 2^FLIPS random ones


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
    deviation: float | None  # of the paired differences
    p: float | None  # two-sided, of the t-test at this look; to be held against `Decision.level`
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


@lru_cache
def nominal_level(alpha: float, looks: tuple[int, ...]) -> float:
    """The two-sided level at each look that makes all looks together err in `alpha`, or less.

    Pocock's, from the density of the sum of n deviates that crossed at no look before, integrated
    from look to look (Armitage, McPherson and Rowe), times `MARGIN`.
    """
    nodes, weights = np.polynomial.legendre.leggauss(128)

    def crossed(bound: float) -> float:
        density, sums, areas, before = np.ones(1), np.zeros(1), np.ones(1), 0
        for n in looks:
            edge, step = bound * math.sqrt(n), math.sqrt(n - before)
            now = edge * nodes
            kernel = np.exp(-0.5 * ((now[:, None] - sums) / step) ** 2)
            density = kernel @ (density * areas) / (step * math.sqrt(2 * math.pi))
            sums, areas, before = now, edge * weights, n
        return 1 - float(density @ areas)

    bound = brentq(lambda z: crossed(z) - alpha, -ndtri(alpha / 2) - 1e-9, 8.0, xtol=1e-9)
    return (MARGIN if len(looks) > 1 else 1.0) * 2 * float(ndtr(-bound))


@dataclass(frozen=True)
class Looks:
    """Paired differences at every look: arrays over comparisons, the last axis over looks."""

    mean: Array
    deviation: Array
    p: Array  # the greater of the t-test's and the sign-flip test's, where that is needed
    futile: Array


def at_looks(design: Design, differences: Array, suspect: Array) -> Looks:
    """`differences` by seed (last axis); `suspect`: where one of the two runs collapsed."""
    ns = np.array(design.looks)
    sums = np.cumsum(differences, axis=-1)[..., ns - 1]
    mean = sums / ns
    deviation = np.stack([differences[..., :n].std(axis=-1, ddof=1) for n in ns], axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(mean) / (deviation / np.sqrt(ns))
    p = 2 * stdtr(ns - 1, -np.where(mean == 0, 0.0, t))
    doubtful = np.maximum.accumulate(suspect, axis=-1)[..., ns - 1] | (
        deviation <= 1e-9 * np.abs(mean)
    )
    for place in np.argwhere(doubtful & (p <= design.level)):
        *one, look = place
        flipped = sign_flip(differences[tuple(one)][: ns[look]])
        p[tuple(place)] = max(p[tuple(place)], flipped)
    return Looks(mean, deviation, p, power_left(design, mean, deviation) < design.futility)


def power_left(design: Design, mean: Array, deviation: Array) -> Array:
    """At each look: the chance of passing at the best of those to come if `design.gain` is true."""
    ns = np.array(design.looks)
    bounds = stdtrit(ns - 1, 1 - design.level / 2) * np.sqrt(ns)
    power = np.zeros_like(mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        for now, n in enumerate(ns):
            s = deviation[..., now]
            for later, ahead in zip(bounds[now + 1 :], ns[now + 1 :] - n, strict=True):
                surplus = n * mean[..., now] + ahead * design.gain - later * s
                passed = ndtr(surplus / (s * math.sqrt(ahead)))
                power[..., now] = np.fmax(power[..., now], passed)
    return power


def sign_flip(differences: Array) -> float:
    """Two-sided p of the mean if each difference could as well have had the other sign."""
    observed = abs(differences.sum()) * (1 - 1e-12)
    if len(differences) <= FLIPS:
        sums = np.zeros(1)
        for one in differences[1:]:  # the first one's sign is given away: the test is two-sided
            sums = np.concatenate([sums + one, sums - one])
        sums += differences[0]
        return float(np.mean(np.abs(sums) >= observed))
    signs = np.random.default_rng(0).integers(0, 2, (1 << 16, len(differences)), np.int8)
    hits = np.count_nonzero(np.abs((2.0 * signs - 1) @ differences) >= observed)
    return float((hits + 1) / (len(signs) + 1))


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


def holm(p: Array) -> Array:
    """Holm's adjusted p over the last axis."""
    order = np.argsort(p, axis=-1, kind="stable")
    m = p.shape[-1]
    stepped = np.take_along_axis(p, order, axis=-1) * np.arange(m, 0, -1)
    adjusted = np.minimum(np.maximum.accumulate(stepped, axis=-1), 1.0)
    answer = np.empty_like(adjusted)
    np.put_along_axis(answer, order, adjusted, axis=-1)
    return answer


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
    differences, suspect, ready = _arrays(design, racers, results)
    return race(at_looks(design, differences, suspect), design.level, ready)


def _arrays(
    design: Design, racers: tuple[str, ...], results: Results
) -> tuple[Array, Array, Array]:
    """Differences and collapses (1, candidate, baseline, seed), and how many looks are complete."""

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

    differences = of(racers, "value")[:, None] - of(design.baselines, "value")
    suspect = (of(racers, "collapsed")[:, None] > 0) | (of(design.baselines, "collapsed") > 0)
    complete = np.cumprod(np.isfinite(differences), axis=-1)[..., np.array(design.looks) - 1]
    return differences[None], suspect[None], complete.sum(axis=-1)[None].astype(int)


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
    differences = np.array([ours.value - theirs.value for ours, theirs in pairs])
    mean, deviation = float(differences.mean()), float(differences.std(ddof=1))
    error = deviation / math.sqrt(n)
    t = abs(mean) / error if error else (math.inf if mean else 0.0)
    half = float(stdtrit(n - 1, 1 - design.level / 2)) * error
    collapsed = any(run.collapsed for pair in pairs for run in pair)
    return Comparison(
        *arms,
        n=n,
        difference=mean,
        low=mean - half,
        high=mean + half,
        deviation=deviation,
        p=float(2 * stdtr(n - 1, -t)),
        p_holm=float(race.p_holm[place]),
        verdict=verdict,
        collapsed=collapsed,
        p_flip=sign_flip(differences) if collapsed or not error else None,
        needed=seeds_for(mean, deviation, design.level) if mean > 0 else None,
    )


def seeds_for(gain: float, deviation: float, level: float, power: float = 0.8) -> int | None:
    """Pairs until a t-test at `level` sees `gain` with `power`; None if more than 1,000."""
    for n in range(2, 1001):
        if power_of(gain, deviation, n, level) >= power:
            return n
    return None


def power_of(gain: float, deviation: float, n: int, level: float) -> float:
    """The chance that the t-test of n pairs at `level`, two-sided, says that `gain` is one."""
    from scipy.special import nctdtr

    if deviation == 0:
        return 1.0
    shift = gain * math.sqrt(n) / deviation
    return 1 - float(nctdtr(n - 1, shift, stdtrit(n - 1, 1 - level / 2)))


def seeds_and_images_error(ours: Array, theirs: Array) -> float:
    """The standard error of the mean difference over seeds and images, both taken at random, from
    hits (seeds × images): conservative, for what differs by both counts twice."""
    differences = ours.astype(float) - theirs
    by_seed, by_image = differences.mean(axis=1), differences.mean(axis=0)
    seeds, images = differences.shape
    return math.sqrt(by_seed.var(ddof=1) / seeds + by_image.var(ddof=1) / images)
