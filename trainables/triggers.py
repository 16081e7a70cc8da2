"""Triggers: when a run turns from SGD to perturbed steps. No torch.

A trigger is two classes: its configuration, registered under its name by being defined, and what
watches the run. A parameter's `title` is its symbol in what users are shown.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ModelWrapValidatorHandler, model_validator

from trainables.base import Config
from trainables.names import unknown


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
    val_loss: float | None  # None: not known, and no trigger that watches it is run


class Trigger:
    """Fires at most once, at the end of an epoch; this base class never does.

    `statistic` and `threshold` are those of the last observed epoch, also after firing; None
    where there is none (yet). `firing_epoch` is the first perturbed epoch, counted from 1, None
    before it is known. A trigger cannot fire after the run's last epoch, nor on a statistic that
    is not finite.
    """

    needs_norms: ClassVar[bool] = False
    needs_cosines: ClassVar[bool] = False
    needs_val_loss: ClassVar[bool] = False
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


@dataclass(frozen=True, slots=True)
class Threshold:
    """The parameter on which it hangs at which epoch a trigger fires: the higher, the later, or the
    higher, the sooner, all the way. `low` to `high` are the values that `rts-search firing` tries,
    once with each of the settings `beside`."""

    parameter: str
    low: float
    high: float
    log: bool = False
    beside: tuple[Mapping[str, Any], ...] = ({},)


class TriggerConfig(Config):
    """The configuration of a trigger; validates to the kind that `name` says.

    `watches` says whether the firing epoch depends on what the run does, and so is not known
    beforehand; `threshold`, where it does, on which parameter.
    """

    name: str
    watches: ClassVar[bool] = True
    threshold: ClassVar[Threshold | None] = None
    kinds: ClassVar[dict[str, type[TriggerConfig]]] = {}

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        TriggerConfig.kinds[cls.model_fields["name"].default] = cls

    @model_validator(mode="wrap")
    @classmethod
    def _of_its_kind(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Any:
        if cls is not TriggerConfig or not isinstance(value, Mapping):
            return handler(value)
        name = value.get("name")
        if name not in cls.kinds:
            raise unknown("trigger", name, cls.kinds)
        return cls.kinds[name].model_validate(value)

    @abstractmethod
    def first_epoch(self, epochs: int, steps_per_epoch: int) -> int:
        """The first epoch (from 1) that can be perturbed in a run of `epochs`; beyond it if none.

        It is the one that is if the trigger does not watch.
        """

    @abstractmethod
    def make(self, epochs: int, steps_per_epoch: int) -> Trigger:
        """The trigger for a run of T = `epochs` epochs of `steps_per_epoch` steps."""

    def at_length(self, epochs: int, length: int) -> TriggerConfig:
        """The same for a run of `length` epochs instead of `epochs`."""
        return self


def trigger_words(trigger: Mapping[str, Any]) -> str:
    """A trigger's configuration, as plain data, in a few words: `variance γ 0.1 k 10`."""
    kind = TriggerConfig.kinds.get(trigger["name"], TriggerConfig)
    values = [
        f"{field.title} {trigger[key]:.3g}"
        for key, field in kind.model_fields.items()
        if field.title and trigger.get(key) is not None
    ]
    return " ".join([trigger["name"], *values])


class EpochTrigger(TriggerConfig):
    """Perturbs from `epoch` (counted from 1) on, or from `fraction` of T: 0 is from the start, 1
    never. The control that a statistic must beat."""

    name: Literal["epoch"] = "epoch"
    epoch: int | None = Field(default=None, ge=1, title="at")
    fraction: float | None = Field(default=None, ge=0, le=1, title="at")
    watches = False

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.epoch is None) == (self.fraction is None):
            raise ValueError("the epoch trigger needs either epoch or fraction")
        return self

    def first_epoch(self, epochs: int, steps_per_epoch: int) -> int:
        if self.epoch is not None:
            return self.epoch
        assert self.fraction is not None  # one of the two is given
        return math.floor(self.fraction * epochs + 1e-9) + 1  # 0.29·100 is 28.999… in floats

    def make(self, epochs: int, steps_per_epoch: int) -> Trigger:
        return AtEpoch(epochs, self.first_epoch(epochs, steps_per_epoch))

    def at_length(self, epochs: int, length: int) -> TriggerConfig:
        """At the same fraction of T."""
        if self.epoch is None:
            return self
        return EpochTrigger(fraction=min(1.0, (self.epoch - 1) / epochs))


class AlwaysTrigger(TriggerConfig):
    """Perturbs from the first step."""

    name: Literal["always"] = "always"
    watches = False

    def first_epoch(self, epochs: int, steps_per_epoch: int) -> int:
        return 1

    def make(self, epochs: int, steps_per_epoch: int) -> Trigger:
        return AtEpoch(epochs, 1)


class NeverTrigger(TriggerConfig):
    """Never perturbs: plain SGD."""

    name: Literal["never"] = "never"
    watches = False

    def first_epoch(self, epochs: int, steps_per_epoch: int) -> int:
        return epochs + 1

    def make(self, epochs: int, steps_per_epoch: int) -> Trigger:
        return Trigger(epochs)


class AtEpoch(Trigger):
    """Perturbs from epoch `first` (from 1) on."""

    def __init__(self, epochs: int, first: int) -> None:
        super().__init__(epochs)
        self.first = first
        if first == 1:
            self.firing_epoch = 1

    def _fires(self, observation: EpochObservation) -> bool:
        return observation.epoch + 1 >= self.first


class VarianceTrigger(TriggerConfig):
    """Fires when the variance of the last k gradient norms falls below γ·σ²_init.

    σ²_init is the variance over the first 10 % of the run's steps (rounded up), but of k at
    least.
    """

    name: Literal["variance"] = "variance"
    gamma: float = Field(default=0.2, gt=0, title="γ")
    k: int = Field(default=10, ge=2, title="k")
    threshold = Threshold("gamma", 1e-4, 1.0, log=True, beside=({"k": 10}, {"k": 20}))

    def initial_steps(self, epochs: int, steps_per_epoch: int) -> int:
        """How many steps σ²_init is over."""
        return max(self.k, -(-epochs * steps_per_epoch // 10))

    def first_epoch(self, epochs: int, steps_per_epoch: int) -> int:
        return math.ceil(self.initial_steps(epochs, steps_per_epoch) / steps_per_epoch) + 1

    def make(self, epochs: int, steps_per_epoch: int) -> Trigger:
        return Variance(self, epochs, steps_per_epoch)


class Variance(Trigger):
    """Variances have ddof 0. Steps whose gradient was not finite (fp16 loss scaling) are left out
    of σ²_init."""

    needs_norms = True
    _state = (*Trigger._state, "recent")

    def __init__(self, config: VarianceTrigger, epochs: int, steps_per_epoch: int) -> None:
        super().__init__(epochs)
        self.k, self.gamma = config.k, config.gamma
        self.initial_steps = config.initial_steps(epochs, steps_per_epoch)
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


class CosineTrigger(TriggerConfig):
    """Fires when the mean of the last k cos(g_t, g_{t−1}) rises above κ."""

    name: Literal["cosine"] = "cosine"
    kappa: float = Field(default=0.9, ge=-1, le=1, title="κ")
    k: int = Field(default=10, ge=1, title="k")
    threshold = Threshold("kappa", -1.0, 1.0)

    def first_epoch(self, epochs: int, steps_per_epoch: int) -> int:
        return math.ceil((self.k + 1) / steps_per_epoch) + 1  # the first step has no cosine

    def make(self, epochs: int, steps_per_epoch: int) -> Trigger:
        return Cosine(self, epochs)


class Cosine(Trigger):
    """The mean of the last k cosines, across epochs."""

    needs_cosines = True
    _state = (*Trigger._state, "recent")

    def __init__(self, config: CosineTrigger, epochs: int) -> None:
        super().__init__(epochs)
        self.k, self.kappa = config.k, config.kappa
        self.threshold = config.kappa
        self.recent: list[float] = []

    def _fires(self, observation: EpochObservation) -> bool:
        cosines = [float(cosine) for cosine in observation.gradient_cosines]
        self.recent = [*self.recent, *cosines][-self.k :]
        if len(self.recent) < self.k:
            return False
        self.statistic = math.fsum(self.recent) / self.k
        return math.isfinite(self.statistic) and self.statistic > self.kappa


class GapTrigger(TriggerConfig):
    """Fires when Δ = |L_val − L_train| is above μ·Δ_base.

    With ξ = max(3, round(T/10)), Δ_base is the mean Δ of the first ξ epochs (`fixed`), or the
    mean over segments of ξ epochs, weighted 1, 2, 3, … towards the present (`dynamic`): all
    complete segments up to the epoch just finished, a started one waits until it is complete; it
    stops moving when the trigger fires. Δ is compared at the end of epochs past ξ that `period`
    divides, as in the author's code.
    """

    name: Literal["gap"] = "gap"
    mu: float = Field(default=2.0, gt=0, title="μ")
    period: int = Field(default=3, ge=1)
    baseline: Literal["fixed", "dynamic"] = "fixed"
    threshold = Threshold(
        "mu", 0.01, 10.0, log=True, beside=({"baseline": "fixed"}, {"baseline": "dynamic"})
    )

    def segment(self, epochs: int) -> int:
        """ξ."""
        return max(3, round(epochs / 10))

    def first_epoch(self, epochs: int, steps_per_epoch: int) -> int:
        return (self.segment(epochs) // self.period + 1) * self.period + 1

    def make(self, epochs: int, steps_per_epoch: int) -> Trigger:
        return Gap(self, epochs)


class Gap(Trigger):
    """Keeps the Δ of the epochs that the baseline may use."""

    needs_val_loss = True
    _state = (*Trigger._state, "gaps")

    def __init__(self, config: GapTrigger, epochs: int) -> None:
        super().__init__(epochs)
        self.mu, self.period = config.mu, config.period
        self.dynamic = config.baseline == "dynamic"
        self.segment = config.segment(epochs)
        self.gaps: list[float] = []

    def _fires(self, observation: EpochObservation) -> bool:
        assert observation.val_loss is not None
        self.statistic = abs(float(observation.val_loss) - float(observation.train_loss))
        if self.firing_epoch is None and (self.dynamic or len(self.gaps) < self.segment):
            self.gaps.append(self.statistic)
        complete = len(self.gaps) // self.segment
        if complete == 0:
            return False
        segments = np.reshape(self.gaps[: complete * self.segment], (complete, self.segment))
        weights = np.arange(1, complete + 1)
        self.threshold = self.mu * float(np.average(segments.mean(axis=1), weights=weights))
        checked = observation.epoch > self.segment and observation.epoch % self.period == 0
        return checked and math.isfinite(self.statistic) and self.statistic > self.threshold


def _variance(values: Sequence[float]) -> float:
    """Population variance; NaN for none or where a value is not finite."""
    if not values or not all(map(math.isfinite, values)):
        return math.nan
    return float(np.var(values))
