"""Simulated confirms: how often a design claims what is not so, what it finds, in how many runs.

Accuracies are drawn, and judged by the code that judges recorded runs, thousands at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv

from rts_search.claims.design import BLOCKS, Design, Race, at_looks, race
from rts_search.claims.inference import Array

SIMULATIONS = 20_000
CHUNK = 2_000
COLLAPSE = 0.1  # of the runs of the arm that collapses; they end COLLAPSED below the others
COLLAPSED = 0.8
TRIED = 40  # configurations that a search had when it picked the candidates on validation
WITHIN = 70  # runs


@dataclass(frozen=True)
class Setting:
    """What is simulated: a design, and how its runs deviate (fractions, as accuracies are)."""

    design: Design
    deviation: float = 0.003  # of reruns of one arm
    gain: float = 0.005  # the true one, where there is one
    correlation: float = 0.14  # of two arms' runs on one seed


@dataclass(frozen=True)
class Drawn:
    """Accuracies by simulation, arm and seed (pick seeds first), and the arms' true means.

    Arms are the candidates, then the baselines.
    """

    values: Array
    truth: Array
    collapsed: Array | None = None


@dataclass(frozen=True)
class Outcome:
    """What one world comes to; shares of simulations."""

    world: str
    simulations: int
    false: float  # any claim, for or against a candidate, that is not so
    false_bound: float  # its upper 95 % bound
    beats_all: float  # a candidate is said to beat every baseline
    beats_all_bound: float  # its lower 95 % bound
    runs: float  # of all arms, on average
    runs_90: float  # their 90 % quantile
    within: float  # a candidate is said to beat every baseline after at most WITHIN runs


def design_of(
    candidates: int,
    baselines: int,
    pick: int = 3,
    blocks: tuple[int, ...] = BLOCKS,
    **how: float | bool,
) -> Design:
    """A design with arms and seeds that only have numbers."""
    seeds = iter(range(pick + sum(blocks)))
    return Design(
        tuple(f"candidate {i}" for i in range(candidates)),
        tuple(f"baseline {i}" for i in range(baselines)),
        tuple(next(seeds) for _ in range(pick)),
        tuple(tuple(next(seeds) for _ in range(size)) for size in blocks),
        **how,  # type: ignore[arg-type]
    )


# Worlds ---------------------------------------------------------------------------------------


class Draws:
    """Draws runs of a setting's arms, `simulations` at a time."""

    def __init__(self, setting: Setting, simulations: int, rng: np.random.Generator) -> None:
        self.setting, self.rng = setting, rng
        design = setting.design
        self.k, self.m = len(design.candidates), len(design.baselines)
        seeds = len(design.pick_seeds) + len(design.seeds)
        self.shape = (simulations, self.k + self.m, seeds)

    def runs(self, truth: Array, own: Array | None = None, scale: Array | float = 1.0) -> Drawn:
        """Runs around the arms' true means; `own` is the part that arms do not share."""
        rho, sims = self.setting.correlation, self.shape[0]
        own = self.rng.standard_normal(self.shape) if own is None else own
        shared = self.rng.standard_normal((sims, 1, self.shape[2]))
        noise = math.sqrt(rho) * shared + math.sqrt(1 - rho) * own
        truth = np.broadcast_to(truth, self.shape[:2])
        return Drawn(truth[..., None] + self.setting.deviation * scale * noise, truth)

    def arms(self, candidates: float, baselines: float) -> Array:
        """A number for each candidate, then one for each baseline."""
        return np.repeat([candidates, baselines], [self.k, self.m])


def equal(draw: Draws) -> Drawn:
    return draw.runs(draw.arms(0, 0))


def skewed(draw: Draws) -> Drawn:
    """The candidates' runs are seldom far below and mostly a little above their mean."""
    own = draw.rng.standard_normal(draw.shape)
    own[:, : draw.k] = 1 - draw.rng.exponential(size=own[:, : draw.k].shape)
    return draw.runs(draw.arms(0, 0), own)


def heavy_tails(draw: Draws) -> Drawn:
    return draw.runs(draw.arms(0, 0), draw.rng.standard_t(3, draw.shape) / math.sqrt(3))


def collapses(draw: Draws) -> Drawn:
    """In half of the simulations runs of the candidates collapse, in half those of a baseline."""
    drawn = draw.runs(draw.arms(0, 0))
    collapsed = draw.rng.random(draw.shape) < COLLAPSE
    half = draw.shape[0] // 2
    collapsed[:half, draw.k :] = False
    collapsed[half:, : draw.k] = False
    collapsed[half:, draw.k + 1 :] = False
    truth = drawn.truth - COLLAPSE * COLLAPSED * collapsed.any(axis=-1)
    return Drawn(drawn.values - COLLAPSED * collapsed, truth, collapsed)


def unequal_deviations(draw: Draws) -> Drawn:
    """The candidates' runs deviate a third as much as the baselines'."""
    return draw.runs(draw.arms(0, 0), scale=draw.arms(1 / 3, 1)[:, None])


def picked_on_validation(draw: Draws) -> Drawn:
    """The candidates look best of many on validation; a baseline is as good as the best of them.

    The other baselines are worse, each by a further half deviation: claims over those are true.
    """
    sims, deviation = draw.shape[0], draw.setting.deviation
    true = draw.rng.normal(0, deviation / 2, (sims, TRIED))
    told = true + draw.rng.normal(0, deviation, true.shape)
    top = np.take_along_axis(true, np.argsort(-told, axis=1)[:, : draw.k], axis=1)
    worse = top.max(axis=1, keepdims=True) - deviation / 2 * np.arange(draw.m)
    return draw.runs(np.concatenate([top, worse], axis=1))


def gained(draw: Draws) -> Drawn:
    return draw.runs(draw.arms(draw.setting.gain, 0))


def gained_by_one(draw: Draws) -> Drawn:
    """One candidate gains, the others half of it: picking may miss it."""
    truth = draw.arms(draw.setting.gain / 2, 0)
    truth[0] *= 2
    return draw.runs(truth)


World = Callable[[Draws], Drawn]
NULLS: dict[str, World] = {
    "equal": equal,
    "skewed": skewed,
    "heavy tails": heavy_tails,
    "collapses in one arm": collapses,
    "unequal deviations": unequal_deviations,
    "picked on validation": picked_on_validation,
}
GAINS: dict[str, World] = {"all candidates gain": gained, "one gains, others half": gained_by_one}


# Judged ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judged:
    """Simulated confirms as they ended: the races, who raced (by arm), and their runs."""

    race: Race
    racers: Array
    runs: Array


def judge(design: Design, drawn: Drawn) -> Judged:
    """Every simulation as `due` and `decide` would have it, with all runs at hand."""
    k, picking = len(design.candidates), len(design.pick_seeds)
    sims = len(drawn.values)
    collapsed = np.zeros(drawn.values.shape, bool) if drawn.collapsed is None else drawn.collapsed
    racers = np.tile(np.arange(k if design.thorough else 1), (sims, 1))
    if design.picks:
        racers = drawn.values[:, :k, :picking].mean(axis=-1).argmax(axis=1)[:, None]
    rows = np.arange(sims)[:, None]
    values, failed = (
        (runs[rows, racers, picking:][:, :, None], runs[:, None, k:, picking:])
        for runs in (drawn.values, collapsed)
    )
    looks = at_looks(design, *values, failed[0] | failed[1])
    ended = race(looks, design.level, np.full(looks.p.shape[:3], len(design.blocks)))
    seeds = np.array((0, *design.looks))[ended.looks]
    runs = seeds.max(axis=2).sum(axis=1) + seeds.max(axis=1).sum(axis=1)
    return Judged(ended, racers, runs + (k * picking if design.picks else 0))


def simulate(
    setting: Setting, name: str, world: World, simulations: int = SIMULATIONS, seed: int = 0
) -> Outcome:
    """What a world comes to. The same seed and setting give the same figures."""
    rng = np.random.default_rng(seed)
    false, beats, runs = [], [], []
    for size in _chunks(simulations):
        drawn = world(Draws(setting, size, rng))
        judged = judge(setting.design, drawn)
        k = len(setting.design.candidates)
        rows = np.arange(size)[:, None]
        gain = drawn.truth[rows, judged.racers][:, :, None] - drawn.truth[:, None, k:]
        wrong = judged.race.established & (gain <= 0) | judged.race.worse & (gain >= 0)
        wrong |= judged.race.beats_all[..., None] & (gain <= 0)
        false.append(wrong.any(axis=(1, 2)))
        beats.append(judged.race.beats_all.any(axis=1))
        runs.append(judged.runs)
    claimed, found, made = (np.concatenate(each) for each in (false, beats, runs))
    return Outcome(
        world=name,
        simulations=simulations,
        false=float(claimed.mean()),
        false_bound=upper_bound(int(claimed.sum()), simulations),
        beats_all=float(found.mean()),
        beats_all_bound=1 - upper_bound(int((~found).sum()), simulations),
        runs=float(made.mean()),
        runs_90=float(np.quantile(made, 0.9)),
        within=float((found & (made <= WITHIN)).mean()),
    )


def simulated(setting: Setting, simulations: int = SIMULATIONS, seed: int = 0) -> list[Outcome]:
    """The six nulls, then the worlds with a gain."""
    worlds = (NULLS | GAINS).items()
    return [simulate(setting, name, world, simulations, seed) for name, world in worlds]


def upper_bound(count: int, of: int, confidence: float = 0.95) -> float:
    """Clopper and Pearson's, one-sided."""
    return 1.0 if count == of else float(betaincinv(count + 1, of - count, confidence))


def _chunks(simulations: int) -> Iterator[int]:
    for begun in range(0, simulations, CHUNK):
        yield min(CHUNK, simulations - begun)
