"""Samplers by name, seeded per trial.

A sampler that is made again does not continue its old random stream. Here every trial has its own,
derived from the search's seed and the trial's number, so that a proposal depends on those two and
on the results known by then: a resumed search proposes what the uninterrupted one would have.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIISampler, QMCSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from rts_search.search.firing_parameter import of_trigger
from rts_search.search.grid import GRID_POINTS, GridSampler, grid_of
from rts_search.search.suits import check_sampler
from rts_search.search.tpe import Observations, Tpe
from search_spaces.space import Parameter, Params, Space, describe

POPULATION = 20  # trials that make a generation of nsga2
Attrs = dict[str, Any]


def make_sampler(
    name: str,
    space: Space,
    seed: int,
    grid_points: int = GRID_POINTS,
    objectives: int | None = None,
    earlier: int = 0,
    firing: Parameter | None = None,
) -> BaseSampler:
    """The named sampler for a whole search, whose study begins with `earlier` trials of others.
    With `firing` that is asked for instead of the trigger's parameters. Raises ValueError as
    `check_sampler` does."""
    if name == "grid":
        return GridSampler(grid_of(space, grid_points), seed, earlier)
    check_sampler(name, space, objectives=objectives)
    parameters = describe(space)
    if firing:
        parameters = [*(p for p in parameters if not of_trigger(p.name)), firing]
    conditional = any(p.conditional for p in parameters)
    bounds = {p.name: p.distribution for p in sorted(parameters, key=lambda p: p.name)}
    joint = None if conditional else _joint(name, bounds)
    if name == "tpe" and objectives != 2:
        make = partial(_tpe, Observations(), seed, conditional, earlier)
    else:
        make = partial(_inner, name, seed, conditional, earlier)
    return SeededSampler(make, earlier, joint)


def _joint(name: str, bounds: Mapping[str, BaseDistribution]) -> dict[str, BaseDistribution]:
    """What is sampled together, in a space that always has the same parameters."""
    return {
        parameter: distribution
        for parameter, distribution in bounds.items()
        if not distribution.single()
        and not (name == "cmaes" and isinstance(distribution, CategoricalDistribution))
    }


def _inner(name: str, seed: int, conditional: bool, earlier: int, number: int) -> BaseSampler:
    """Optuna's sampler for one trial."""
    from optuna import samplers  # lazy: GP imports torch

    stream = _stream(seed, earlier, number)
    if name == "tpe":
        # groups: parameters that occur together are modelled together, branch by branch
        return samplers.TPESampler(
            seed=stream, multivariate=True, group=conditional, constant_liar=True
        )
    if name == "qmc":  # one sequence for all trials
        return Qmc(number, _stream(seed, earlier))
    if name == "gp":
        return samplers.GPSampler(seed=stream, warn_independent_sampling=False)
    if name == "nsga2":
        return Nsga2(population_size=POPULATION, seed=stream)
    if name == "cmaes":
        return samplers.CmaEsSampler(seed=stream, warn_independent_sampling=False)
    return samplers.RandomSampler(seed=stream)


def _tpe(
    observations: Observations, seed: int, conditional: bool, earlier: int, number: int
) -> BaseSampler:
    return Tpe(observations, seed=_stream(seed, earlier, number), group=conditional)


def _stream(seed: int, earlier: int, *number: int) -> int:
    # with the seed of an earlier sweep, what that has proposed must not be proposed again
    begun = [earlier] if earlier else []
    return int(np.random.SeedSequence([seed, *number, *begun]).generate_state(1)[0])


class SeededSampler(BaseSampler):  # type: ignore[misc]
    """A fresh sampler for each trial, from `make(trial number)`.

    `earlier` trials of other sweeps come first in the study and are not counted. `joint` are the
    parameters to be sampled together where the space always has the same: known beforehand, they
    need not be found out from all earlier trials at every trial.
    """

    def __init__(
        self,
        make: Callable[[int], BaseSampler],
        earlier: int,
        joint: dict[str, BaseDistribution] | None,
    ) -> None:
        self._make, self._earlier, self.joint = make, earlier, joint
        self._sampler: BaseSampler

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # TPE's `group`
            self._sampler = self._make(trial.number - self._earlier)
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        if self.joint is not None:
            return dict(self.joint)
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


class Qmc(QMCSampler):  # type: ignore[misc]
    """Sobol's sequence, in which a trial's place is its number: nothing to be remembered."""

    def __init__(self, number: int, seed: int) -> None:
        super().__init__(
            qmc_type="sobol", scramble=True, seed=seed, warn_independent_sampling=False
        )
        self._number = number

    def _find_sample_id(self, study: Study, search_space: dict[str, BaseDistribution]) -> int:
        return self._number


class Nsga2(NSGAIISampler):  # type: ignore[misc]
    """NSGA-II, under a name of our own for what it notes of a generation."""


# What a sampler notes of trials and of the study, and must find there again. TPE: what a running
# trial drew for branches that it did not take. NSGA-II: generations and their parents. CMA-ES: its
# state after each generation, which Optuna keeps as a pickle; with the ledger's rows it is JSON,
# for nobody unpickles what another's folder holds.
_TPE, _NSGA2, _CMA, _CMA_STATE = "tpe:", "Nsga2:", "cma:", "cma:optimizer"
FIRST_GENERATION: Attrs = {Nsga2._get_generation_key(): 0}  # where earlier sweeps' trials belong


def remembered(attrs: Attrs) -> Attrs:
    """Of Optuna's attributes those that must be kept, fit for JSON."""
    kept = {key: attrs[key] for key in attrs if key.startswith((_TPE, _NSGA2, _CMA))}
    parts = [kept.pop(key) for key in list(kept) if key.startswith(_CMA_STATE)]
    if parts:
        state = pickle.loads(bytes.fromhex("".join(parts))).__getstate__()
        kept[_CMA_STATE] = {key: getattr(v, "tolist", lambda v=v: v)() for key, v in state.items()}
    return kept


def recalled(kept: Mapping[str, Any]) -> Attrs:
    """The attributes that `remembered` has kept, as Optuna had them."""
    attrs = dict(kept)
    if (state := attrs.pop(_CMA_STATE, None)) is not None:
        import cmaes

        optimizer = cmaes.CMA.__new__(cmaes.CMA)
        optimizer.__setstate__(
            {key: np.array(v) if isinstance(v, list) else v for key, v in state.items()}
        )
        attrs[f"{_CMA_STATE}:0"] = pickle.dumps(optimizer).hex()
    return attrs
