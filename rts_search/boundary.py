"""Do the best configurations lie on the edge of the space? Then the space is too small."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from search_spaces.space import Space, describe

MARGIN = 0.02  # of a parameter's range, in log where the parameter is


def top_of(trials: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Of ranked trials the best tenth, but 5 at least."""
    return trials[: max(5, len(trials) // 10)]


def edges(space: Space, trials: Sequence[Mapping[str, Any]]) -> list[str]:
    """A warning for each edge where half of these trials lie, and two at least.

    `trials` are rows of the ledger's `trials`, the best ones. A parameter counts for those that
    have it; choices have no edge.
    """
    points = [json.loads(trial["params"] or "{}") for trial in trials]
    warnings = []
    for parameter in describe(space):
        places = [
            place
            for point in points
            if parameter.name in point
            and (place := _place(parameter.distribution, point[parameter.name])) is not None
        ]
        for edge, near in (
            ("lower", [p for p in places if p <= MARGIN]),
            ("upper", [p for p in places if p >= 1 - MARGIN]),
        ):
            if len(near) >= max(2, math.ceil(len(places) / 2)):
                bound = getattr(parameter.distribution, "low" if edge == "lower" else "high")
                warnings.append(
                    f"{len(near)} of the best {len(places)} with {parameter.name} lie at its "
                    f"{edge} bound, {bound:g}: the optimum may lie beyond; widen it in a new sweep "
                    "that is warm-started from this one"
                )
    return warnings


def _place(distribution: BaseDistribution, value: Any) -> float | None:
    """Where a number lies between its bounds, 0 to 1; None for a choice."""
    if not isinstance(distribution, FloatDistribution | IntDistribution):
        return None
    if distribution.single():
        return None
    low, high, at = float(distribution.low), float(distribution.high), float(value)
    if distribution.log:
        low, high, at = math.log(low), math.log(high), math.log(at)
    return (at - low) / (high - low)
