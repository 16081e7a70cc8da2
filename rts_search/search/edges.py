"""Do the best configurations lie on the edge of the space? Then the space is too small."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from search_spaces.space import ChoosingTrial, Params, Space, apply, describe
from trainables.config import TrialConfig

MARGIN = 0.02  # of a parameter's range, in log where the parameter is
STEP = 0.05  # how far beyond an edge is looked, if anything can be there
FEWEST = 3  # best trials that say something


def top_of(trials: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Of ranked trials the best tenth, but 5 at least."""
    return trials[: max(5, len(trials) // 10)]


def edges(
    space: Space,
    base: TrialConfig,
    trials: Sequence[Mapping[str, Any]],
    also: Collection[str] = (),
) -> list[str]:
    """A warning for each edge where a third of these trials lie, and two at least.

    `trials` are rows of the ledger's `trials`, the best ones; fewer than `FEWEST` say nothing. A
    parameter counts for those that have it. Choices have no edge, and an edge beyond which no
    configuration is valid (a fraction of 0) is none. `also` are the training parameters that the
    spec searches beside its space. Raises ValueError if the space fails.
    """
    points: list[Params] = [json.loads(trial["params"] or "{}") for trial in trials]
    if len(points) < FEWEST:
        return []
    warnings = []
    for parameter in describe(space):
        name, distribution = parameter.name, parameter.distribution
        if not isinstance(distribution, FloatDistribution | IntDistribution):
            continue
        if distribution.single():
            continue
        having = [point for point in points if name in point]
        for upper in (False, True):
            near = [each for each in having if _room(distribution, each[name], upper) <= MARGIN]
            if len(near) < max(2, math.ceil(len(having) / 3)):
                continue
            beyond = _number_at(distribution, 1 + STEP if upper else -STEP)
            if any(_is_valid(space, base, {**point, name: beyond}) for point in near):
                bound = distribution.high if upper else distribution.low
                warnings.append(
                    f"{len(near)} of the best {len(having)} with {name} lie at its "
                    f"{'upper' if upper else 'lower'} bound, {bound:g} (at {_span(near, name)}): "
                    f"the optimum may lie beyond; {_advice(name, also)}"
                )
    return warnings


def _scale(distribution: BaseDistribution) -> tuple[Callable[[float], float], float, float]:
    """From a value to where its range is even, and the bounds there."""
    scale: Callable[[float], float] = math.log if distribution.log else float
    return scale, scale(distribution.low), scale(distribution.high)


def _room(distribution: BaseDistribution, value: float, upper: bool) -> float:
    """From a value to a bound, as a share of the range; negative beyond it."""
    scale, low, high = _scale(distribution)
    place = (scale(value) - low) / (high - low)
    return 1 - place if upper else place


def _number_at(distribution: BaseDistribution, place: float) -> float:
    """The value at a place between the bounds, 0 to 1, or beyond them."""
    _, low, high = _scale(distribution)
    value = low + place * (high - low)
    value = math.exp(value) if distribution.log else value
    if isinstance(distribution, IntDistribution):  # at least one beyond
        return math.ceil(value) if place > 1 else math.floor(value)
    return value


def _is_valid(space: Space, base: TrialConfig, point: Params) -> bool:
    try:
        apply(space, ChoosingTrial(lambda name, _: point[name]), base)
    except ValueError:
        return False
    return True


def _span(points: Sequence[Params], name: str) -> str:
    values = [point[name] for point in points]
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} to {high}"


def _advice(name: str, also: Collection[str]) -> str:
    key = next((key for key in also if name == key or name.endswith(f"_{key}")), None)
    how = f"widen search.also.{key}" if key else "search a space of your own with a wider range"
    return f"{how}, in a new sweep with search.warm_start naming this one"
