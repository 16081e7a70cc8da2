"""Triggers: when a run turns from SGD to perturbed steps. They know nothing of the optimizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from trainables.config import (
    AlwaysTrigger,
    CosineTrigger,
    EpochTrigger,
    GapTrigger,
    NeverTrigger,
    TriggerConfig,
    VarianceTrigger,
)


@dataclass(frozen=True, slots=True)
class EpochObservation:
    """What a trigger sees of a finished epoch (counted from 1).

    `gradient_norms` and `gradient_cosines` hold ‖g_t‖ and cos(g_t, g_{t−1}) of the epoch's steps
    in order, or are empty where the trigger does not need them; a run's first step has no cosine.
    Losses are means over images; `train_loss` is that at w, in training mode.
    """

    epoch: int
    gradient_norms: NDArray[np.float64] | Sequence[float]
    gradient_cosines: NDArray[np.float64] | Sequence[float]
    train_loss: float
    val_loss: float


class Trigger:
    """Fires at most once, at the end of an epoch; this base class never does.

    `statistic` and `threshold` are those of the last observed epoch, also after firing; None
    where there is none (yet). `firing_epoch` is the first perturbed epoch, counted from 1, None
    before it is known. A trigger cannot fire after the run's last epoch, nor on a statistic that
    is not finite.
    """

    needs_norms: ClassVar[bool] = False
    needs_cosines: ClassVar[bool] = False
    _state: ClassVar[tuple[str, ...]] = ("statistic", "threshold", "firing_epoch")

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.statistic: float | None = None
        self.threshold: float | None = None
        self.firing_epoch: int | None = None

    def perturbing(self, epoch: int) -> bool:
        """Are the steps of `epoch` (from 1) perturbed?"""
        return self.firing_epoch is not None and epoch >= self.firing_epoch

    def observe(self, observation: EpochObservation) -> None:
        """Takes in a finished epoch; call once an epoch, in order."""
        fires = self._fires(observation)
        if fires and self.firing_epoch is None and observation.epoch < self.epochs:
            self.firing_epoch = observation.epoch + 1

    def _fires(self, observation: EpochObservation) -> bool:
        """Updates statistic and threshold; is the condition met?"""
        return False

    def state_dict(self) -> dict[str, Any]:
        """All that changes over a run, as JSON data."""
        values = {name: getattr(self, name) for name in self._state}
        return {name: list(v) if isinstance(v, list) else v for name, v in values.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over the state of a trigger made with the same configuration."""
        for name in self._state:
            value = state[name]
            setattr(self, name, list(value) if isinstance(value, list) else value)


class Never(Trigger):
    """Plain SGD for the whole run."""


class AtEpoch(Trigger):
    """Perturbs from epoch `first` (from 1) on, the control that a statistic must beat."""

    def __init__(self, epochs: int, first: int) -> None:
        super().__init__(epochs)
        self.first = first
        if first == 1:
            self.firing_epoch = 1

    def _fires(self, observation: EpochObservation) -> bool:
        return observation.epoch + 1 >= self.first


class Variance(Trigger):
    """Fires when the variance (ddof 0) of the last k ‖g‖ is below γ·σ²_init.

    σ²_init is the variance over the first 10 % of the run's steps (rounded up), but of k at
    least. Steps whose gradient was not finite (fp16 loss scaling) are left out of σ²_init.
    """

    needs_norms = True
    _state = (*Trigger._state, "recent")

    def __init__(self, epochs: int, steps_per_epoch: int, k: int, gamma: float) -> None:
        super().__init__(epochs)
        self.k, self.gamma = k, gamma
        self.initial_steps = max(k, -(-epochs * steps_per_epoch // 10))
        self.recent: list[float] = []  # all norms until σ²_init is known, then the last k

    def _fires(self, observation: EpochObservation) -> bool:
        self.recent += [float(norm) for norm in observation.gradient_norms]
        if self.threshold is None and len(self.recent) >= self.initial_steps:
            initial = [norm for norm in self.recent[: self.initial_steps] if math.isfinite(norm)]
            self.threshold = self.gamma * _variance(initial)
        if len(self.recent) >= self.k:
            self.statistic = _variance(self.recent[-self.k :])
        if self.statistic is None or self.threshold is None:
            return False
        self.recent = self.recent[-self.k :]
        return math.isfinite(self.statistic) and self.statistic < self.threshold


class Cosine(Trigger):
    """Fires when the mean of the last k cos(g_t, g_{t−1}) is above κ."""

    needs_cosines = True
    _state = (*Trigger._state, "recent")

    def __init__(self, epochs: int, k: int, kappa: float) -> None:
        super().__init__(epochs)
        self.k, self.kappa = k, kappa
        self.threshold = kappa
        self.recent: list[float] = []

    def _fires(self, observation: EpochObservation) -> bool:
        cosines = [float(cosine) for cosine in observation.gradient_cosines]
        self.recent = [*self.recent, *cosines][-self.k :]
        if len(self.recent) < self.k:
            return False
        self.statistic = math.fsum(self.recent) / self.k
        return math.isfinite(self.statistic) and self.statistic > self.kappa


class Gap(Trigger):
    """Fires when Δ = |L_val − L_train| is above μ·Δ_base.

    With ξ = max(3, round(T/10)), Δ_base is the mean Δ of the first ξ epochs (`fixed`), or the
    mean over segments of ξ epochs, weighted 1, 2, 3, … towards the present (`dynamic`): all
    complete segments up to the epoch just finished, a started one waits until it is complete; it
    stops moving when the trigger fires. Δ is compared every `period` epochs after the first ξ:
    at the end of epochs ξ + period, ξ + 2·period, …
    """

    _state = (*Trigger._state, "gaps")

    def __init__(self, epochs: int, mu: float, period: int, dynamic: bool) -> None:
        super().__init__(epochs)
        self.mu, self.period, self.dynamic = mu, period, dynamic
        self.segment = max(3, round(epochs / 10))
        self.gaps: list[float] = []  # of the epochs that the baseline may use

    def _fires(self, observation: EpochObservation) -> bool:
        self.statistic = abs(float(observation.val_loss) - float(observation.train_loss))
        if self.firing_epoch is None and (self.dynamic or len(self.gaps) < self.segment):
            self.gaps.append(self.statistic)
        complete = len(self.gaps) // self.segment
        if complete == 0:
            return False
        segments = np.reshape(self.gaps[: complete * self.segment], (complete, self.segment))
        weights = np.arange(1, complete + 1)
        self.threshold = self.mu * float(np.average(segments.mean(axis=1), weights=weights))
        since = observation.epoch - self.segment
        checked = since > 0 and since % self.period == 0
        return checked and math.isfinite(self.statistic) and self.statistic > self.threshold


def make_trigger(config: TriggerConfig, epochs: int, steps_per_epoch: int) -> Trigger:
    """The trigger of `config` for a run of T = `epochs` epochs of `steps_per_epoch` steps."""
    match config:
        case VarianceTrigger():
            return Variance(epochs, steps_per_epoch, config.k, config.gamma)
        case CosineTrigger():
            return Cosine(epochs, config.k, config.kappa)
        case GapTrigger():
            return Gap(epochs, config.mu, config.period, config.baseline == "dynamic")
        case EpochTrigger():
            return AtEpoch(epochs, _first_epoch(config, epochs))
        case AlwaysTrigger():
            return AtEpoch(epochs, 1)
        case NeverTrigger():
            return Never(epochs)


def _first_epoch(config: EpochTrigger, epochs: int) -> int:
    """`epoch`, or floor(fraction·T) + 1: 0 is from the start, 1 never."""
    if config.epoch is not None:
        return config.epoch
    assert config.fraction is not None  # EpochTrigger has one of the two
    return math.floor(config.fraction * epochs + 1e-9) + 1  # 0.29·100 is 28.999… in floats


def _variance(values: Sequence[float]) -> float:
    """Population variance; NaN for none or where a value is not finite."""
    if not values or not all(map(math.isfinite, values)):
        return math.nan
    return float(np.var(values))
