"""A prepared dataset for one device: its images there, or on the host, from where they stream."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.config import DataConfig
from trainables.data.augment import Augmentation
from trainables.data.cache import PARTS, prepared_folder
from trainables.data.split import wrong_labels
from trainables.data.stream import streamed


@dataclass(frozen=True, eq=False)
class DeviceData:
    """Images uint8 [N, C, H, W] and labels int64 [N] of three disjoint parts, on one device.

    `mean` and `std` [C] are those of the training part, in units where white is 1. On the CPU
    the images are memory-mapped: all processes of a node share one copy. Where it `streams`, they
    stay there, and go to the device batch by batch.
    """

    train_images: Tensor
    train_labels: Tensor
    validation_images: Tensor
    validation_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    mean: Tensor
    std: Tensor
    num_classes: int
    augmentation: Augmentation | None  # of training images; None: as they are
    streams: bool = False

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width

    @cached_property
    def validation_counts(self) -> tuple[int, ...]:
        """The validation images of each class."""
        return tuple(self.validation_labels.cpu().bincount(minlength=self.num_classes).tolist())

    @property
    def device(self) -> torch.device:
        return self.mean.device

    @property
    def image_bytes(self) -> int:
        """Of all three parts."""
        return sum(getattr(self, f"{part}_images").nbytes for part in PARTS)

    def to(self, device: torch.device | str, streams: bool = False) -> DeviceData:
        """The same data for another device, without a copy of what stays where it is."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        moved: dict[str, Any] = {
            name: value.to(device)
            for name, value in values
            if isinstance(value, Tensor) and not (streams and name.endswith("_images"))
        }
        return replace(self, **moved, streams=streams)

    def first(self, train: int, validation: int) -> DeviceData:
        """With so many images only, in the memory of all."""
        return replace(
            self,
            train_images=self.train_images[:train],
            train_labels=self.train_labels[:train],
            validation_images=self.validation_images[:validation],
            validation_labels=self.validation_labels[:validation],
        )

    def pick(self, images: Tensor, order: Tensor, size: int) -> Generator[Tensor, None, None]:
        """`images` of one part in an order [N], given on the CPU, `size` at a time, on the device.

        Close it if it is not used up.
        """
        if self.streams:
            return streamed(images, torch.split(order, size), self.device)
        return (images.index_select(0, some) for some in torch.split(order.to(self.device), size))

    def normalize(
        self, images: Tensor, memory_format: torch.memory_format = torch.contiguous_format
    ) -> Tensor:
        """uint8 [B, C, H, W] → float32 (x/255 − mean) / std, channel by channel."""
        return normalize(images, self._affine, memory_format)

    @cached_property
    def _affine(self) -> tuple[Tensor, Tensor]:
        return affine(self.mean, self.std)


def prepare(config: DataConfig, folder: Path | None = None) -> DeviceData:
    """The dataset that the config names, split, on the CPU; or the one prepared in `folder`.

    All processes of a node map the same files. Raises ValueError as `prepared_folder` does.
    """
    folder = folder or prepared_folder(config)
    facts = json.loads((folder / "facts.json").read_text())
    arrays: dict[str, Any] = {
        f"{part}_{kind}": _map(folder / f"{part}_{kind}.npy")
        for part in PARTS
        for kind in ("images", "labels")
    }
    shape = arrays["train_images"].shape
    if config.label_noise > 0:
        clean, classes = arrays["train_labels"].numpy(), facts["num_classes"]
        noisy = wrong_labels(clean, classes, config.label_noise, config.label_noise_seed)
        arrays["train_labels"] = torch.from_numpy(noisy)
    return DeviceData(
        **arrays,
        mean=torch.tensor(facts["mean"]),
        std=torch.tensor(facts["std"]),
        num_classes=facts["num_classes"],
        augmentation=Augmentation.resolve(config, (shape[1], shape[2], shape[3]), facts["flip"]),
    )


def _map(path: Path) -> Tensor:
    # "c" shares the page cache as "r" does, but torch takes no read-only arrays; a stray write
    # would copy the page and leave the file alone
    return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))


def affine(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Factor and offset of (x/255 − mean) / std, channel by channel."""
    shape = (1, -1, 1, 1)
    return (1 / (255 * std)).view(shape), (-mean / std).view(shape)


def normalize(
    images: Tensor, by: tuple[Tensor, Tensor], memory_format: torch.memory_format
) -> Tensor:
    """uint8 [B, C, H, W] → float32, by factor and offset."""
    factor, offset = by
    return images.to(torch.float32, memory_format=memory_format).mul_(factor).add_(offset)
