"""Samplers by name, seeded per trial, and which of them suits which space.

A sampler that is reloaded does not continue its old random stream. Here every trial has its own,
derived from the search's seed and the trial's number, so that a proposal depends on those two and
on the results known by then: a resumed search proposes what the uninterrupted one would have.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
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
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from search_spaces.space import ChoosingTrial, Params, Space, describe, nearest

SAMPLERS = ("tpe", "random", "qmc", "gp", "cmaes", "grid")
GRID_POINTS = 3  # values of each number
GRID_LIMIT = 20_000  # trials

_JOINT = {
    "qmc": "fills one fixed set of parameters evenly",
    "gp": "models one fixed set of parameters",
    "cmaes": "moves one fixed set of parameters",
}
_COMPLETED_ONLY = ("gp", "cmaes")


def check_sampler(
    name: str, space: Space, stopper: str = "none", grid_points: int = GRID_POINTS
) -> str | None:
    """Refuse a sampler that does not suit the space or the stopper (ValueError with the reason).

    Returns a line to tell the user about a pair that works with a reservation, or None.
    """
    if name not in SAMPLERS:
        raise ValueError(
            f"unknown sampler {name!r}: choose one of {', '.join(SAMPLERS)}"
            f"{nearest(name, SAMPLERS)}"
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
    categorical = [
        p.name for p in parameters if isinstance(p.distribution, CategoricalDistribution)
    ]
    if name == "cmaes" and categorical:
        if len(categorical) == len(parameters):
            raise ValueError(
                f"sampler cmaes needs numbers, and space {space.name!r} has none: use tpe or grid"
            )
        return f"cmaes learns numbers only: {', '.join(categorical)} will be drawn at random"
    return None


def make_sampler(name: str, space: Space, seed: int, grid_points: int = GRID_POINTS) -> BaseSampler:
    """The named sampler for a whole search. Raises ValueError as `check_sampler` does."""
    if name == "grid":
        return GridSampler(grid_of(space, grid_points), seed)
    check_sampler(name, space)
    parameters = describe(space)
    if any(p.conditional for p in parameters):
        return SeededSampler(partial(_inner, name, seed, True), None)
    joint = {
        p.name: p.distribution
        for p in sorted(parameters, key=lambda p: p.name)
        if not p.distribution.single()
        and not (name == "cmaes" and isinstance(p.distribution, CategoricalDistribution))
    }
    return SeededSampler(partial(_inner, name, seed, False), joint)


def _inner(name: str, seed: int, conditional: bool, number: int) -> BaseSampler:
    """Optuna's sampler for one trial."""
    from optuna import samplers  # lazy: GP imports torch

    stream = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    if name == "tpe":
        # groups: parameters that occur together are modelled together, branch by branch
        return samplers.TPESampler(
            seed=stream, multivariate=True, group=conditional, constant_liar=True
        )
    if name == "qmc":  # one sequence for all trials; the journal knows how far it has come
        return samplers.QMCSampler(
            qmc_type="sobol", scramble=True, seed=seed, warn_independent_sampling=False
        )
    if name == "gp":
        return samplers.GPSampler(seed=stream, warn_independent_sampling=False)
    if name == "cmaes":
        return samplers.CmaEsSampler(seed=stream, warn_independent_sampling=False)
    return samplers.RandomSampler(seed=stream)


class SeededSampler(BaseSampler):  # type: ignore[misc]
    """A fresh sampler for each trial, from `make(trial number)`.

    `joint` are the parameters to be sampled together where the space always has the same: known
    beforehand, they need not be found out from all earlier trials at every trial.
    """

    def __init__(
        self, make: Callable[[int], BaseSampler], joint: dict[str, BaseDistribution] | None
    ) -> None:
        self._make, self._joint = make, joint
        self._sampler: BaseSampler

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # TPE's `group`
            self._sampler = self._make(trial.number)
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        if self._joint is not None:
            return dict(self._joint)
        found: dict[str, BaseDistribution] = self._sampler.infer_relative_search_space(study, trial)
        return found

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Params:
        found: Params = self._sampler.sample_relative(study, trial, search_space)
        return found

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)


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
