"""Which sampler suits which space, stopper and number of objectives."""

from __future__ import annotations

from optuna.distributions import (
    CategoricalDistribution,
)

from rts_search.search.grid import GRID_POINTS, grid_of
from search_spaces.space import Parameter, Space, describe
from trainables.names import unknown

SAMPLERS = ("tpe", "random", "qmc", "gp", "cmaes", "grid", "nsga2")


LEARNING = ("tpe", "gp", "nsga2")  # from earlier sweeps' observations, too


_JOINT = {
    "qmc": "fills one fixed set of parameters evenly",
    "gp": "models one fixed set of parameters",
    "cmaes": "moves one fixed set of parameters",
}


COMPLETED_ONLY = ("gp", "cmaes")


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
        raise unknown("sampler", name, SAMPLERS)
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
    if name in COMPLETED_ONLY and stopper != "none":
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
