"""The small built-in networks: each takes (num_classes, image_shape) and its own arguments."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

ImageShape = tuple[int, int, int]  # (C, H, W)


def mlp(num_classes: int, image_shape: ImageShape, width: int = 256, depth: int = 2) -> nn.Module:
    """`depth` hidden layers of `width` units with ReLU on the flattened image."""
    sizes = [math.prod(image_shape), *[width] * depth]
    hidden: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        hidden += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(sizes[-1], num_classes))


def cnn(num_classes: int, image_shape: ImageShape, width: int = 32) -> nn.Module:
    """Three stages of 3×3 convolution, batch norm, ReLU, for images from 8×8 to 64×64 and more.

    Channels are width/2 (rounded up), width, 2·width; the first two stages halve the image, the
    last is averaged over all pixels.
    """
    return nn.Sequential(
        _stage(image_shape[0], (width + 1) // 2, halve=True),
        _stage((width + 1) // 2, width, halve=True),
        _stage(width, 2 * width, halve=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, num_classes),
    )


def _stage(channels_in: int, channels_out: int, *, halve: bool) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        # before batch norm: a quarter of the pixels to normalise, which is what costs on a CPU
        *([nn.MaxPool2d(2)] if halve else []),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


def resnet18(num_classes: int, image_shape: ImageShape, stem: str = "cifar") -> nn.Module:
    """ResNet-18. `stem` cifar: a 3×3 convolution with no max-pool, for small images; imagenet:
    torchvision's 7×7 with stride 2 and a max-pool, which pretrained weights need.
    """
    if stem not in ("cifar", "imagenet"):
        raise ValueError(f"model resnet18: stem {stem!r} is not one of cifar, imagenet")
    from torchvision.models import resnet18 as build

    model: Any = build(num_classes=num_classes)
    if stem == "imagenet":
        return repeat_gray(model, image_shape)
    model.maxpool = nn.Identity()
    model.conv1 = nn.Conv2d(image_shape[0], 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    resnet: nn.Module = model
    return resnet


def repeat_gray(model: nn.Module, image_shape: ImageShape) -> nn.Module:
    """The model, which takes 3 channels, with a gray image's one channel repeated for it.

    Raises ValueError for other numbers of channels.
    """
    if image_shape[0] not in (1, 3):
        raise ValueError(
            f"torchvision's models take images of 3 channels, or of 1 which is repeated, not of "
            f"{image_shape[0]}: use mlp, cnn, resnet18, upanets16 or package.module:function"
        )
    if image_shape[0] == 1:
        model.register_forward_pre_hook(_repeat_channel)
    return model


def _repeat_channel(model: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    return (inputs[0].expand(-1, 3, -1, -1), *inputs[1:])
