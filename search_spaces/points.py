"""A configuration's place in a space: the parameters that the built-in spaces would have for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution

from search_spaces.space import ChoosingTrial, Params, Space, apply, contains
from trainables.config import OptimizerConfig, TrialConfig
from trainables.schedules import Schedule
from trainables.triggers import EpochTrigger

TRAINING = ("lr", "weight_decay", "momentum", "batch_size")


def point_of(space: Space, config: TrialConfig, base: TrialConfig) -> Params | None:
    """The point at which a space, over this base, has the configuration's optimizer, and its
    training settings as far as they are searched; None if it has none."""
    values = {**_training(config), **_optimizer(config)}

    def choose(name: str, distribution: BaseDistribution) -> Any:
        for value in values.get(name, ()):
            if contains(distribution, value):
                return value
        raise ValueError(f"{name} lies outside of the space")

    trial = ChoosingTrial(choose)
    try:
        found = apply(space, trial, base).optimizer
    except Exception:  # a space of the user's own may fail on others' values in any way
        return None
    return trial.params if _same(found, config.optimizer, config.train.epochs) else None


def _training(config: TrialConfig) -> dict[str, tuple[Any, ...]]:
    """`lr`, or `rts_lr` where the space searches the family's own."""
    known = {key: (getattr(config.train, key),) for key in TRAINING}
    return known | {f"{config.optimizer.family}_{key}": value for key, value in known.items()}


def _optimizer(config: TrialConfig) -> dict[str, tuple[Any, ...]]:
    """The values that each parameter of the built-in spaces may have, the likeliest first."""
    rule = config.optimizer
    values: dict[str, tuple[Any, ...]] = {
        "family": (rule.family,),
        f"{rule.family}_rho": (rule.effective_rho,),
        "after_lr_factor": (rule.after.lr_factor,),
        "after_anneal": (rule.after.anneal,),
    }
    for part, schedule in (("radius", rule.radius), ("scale", rule.scale)):
        values |= {f"{part}_{name}": value for name, value in _schedule(schedule).items()}
    trigger = rule.trigger.model_dump()
    first = rule.trigger.first_epoch(config.train.epochs, 1)
    values |= {f"trigger_{name}": (value,) for name, value in trigger.items() if name != "name"}
    values["trigger"] = (rule.trigger.name,)
    if not rule.trigger.watches:
        fraction = min(1.0, (first - 1) / config.train.epochs)
        values["trigger"] = (rule.trigger.name, "epoch")
        values["trigger_fraction"] = (fraction,)
        values["trigger_left"] = (1 - fraction,)
    return values


def _schedule(schedule: Schedule) -> Mapping[str, tuple[Any, ...]]:
    start, end, _ = _ends(schedule)
    betas = {"beta_min": (schedule.beta_min,), "beta_max": (schedule.beta_max,)}
    return {
        "alpha": (start,),
        "alpha_start": (start,),
        "alpha_end": (end,),
        "shape": (schedule.shape,),
        "strategy": (schedule.strategy,),
        "beta": (schedule.beta_max,),
        **betas,
        **{f"inverse_{name}": value for name, value in betas.items()},
    }


def _same(one: OptimizerConfig, other: OptimizerConfig, epochs: int) -> bool:
    """Whether two optimizers train the same over so many epochs, but for rounding."""
    return _plain(one, epochs) == _plain(other, epochs)


def _plain(rule: OptimizerConfig, epochs: int) -> tuple[Any, ...]:
    family = "rts" if rule.family == "pugd" else rule.family
    trigger = rule.trigger
    if not trigger.watches:
        if (first := trigger.first_epoch(epochs, 1)) > epochs:
            return ("sgd",)
        trigger = EpochTrigger(epoch=first)
    schedules = [_ends(schedule) for schedule in (rule.radius, rule.scale)]
    rho = rule.effective_rho if family in ("sam", "asam") else None
    return family, trigger, *schedules, rule.after, rho


def _ends(schedule: Schedule) -> tuple[float, float, str | None]:
    """Both α without what rounding adds, and how it gets from one to the other."""
    start, end = (float(f"{alpha:.12g}") for alpha in (schedule.alpha_start, schedule.alpha_end))
    return start, end, None if start == end else schedule.shape
