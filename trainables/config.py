"""A trial's configuration: data, model, training protocol and optimizer. No torch."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from trainables.base import Config
from trainables.names import OWN
from trainables.schedules import AfterConfig, Schedule
from trainables.triggers import AlwaysTrigger, TriggerConfig

Family = Literal["sgd", "pugd", "rts", "sam", "asam"]
Residence = Literal["auto", "device", "stream"]
FAMILIES: tuple[Family, ...] = ("sgd", "pugd", "rts", "sam", "asam")


def plain(value: dict[str, Any]) -> dict[str, Any]:
    """Raises ValueError for what JSON cannot hold."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError(f"{value!r:.100}: plain data and finite numbers are needed") from None
    return value


class DataConfig(Config):
    """Which images, and how they are split and augmented.

    `name` is a built-in dataset or `package.module:function`. `train_size` images are drawn
    (stratified) from the training set, and the validation split is carved from those. Of what is
    left to train on, the share `label_noise` gets a wrong label, drawn from the other classes. A
    `None` for an augmentation means the dataset's own default; flips are off where they change the
    class. `residence` is where the images are while they are trained on: on the device, or on the
    host, from where batches stream; `auto` streams what is large for the GPU. It changes no bit.
    """

    name: str = "digits"
    root: str | None = None
    download: bool = False
    train_size: int | None = Field(default=None, ge=2)
    test_size: int | None = Field(default=None, ge=1)
    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    validation_seed: int = Field(default=0, ge=0)
    label_noise: float = Field(default=0.0, ge=0, lt=1)
    label_noise_seed: int = Field(default=0, ge=0)
    augment: bool = True
    crop_padding: int | None = Field(default=None, ge=0)
    flip: bool | None = None
    rotation: float | None = Field(default=None, ge=0, le=180)  # degrees
    image_size: int | None = Field(default=None, ge=4)  # resized once, when the cache is made
    residence: Residence = "auto"


class ModelConfig(Config):
    """Which network: a built-in name, a torchvision classifier, or `package.module:function`.

    `pretrained` is false, true (torchvision's weights) or the path of a local weights file.
    `args` are the model's own keyword arguments.
    """

    name: str = "cnn"
    pretrained: bool | str = False
    args: Annotated[dict[str, Any], AfterValidator(plain)] = Field(default_factory=dict)


class TrainConfig(Config):
    """The training protocol. `epochs` is T; lr falls from `lr` to 0 on a cosine over T."""

    epochs: int = Field(default=100, ge=1, le=1_000_000_000)  # a control has twice as many
    batch_size: int = Field(default=128, ge=1)
    lr: float = Field(default=0.1, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    dampening: float = Field(default=0.0, ge=0, le=1)
    nesterov: bool = False
    weight_decay: float = Field(default=5e-4, ge=0)
    seed: int = Field(default=42, ge=0, lt=2**31)
    schedule_by: Literal["step", "epoch"] = "step"
    batch_norm: Literal["update", "freeze"] = "update"
    drop_last: bool = False
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    channels_last: bool | Literal["auto"] = "auto"
    compile: bool = False

    @model_validator(mode="after")
    def _nesterov(self) -> Self:
        if self.nesterov and (self.momentum <= 0 or self.dampening != 0):
            raise ValueError("nesterov needs momentum above 0 and dampening 0")
        return self


class OptimizerConfig(Config):
    """The update rule. `pugd` is `rts` with α_r = α_s = 1 from the start, `sgd` with `never`.

    `rho` and `eta` belong to SAM (ρ = 0.05) and ASAM (ρ = 0.5, η = 0.01).
    """

    family: Family = "rts"
    radius: Schedule = Schedule()
    scale: Schedule = Schedule()
    trigger: SerializeAsAny[TriggerConfig] = AlwaysTrigger()
    after: AfterConfig = AfterConfig()
    rho: float | None = Field(default=None, gt=0)
    eta: float = Field(default=0.01, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _family_trigger(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("family") == "sgd":
            return {"trigger": {"name": "never"}, **value}
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.family == "sgd" and self.trigger.name != "never":
            raise ValueError("family sgd has the trigger never; use family rts for another")
        if self.family in ("pugd", "sam", "asam") and self.trigger.name != "always":
            raise ValueError(f"family {self.family} has the trigger always; use family rts")
        if self.family != "rts" and (self.radius != Schedule() or self.scale != Schedule()):
            raise ValueError(f"family {self.family} has radius 1 and scale 1; use family rts")
        if self.family != "rts" and self.after != AfterConfig():
            raise ValueError(f"after belongs to family rts, not to family {self.family}")
        if self.rho is not None and self.family not in ("sam", "asam"):
            raise ValueError(f"rho belongs to sam and asam, not to family {self.family}")
        return self

    @property
    def effective_rho(self) -> float:
        """SAM's or ASAM's ρ: as given, or the paper's default."""
        return self.rho if self.rho is not None else (0.5 if self.family == "asam" else 0.05)


class TaskConfig(Config):
    """A training function of one's own, `package.module:function`, in the place of data and model.

    `objective` is the metric of its epochs that is searched by, in which `direction`; `args` are
    the function's keyword arguments.
    """

    name: str
    objective: str = Field(default="val_loss", pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")
    direction: Literal["minimize", "maximize"] = "minimize"
    args: Annotated[dict[str, Any], AfterValidator(plain)] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _own(cls, value: str) -> str:
        if ":" not in value:
            raise ValueError(f"{value!r} is no {OWN}")
        return value

    @field_validator("objective")
    @classmethod
    def _no_test(cls, value: str) -> str:
        if value.startswith("test"):
            raise ValueError(
                f"{value!r}: test metrics are never an objective, or the test set would be fitted"
            )
        return value

    @property
    def test_metric(self) -> str:
        """What the function yields of the test set after its last epoch, as `test_mse`."""
        return f"test_{self.objective.removeprefix('val_')}"


def without_unused(content: dict[str, Any]) -> dict[str, Any]:
    """A dump without the task if there is none, as before there were any, else without the data and
    the model that it takes the place of."""
    unused = ("data", "model") if content.get("task") else ("task",)
    return {name: value for name, value in content.items() if name not in unused}


class TrialConfig(Config):
    """Everything that decides a trial's result. With a `task`, data and model are its own."""

    task: TaskConfig | None = None
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    optimizer: OptimizerConfig = OptimizerConfig()

    @model_validator(mode="after")
    def _one_task(self) -> Self:
        if self.task is not None:
            for section, default in (("data", DataConfig()), ("model", ModelConfig())):
                if getattr(self, section) != default:
                    raise ValueError(
                        f"{section} belongs to the built-in loop, and task {self.task.name} is "
                        f"trained instead: give its settings in task.args, or leave out task"
                    )
        return self

    @model_serializer(mode="wrap")
    def _as_used(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_unused(dump(self))

    @property
    def code(self) -> str:
        """What is trained, by name: code of one's own where that has a colon."""
        return self.task.name if self.task else self.model.name

    @property
    def named(self) -> dict[str, str]:
        """What it is made of, by names, of which those with a colon are code of one's own."""
        if self.task is not None:
            return {"task": self.task.name}
        return {"data": self.data.name, "model": self.model.name}

    def at_length(self, epochs: int) -> Self:
        """The same configuration as a complete schedule of another length, for a shorter rung.

        lr, radius, scale and triggers follow the new T by themselves; a trigger at a fixed epoch
        moves to the same fraction of it. Equal to this one for the T that it has.
        """
        if epochs == self.train.epochs:
            return self
        train = self.train.model_copy(update={"epochs": epochs})
        trigger = self.optimizer.trigger.at_length(self.train.epochs, epochs)
        optimizer = self.optimizer.model_copy(update={"trigger": trigger})
        return self.model_copy(update={"train": train, "optimizer": optimizer})

    def placed(self, device: str = "auto", residence: Residence = "auto") -> Self:
        """The same configuration on another device, its images on it or on the host."""
        train = self.train.model_copy(update={"device": device})
        data = self.data.model_copy(update={"residence": residence})
        return self.model_copy(update={"data": data, "train": train})
