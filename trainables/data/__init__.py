"""Datasets prepared once, resident on the device, augmented in batches. Names load lazily."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainables.data.augment import Augmentation as Augmentation
    from trainables.data.batches import epoch_batches as epoch_batches
    from trainables.data.batches import eval_batches as eval_batches
    from trainables.data.cache import training_images as training_images
    from trainables.data.device import DeviceData as DeviceData
    from trainables.data.device import prepare as prepare
    from trainables.data.sources import dataset_names as dataset_names
    from trainables.data.steps import steps_per_epoch as steps_per_epoch

_HOMES = {
    "Augmentation": "augment",
    "epoch_batches": "batches",
    "eval_batches": "batches",
    "training_images": "cache",
    "DeviceData": "device",
    "prepare": "device",
    "dataset_names": "sources",
    "steps_per_epoch": "steps",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
