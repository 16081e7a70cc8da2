"""Batches of normalised images: an epoch of training, and an evaluation."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from trainables.data.augment import coefficients, warp
from trainables.data.device import DeviceData


def steps_per_epoch(count: int, batch_size: int, drop_last: bool) -> int:
    """Batches in an epoch of `count` images.

    A last batch that is not full is dropped if asked; one of a single image always is, since
    batch norm cannot train on it. Raises ValueError if `drop_last` leaves no batch.
    """
    full, rest = divmod(count, batch_size)
    if drop_last and full == 0:
        raise ValueError(
            f"batch_size {batch_size} is above the {count} training images, and drop_last leaves "
            "no batch: use a smaller batch_size or drop_last: false"
        )
    return full if drop_last or (rest == 1 and full > 0) else full + (rest > 0)


def epoch_batches(
    data: DeviceData,
    batch_size: int,
    generator: torch.Generator,
    drop_last: bool = False,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch: (x float32 [B, C, H, W], y int64 [B]), shuffled, augmented, normalised.

    Order and augmentation come from the CPU `generator` and are the same on every device.
    """
    count = len(data.train_labels)
    steps = steps_per_epoch(count, batch_size, drop_last)
    order = torch.randperm(count, generator=generator).to(data.device)
    warps = None
    if data.augmentation is not None:
        draws = data.augmentation.draw(count, generator)
        warps = coefficients(draws, *data.image_shape[1:]).to(data.device)
    for start in range(0, steps * batch_size, batch_size):
        chosen = order[start : start + batch_size]
        images = data.train_images.index_select(0, chosen)
        if warps is not None:
            images = warp(images, warps[start : start + batch_size])
        yield data.normalize(images, memory_format), data.train_labels.index_select(0, chosen)


def eval_batches(
    data: DeviceData,
    images: Tensor,
    labels: Tensor,
    batch_size: int,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Iterator[tuple[Tensor, Tensor]]:
    """`images` in order, never augmented, normalised as the data's training images are."""
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        yield data.normalize(images[part], memory_format), labels[part]
