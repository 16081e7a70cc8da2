"""What a trial reports: one EpochMetrics an epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter


@dataclass(frozen=True, slots=True)
class TestMetrics:
    """The test set, touched once at the end of a completed run. Accuracies are fractions. A task
    of one's own gives what it likes of them, and the `test_value` of its objective."""

    test_loss: float | None
    test_accuracy: float | None
    best_test_loss: float | None  # of the weights with the best validation accuracy
    best_test_accuracy: float | None
    test_hits: str = ""  # of the final weights: a bit an image in order (1: right), in base64
    test_value: float | None = None


@dataclass(frozen=True, slots=True)
class EpochMetrics:
    """One epoch. Losses are means over images, accuracies fractions, times seconds.

    `train_loss` and `train_accuracy` are those at w, in training mode; `perturbed_loss` is the
    mean over the perturbed steps at w + ε and `loss_rise` its difference to the loss at w on the
    same batches (None without a perturbed step). `lr`, `radius` (α_r) and `scale` (α_s)
    are those of the epoch's first step; without a perturbation the latter two have no effect.
    `trigger_epoch` is the first perturbed epoch (from 1), None before firing. A run is a complete
    schedule of `total_epochs` epochs; `rung` is its place among those that the trial climbs.
    What a task of one's own does not yield is None; `value` is that of its objective, and `metrics`
    is JSON of what it yields under other names.
    """

    epoch: int
    total_epochs: int
    rung: int
    lr: float
    train_loss: float
    train_accuracy: float | None
    perturbed_loss: float | None
    loss_rise: float | None
    val_loss: float | None
    val_accuracy: float | None
    generalization_gap: float | None  # val_loss − train_loss
    radius: float
    scale: float
    perturbing: bool
    trigger_statistic: float | None
    trigger_threshold: float | None
    trigger_epoch: int | None
    gradient_evaluations: int  # since the run's start: 1 or 2 a step
    train_seconds: float
    eval_seconds: float
    epoch_seconds: float
    images_per_second: float | None
    peak_memory_bytes: int | None  # of the device; None on the CPU
    shared: bool = False  # not trained by this trial: taken from the trunk, with its cost
    value: float | None = None
    metrics: str | None = None
    test: TestMetrics | None = None  # on the last epoch of T only

    @property
    def in_words(self) -> str:
        """As in `val accuracy 0.9667`; of a task of one's own, its objective."""
        if self.value is not None:
            return f"objective {self.value:.4g}"
        return f"val accuracy {self.val_accuracy:.4f}"


_METRICS = TypeAdapter(EpochMetrics)


def metrics_from_dict(row: Mapping[str, Any]) -> EpochMetrics:
    """The inverse of `dataclasses.asdict` for an EpochMetrics. Raises ValueError for other rows."""
    return _METRICS.validate_python(row)


def tail_mean(values: Sequence[float], total_epochs: int) -> float:
    """The mean of the last max(1, T/20) epochs: steadier than the last, and not the luckiest."""
    tail = values[-max(1, total_epochs // 20) :]
    return math.fsum(tail) / len(tail)


def tail_means(values: Sequence[float], total_epochs: int) -> list[float]:
    """After each epoch the mean over the tail until it: what a rung there is judged by."""
    return [tail_mean(values[:epoch], total_epochs) for epoch in range(1, len(values) + 1)]
