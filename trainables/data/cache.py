"""Reads and splits a dataset, and caches it once a node, for `prepare` to map. Without torch."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from trainables.config import DataConfig
from trainables.data.raw import Images, RawData, Source, check, resize
from trainables.data.sources import cache_dir, open_source
from trainables.data.split import Indices, stratified
from trainables.data.trust import warn_if_others_write

FORMAT = 3  # raise it when what is cached changes
PARTS = ("train", "validation", "test")
CHUNK = 256  # images that are read, resized and written at once
Piece = tuple[str, Callable[[], NDArray[np.uint8]]]  # a file's name, and what gets a part of it
KEY_FIELDS = {  # what decides the cached arrays: augmentation and label noise are added to them
    "name",
    "root",
    "train_size",
    "test_size",
    "validation_fraction",
    "validation_seed",
    "image_size",
}


def prepared_folder(config: DataConfig) -> Path:
    """The folder of the prepared dataset, made first if it is not there.

    The first process of a node writes it as `.npy` files under `$RTS_SEARCH_CACHE` (default
    `~/.cache/rts-search`), keyed by the config and by the source files' sizes and times; the
    others wait. Raises ValueError for a bad name, missing files, data of the wrong form, or a class
    with fewer than 2 training images.
    """
    slug = re.sub(r"\W+", "-", config.name)
    with _locked_cache(slug) as cache:
        source = open_source(config)
        folder = cache / f"{slug}-{_key(config, source)}"
        _make(folder, lambda aside: _write(aside, config, source))
    return folder


def training_images(config: DataConfig) -> int:
    """How many the prepared dataset has."""
    file = prepared_folder(config) / "train_labels.npy"
    return len(np.load(file, mmap_mode="r", allow_pickle=False))


def data_fingerprint(config: DataConfig) -> str:
    """A hash of the prepared images and labels, wherever they lie and whenever they were read."""
    facts = json.loads((prepared_folder(config) / "facts.json").read_text())
    return str(facts["digest"])


def adopt(name: str, pieces: Iterable[Piece]) -> Path:
    """The folder `name` of a dataset that another machine has prepared.

    The first process of a node that lacks it fetches the pieces of its files, in order; the others
    wait. Raises ValueError for a name that leads elsewhere.
    """
    if not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"dataset folder {name!r} is not a plain name")

    def write(aside: Path) -> None:
        for file, fetch in pieces:
            with open(aside / Path(file).name, "ab") as whole:
                whole.write(fetch().data)

    with _locked_cache(name) as cache:
        folder = cache / name
        _make(folder, write)
    return folder


@contextmanager
def _locked_cache(name: str) -> Iterator[Path]:
    cache = cache_dir()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = FileLock(cache / f"{name}.lock")
        lock.acquire()
    except OSError as error:
        raise ValueError(f"cannot write to {cache} ({error}): set RTS_SEARCH_CACHE") from error
    try:
        warn_if_others_write([cache], f"{cache} holds the prepared datasets")
        yield cache
    finally:
        lock.release()


def _make(folder: Path, write: Callable[[Path], None]) -> None:
    """Write a folder aside and rename it, unless it is there: it is whole or not at all."""
    if folder.exists():
        return
    aside = folder.with_name(f".{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)  # of a process that died
    aside.mkdir()
    try:
        write(aside)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _key(config: DataConfig, source: Source) -> str:
    """A hash of all that decides the cached arrays."""
    kept = config.model_dump(include=KEY_FIELDS)
    digest = hashlib.sha256(json.dumps([FORMAT, kept], sort_keys=True).encode())
    for path in source.files:
        try:
            stat = path.stat()
        except OSError as error:
            raise ValueError(f"{config.name}: cannot read {path}: {error.strerror}") from error
        digest.update(f"\0{path.absolute()}\0{stat.st_size}\0{stat.st_mtime_ns}".encode())
    return digest.hexdigest()[:20]


def _write(folder: Path, config: DataConfig, source: Source) -> None:
    raw = source.load()
    num_classes = check(raw, config.name)
    train, validation, test = split(raw, config)
    digest = hashlib.sha256()
    chosen = {
        "train": (raw.train_images, raw.train_labels, train),
        "validation": (raw.train_images, raw.train_labels, validation),
        "test": (raw.test_images, raw.test_labels, test),
    }
    for part, (images, labels, indices) in chosen.items():
        size = images.shape[2:] if config.image_size is None else (config.image_size,) * 2
        shape = (len(indices), images.shape[1], *size)
        counts = np.zeros((shape[1], 256), dtype=np.int64)
        digest.update(f"{part} images {shape}".encode())
        with open(folder / f"{part}_images.npy", "wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for some in _sized(images, indices, size):
                digest.update(some.data)
                file.write(some.data)
                counts += histograms(some)
        own = labels[indices].astype(np.int64)
        digest.update(f"{part} labels {own.shape}".encode())
        digest.update(own.data)
        np.save(folder / f"{part}_labels.npy", own)
        if part == "train":
            mean, std = channel_moments(counts)
    facts = {
        "num_classes": num_classes,
        "mean": mean,
        "std": std,
        "flip": raw.flip,
        "digest": digest.hexdigest()[:12],
    }
    (folder / "facts.json").write_text(json.dumps(facts))


def _sized(images: Images, indices: Indices, size: tuple[int, ...]) -> Iterator[NDArray[np.uint8]]:
    """Some of the images, a few hundred at a time: all of them may not fit into memory."""
    for start in range(0, len(indices), CHUNK):
        some = images[indices[start : start + CHUNK]]
        yield np.ascontiguousarray(some if some.shape[2:] == size else resize(some, size[0]))


def split(raw: RawData, config: DataConfig) -> tuple[Indices, Indices, Indices]:
    """Sorted indices of the training, validation and test images, stratified by class.

    The first two index the raw training images, the third the raw test images. Subsets and the
    validation split are drawn with `validation_seed`, the same for all trials. Raises ValueError
    if a size is above what is there, or a class is left with fewer than 2 training images.
    """
    pool = _subset(raw.train_labels, config.train_size, "train", config)
    test = _subset(raw.test_labels, config.test_size, "test", config)
    labels = raw.train_labels[pool]
    counts = np.bincount(labels, minlength=int(raw.train_labels.max()) + 1)
    if counts.min() < 2:
        raise ValueError(
            f"{config.name}: class {int(counts.argmin())} has {counts.min()} of the {len(pool)} "
            "training images; each class needs 2, one to train and one to validate"
            + ("; use a larger train_size" if config.train_size else "")
        )
    total = round(config.validation_fraction * len(pool))
    if not 0 < total < len(pool):
        raise ValueError(
            f"validation_fraction {config.validation_fraction} of {len(pool)} images is {total} "
            "images; both parts need at least one"
        )
    validation, train = stratified(labels, total, config.validation_seed, leave=1)
    return pool[train], pool[validation], test


def _subset(labels: Indices, size: int | None, part: str, config: DataConfig) -> Indices:
    if size is None:
        return np.arange(len(labels))
    if size > len(labels):
        raise ValueError(f"{part}_size {size} is above {config.name}'s {len(labels)} {part} images")
    return stratified(labels, size, config.validation_seed)[0]


def histograms(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How often each channel of [N, C, H, W] has each value: [C, 256]."""
    channels = images.swapaxes(0, 1)
    return np.stack([np.bincount(each.ravel(), minlength=256) for each in channels])


def channel_moments(counts: NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, in units where white is 1, of its histogram.

    Exact. A constant channel gets the deviation 1.
    """
    weights = counts / counts.sum(axis=1, keepdims=True)
    values = np.arange(256) / 255
    mean = weights @ values
    std = np.sqrt((weights * (values - mean[:, None]) ** 2).sum(axis=1))
    return mean.tolist(), np.where(std > 0, std, 1.0).tolist()
