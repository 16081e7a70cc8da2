"""Batches of normalised images: an epoch of training, and an evaluation."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import closing
from itertools import repeat

import torch
from torch import Tensor

from trainables.data.augment import coefficients, warp
from trainables.data.device import DeviceData
from trainables.data.steps import steps_per_epoch


def epoch_batches(
    data: DeviceData,
    batch_size: int,
    generator: torch.Generator,
    drop_last: bool = False,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """One epoch: (x float32 [B, C, H, W], y int64 [B]), shuffled, augmented, normalised.

    Order and augmentation come from the CPU `generator` and are the same on every device. Close it
    if it is not used up.
    """
    count = len(data.train_labels)
    steps = steps_per_epoch(count, batch_size, drop_last)
    order = torch.randperm(count, generator=generator)[: steps * batch_size]
    labels = torch.split(data.train_labels.index_select(0, order.to(data.device)), batch_size)
    warps: Iterable[Tensor | None] = repeat(None)
    if data.augmentation is not None:
        draws = data.augmentation.draw(count, generator)
        by = coefficients(draws, *data.image_shape[1:]).to(data.device)
        warps = torch.split(by, batch_size)
    with closing(data.pick(data.train_images, order, batch_size)) as picked:
        for images, y, moves in zip(picked, labels, warps, strict=False):
            moved = images if moves is None else warp(images, moves)
            yield data.normalize(moved, memory_format), y


def eval_batches(
    data: DeviceData,
    images: Tensor,
    labels: Tensor,
    batch_size: int,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """`images` in order, never augmented, normalised as the data's training images are."""
    with closing(data.pick(images, torch.arange(len(images)), batch_size)) as picked:
        for some, y in zip(picked, torch.split(labels, batch_size), strict=True):
            yield data.normalize(some, memory_format), y
