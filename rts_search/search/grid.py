"""The sampler `grid`: every combination of values, once."""

from __future__ import annotations

from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from search_spaces.space import ChoosingTrial, Params, Space, ask

GRID_POINTS = 3  # values of each number


GRID_LIMIT = 20_000  # trials


class GridSampler(BaseSampler):  # type: ignore[misc]
    """Every point of a grid once, in an order shuffled by the seed, so that any part is fair.

    The trial's number chooses the point, modulo the grid's size: start points, which come first,
    shift the order and lose none.
    """

    def __init__(self, grid: list[Params], seed: int, earlier: int = 0) -> None:
        self.earlier = earlier  # trials of other sweeps, which come first in the study
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
        return self.points[(trial.number - self.earlier) % len(self.points)][param_name]


def grid_of(space: Space, points: int = GRID_POINTS) -> list[Params]:
    """Every combination of the parameters' values, along the space's own branches.

    Numbers get `points` values, evenly spaced between their bounds, both included; choices all.
    What the space rejects is left out. Raises ValueError if that makes more than 20,000 trials, or
    none.
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

        if ask(space, ChoosingTrial(choose)):
            grid.append(point)
        if len(grid) + len(pending) > GRID_LIMIT:
            raise ValueError(
                f"a grid over space {space.name!r} with {points} values a number has more than "
                f"{GRID_LIMIT} trials: use fewer values, a smaller space, or the sampler tpe"
            )
    if not grid:
        raise ValueError(
            f"space {space.name!r} rejects every point of its grid: use another sampler"
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
