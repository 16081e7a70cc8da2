"""All that a training run holds, and its checkpoint."""

from __future__ import annotations

import copy
import socket
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from trainables.config import DataConfig, TrainConfig, TrialConfig
from trainables.data import DeviceData, prepare, steps_per_epoch
from trainables.data.stream import streams
from trainables.data.trust import warn_if_others_write
from trainables.guard import Chance, chance
from trainables.metrics import EpochMetrics, metrics_from_dict
from trainables.models import build_model
from trainables.names import NotHere
from trainables.optim import ASAM, RTS, SAM, BatchNormFreezer, GradientMonitor, PerturbedSGD
from trainables.optim.loss_scale import LossScale
from trainables.triggers import Trigger

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FEW_IMAGES = 50  # of a validation split, below which a note says so


class RunState:
    """What every run holds: optimizer, trigger, monitor, random generators and history.

    The same seed gives the same initial weights and data order whatever the optimizer family.
    `state_dict` holds tensors and plain values only, so that it loads with `weights_only=True`;
    a run that is interrupted and restored from it equals the uninterrupted one bit for bit on
    the CPU.
    """

    model: torch.nn.Module
    optimizer: PerturbedSGD
    batch_norm: BatchNormFreezer
    trigger: Trigger
    monitor: GradientMonitor
    steps_per_epoch: int
    # of its data, where they are images of classes
    classes: int | None = None
    validation_images: int | None = None
    streams: bool = False
    chance: Chance | None = None  # what counts as collapsed

    def __init__(self, config: TrialConfig) -> None:
        train = config.train
        self.config = config
        self.device = resolve_device(train.device)
        self.precision = resolve_precision(train.precision, self.device)
        self.loss_scale = LossScale(self.device) if self.precision == torch.float16 else None
        self.generator = torch.Generator().manual_seed(train.seed)  # data order and augmentation
        self.gradient_evaluations = 0
        self.history: list[EpochMetrics] = []
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def watch(self, model: torch.nn.Module, steps_per_epoch: int, watch_all: bool = False) -> None:
        """Take the model that is trained, and make what trains it. With `watch_all` the monitor
        records what any trigger may need."""
        self.model, self.steps_per_epoch = model, steps_per_epoch
        self.optimizer = make_optimizer(self.config, model, self.loss_scale)
        self.batch_norm = BatchNormFreezer(model)
        self.trigger = self.new_trigger()
        self.monitor = GradientMonitor(
            steps_per_epoch,
            watch_all or self.trigger.needs_norms,
            watch_all or self.trigger.needs_cosines,
            self.device,
        )

    def new_trigger(self) -> Trigger:
        """The configuration's, as at the run's start."""
        rule = self.config.optimizer
        return rule.trigger.make(self.config.train.epochs, self.steps_per_epoch)

    @property
    def epochs_done(self) -> int:
        return len(self.history)

    @property
    def surroundings(self) -> dict[str, Any]:
        """On what it is trained, under the names of its columns in the ledger."""
        return {
            "classes": self.classes,
            "validation_images": self.validation_images,
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "precision": precision_name(self.precision),
            "host": socket.gethostname(),
        }

    def autocast(self) -> AbstractContextManager[Any]:
        """The forward pass's precision."""
        if self.precision == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.precision)

    def state_dict(self) -> dict[str, Any]:
        cuda = self.device.type == "cuda"
        return {
            "config": self.config.model_dump_json(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "loss_scale": self.loss_scale.state_dict() if self.loss_scale else None,
            "trigger": self.trigger.state_dict(),
            "monitor": self.monitor.state_dict(),
            "generator": self.generator.get_state(),
            "rng": torch.get_rng_state(),
            "device_rng": torch.cuda.get_rng_state(self.device) if cuda else None,
            "gradient_evaluations": self.gradient_evaluations,
            "history": [asdict(metrics) for metrics in self.history],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError if the checkpoint is of another configuration."""
        self.check_same(state)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        if self.loss_scale is not None:
            self.loss_scale.load_state_dict(state["loss_scale"])
        self.trigger.load_state_dict(state["trigger"])
        self.monitor.load_state_dict(state["monitor"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["rng"])
        if state["device_rng"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["device_rng"], self.device)
        self.gradient_evaluations = state["gradient_evaluations"]
        self.history = [metrics_from_dict(row) for row in state["history"]]

    def check_same(self, state: Mapping[str, Any]) -> None:
        kept = TrialConfig.model_validate_json(state["config"])
        if kept.placed(kept.train.device, self.config.data.residence) != self.config:
            raise ValueError(
                "this checkpoint belongs to another configuration; delete it, or train the one "
                f"it was made with: {state['config']}"
            )


class TrainingState(RunState):
    """A run of the built-in loop: on images, with a network that classifies them."""

    def __init__(
        self, config: TrialConfig, data_folder: Path | None = None, watch_all: bool = False
    ) -> None:
        """`data_folder` is that of the prepared data, where it is known already; `watch_all` as in
        `watch`."""
        super().__init__(config)
        train = config.train
        self.data = load_data(config.data, self.device, data_folder)
        self.classes = self.data.num_classes
        self.validation_images = len(self.data.validation_labels)
        self.streams = self.data.streams
        self.chance = chance(self.data.validation_counts)
        steps = steps_per_epoch(len(self.data.train_labels), train.batch_size, train.drop_last)
        torch.manual_seed(train.seed)  # initial weights; dropout from here on
        model = build_model(config.model, self.data.num_classes, self.data.image_shape)
        self.memory_format = resolve_memory_format(config, self.device)
        model = model.to(device=self.device, memory_format=self.memory_format)  # type: ignore[call-overload]
        self.forward = compiled(model) if train.compile else model
        self.watch(model, steps, watch_all)
        self.best_accuracy = -1.0
        self.best_weights: dict[str, torch.Tensor] = {}

    @property
    def images_per_epoch(self) -> int:
        """Training images without those of a dropped last batch."""
        full = self.steps_per_epoch * self.config.train.batch_size
        return min(full, len(self.data.train_labels))

    def remember(self, metrics: EpochMetrics) -> None:
        """Append an epoch, and copy the weights if they are the best on validation so far."""
        self.history.append(metrics)
        if (accuracy := metrics.val_accuracy) is not None and accuracy > self.best_accuracy:
            self.best_accuracy = accuracy
            self.best_weights = {k: v.clone() for k, v in self.model.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "best_accuracy": self.best_accuracy,
            "best_weights": self.best_weights,
            "facts": {  # which the weights are kept with
                "image_shape": list(self.data.image_shape),
                "num_classes": self.data.num_classes,
                "mean": self.data.mean.tolist(),
                "std": self.data.std.tolist(),
                "precision": precision_name(self.precision),
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.best_accuracy = state["best_accuracy"]
        self.best_weights = {k: v.to(self.device) for k, v in state["best_weights"].items()}


@lru_cache(maxsize=2)  # a reused process trains many trials on the same data
def load_data(config: DataConfig, device: torch.device, folder: Path | None = None) -> DeviceData:
    """The prepared dataset, resident on the device, or streaming to it."""
    data = prepare(config, folder)
    return data.to(device, streams(config.residence, data.image_bytes, device))


def make_optimizer(
    config: TrialConfig, model: torch.nn.Module, loss_scale: LossScale | None = None
) -> PerturbedSGD:
    """The optimizer of the config's family."""
    train, rule = config.train, config.optimizer
    sgd: dict[str, Any] = {
        "lr": train.lr,
        "momentum": train.momentum,
        "dampening": train.dampening,
        "weight_decay": train.weight_decay,
        "nesterov": train.nesterov,
        "loss_scale": loss_scale,
    }
    parameters = [p for p in model.parameters() if p.requires_grad]
    if rule.family == "sam":
        return SAM(parameters, rho=rule.effective_rho, **sgd)
    if rule.family == "asam":
        return ASAM(parameters, rho=rule.effective_rho, eta=rule.eta, **sgd)
    return RTS(parameters, **sgd)


def compiled(model: torch.nn.Module) -> Any:
    """The model as torch.compile makes it; warns where others may write into its cache."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    warn_if_others_write([Path(cache_dir())], "torch.compile runs files in its cache")
    return torch.compile(model)


def resolve_device(name: str) -> torch.device:
    """`auto` is the first CUDA GPU, else Apple's MPS, else the CPU."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device {name!r} is not one of auto, cpu, cuda, cuda:N, mps") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} asked for, but torch sees no CUDA GPU; use auto or cpu")
    return device


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bf16 on GPUs that compute in it, else fp32: emulated bf16 is far slower."""
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if name == "auto":
        return torch.bfloat16 if native else torch.float32
    return PRECISIONS[name]


def device_kind(train: TrainConfig) -> str:
    """As in `cpu-fp32`: runs on devices of one kind are taken to be the same."""
    device = resolve_device(train.device)
    return f"{device.type}-{precision_name(resolve_precision(train.precision, device))}"


def precision_name(precision: torch.dtype) -> str:
    """As the configuration names it."""
    return next(name for name, dtype in PRECISIONS.items() if dtype == precision)


def resolve_memory_format(config: TrialConfig, device: torch.device) -> torch.memory_format:
    """`auto` is channels_last for the convolutional models, which gain from it."""
    wanted = config.train.channels_last
    if wanted == "auto":
        wanted = config.model.name != "mlp" and device.type in ("cpu", "cuda")
    return torch.channels_last if wanted else torch.contiguous_format


def check_trainable(config: TrialConfig, download: bool = True) -> list[str]:
    """Prepare the data and build the model, which a worker would fail to do; returns notes.

    Without `download` what is not here is not fetched, and a note says so.
    """
    resolve_device(config.train.device)
    asked = config.data
    try:
        data = prepare(asked if download else asked.model_copy(update={"download": False}))
    except NotHere:
        if download or not asked.download:
            raise
        return [f"data {asked.name} would be downloaded; they and the model are not checked"]
    steps_per_epoch(len(data.train_labels), config.train.batch_size, config.train.drop_last)
    notes = coarse_validation(asked, data.validation_counts)
    with torch.random.fork_rng(devices=[]):
        try:
            build_model(config.model, data.num_classes, data.image_shape, download=download)
        except NotHere as error:
            notes.append(f"{error}: they would be downloaded; the model is not checked")
    return notes


def coarse_validation(config: DataConfig, counts: tuple[int, ...]) -> list[str]:
    """A note where the validation split, with so many images of each class, tells little."""
    images = sum(counts)
    if images >= FEW_IMAGES:
        return []
    nothing = "" if chance(counts) else ", so few that guesses may all be right"
    return [
        f"the validation split has {images} images{nothing}: one of them is {100 / images:.1f} "
        f"points of val_accuracy, and luck is ± {50 / images**0.5:.0f}; raise "
        f"data.validation_fraction ({config.validation_fraction:g}), or use more images"
    ]
