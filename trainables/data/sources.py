"""Where images come from: built-in datasets, and one's own function."""

from __future__ import annotations

import gzip
import inspect
import os
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.config import DataConfig
from trainables.data.folder import open_image_folder
from trainables.data.raw import RawData, Source
from trainables.data.split import stratified
from trainables.data.trust import warn_if_others_write
from trainables.names import OWN, NotHere, import_named, own_error, unknown

# Debian's package dataset-fashion-mnist
FASHION_MNIST_DEBIAN = Path("/usr/share/datasets/fashion-mnist")
DIGITS_TEST_FRACTION, DIGITS_TEST_SEED = 0.2, 0


def dataset_names() -> list[str]:
    """The built-in datasets."""
    return sorted(_OPENERS)


def cache_dir() -> Path:
    """`$RTS_SEARCH_CACHE`, or `~/.cache/rts-search`: prepared datasets and downloads."""
    return Path(os.environ.get("RTS_SEARCH_CACHE") or "~/.cache/rts-search").expanduser()


def open_source(config: DataConfig) -> Source:
    """The dataset's source, its files found (downloaded if the config says so) but not read.

    Raises ValueError for an unknown name or missing files.
    """
    if ":" in config.name:
        return _open_function(config)
    if config.name not in _OPENERS:
        raise unknown("dataset", config.name, [OWN, *dataset_names()])
    return _OPENERS[config.name](config)


def _open_digits(config: DataConfig) -> Source:
    """scikit-learn's 1,797 digits, 8×8, 0..16. They have no test set: a fixed fifth becomes it."""

    def load() -> RawData:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]
        labels = digits.target.astype(np.int64)
        total = round(DIGITS_TEST_FRACTION * len(labels))
        test, train = stratified(labels, total, DIGITS_TEST_SEED)
        return RawData(images[train], labels[train], images[test], labels[test], flip=False)

    return Source((), load)


def _root(config: DataConfig) -> Path:
    return Path(config.root).expanduser() if config.root else cache_dir() / "datasets"


IDX_FILES = tuple(
    f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
)


def _open_idx(config: DataConfig, *, torchvision_name: str, flip: bool) -> Source:
    """MNIST's format, plain or gzipped, in the root itself or where torchvision puts it."""
    root = _root(config)
    folders = [root, root / torchvision_name / "raw"]
    if config.name == "fashion_mnist" and config.root is None:
        folders.append(FASHION_MNIST_DEBIAN)

    def find() -> tuple[Path, ...] | None:
        for folder in folders:
            found = [_first_file(folder / name, folder / f"{name}.gz") for name in IDX_FILES]
            if all(found):
                return tuple(path for path in found if path)
        return None

    def download(dataset: Any) -> None:
        dataset(root, download=True)

    files = find() or _fetch(config, torchvision_name, download, find, IDX_FILES, folders)

    def load() -> RawData:
        arrays = [read_idx(path) for path in files]
        images, labels = arrays[0::2], [array.astype(np.int64) for array in arrays[1::2]]
        return RawData(images[0][:, None], labels[0], images[1][:, None], labels[1], flip)

    return Source(files, load)


def _first_file(*paths: Path) -> Path | None:
    return next((path for path in paths if path.is_file()), None)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """An IDX file of unsigned bytes, plain or gzipped (http://yann.lecun.com/exdb/mnist/)."""
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"cannot read {path}: {error}; delete it and fetch it again") from error
    dims = content[3] if content[:3] == b"\x00\x00\x08" else 0  # 0x08: unsigned bytes
    shape = np.frombuffer(content[4 : 4 + 4 * dims], dtype=">i4").tolist()
    if not dims or len(content) != 4 + 4 * dims + int(np.prod(shape)):
        raise ValueError(f"{path} is not a whole IDX file of bytes; delete it and fetch it again")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dims).reshape(shape)


def _open_cifar(config: DataConfig, *, torchvision_name: str, paths: tuple[str, ...]) -> Source:
    root = _root(config)

    def parts(dataset: Any) -> list[tuple[Any, Any]]:
        files = [root / path for path in paths]
        warn_if_others_write(files, f"{config.name} unpickles files in {root}, which can run code")
        both = [dataset(root, train=train) for train in (True, False)]
        return [(part.data.transpose(0, 3, 1, 2), part.targets) for part in both]

    def download(dataset: Any) -> None:
        dataset(root, download=True)

    return _torchvision_source(config, torchvision_name, paths, download, parts, flip=True)


def _open_svhn(config: DataConfig) -> Source:
    root, paths = _root(config), ("train_32x32.mat", "test_32x32.mat")

    def parts(dataset: Any) -> list[tuple[Any, Any]]:
        both = [dataset(root, split=split) for split in ("train", "test")]
        return [(part.data, part.labels) for part in both]

    def download(dataset: Any) -> None:
        for split in ("train", "test"):
            dataset(root, split=split, download=True)

    return _torchvision_source(config, "SVHN", paths, download, parts, flip=False)


def _torchvision_source(
    config: DataConfig,
    torchvision_name: str,
    paths: tuple[str, ...],
    download: Callable[[Any], None],
    parts: Callable[[Any], list[tuple[Any, Any]]],
    *,
    flip: bool,
) -> Source:
    """A dataset that torchvision's own class reads, checksums included."""
    root = _root(config)

    def find() -> tuple[Path, ...] | None:
        files = tuple(root / path for path in paths)
        return files if all(path.is_file() for path in files) else None

    files = find() or _fetch(config, torchvision_name, download, find, paths, [root])

    def load() -> RawData:
        try:
            train, test = parts(_dataset_class(torchvision_name))
        except RuntimeError as error:
            raise ValueError(
                f"{config.name}: a file in {root} is damaged ({error}); delete {', '.join(paths)} "
                "there and use data.download: true"
            ) from error
        labels = [np.asarray(targets, dtype=np.int64) for _, targets in (train, test)]
        return RawData(train[0], labels[0], test[0], labels[1], flip)

    return Source(files, load)


def _dataset_class(torchvision_name: str) -> Any:
    import torchvision.datasets  # 2 s to import, and not needed once the cache is made

    return getattr(torchvision.datasets, torchvision_name)


def _fetch(
    config: DataConfig,
    torchvision_name: str,
    download: Callable[[Any], None],
    find: Callable[[], tuple[Path, ...] | None],
    names: tuple[str, ...],
    folders: list[Path],
) -> tuple[Path, ...]:
    """The files after a download through torchvision, if the config asks for one."""
    if not config.download:
        raise NotHere(
            f"{config.name} is not there: looked for {', '.join(names)} in "
            f"{' and '.join(map(str, folders))}; set data.root to the folder that holds them, or "
            "data.download: true"
        )
    try:
        download(_dataset_class(torchvision_name))
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        reason = " ".join(str(error).split())  # torchvision's has several lines
        raise ValueError(
            f"could not download {config.name} to {_root(config)} ({reason}); with no network, put "
            f"{', '.join(names)} there by hand"
        ) from error
    files = find()
    if files is None:
        raise ValueError(f"the download of {config.name} left no {', '.join(names)} in {folders}")
    return files


def _open_function(config: DataConfig) -> Source:
    """One's own dataset: `function()`, or `function(root)` if `data.root` is set.

    It returns (train_images, train_labels, test_images, test_labels), numpy arrays or tensors,
    and as an optional fifth item whether a mirrored image keeps its class (default yes). The
    cache is made anew when the function's file changes, or a file at or under `root`.
    """
    function = import_named("dataset", config.name)
    files = [Path(path) for path in [inspect.getsourcefile(function)] if path]
    arguments = []
    if config.root:
        root = _root(config)
        arguments = [root]
        files += sorted(path for path in (root, *root.rglob("*")) if path.is_file())

    def load() -> RawData:
        try:
            result = function(*arguments)
        except Exception as error:  # whatever the user's function raises
            raise own_error("dataset", config.name, error) from error
        if not isinstance(result, tuple | list) or len(result) not in (4, 5):
            raise ValueError(
                f"dataset {config.name!r} must return (train_images, train_labels, test_images, "
                f"test_labels) and maybe flip, not {type(result).__name__}"
            )
        train_x, train_y, test_x, test_y = map(_to_numpy, result[:4])
        flip = bool(result[4]) if len(result) == 5 else True
        return RawData(train_x, train_y, test_x, test_y, flip)

    return Source(tuple(files), load)


def _to_numpy(value: Any) -> NDArray[Any]:
    return np.asarray(value.cpu() if hasattr(value, "cpu") else value)


_CIFAR10 = tuple(
    f"cifar-10-batches-py/{name}"
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
)
_CIFAR100 = tuple(f"cifar-100-python/{name}" for name in ("train", "test", "meta"))
_OPENERS: dict[str, Callable[[DataConfig], Source]] = {
    "cifar10": partial(_open_cifar, torchvision_name="CIFAR10", paths=_CIFAR10),
    "cifar100": partial(_open_cifar, torchvision_name="CIFAR100", paths=_CIFAR100),
    "digits": _open_digits,
    "fashion_mnist": partial(_open_idx, torchvision_name="FashionMNIST", flip=True),
    "imagefolder": open_image_folder,
    "mnist": partial(_open_idx, torchvision_name="MNIST", flip=False),
    "svhn": _open_svhn,
}
