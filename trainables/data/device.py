"""A prepared dataset, resident on one device."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from trainables.data.augment import Augmentation


@dataclass(frozen=True, eq=False)
class DeviceData:
    """Images uint8 [N, C, H, W] and labels int64 [N] of three disjoint parts, on one device.

    `mean` and `std` [C] are those of the training part, in units where white is 1. On the CPU
    the images are memory-mapped: all processes of a node share one copy.
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
        return self.train_images.device

    def to(self, device: torch.device | str) -> DeviceData:
        """The same data on another device; on the one it is on, without a copy."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        moved: dict[str, Any] = {k: v.to(device) for k, v in values if isinstance(v, Tensor)}
        return replace(self, **moved)

    def normalize(
        self, images: Tensor, memory_format: torch.memory_format = torch.contiguous_format
    ) -> Tensor:
        """uint8 [B, C, H, W] → float32 (x/255 − mean) / std, channel by channel."""
        return normalize(images, self._affine, memory_format)

    @cached_property
    def _affine(self) -> tuple[Tensor, Tensor]:
        return affine(self.mean, self.std)


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
