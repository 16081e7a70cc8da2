"""Samplers by name, seeded per trial, and which of them suits which space.

A sampler that is reloaded does not continue its old random stream. Here every trial has its own,
derived from the search's seed and the trial's number, so that a proposal depends on those two and
on the results known by then: a resumed search proposes what the uninterrupted one would have.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIISampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from rts_search.observations import Observations
from search_spaces.space import ChoosingTrial, Parameter, Params, Space, describe, nearest

SAMPLERS = ("tpe", "random", "qmc", "gp", "cmaes", "grid", "nsga2")
LEARNING = ("tpe", "gp", "nsga2")  # from earlier sweeps' observations, too
POPULATION = 20  # trials that make a generation of nsga2
GRID_POINTS = 3  # values of each number
GRID_LIMIT = 20_000  # trials

_JOINT = {
    "qmc": "fills one fixed set of parameters evenly",
    "gp": "models one fixed set of parameters",
    "cmaes": "moves one fixed set of parameters",
}
_COMPLETED_ONLY = ("gp", "cmaes")


def check_sampler(
    name: str,
    space: Space,
    stopper: str = "none",
    grid_points: int = GRID_POINTS,
    objectives: int | None = None,
) -> str | None:
    """Refuse a sampler that does not suit the space, the stopper or the number of objectives
    (ValueError with the reason).

    Returns a line to tell the user about a pair that works with a reservation, or None.
    """
    if name not in SAMPLERS:
        raise ValueError(
            f"unknown sampler {name!r}: choose one of {', '.join(SAMPLERS)}"
            f"{nearest(name, SAMPLERS)}"
        )
    if name == "nsga2" and objectives == 1:
        raise ValueError("sampler nsga2 weighs several objectives: set search.against, or use tpe")
    if name == "cmaes" and objectives == 2:
        raise ValueError(
            "sampler cmaes has one objective: use tpe or nsga2, or set search.against to null"
        )
    parameters = describe(space)
    conditional = [p.name for p in parameters if p.conditional]
    if name in _JOINT and conditional:
        raise ValueError(
            f"sampler {name} {_JOINT[name]}, and space {space.name!r} has conditional ones "
            f"({', '.join(conditional)}): use tpe, random or grid"
        )
    if name in _COMPLETED_ONLY and stopper != "none":
        raise ValueError(
            f"sampler {name} learns from completed trials only, and the stopper {stopper} leaves "
            "few: use tpe, or the stopper none"
        )
    if name == "grid":
        grid_of(space, grid_points)
    return _reservation(name, space, parameters)


def _reservation(name: str, space: Space, parameters: list[Parameter]) -> str | None:
    conditional = [p.name for p in parameters if p.conditional]
    categorical = [
        p.name for p in parameters if isinstance(p.distribution, CategoricalDistribution)
    ]
    if name == "cmaes" and categorical:
        if len(categorical) == len(parameters):
            raise ValueError(
                f"sampler cmaes needs numbers, and space {space.name!r} has none: use tpe or grid"
            )
        return f"cmaes learns numbers only: {', '.join(categorical)} will be drawn at random"
    if name == "nsga2" and conditional:
        return (
            "nsga2 crosses what all trials have: "
            f"{', '.join(conditional)} will be drawn at random (tpe learns those too)"
        )
    return None


def make_sampler(
    name: str,
    space: Space,
    seed: int,
    grid_points: int = GRID_POINTS,
    objectives: int | None = None,
) -> BaseSampler:
    """The named sampler for a whole search. Raises ValueError as `check_sampler` does."""
    if name == "grid":
        return GridSampler(grid_of(space, grid_points), seed)
    check_sampler(name, space, objectives=objectives)
    parameters = describe(space)
    conditional = any(p.conditional for p in parameters)
    inner = partial(_inner, name, seed, conditional)
    bounds = {p.name: p.distribution for p in sorted(parameters, key=lambda p: p.name)}
    if conditional:
        return SeededSampler(inner, bounds, None)
    joint = [
        name_
        for name_, distribution in bounds.items()
        if not distribution.single()
        and not (name == "cmaes" and isinstance(distribution, CategoricalDistribution))
    ]
    return SeededSampler(inner, bounds, joint)


def _inner(name: str, seed: int, conditional: bool, number: int, earlier: int) -> BaseSampler:
    """Optuna's sampler for one trial, of a search that began with `earlier` observations."""
    from optuna import samplers  # lazy: GP imports torch

    # with the seed of an earlier sweep, what that has proposed must not be proposed again
    begun = [earlier] if earlier else []
    stream = int(np.random.SeedSequence([seed, number, *begun]).generate_state(1)[0])
    if name == "tpe":
        # groups: parameters that occur together are modelled together, branch by branch
        return samplers.TPESampler(
            seed=stream, multivariate=True, group=conditional, constant_liar=True
        )
    if name == "qmc":  # one sequence for all trials; the journal knows how far it has come
        sequence = int(np.random.SeedSequence([seed, *begun]).generate_state(1)[0])
        return samplers.QMCSampler(
            qmc_type="sobol", scramble=True, seed=sequence, warn_independent_sampling=False
        )
    if name == "gp":
        return samplers.GPSampler(seed=stream, warn_independent_sampling=False)
    if name == "nsga2":
        return Nsga2(population_size=POPULATION, seed=stream)
    if name == "cmaes":
        return samplers.CmaEsSampler(seed=stream, warn_independent_sampling=False)
    return samplers.RandomSampler(seed=stream)


class SeededSampler(BaseSampler):  # type: ignore[misc]
    """A fresh sampler for each trial, from `make(trial number, observations it began with)`.

    `bounds` are the parameters; `joint` those to be sampled together where the space always has
    the same: known beforehand, they need not be found out from all earlier trials at every trial.
    """

    def __init__(
        self,
        make: Callable[[int, int], BaseSampler],
        bounds: dict[str, BaseDistribution],
        joint: list[str] | None,
    ) -> None:
        self._make, self._bounds, self._joint = make, bounds, joint
        self._sampler: BaseSampler
        self._observations: Observations | None = None
        self._asked_for: Mapping[str, BaseDistribution] = {}

    def learn_from(
        self, observations: Observations, first_bounds: Mapping[str, BaseDistribution]
    ) -> None:
        """Learn from those instead of the study, in which the search began with other bounds:
        its trials go on asking for choices among all that there were."""
        self._observations = observations
        if first_bounds != self._bounds:
            observations.narrow(self._bounds)
            self._asked_for = {
                name: distribution
                for name, distribution in first_bounds.items()
                if name in self._bounds and isinstance(distribution, CategoricalDistribution)
            }

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        earlier = 0
        if self._observations is not None:
            earlier = self._observations.look()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # TPE's `group`
            self._sampler = self._make(trial.number, earlier)
        self._sampler.before_trial(self._known(study), trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        if self._joint is not None:
            found = {name: self._bounds[name] for name in self._joint}
        else:
            found = self._sampler.infer_relative_search_space(self._known(study), trial)
        return {name: self._asked_for.get(name, found[name]) for name in found}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Params:
        space = {
            name: self._bounds[name] if name in self._asked_for else distribution
            for name, distribution in search_space.items()
        }
        found: Params = self._sampler.sample_relative(self._known(study), trial, space)
        return found

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        if param_name in self._asked_for:
            param_distribution = self._bounds[param_name]
        return self._sampler.sample_independent(
            self._known(study), trial, param_name, param_distribution
        )

    def _known(self, study: Study) -> Study:
        return self._observations or study


class Nsga2(NSGAIISampler):  # type: ignore[misc]
    """NSGA-II, which draws at random if narrower bounds have left it less than two parents."""

    def get_parent_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        parents: list[FrozenTrial] = super().get_parent_population(study, generation)
        return parents if len(parents) > 1 else []


# what makes an observation of an earlier sweep part of the first generation
FIRST_GENERATION = {Nsga2._get_generation_key(): 0}


class GridSampler(BaseSampler):  # type: ignore[misc]
    """Every point of a grid once, in an order shuffled by the seed, so that any part is fair.

    The trial's number chooses the point, modulo the grid's size: start points, which come first,
    shift the order and lose none.
    """

    def __init__(self, grid: list[Params], seed: int) -> None:
        order = np.random.default_rng(seed).permutation(len(grid))
        self.points = [grid[i] for i in order]

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Params:
        return {}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self.points[trial.number % len(self.points)][param_name]


def grid_of(space: Space, points: int = GRID_POINTS) -> list[Params]:
    """Every combination of the parameters' values, along the space's own branches.

    Numbers get `points` values, evenly spaced between their bounds, both included; choices all.
    Raises ValueError if that makes more than 20,000 trials.
    """
    if points < 2:
        raise ValueError(f"grid_points {points} must be at least 2")
    grid: list[Params] = []
    pending: list[Params] = [{}]
    while pending:
        point = pending.pop()

        def choose(name: str, distribution: BaseDistribution, point: Params = point) -> Any:
            if name not in point:
                first, *others = _values(distribution, points)
                pending.extend({**point, name: value} for value in others)
                point[name] = first
            return point[name]

        space.suggest(ChoosingTrial(choose))
        grid.append(point)
        if len(grid) + len(pending) > GRID_LIMIT:
            raise ValueError(
                f"a grid over space {space.name!r} with {points} values a number has more than "
                f"{GRID_LIMIT} trials: use fewer values, a smaller space, or the sampler tpe"
            )
    return grid


def _values(distribution: BaseDistribution, points: int) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high, step = distribution.low, distribution.high, distribution.step
    spaced = np.geomspace if distribution.log else np.linspace
    values = spaced(low, high, points)
    if step is not None:
        values = np.unique(low + np.round((values - low) / step) * step)
    kind = int if isinstance(distribution, IntDistribution) else float
    # rounding must not lead out of the bounds
    return list(dict.fromkeys(kind(min(max(value, low), high)) for value in values))
