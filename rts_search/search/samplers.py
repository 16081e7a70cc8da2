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
)
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIISampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from rts_search.search.grid import GRID_POINTS, GridSampler, grid_of
from rts_search.search.observations import Observations
from rts_search.search.suits import check_sampler
from search_spaces.space import Params, Space, describe

POPULATION = 20  # trials that make a generation of nsga2


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
