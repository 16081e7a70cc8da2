"""Optuna's TPE, to the bit, at a cost that does not grow with the search."""

from __future__ import annotations

from bisect import insort
from collections.abc import Container, Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe.sampler import default_gamma
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search_spaces.space import Params

# TPE models each observation, for each group of parameters, at every proposal. Of more it sees the
# newest, and this share of best ones.
OBSERVATIONS = 2_000
BEST_SHARE = 1 / 3
_OBSERVED = (TrialState.COMPLETE, TrialState.PRUNED)


class Observations:
    """What TPE reads of a study, kept from proposal to proposal.

    It follows from the study's trials alone, not from when they ended, so that a search that is
    made again from its ledger finds the same.
    """

    def __init__(self) -> None:
        self.running: dict[int, FrozenTrial] = {}
        self._count = 0  # of trials in the study
        self._ranked: list[tuple[tuple[int, float, float], int]] = []  # best first
        self._observed = np.zeros(1024, bool)  # by number
        self._columns: dict[str, np.ndarray] = {}  # parameter: Optuna's own values, by number
        self._kinds: dict[frozenset[str], FrozenTrial] = {}  # first trial of each set of parameters

    def __len__(self) -> int:
        return len(self._ranked)

    def update(self, study: Study) -> None:
        trials = study._storage.get_all_trials(study._study_id, deepcopy=False)
        if len(trials) > len(self._observed):
            new = len(trials)  # as many as there were, at least
            self._observed = np.append(self._observed, np.zeros(new, bool))
            for name, column in self._columns.items():
                self._columns[name] = np.append(column, np.full(new, np.nan))
        self.running.update((t.number, t) for t in trials[self._count :])
        self._count = len(trials)
        for number in self.running:
            self.running[number] = trials[number]
        for trial in [t for t in self.running.values() if t.state.is_finished()]:
            del self.running[trial.number]
            if trial.state in _OBSERVED:
                self._add(trial, study.direction)

    def _add(self, trial: FrozenTrial, direction: StudyDirection) -> None:
        insort(self._ranked, (_rank(trial, direction), trial.number))
        self._observed[trial.number] = True
        for name, value in trial.params.items():
            if name not in self._columns:
                self._columns[name] = np.full(len(self._observed), np.nan)
            self._columns[name][trial.number] = trial.distributions[name].to_internal_repr(value)
        kind = frozenset(trial.params)
        if kind not in self._kinds or trial.number < self._kinds[kind].number:
            self._kinds[kind] = trial

    def kinds(self) -> list[FrozenTrial]:
        """A trial for each set of parameters that occurs, in the order of the trials."""
        return sorted(self._kinds.values(), key=lambda trial: trial.number)

    def split(self) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of the good observations and of the others, as Optuna splits them."""
        observed = np.flatnonzero(self._observed)
        best = int(OBSERVATIONS * BEST_SHARE)
        if len(observed) > OBSERVATIONS:
            newest = observed[best - OBSERVATIONS :]
            older = (n for _, n in self._ranked if n < newest[0])
            chosen = [n for n, _ in zip(older, range(best), strict=False)]
            observed = np.sort(np.append(newest, chosen))
        # a running one counts for nothing here
        ranked = [number for _, number in self._ranked[: default_gamma(len(observed))]]
        below = np.sort(np.array(ranked, dtype=int))
        return below, np.setdiff1d(observed, below, assume_unique=True)

    def values(self, numbers: np.ndarray, names: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """By parameter, and with the key "" the numbers: of those that have all parameters."""
        found = {name: self._columns[name][numbers] for name in names if name in self._columns}
        if len(found) < len(names):
            return dict.fromkeys([*names, ""], np.empty(0))
        known = ~np.isnan(list(found.values())).any(axis=0)
        return {name: column[known] for name, column in found.items()} | {"": numbers[known]}


def _rank(trial: FrozenTrial, direction: StudyDirection) -> tuple[int, float, float]:
    """TPE's own order, lowest first: completed trials by value, then the pruned that came far."""
    sign = 1.0 if direction == StudyDirection.MINIMIZE else -1.0
    if trial.state == TrialState.COMPLETE:
        return 0, sign * trial.values[0], 0.0
    step = max(trial.intermediate_values, default=None)
    return (1, 1.0, 0.0) if step is None else (1, -step, sign * trial.intermediate_values[step])


class Tpe(TPESampler):  # type: ignore[misc]
    """TPE of one objective, for one trial: proposes what Optuna's (4.x) would of the observations
    that it sees, with `multivariate` and `constant_liar`."""

    def __init__(self, observations: Observations, **options: Any) -> None:
        super().__init__(multivariate=True, constant_liar=True, **options)
        self._seen = observations
        self._parts: tuple[np.ndarray, np.ndarray]

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        super().before_trial(study, trial)
        self._seen.update(study)
        self._parts = self._seen.split()

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        found: dict[str, BaseDistribution] = super().infer_relative_search_space(
            _Some(study, self._seen.kinds()), trial
        )
        return found

    def _sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Params:
        if not search_space or len(self._seen) < self._n_startup_trials:
            return {}
        return self._sample(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        if len(self._seen) < self._n_startup_trials:
            return self._random_sampler.sample_independent(
                study, trial, param_name, param_distribution
            )
        return self._sample(study, trial, {param_name: param_distribution})[param_name]

    def _sample(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Params:
        good, others = (self._seen.values(part, search_space) for part in self._parts)
        good.pop("")
        # running trials count as bad ones, in the place of their numbers
        running = [t for n, t in sorted(self._seen.running.items()) if n != trial.number]
        running = [t for t in running if search_space.keys() <= self._get_params(t, study).keys()]
        order = np.argsort(np.append(others.pop(""), [t.number for t in running]))
        liars = self._get_internal_repr(running, search_space, study)
        others = {name: np.append(others[name], liars[name])[order] for name in search_space}
        options = self._parzen_estimator_parameters
        below = self._parzen_estimator_cls(good, search_space, options)
        above = self._parzen_estimator_cls(others, search_space, options)
        samples = below.sample(self._rng.rng, self._n_ei_candidates)
        chosen = self._compare(samples, self._compute_acquisition_func(samples, below, above))
        return {n: d.to_external_repr(chosen[n]) for n, d in search_space.items()}


class _Some:
    """A study with some of its trials."""

    def __init__(self, study: Study, trials: list[FrozenTrial]) -> None:
        self._study, self._trials = study, trials

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        return [t for t in self._trials if states is None or t.state in states]
