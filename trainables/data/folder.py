"""Image folders: one folder a class, and Tiny ImageNet's layout."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainables.config import DataConfig
from trainables.data.raw import RawData, Source, resize

if TYPE_CHECKING:
    from PIL import Image

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
# PIL's modes of 8 bits a channel; alpha is dropped
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
ANNOTATIONS = "val_annotations.txt"

Listing = list[tuple[Path, int]]  # image files and their classes


def open_image_folder(config: DataConfig) -> Source:
    """`root/train/<class>/…`, and a test set in `root/test/<class>/…` or `root/val/<class>/…`.

    Tiny ImageNet's `val/images` with `val/val_annotations.txt` serves as well. Classes are the
    names of train's folders, sorted. Images are read as RGB; hidden folders and files are left
    out. Raises ValueError if a part is missing.
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
        images = [ImageFiles(part, config.image_size) for part in (train, test)]
        labels = [np.array([k for _, k in part], dtype=np.int64) for part in (train, test)]
        return RawData(images[0], labels[0], images[1], labels[1], flip=True)

    annotations = [path for path in [root / "val" / ANNOTATIONS] if path.is_file()]
    return Source((*(path for path, _ in train + test), *annotations), load)


def _subfolders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not _hidden(p.name))


def _hidden(name: str) -> bool:
    """Such as `.ipynb_checkpoints`, or macOS's `._photo.jpg`."""
    return name.startswith(".")


def _images_under(folder: Path) -> list[Path]:
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not _hidden(name)]  # it goes into these only
        images = (file for file in files if file.lower().endswith(EXTENSIONS))
        found += [Path(parent, file) for file in images if not _hidden(file)]
    return sorted(found)


def _by_folder(folder: Path, classes: dict[str, int]) -> Listing:
    """All images under each class's folder, at any depth."""
    listing = []
    for name in _subfolders(folder):
        found = _images_under(folder / name)
        if not found:
            raise ValueError(f"imagefolder: {folder / name} holds no images {EXTENSIONS}")
        listing += [(path, classes[name]) for path in found]
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


class ImageFiles:
    """uint8 [N, 3, H, W], of which those asked for are decoded: a folder need not fit into memory.

    PIL decodes outside the GIL, so threads help.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, listing: Listing, size: int | None) -> None:
        self.paths, self.size = [path for path, _ in listing], size
        self.shape = (len(listing), *_decode(self.paths[0], size).shape)

    def __getitem__(self, chosen: NDArray[np.int64]) -> NDArray[np.uint8]:
        paths = [self.paths[i] for i in chosen]
        images = np.empty((len(paths), *self.shape[1:]), dtype=np.uint8)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for i, image in enumerate(pool.map(lambda path: _decode(path, self.size), paths)):
                if image.shape != self.shape[1:]:
                    raise ValueError(
                        f"imagefolder: {paths[i]} is {image.shape[2]}×{image.shape[1]}, "
                        f"{self.paths[0]} is {self.shape[3]}×{self.shape[2]}: set data.image_size "
                        "to resize them"
                    )
                images[i] = image
        return images


def _decode(path: Path, size: int | None) -> NDArray[np.uint8]:
    """[3, H, W], resized if there is a size."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            pixels = _rgb(image, path)
    except OSError as error:
        raise ValueError(f"imagefolder: cannot read {path}: {error}") from error
    return pixels if size is None else resize(pixels[None], size)[0]


def _rgb(image: Image.Image, path: Path) -> NDArray[np.uint8]:
    """[3, H, W]. 16 bits a pixel are scaled to 8 by their whole range: PIL would cut at 255.

    Raises ValueError for pixels whose range the file does not tell.
    """
    if image.mode.startswith("I;16"):
        gray = ((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8)
        return np.repeat(gray[None], 3, axis=0)
    if image.mode not in MODES:
        raise ValueError(
            f"imagefolder: {path} has pixels of PIL's mode {image.mode}, whose black and white are "
            "not known: convert the images to 8 or 16 bits a channel"
        )
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)
