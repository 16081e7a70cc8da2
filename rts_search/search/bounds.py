"""The bounds of a search: they may become narrower while it goes on, never wider."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.study import Study
from optuna.trial import Trial

from search_spaces.space import ChoosingTrial, Space, bounds, check_point, contains

Distributions = dict[str, BaseDistribution]
Choices = dict[str, tuple[Any, ...]]


def widening(
    old: Mapping[str, BaseDistribution],
    new: Mapping[str, BaseDistribution],
    optional: Container[str],
) -> str | None:
    """Why the new parameters are not the old ones within the same or narrower bounds, or None.

    A choice that is left out may take `optional` parameters with it.
    """
    for name, distribution in new.items():
        if name not in old:
            return f"{name} ({bounds(distribution)}) was not searched"
        if not _inside(distribution, old[name]):
            return f"{name} was {bounds(old[name])}, and is now {bounds(distribution)}"
    fewer = any(new[name] != old[name] for name in choices_in(old) if name in new)
    for name, distribution in old.items():
        if name not in new and not (fewer and name in optional):
            return f"{name} was searched ({bounds(distribution)}), and is no more"
    return None


def choices_in(parameters: Mapping[str, BaseDistribution]) -> Choices:
    """The choices of those that are categorical."""
    return {
        name: distribution.choices
        for name, distribution in parameters.items()
        if isinstance(distribution, CategoricalDistribution)
    }


def distributions_at(space: Space, point: Mapping[str, Any]) -> Distributions:
    """What the space asks for at a point. Raises ValueError if that lies outside of it."""
    params = check_point(space, point)
    trial = ChoosingTrial(lambda name, _: params[name])
    space.suggest(trial)
    return trial.distributions


class WideTrial(Trial):  # type: ignore[misc]
    """A trial that asks for a categorical parameter among all the choices that it ever had.

    Optuna gives a parameter the same choices for a study's life; the sampler knows those of today.
    """

    def __init__(self, study: Study, trial_id: int, choices: Choices) -> None:
        super().__init__(study, trial_id)
        self._choices = choices

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return super().suggest_categorical(name, self._choices.get(name, choices))


def _inside(new: BaseDistribution, old: BaseDistribution) -> bool:
    if type(new) is not type(old):
        return False
    if isinstance(new, CategoricalDistribution):
        return all(contains(old, choice) for choice in new.choices)
    assert isinstance(new, FloatDistribution | IntDistribution)
    kept = new.low >= old.low and new.high <= old.high
    return kept and (new.log, new.step) == (old.log, old.step)
