"""Image folders and Tiny ImageNet's layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from trainables.config import DataConfig
from trainables.data import DeviceData, cache, folder, prepare
from trainables.data.cache import data_fingerprint
from trainables.data.folder import ImageFiles
from trainables.data.raw import resize

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTS_SEARCH_CACHE", str(tmp_path / "cache"))


def save(path: Path, height: int = 12, width: int = 12) -> NDArray[np.uint8]:
    """A random RGB image, returned as [C, H, W]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(image).save(path)
    return image.transpose(2, 0, 1)


def config_of(root: Path, **options: object) -> DataConfig:
    return DataConfig.model_validate({"name": "imagefolder", "root": str(root), **options})


def prepared(root: Path, **options: object) -> DeviceData:
    return prepare(config_of(root, **options))


def write_train(root: Path, count: int = 4) -> None:
    for name in ("cat", "dog"):
        for i in range(count):
            save(root / "train" / name / f"{i}.png")


@pytest.mark.parametrize("part", ["val", "test"])
def test_class_folders(tmp_path: Path, part: str) -> None:
    root = tmp_path / "data"
    write_train(root)
    expected = [save(root / part / name / "a.PNG") for name in ("cat", "dog")]
    (root / part / "cat" / "notes.txt").write_text("not an image")
    data = prepared(root, validation_fraction=0.25)
    assert data.image_shape == (3, 12, 12)
    assert (len(data.train_labels), len(data.validation_labels)) == (6, 2)
    assert np.array_equal(data.test_images.numpy(), np.stack(expected))
    assert data.test_labels.tolist() == [0, 1]


def test_tiny_imagenet(tmp_path: Path) -> None:
    root = tmp_path / "tiny-imagenet-200"
    for name in ("n01", "n02"):
        for i in range(4):
            save(root / "train" / name / "images" / f"{name}_{i}.JPEG", 64, 64)
        (root / "train" / name / f"{name}_boxes.txt").write_text("")
    save(root / "test" / "images" / "test_0.JPEG", 64, 64)
    for i in range(3):
        save(root / "val" / "images" / f"val_{i}.JPEG", 64, 64)
    Image.fromarray(RANDOM.integers(0, 256, (64, 64), dtype=np.uint8)).save(
        root / "val" / "images" / "val_2.JPEG"  # some of its images are gray
    )
    lines = [f"val_{i}.JPEG\tn0{k}\t0\t32\t44\t62\n" for i, k in ((0, 2), (1, 1), (2, 2))]
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    data = prepared(root)
    assert data.image_shape == (3, 64, 64)
    assert data.num_classes == 2
    assert data.test_labels.tolist() == [1, 0, 1]
    gray = data.test_images[2]
    assert (gray[0] == gray[1]).all()


def test_images_are_resized_to_their_centre_square(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for i, (height, width) in enumerate(((20, 30), (40, 24), (16, 16), (33, 35))):
        for name in ("cat", "dog"):
            save(root / "train" / name / f"{i}.png", height, width)
            save(root / "test" / name / f"{i}.png", height, width)
    data = prepared(root, image_size=16)
    assert data.image_shape == (3, 16, 16)
    for i in range(4):
        picture = Image.open(root / "test" / "cat" / f"{i}.png")
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        square = picture.crop((left, top, left + side, top + side))
        fitted = square.resize((16, 16), Image.Resampling.BILINEAR)
        expected = np.asarray(fitted).transpose(2, 0, 1).astype(int)
        difference = np.abs(data.test_images[i].numpy().astype(int) - expected)
        assert difference.max() <= 1


def test_resizing_leaves_constant_images_alone() -> None:
    images = np.full((2, 1, 10, 14), 77, dtype=np.uint8)
    assert np.array_equal(resize(images, 5), np.full((2, 1, 5, 5), 77))


def test_other_datasets_are_resized_too() -> None:
    data = prepare(DataConfig(name="digits", image_size=16))
    small = prepare(DataConfig(name="digits"))
    assert data.image_shape == (1, 16, 16)
    means = [float(d.test_images.float().mean()) for d in (data, small)]
    assert means[0] == pytest.approx(means[1], rel=0.02)


def test_different_sizes_without_image_size_are_refused(tmp_path: Path) -> None:
    write_train(tmp_path)
    save(tmp_path / "train" / "dog" / "odd.png", 10, 14)
    save(tmp_path / "val" / "dog" / "0.png")
    with pytest.raises(ValueError, match=r"odd.png is 14×10, .* is 12×12: set data.image_size"):
        prepared(tmp_path)


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    write_train(tmp_path)
    save(tmp_path / "val" / "dog" / "0.png")
    (tmp_path / "train" / "cat" / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"cannot read .*broken.png"):
        prepared(tmp_path)


def test_a_layout_that_is_not_one_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs data\.root"):
        prepare(DataConfig(name="imagefolder"))
    with pytest.raises(ValueError, match="train holds no class folders"):
        prepared(tmp_path)
    write_train(tmp_path)
    with pytest.raises(ValueError, match="needs test/ or val/"):
        prepared(tmp_path)
    save(tmp_path / "val" / "dog" / "0.png")
    save(tmp_path / "val" / "kat" / "0.png")
    with pytest.raises(ValueError, match=r"classes not in train/: \['kat'\]"):
        prepared(tmp_path)
    (tmp_path / "val" / "val_annotations.txt").write_text("0.png\tkat\n")
    with pytest.raises(ValueError, match=r"line 1: .*kat"):
        prepared(tmp_path)
    (tmp_path / "val" / "val_annotations.txt").write_text("0.png\tcat\n")
    with pytest.raises(ValueError, match=r"cannot read .*images/0.png: No such file"):
        prepared(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_are_scaled_by_their_range(tmp_path: Path, suffix: str) -> None:
    write_train(tmp_path)
    values = np.array([0, 128, 129, 257, 32768, 65535] * 24, dtype=np.uint16).reshape(12, 12)
    path = tmp_path / "val" / "dog" / f"0.{suffix}"
    path.parent.mkdir(parents=True)
    Image.fromarray(values).save(path)
    images = prepared(tmp_path).test_images
    assert images.shape == (1, 3, 12, 12)
    for channel in images[0]:
        assert channel.flatten()[:6].tolist() == [0, 0, 1, 1, 128, 255]


@pytest.mark.parametrize(("kind", "mode"), [(np.float32, "F"), (np.int32, "I")])
def test_pixels_of_unknown_range_are_refused(tmp_path: Path, kind: type, mode: str) -> None:
    write_train(tmp_path)
    path = tmp_path / "val" / "dog" / "0.tif"
    path.parent.mkdir(parents=True)
    Image.fromarray(np.ones((12, 12), dtype=kind)).save(path)
    with pytest.raises(ValueError, match=rf"0.tif has pixels of PIL's mode {mode}, .* convert"):
        prepared(tmp_path)


def test_hidden_folders_and_files_are_left_out(tmp_path: Path) -> None:
    write_train(tmp_path)
    save(tmp_path / "val" / "dog" / "0.png")
    for part in ("train", "val"):
        save(tmp_path / part / ".ipynb_checkpoints" / "0.png")
        save(tmp_path / part / "dog" / ".ipynb_checkpoints" / "0.png")
        (tmp_path / part / "dog" / "._0.png").write_bytes(b"no image")
    data = prepared(tmp_path)
    assert data.num_classes == 2
    assert (len(data.train_labels), len(data.validation_labels)) == (7, 1)
    assert len(data.test_labels) == 1


def test_a_folder_is_prepared_some_images_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    write_train(root, count=9)
    for name in ("cat", "dog"):
        save(root / "val" / name / "0.png", 20, 14)
    size = {"image_size": 10}
    whole, digest = prepared(root, **size), data_fingerprint(config_of(root, **size))
    monkeypatch.setenv("RTS_SEARCH_CACHE", str(tmp_path / "other"))
    asked, decoded = [], []
    read, decode = ImageFiles.__getitem__, folder._decode

    def counted(files: ImageFiles, chosen: NDArray[np.int64]) -> NDArray[np.uint8]:
        asked.append(len(chosen))
        return read(files, chosen)

    def noted(path: Path, *size: int) -> NDArray[np.uint8]:
        decoded.append(path)
        return decode(path, *size)

    monkeypatch.setattr(cache, "CHUNK", 5)
    monkeypatch.setattr(ImageFiles, "__getitem__", counted)
    monkeypatch.setattr(folder, "_decode", noted)
    again = prepared(root, **size)
    for part in ("train_images", "validation_images", "test_images", "train_labels", "mean", "std"):
        assert torch.equal(getattr(again, part), getattr(whole, part)), part
    assert data_fingerprint(config_of(root, **size)) == digest
    assert (max(asked), sum(asked)) == (5, 20)
    firsts = 2  # of each part, for its shape
    assert len(decoded) == 20 + firsts
    prepared(root, **size, train_size=6)
    assert len(decoded) == 20 + firsts + 6 + 2 + firsts  # the others of train/ are left alone
