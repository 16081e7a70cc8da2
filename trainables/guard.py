"""Ends trials that diverged or collapsed, under every stopping policy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from trainables.metrics import EpochMetrics

PATIENCE = 3  # epochs in a row at chance level


def verdict(
    history: Sequence[EpochMetrics], num_classes: int, num_validation: int
) -> tuple[Literal["diverged", "collapsed"], str] | None:
    """The outcome and the reason to end a trial after its newest epoch, or None.

    Diverged: a loss is NaN or infinite. Collapsed: past a warm-up of max(5, T/4) epochs, the
    validation accuracy of the last three epochs is within two standard errors of chance.
    """
    last = history[-1]
    for name in ("train_loss", "val_loss", "perturbed_loss"):
        value = getattr(last, name)
        if value is not None and not math.isfinite(value):
            return "diverged", f"{name} is {value} at epoch {last.epoch}"
    warm_up = max(5, last.total_epochs // 4)
    if last.epoch < max(warm_up, PATIENCE) or last.epoch == last.total_epochs:
        return None
    chance = 1 / num_classes
    limit = chance + 2 * math.sqrt(chance * (1 - chance) / num_validation)
    if all(metrics.val_accuracy <= limit for metrics in history[-PATIENCE:]):
        return "collapsed", (
            f"val_accuracy {last.val_accuracy:.3f} at epoch {last.epoch} of {last.total_epochs}, "
            f"no better than chance ({chance:.3f}) for {PATIENCE} epochs"
        )
    return None
