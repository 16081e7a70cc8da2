"""The batched warp against PIL, one image at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torch import Tensor

from trainables.config import DataConfig
from trainables.data.augment import Augmentation, Draws, coefficients, warp

DIGITS = DataConfig(name="digits")


def images_of(count: int, shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 256, (count, *shape), dtype=torch.uint8, generator=generator)


def reference(images: Tensor, draws: Draws, padding: int) -> Tensor:
    """PIL: rotate to the nearest pixel, pad with zeros, crop, mirror."""
    result = torch.empty_like(images)
    height, width = images.shape[2:]
    for i, image in enumerate(images):
        for c, channel in enumerate(image):
            picture = Image.fromarray(channel.numpy()).rotate(float(draws.angle[i]))
            picture = ImageOps.expand(picture, padding, fill=0)
            top, left = padding + int(draws.dy[i]), padding + int(draws.dx[i])
            picture = picture.crop((left, top, left + width, top + height))
            picture = ImageOps.mirror(picture) if draws.flip[i] else picture
            result[i, c] = torch.from_numpy(np.array(picture))
    return result


@pytest.mark.parametrize(
    ("shape", "augmentation"),
    [
        ((3, 32, 32), Augmentation(4, True, 15.0)),
        ((1, 28, 28), Augmentation(3, True, 15.0)),
        ((1, 8, 8), Augmentation(1, False, 15.0)),
        ((3, 20, 31), Augmentation(5, True, 180.0)),
        ((3, 16, 16), Augmentation(2, True, 0.0)),
        ((3, 16, 16), Augmentation(0, False, 45.0)),
    ],
)
def test_it_equals_pil(shape: tuple[int, int, int], augmentation: Augmentation) -> None:
    images = images_of(300, shape)
    draws = augmentation.draw(len(images), torch.Generator().manual_seed(1))
    warped = warp(images, coefficients(draws, *shape[1:]))
    expected = reference(images, draws, augmentation.padding)
    assert (warped == expected).float().mean() >= 0.999
    assert (warped == 0).any()  # the images hold no 0: these come from outside


@settings(max_examples=30, deadline=None)
@given(st.integers(4, 24), st.integers(4, 24), st.integers(0, 3), st.booleans(), st.integers(0, 9))
def test_without_rotation_it_is_an_exact_crop_and_flip(
    height: int, width: int, padding: int, flip: bool, seed: int
) -> None:
    images = images_of(8, (2, height, width), seed)
    draws = Augmentation(padding, flip, 0.0).draw(8, torch.Generator().manual_seed(seed))
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    warped = warp(images, coefficients(draws, height, width))
    for i in range(8):
        top, left = padding + int(draws.dy[i]), padding + int(draws.dx[i])
        crop = padded[i, :, top : top + height, left : left + width]
        assert torch.equal(warped[i], crop.flip(-1) if draws.flip[i] else crop)


def test_every_image_has_a_draw_of_its_own_within_its_bounds() -> None:
    draws = Augmentation(2, True, 15.0).draw(5000, torch.Generator().manual_seed(0))
    assert draws.angle.abs().max() <= 15
    assert abs(draws.angle.mean()) < 1
    assert draws.angle.unique().numel() > 4900
    for offset in (draws.dy, draws.dx):
        values, counts = offset.unique(return_counts=True)
        assert values.tolist() == [-2, -1, 0, 1, 2]
        assert counts.min() > 850
    assert 0.47 < draws.flip.float().mean() < 0.53
    assert not torch.equal(draws.dy, draws.dx)


def test_the_same_seed_gives_the_same_draws() -> None:
    first, again, other = (
        Augmentation(4, True, 15.0).draw(50, torch.Generator().manual_seed(seed))
        for seed in (3, 3, 4)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.angle, other.angle)


@pytest.mark.parametrize(("size", "padding"), [(64, 8), (32, 4), (28, 3), (8, 1)])
def test_the_default_padding_is_an_eighth_of_the_image(size: int, padding: int) -> None:
    chosen = Augmentation.resolve(DIGITS, (1, size, size), flip=False)
    assert chosen == Augmentation(padding, False, 15.0)


def test_the_config_wins_over_the_defaults() -> None:
    config = DataConfig(crop_padding=2, flip=True, rotation=0.0)
    assert Augmentation.resolve(config, (1, 8, 8), flip=False) == Augmentation(2, True, 0.0)


def test_nothing_to_do_is_none() -> None:
    off = DataConfig(augment=False)
    still = DataConfig(crop_padding=0, flip=False, rotation=0.0)
    assert Augmentation.resolve(off, (3, 32, 32), flip=True) is None
    assert Augmentation.resolve(still, (3, 32, 32), flip=True) is None


def test_a_padding_as_large_as_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="crop_padding 8 must be below the image's size 8"):
        Augmentation.resolve(DataConfig(crop_padding=8), (1, 8, 8), flip=False)
