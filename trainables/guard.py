"""Ends trials that diverged or collapsed, under every stopping policy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from trainables.metrics import EpochMetrics

PATIENCE = 3  # epochs in a row at chance level
RISK = 0.025  # that guessing gets above its bound: about two standard errors


@dataclass(frozen=True)
class Chance:
    """What a validation split gives who does not look at the images: `level` for always naming its
    largest class; up to `bound` for that or, with luck, for guessing at random."""

    level: float
    bound: float


@lru_cache(maxsize=64)
def chance(counts: tuple[int, ...]) -> Chance | None:
    """Chance on a validation split with so many images of each class.

    None where it is too small to tell: where guesses may all be right.
    """
    images = sum(counts)
    level = max(counts) / images
    bound = max(level, lucky(images, 1 / len(counts)) / images)
    return Chance(level, bound) if bound < 1 else None


def lucky(images: int, share: float) -> int:
    """The most right guesses, each right with probability `share`, that are not beyond chance: so
    many or more have a probability above `RISK` (exact, binomial)."""
    tail, right = 0.0, images + 1
    while tail <= RISK:
        right -= 1
        ways = math.lgamma(images + 1) - math.lgamma(right + 1) - math.lgamma(images - right + 1)
        wrong = images - right
        tail += math.exp(ways + right * math.log(share) + (wrong * math.log1p(-share)))
    return right


def verdict(
    history: Sequence[EpochMetrics], chance: Chance | None
) -> tuple[Literal["diverged", "collapsed"], str] | None:
    """The outcome and the reason to end a trial after its newest epoch, or None.

    Diverged: a loss is NaN or infinite. Collapsed: past a warm-up of max(5, T/4) epochs, the
    validation accuracy of the last three epochs is not above chance's bound. Without `chance`
    nothing counts as collapsed.
    """
    last = history[-1]
    for name in ("train_loss", "val_loss", "perturbed_loss", "value"):
        value = getattr(last, name)
        if value is not None and not math.isfinite(value):
            return "diverged", f"{name} is {value} at epoch {last.epoch}"
    warm_up = max(5, last.total_epochs // 4)
    if last.epoch < max(warm_up, PATIENCE) or last.epoch == last.total_epochs or chance is None:
        return None
    latest = [metrics.val_accuracy for metrics in history[-PATIENCE:]]
    if all(accuracy is not None and accuracy <= chance.bound for accuracy in latest):
        return "collapsed", (
            f"val_accuracy {latest[-1]:.3f} at epoch {last.epoch} of {last.total_epochs}, "
            f"no better than chance ({chance.level:.3f}, with luck {chance.bound:.3f}) for "
            f"{PATIENCE} epochs"
        )
    return None
