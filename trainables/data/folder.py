"""Image folders: one folder a class, and Tiny ImageNet's layout."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainables.config import DataConfig
from trainables.data.raw import RawData, Source, resize

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
ANNOTATIONS = "val_annotations.txt"

Listing = list[tuple[Path, int]]  # image files and their classes


def open_image_folder(config: DataConfig) -> Source:
    """`root/train/<class>/…`, and a test set in `root/test/<class>/…` or `root/val/<class>/…`.

    Tiny ImageNet's `val/images` with `val/val_annotations.txt` serves as well. Classes are the
    names of train's folders, sorted. Images are read as RGB. Raises ValueError if a part is
    missing.
    """
    if config.root is None:
        raise ValueError("imagefolder needs data.root: a folder with train/ and val/ or test/")
    root = Path(config.root).expanduser()
    names = _subfolders(root / "train")
    if not names:
        raise ValueError(f"imagefolder: {root / 'train'} holds no class folders")
    classes = {name: k for k, name in enumerate(names)}
    train, test = _by_folder(root / "train", classes), _test_listing(root, classes)

    def load() -> RawData:
        images = [_decode_all(part, config.image_size) for part in (train, test)]
        labels = [np.array([k for _, k in part], dtype=np.int64) for part in (train, test)]
        return RawData(images[0], labels[0], images[1], labels[1], flip=True)

    annotations = [path for path in [root / "val" / ANNOTATIONS] if path.is_file()]
    return Source((*(path for path, _ in train + test), *annotations), load)


def _subfolders(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []


def _by_folder(folder: Path, classes: dict[str, int]) -> Listing:
    """All images under each class's folder, at any depth."""
    listing = []
    for name in _subfolders(folder):
        found = [
            Path(parent, file)
            for parent, _, files in os.walk(folder / name)
            for file in files
            if file.lower().endswith(EXTENSIONS)
        ]
        if not found:
            raise ValueError(f"imagefolder: {folder / name} holds no images {EXTENSIONS}")
        listing += [(path, classes[name]) for path in sorted(found)]
    return listing


def _test_listing(root: Path, classes: dict[str, int]) -> Listing:
    if (root / "val" / ANNOTATIONS).is_file():
        return _by_annotations(root / "val", classes)
    for part in ("test", "val"):
        names = set(_subfolders(root / part))
        if not names & classes.keys():
            continue  # Tiny ImageNet's test/ holds unlabelled images
        if unknown := sorted(names - classes.keys()):
            raise ValueError(f"imagefolder: {root / part} has classes not in train/: {unknown[:5]}")
        return _by_folder(root / part, classes)
    raise ValueError(
        f"imagefolder: {root} needs test/ or val/ with the class folders of train/, or Tiny "
        f"ImageNet's val/images and val/{ANNOTATIONS}"
    )


def _by_annotations(folder: Path, classes: dict[str, int]) -> Listing:
    """Tiny ImageNet's `file<TAB>class<TAB>box…`, one line an image."""
    listing = []
    for number, line in enumerate((folder / ANNOTATIONS).read_text().splitlines(), 1):
        fields = line.split("\t")
        if len(fields) < 2 or fields[1] not in classes:
            raise ValueError(
                f"imagefolder: {folder / ANNOTATIONS}, line {number}: {line[:60]!r} is not "
                "file<TAB>class with one of train's classes"
            )
        listing.append((folder / "images" / fields[0], classes[fields[1]]))
    return listing


def _decode_all(listing: Listing, size: int | None) -> NDArray[np.uint8]:
    """uint8 [N, 3, H, W]; PIL decodes outside the GIL, so threads help."""
    first = _decode(listing[0][0], size)
    images = np.empty((len(listing), *first.shape), dtype=np.uint8)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        paths = [path for path, _ in listing]
        for i, image in enumerate(pool.map(lambda path: _decode(path, size), paths)):
            if image.shape != first.shape:
                raise ValueError(
                    f"imagefolder: {paths[i]} is {image.shape[2]}×{image.shape[1]}, {paths[0]} is "
                    f"{first.shape[2]}×{first.shape[1]}: set data.image_size to resize them"
                )
            images[i] = image
    return images


def _decode(path: Path, size: int | None) -> NDArray[np.uint8]:
    """[3, H, W], resized if there is a size."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    except OSError as error:
        raise ValueError(f"imagefolder: cannot read {path}: {error}") from error
    return pixels if size is None else resize(pixels[None], size)[0]
