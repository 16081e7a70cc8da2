"""What a configuration is in effect: of two that are the same here, one need not be trained."""

from __future__ import annotations

from trainables.config import OptimizerConfig, TrialConfig
from trainables.triggers import EpochTrigger


def in_effect(config: TrialConfig, firing: int) -> TrialConfig:
    """The plainest configuration that trains the same, given its first perturbed epoch, from 1.

    A trigger is no more than that epoch; a run that is never perturbed, for a `firing` above T, is
    plain SGD.
    """
    rule, train = config.optimizer, config.train
    if rule.family in ("sam", "asam"):
        eta = rule.eta if rule.family == "asam" else 0.01
        same = rule.model_copy(update={"rho": rule.effective_rho, "eta": eta})
    elif firing > train.epochs:  # no second pass, for which batch norm would have a mode
        same = OptimizerConfig(family="sgd")
        train = train.model_copy(update={"batch_norm": "update"})
    else:
        anneal = rule.after.anneal if firing > 1 else "keep"  # its own from the start is the cosine
        after = rule.after.model_copy(update={"anneal": anneal})
        trigger = EpochTrigger(epoch=firing)
        same = rule.model_copy(update={"family": "rts", "trigger": trigger, "after": after})
    return config.model_copy(update={"optimizer": same, "train": train})


def trunk_of(config: TrialConfig) -> TrialConfig:
    """The plain SGD that a configuration is until its trigger fires, on whatever device."""
    return in_effect(config, config.train.epochs + 1).placed()


def has_trunk(config: TrialConfig) -> bool:
    """Whether it begins with plain SGD that its optimizer's family shares: SAM's never does, nor is
    a function of one's own entered midway."""
    plain_first = config.optimizer.trigger.name != "always"
    return config.task is None and config.optimizer.family in ("sgd", "rts") and plain_first
