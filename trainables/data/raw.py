"""A dataset before the split: checked, subset and resized."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Images(Protocol):
    """An array [N, C, H, W], or what is read only when it is asked for."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def __getitem__(self, chosen: Any, /) -> Any: ...


@dataclass(frozen=True)
class RawData:
    """Images uint8 [N, C, H, W], labels integers [N] in 0..K−1; `flip`: mirroring keeps classes."""

    train_images: Images
    train_labels: NDArray[Any]
    test_images: Images
    test_labels: NDArray[Any]
    flip: bool


@dataclass(frozen=True)
class Source:
    """The files that a dataset is made of, whose change makes a cache stale, and how to read it."""

    files: tuple[Path, ...]
    load: Callable[[], RawData]


def check(raw: RawData, name: str) -> int:
    """The number of classes. Raises ValueError, naming the array, for anything but `RawData`."""
    for part in ("train", "test"):
        images, labels = getattr(raw, f"{part}_images"), getattr(raw, f"{part}_labels")
        if images.dtype != np.uint8 or len(images.shape) != 4 or 0 in images.shape:
            raise ValueError(
                f"dataset {name!r}: {part}_images must be uint8 [N, C, H, W] and not empty, not "
                f"{images.dtype} {list(images.shape)}"
            )
        if images.shape[3] <= 4 < images.shape[1]:
            raise ValueError(
                f"dataset {name!r}: {part}_images {list(images.shape)} look like [N, H, W, C], "
                "channels last; give [N, C, H, W]: images.transpose(0, 3, 1, 2)"
            )
        if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
            raise ValueError(
                f"dataset {name!r}: {part}_labels must be {images.shape[0]} integers, one an "
                f"image, not {labels.dtype} {list(labels.shape)}"
            )
        if labels.min() < 0:
            raise ValueError(f"dataset {name!r}: {part}_labels start at 0, not {labels.min()}")
    if raw.train_images.shape[1:] != raw.test_images.shape[1:]:
        raise ValueError(
            f"dataset {name!r}: train images are {list(raw.train_images.shape[1:])}, test images "
            f"{list(raw.test_images.shape[1:])}; they must agree"
        )
    classes = int(raw.train_labels.max()) + 1
    if classes < 2:
        raise ValueError(f"dataset {name!r} has {classes} class: there must be 2 or more")
    if raw.test_labels.max() >= classes:
        raise ValueError(
            f"dataset {name!r}: test_labels hold {raw.test_labels.max()}, train_labels only go to "
            f"{classes - 1}"
        )
    return classes


def resize(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """[N, C, H, W] → [N, C, size, size]: the centre square, bilinear with antialiasing."""
    import torch  # here, so that dataset names can be listed without it
    from torch.nn import functional

    height, width = images.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = torch.from_numpy(
        np.ascontiguousarray(images[:, :, top : top + side, left : left + side])
    )
    resized = functional.interpolate(square, (size, size), mode="bilinear", antialias=True)
    result: NDArray[np.uint8] = resized.numpy()
    return result
