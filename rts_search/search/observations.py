"""A search as its sampler sees it."""

from __future__ import annotations

import copy
from collections.abc import Container, Iterable, Mapping
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from search_spaces.space import contains


class Observations(Study):  # type: ignore[misc]
    """What a sampler may learn from: trials of earlier sweeps, then the search's own.

    If the bounds have become narrower, those outside of them are left out: the sampler would
    propose values beyond, or fail on a choice that is gone. Earlier sweeps' trials have negative
    numbers here, so that the search's own begin at 0. Samplers read `_get_trials` only; what it
    gives is as of the last `look()`, since nothing is told while a trial is proposed.
    """

    def __init__(self, study_name: str, storage: BaseStorage) -> None:
        super().__init__(study_name=study_name, storage=storage)
        self._earlier: list[FrozenTrial] = []
        self._bounds: Mapping[str, BaseDistribution] | None = None
        self._ended: dict[int, FrozenTrial | None] = {}  # as seen within the bounds
        self._trials: list[FrozenTrial] = []

    def set_earlier(self, trials: Iterable[FrozenTrial]) -> None:
        self._earlier = [copy.copy(trial) for trial in trials]
        for i, trial in enumerate(self._earlier):
            trial.number = -1 - i

    def narrow(self, bounds: Mapping[str, BaseDistribution]) -> None:
        """Show no trials outside of these bounds."""
        self._bounds = bounds

    def look(self) -> int:
        """Take notice of what has been told; returns how many are of earlier sweeps."""
        own = self._storage.get_all_trials(self._study_id, deepcopy=False)
        trials = [*self._earlier, *own]
        self._trials = trials if self._bounds is None else self._within(self._bounds, trials)
        return len(self._earlier)

    def _within(
        self, bounds: Mapping[str, BaseDistribution], trials: list[FrozenTrial]
    ) -> list[FrozenTrial]:
        found = []
        for trial in trials:
            if trial.number in self._ended:
                seen = self._ended[trial.number]
            else:
                seen = _seen_within(bounds, trial)
                if trial.state.is_finished():
                    self._ended[trial.number] = seen
            if seen is not None:
                found.append(seen)
        return found

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        found = [trial for trial in self._trials if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found


def _seen_within(bounds: Mapping[str, BaseDistribution], trial: FrozenTrial) -> FrozenTrial | None:
    """The trial with the bounds of today, None if it lies outside of them."""
    params: dict[str, Any] = trial.params
    if not all(name in bounds and contains(bounds[name], params[name]) for name in params):
        return None
    seen = copy.copy(trial)
    seen.distributions = {name: bounds[name] for name in params}
    return seen
