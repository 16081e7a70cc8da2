"""`prepare`: reads and splits a dataset, caches it once a node, and memory-maps it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from trainables.config import DataConfig
from trainables.data.augment import Augmentation
from trainables.data.device import DeviceData
from trainables.data.raw import RawData, Source, check, resize
from trainables.data.sources import cache_dir, open_source
from trainables.data.split import Indices, stratified, wrong_labels
from trainables.data.trust import warn_if_others_write

FORMAT = 3  # raise it when what is cached changes
KEY_FIELDS = {  # what decides the cached arrays: augmentation and label noise are added to them
    "name",
    "root",
    "train_size",
    "test_size",
    "validation_fraction",
    "validation_seed",
    "image_size",
}
PARTS = ("train", "validation", "test")


def prepare(config: DataConfig, folder: Path | None = None) -> DeviceData:
    """The dataset that the config names, split, on the CPU; or the one prepared in `folder`.

    The first process of a node writes it as `.npy` files under `$RTS_SEARCH_CACHE` (default
    `~/.cache/rts-search`), keyed by the config and by the source files' sizes and times; the
    others wait, then map the same files. Raises ValueError for a bad name, missing files, data of
    the wrong form, or a class with fewer than 2 training images.
    """
    folder = folder or prepared_folder(config)
    facts = json.loads((folder / "facts.json").read_text())
    arrays = {
        f"{part}_{kind}": _map(folder / f"{part}_{kind}.npy")
        for part in PARTS
        for kind in ("images", "labels")
    }
    shape = arrays["train_images"].shape
    if config.label_noise > 0:
        clean, classes = arrays["train_labels"].numpy(), facts["num_classes"]
        noisy = wrong_labels(clean, classes, config.label_noise, config.label_noise_seed)
        arrays["train_labels"] = torch.from_numpy(noisy)
    return DeviceData(
        **arrays,
        mean=torch.tensor(facts["mean"]),
        std=torch.tensor(facts["std"]),
        num_classes=facts["num_classes"],
        augmentation=Augmentation.resolve(config, (shape[1], shape[2], shape[3]), facts["flip"]),
    )


def _map(path: Path) -> Tensor:
    # "c" shares the page cache as "r" does, but torch takes no read-only arrays; a stray write
    # would copy the page and leave the file alone
    return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))


def prepared_folder(config: DataConfig) -> Path:
    """The folder of the prepared dataset, made first if it is not there."""
    slug = re.sub(r"\W+", "-", config.name)
    with _locked_cache(slug) as cache:
        source = open_source(config)
        folder = cache / f"{slug}-{_key(config, source)}"
        _make(folder, lambda aside: _write(aside, config, source))
    return folder


def data_fingerprint(config: DataConfig) -> str:
    """A hash of the prepared images and labels, wherever they lie and whenever they were read."""
    facts = json.loads((prepared_folder(config) / "facts.json").read_text())
    return str(facts["digest"])


def adopt(name: str, fetch: Callable[[], Mapping[str, NDArray[np.uint8]]]) -> Path:
    """The folder `name` of a dataset that another machine has prepared.

    The first process of a node that lacks it fetches its files' contents; the others wait.
    Raises ValueError for a name that leads elsewhere.
    """
    if not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"dataset folder {name!r} is not a plain name")

    def write(aside: Path) -> None:
        for file, content in fetch().items():
            content.tofile(aside / Path(file).name)

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
        kept = images[indices]
        if config.image_size is not None and kept.shape[2:] != (config.image_size,) * 2:
            kept = resize(kept, config.image_size)
        arrays = {"images": np.ascontiguousarray(kept), "labels": labels[indices].astype(np.int64)}
        for kind, array in arrays.items():
            digest.update(f"{part} {kind} {array.shape}".encode())
            digest.update(array.data)
            np.save(folder / f"{part}_{kind}.npy", array)
        if part == "train":
            mean, std = channel_moments(kept)
    facts = {
        "num_classes": num_classes,
        "mean": mean,
        "std": std,
        "flip": raw.flip,
        "digest": digest.hexdigest()[:12],
    }
    (folder / "facts.json").write_text(json.dumps(facts))


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


def channel_moments(images: NDArray[np.uint8]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of [N, C, H, W], in units where white is 1.

    Exact, from histograms. A constant channel gets the deviation 1.
    """
    counts = np.zeros((images.shape[1], 256), dtype=np.int64)
    for chunk in np.split(images, range(4096, len(images), 4096)):
        for channel, histogram in enumerate(counts):
            histogram += np.bincount(chunk[:, channel].ravel(), minlength=256)
    weights = counts / counts.sum(axis=1, keepdims=True)
    values = np.arange(256) / 255
    mean = weights @ values
    std = np.sqrt((weights * (values - mean[:, None]) ** 2).sum(axis=1))
    return mean.tolist(), np.where(std > 0, std, 1.0).tolist()
