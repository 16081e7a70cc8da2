"""Rotates, crops and flips a batch with one gather, each image by its own random draw."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from trainables.config import DataConfig

DEFAULT_ROTATION = 15.0  # degrees
ONE = 1 << 16  # coordinates are fixed-point with 16 fractional bits, as in PIL's affine transform


class Draws(NamedTuple):
    """N random transforms: rotate counter-clockwise, then crop at an offset, then flip."""

    angle: Tensor  # degrees, float64 [N]
    dy: Tensor  # the crop's offset from the image's own corner, int64 [N] in −padding..padding
    dx: Tensor
    flip: Tensor  # bool [N]


@dataclass(frozen=True)
class Augmentation:
    """Rotation by up to ±`rotation`°, a crop after padding by `padding`, a flip every other time.

    Rotation is to the nearest pixel; pixels from outside the image are 0, as in torchvision.
    """

    padding: int
    flip: bool
    rotation: float

    @classmethod
    def resolve(
        cls, config: DataConfig, image_shape: tuple[int, int, int], flip: bool
    ) -> Augmentation | None:
        """What the config asks for, the data's defaults in place of None: padding size/8, 15°.

        Raises ValueError if the padding is as large as the image.
        """
        size = min(image_shape[1:])
        padding = size // 8 if config.crop_padding is None else config.crop_padding
        if padding >= size:
            raise ValueError(f"crop_padding {padding} must be below the image's size {size}")
        chosen = cls(
            padding,
            flip if config.flip is None else config.flip,
            DEFAULT_ROTATION if config.rotation is None else config.rotation,
        )
        return chosen if config.augment and chosen != cls(0, False, 0.0) else None

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        """`count` draws from a CPU generator, so that a seed means the same on every device."""
        uniform = torch.rand(4, count, generator=generator, dtype=torch.float64)
        offsets = (uniform[1:3] * (2 * self.padding + 1)).long() - self.padding
        flip = (uniform[3] < 0.5) & self.flip
        return Draws((2 * uniform[0] - 1) * self.rotation, offsets[0], offsets[1], flip)


def coefficients(draws: Draws, height: int, width: int) -> Tensor:
    """The draws as int32 [N, 7], for `warp`: cos, sin, x₀, y₀, row₀, column₀, column step.

    Integers made on the CPU: every device then picks the very same pixels.
    """
    angle = -draws.angle * (math.pi / 180)  # y points down
    cos, sin = angle.cos(), angle.sin()
    # the pixel centre (½, ½) rotated about the image's centre, plus the border of one pixel
    x0 = cos * (0.5 - width / 2) + sin * (0.5 - height / 2) + width / 2 + 1
    y0 = -sin * (0.5 - width / 2) + cos * (0.5 - height / 2) + height / 2 + 1
    fixed = (torch.stack((cos, sin, x0, y0), dim=1) * ONE + 0.5).floor()
    column = draws.dx + draws.flip * (width - 1)
    whole = torch.stack((draws.dy, column, 1 - 2 * draws.flip.long()), dim=1)
    return torch.cat((fixed.int(), whole.int()), dim=1)


def warp(images: Tensor, coefficients: Tensor) -> Tensor:
    """Transform uint8 images [B, C, H, W] by int32 coefficients [B, 7] on the same device.

    Output pixel (i, j) is pixel (row, column) of the rotated image, and that is pixel (y, x) of
    the image, with x = cos·column + sin·row + x₀ and y = cos·row − sin·column + y₀. Each is a sum
    of a term per row and a term per column. A border of zeros catches what lies outside.
    """
    height, width = images.shape[2:]
    cos, sin, x0, y0, row0, column0, step = coefficients[:, :, None].unbind(1)
    row = row0 + torch.arange(height, device=images.device, dtype=torch.int32)
    column = column0 + step * torch.arange(width, device=images.device, dtype=torch.int32)
    outside = -(1 << 30)  # far left of, or above, any image
    x_row = torch.where((row >= 0) & (row < height), sin * row, outside)
    y_column = torch.where((column >= 0) & (column < width), y0 - sin * column, outside)
    x = _pixel(x_row[:, :, None], (cos * column + x0)[:, None, :], width)
    y = _pixel((cos * row)[:, :, None], y_column[:, None, :], height)
    index = y.mul_(width + 2).add_(x).flatten(1).long()
    bordered = functional.pad(images, (1, 1, 1, 1)).flatten(2)
    picked = bordered.gather(2, index[:, None].expand(-1, images.shape[1], -1))
    return picked.view(images.shape)


def _pixel(by_row: Tensor, by_column: Tensor, size: int) -> Tensor:
    """The pixel on the bordered image, 0 and size + 1 being the border: int32 [B, H, W]."""
    return (by_row + by_column).clamp_(0, (size + 1) * ONE).bitwise_right_shift_(16)
