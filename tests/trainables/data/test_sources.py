"""Every built-in dataset from small files in its real format, and one's own function."""

from __future__ import annotations

import gzip
import pickle
import struct
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
import torchvision.datasets
from numpy.typing import NDArray

from trainables.config import DataConfig, TrialConfig
from trainables.data import dataset_names, prepare
from trainables.data.sources import FASHION_MNIST_DEBIAN, IDX_FILES, open_source, read_idx
from trainables.state import check_trainable

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RTS_SEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pixels(*shape: int) -> NDArray[np.uint8]:
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


def wrong_share(config: DataConfig) -> float:
    """Of the training labels, where half of them are to be; validation and test have none."""
    clean, noisy = prepare(config), prepare(config.model_copy(update={"label_noise": 0.5}))
    assert torch.equal(noisy.validation_labels, clean.validation_labels)
    assert torch.equal(noisy.test_labels, clean.test_labels)
    assert noisy.train_labels.max() < clean.num_classes
    return float((noisy.train_labels != clean.train_labels).double().mean())


def idx_bytes(array: NDArray[np.uint8]) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}i", 0, 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


def write_idx(folder: Path, *, zipped: bool) -> dict[str, NDArray[np.uint8]]:
    """A training set of 40 and a test set of 20 images of 28×28, 10 classes."""
    folder.mkdir(parents=True)
    arrays = {}
    for name in IDX_FILES:
        count = 40 if name.startswith("train") else 20
        labels = np.arange(count, dtype=np.uint8) % 10
        arrays[name] = pixels(count, 28, 28) if "images" in name else labels
        content = idx_bytes(arrays[name])
        path = folder / (f"{name}.gz" if zipped else name)
        path.write_bytes(gzip.compress(content) if zipped else content)
    return arrays


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("name", "inside", "flip"),
    [
        ("fashion_mnist", ".", True),
        ("fashion_mnist", "FashionMNIST/raw", True),
        ("mnist", ".", False),
        ("mnist", "MNIST/raw", False),
    ],
)
def test_idx(tmp_path: Path, zipped: bool, name: str, inside: str, flip: bool) -> None:
    arrays = write_idx(tmp_path / "data" / inside, zipped=zipped)
    config = DataConfig(name=name, root=str(tmp_path / "data"), validation_fraction=0.25)
    data = prepare(config)
    assert data.image_shape == (1, 28, 28)
    assert data.num_classes == 10
    assert data.augmentation is not None
    assert data.augmentation.flip is flip
    assert np.array_equal(data.test_images[:, 0].numpy(), arrays["t10k-images-idx3-ubyte"])
    assert np.array_equal(data.test_labels.numpy(), arrays["t10k-labels-idx1-ubyte"])
    assert len(data.train_labels) == 30
    assert len(data.validation_labels) == 10
    # every training image is in one of the two parts, with its own label
    both = torch.cat((data.train_images, data.validation_images))[:, 0].numpy()
    labels = torch.cat((data.train_labels, data.validation_labels)).tolist()
    source = {image.tobytes(): i for i, image in enumerate(arrays["train-images-idx3-ubyte"])}
    found = [source[image.tobytes()] for image in both]
    assert sorted(found) == list(range(40))
    assert labels == [i % 10 for i in found]
    assert wrong_share(config) == 0.5


def test_a_truncated_idx_file_is_named(tmp_path: Path) -> None:
    whole = idx_bytes(pixels(4, 5, 5))
    (tmp_path / "short").write_bytes(whole[:-1])
    (tmp_path / "short.gz").write_bytes(gzip.compress(whole)[:-20])
    (tmp_path / "whole.gz").write_bytes(gzip.compress(whole))
    for name in ("short", "short.gz"):
        with pytest.raises(ValueError, match=f"{name}.*fetch it again"):
            read_idx(tmp_path / name)
    assert read_idx(tmp_path / "whole.gz").shape == (4, 5, 5)


@pytest.mark.skipif(
    not FASHION_MNIST_DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed"
)
@pytest.mark.parametrize("root", [None, str(FASHION_MNIST_DEBIAN)])
def test_the_real_fashion_mnist(root: str | None) -> None:
    config = DataConfig(name="fashion_mnist", root=root, train_size=1000, test_size=500)
    data = prepare(config)
    assert np.bincount(data.train_labels).tolist() == [90] * 10
    assert np.bincount(data.validation_labels).tolist() == [10] * 10
    assert np.bincount(data.test_labels).tolist() == [50] * 10
    assert float(data.mean) == pytest.approx(0.286, abs=0.01)  # of all 60,000 images
    assert float(data.std) == pytest.approx(0.353, abs=0.01)


def test_digits() -> None:
    data = prepare(DataConfig(name="digits"))
    sizes = [len(data.train_labels), len(data.validation_labels), len(data.test_labels)]
    assert sizes == [1294, 144, 359]
    assert data.image_shape == (1, 8, 8)
    assert (data.train_images.min(), data.train_images.max()) == (0, 255)
    assert data.augmentation is not None
    assert not data.augmentation.flip
    normalized = data.normalize(data.train_images)
    assert float(normalized.mean()) == pytest.approx(0, abs=1e-4)
    assert float(normalized.std()) == pytest.approx(1, abs=1e-3)


def test_the_test_set_of_digits_does_not_depend_on_the_validation_seed() -> None:
    one, two = (prepare(DataConfig(name="digits", validation_seed=seed)) for seed in (0, 1))
    assert torch.equal(one.test_images, two.test_images)
    assert not torch.equal(one.validation_images, two.validation_images)


def cifar_batch(count: int, key: str, classes: int) -> dict[str, Any]:
    return {"data": pixels(count, 3072), key: [i % classes for i in range(count)]}


def write_pickles(folder: Path, contents: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))


def forget_checksums(monkeypatch: pytest.MonkeyPatch, dataset: Any) -> None:
    """torchvision's own class reads the small files, its checksums of the real ones aside."""
    for field in ("train_list", "test_list"):
        files = [[name, None] for name, _ in getattr(dataset, field)]
        monkeypatch.setattr(dataset, field, files)
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": None})


def test_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: dict[str, Any] = {
        f"data_batch_{i}": cifar_batch(20, "labels", 10) for i in range(1, 6)
    }
    batches["test_batch"] = cifar_batch(20, "labels", 10)
    batches["batches.meta"] = {"label_names": list("abcdefghij")}
    write_pickles(tmp_path / "cifar-10-batches-py", batches)
    forget_checksums(monkeypatch, torchvision.datasets.CIFAR10)
    data = prepare(DataConfig(name="cifar10", root=str(tmp_path)))
    assert data.image_shape == (3, 32, 32)
    assert data.num_classes == 10
    assert (len(data.train_labels), len(data.validation_labels)) == (90, 10)
    # a row of a batch is red, green, blue, each row by row
    expected = batches["test_batch"]["data"].reshape(20, 3, 32, 32)
    assert np.array_equal(data.test_images.numpy(), expected)
    assert data.test_labels.tolist() == batches["test_batch"]["labels"]


def test_cifar100_takes_the_fine_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coarse = {"coarse_labels": [0] * 200}
    contents = {
        "train": {**cifar_batch(200, "fine_labels", 100), **coarse},
        "test": {**cifar_batch(100, "fine_labels", 100), "coarse_labels": [0] * 100},
        "meta": {"fine_label_names": [str(i) for i in range(100)]},
    }
    write_pickles(tmp_path / "cifar-100-python", contents)
    forget_checksums(monkeypatch, torchvision.datasets.CIFAR100)
    config = DataConfig(name="cifar100", root=str(tmp_path), validation_fraction=0.5)
    data = prepare(config)
    assert data.num_classes == 100
    assert wrong_share(config) == 0.5
    assert data.test_labels.tolist() == list(range(100))
    assert np.array_equal(
        data.test_images.numpy(), contents["test"]["data"].reshape(100, 3, 32, 32)
    )


def test_a_damaged_cifar10_is_refused(tmp_path: Path) -> None:
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]
    write_pickles(tmp_path / "cifar-10-batches-py", dict.fromkeys(names, "damaged"))
    with pytest.raises(ValueError, match=r"a file in .* is damaged .* data.download: true"):
        prepare(DataConfig(name="cifar10", root=str(tmp_path)))


def test_svhn_has_the_digit_0_as_class_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = {"train": pixels(32, 32, 3, 40), "test": pixels(32, 32, 3, 20)}
    for part, array in images.items():
        labels = (np.arange(array.shape[3]) % 10 + 1)[:, None]  # 1..10, 10 for the digit 0
        scipy.io.savemat(tmp_path / f"{part}_32x32.mat", {"X": array, "y": labels})
    files = {
        part: [*fields[:2], None] for part, fields in torchvision.datasets.SVHN.split_list.items()
    }
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", files)
    data = prepare(DataConfig(name="svhn", root=str(tmp_path)))
    assert np.array_equal(data.test_images.numpy(), images["test"].transpose(3, 2, 0, 1))
    assert data.test_labels.tolist() == [*range(1, 10), 0] * 2
    assert data.augmentation is not None
    assert not data.augmentation.flip


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mnist", "train-images-idx3-ubyte"),
        ("cifar10", "cifar-10-batches-py/data_batch_1"),
        ("cifar100", "cifar-100-python/train"),
        ("svhn", "train_32x32.mat"),
    ],
)
def test_missing_files_are_named_with_the_way_to_get_them(
    tmp_path: Path, name: str, file: str
) -> None:
    with pytest.raises(ValueError, match=f"{file}.*{tmp_path}.*data.root.*data.download: true"):
        open_source(DataConfig(name=name, root=str(tmp_path / "nowhere")))


def test_a_failed_download_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(ValueError, match=r"could not download mnist to .*by hand"):
        open_source(DataConfig(name="mnist", root=str(tmp_path), download=True))


def test_a_download_goes_through_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_idx(tmp_path / "mirror", zipped=True)
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path / "mirror")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        mirror = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [mirror])
        files = [(f"{name}.gz", None) for name in IDX_FILES]
        monkeypatch.setattr(torchvision.datasets.MNIST, "resources", files)
        data = prepare(DataConfig(name="mnist", root=str(tmp_path / "data"), download=True))
        server.shutdown()
    assert len(data.test_labels) == 20


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown dataset 'cifar_10': did you mean 'cifar10'"):
        open_source(DataConfig(name="cifar_10"))
    with pytest.raises(ValueError, match=f"known: .*, {', '.join(dataset_names())}"):
        open_source(DataConfig(name="zzz"))


OWN = """
import numpy as np, torch
def numpy_set():
    x, y = np.arange(20 * 2 * 6 * 6).reshape(20, 2, 6, 6).astype(np.uint8), np.arange(20) % 2
    return x, y, x[:4], y[:4]
def torch_set(root):
    x = torch.load(root / "x.pt")
    y = torch.arange(len(x)) % 2
    return x, y, x[:4], y[:4], False
def floats(): x, y, *_ = numpy_set(); return x / 255, y, x[:4], y[:4]
def short(): x, y, *_ = numpy_set(); return x, y[:-1], x[:4], y[:4]
def one_hot(): x, y, *_ = numpy_set(); return x, np.eye(2)[y], x[:4], y[:4]
def sizes(): x, y, *_ = numpy_set(); return x, y, x[:4, :, :5], y[:4]
def classes(): x, y, *_ = numpy_set(); return x, y, x[:4], y[:4] + 1
def negative(): x, y, *_ = numpy_set(); return x, y - 1, x[:4], y[:4]
def channels_last():
    x, y = np.zeros((20, 32, 32, 3), np.uint8), np.arange(20) % 2
    return x, y, x[:4], y[:4]
def one_class(): x, y, *_ = numpy_set(); return x, y * 0, x[:4], y[:4] * 0
def three(): return numpy_set()[:3]
def raises():
    return np.load("/no/such/file")
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_data.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_data", raising=False)
    return "own_data"


def test_ones_own_function_with_numpy(own: str) -> None:
    data = prepare(DataConfig(name=f"{own}:numpy_set"))
    assert wrong_share(DataConfig(name=f"{own}:numpy_set")) == 0.5
    assert data.image_shape == (2, 6, 6)
    assert data.num_classes == 2
    assert len(data.train_labels) == 18
    assert data.augmentation is not None
    assert data.augmentation.flip


def test_ones_own_function_with_tensors_and_a_root(own: str, tmp_path: Path) -> None:
    root = tmp_path / "files"
    root.mkdir()
    config = DataConfig(name=f"{own}:torch_set", root=str(root))
    for count in (20, 30):  # a changed file is noticed
        torch.save(torch.zeros(count, 1, 8, 8, dtype=torch.uint8), root / "x.pt")
        data = prepare(config)
        assert len(data.train_labels) + len(data.validation_labels) == count
    assert data.augmentation is not None
    assert not data.augmentation.flip
    assert data.std.tolist() == [1.0]  # constant images


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("floats", r"train_images must be uint8 \[N, C, H, W\] and not empty, not float64"),
        ("short", "train_labels must be 20 integers, one an image, not int64"),
        ("one_hot", "train_labels must be 20 integers"),
        ("sizes", r"train images are \[2, 6, 6\], test images \[2, 5, 6\]"),
        ("classes", "test_labels hold 2, train_labels only go to 1"),
        ("negative", "train_labels start at 0, not -1"),
        (
            "channels_last",
            r"train_images \[20, 32, 32, 3\] look like \[N, H, W, C\].*transpose\(0, 3, 1, 2\)",
        ),
        ("one_class", "has 1 class: there must be 2 or more"),
        ("three", "must return"),
        (
            "raises",
            r"^dataset 'own_data:raises' failed with FileNotFoundError: .*/no/such/file' "
            r"\(\S*/own_data.py, line \d+\)$",
        ),
        ("absent", "unknown name in own_data 'absent'"),
    ],
)
def test_a_bad_function_is_one_clear_line(own: str, function: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(DataConfig(name=f"{own}:{function}"))


def test_a_validation_split_that_tells_little_is_noted_with_its_size(own: str) -> None:
    config = TrialConfig.model_validate(
        {"data": {"name": f"{own}:numpy_set"}, "model": {"name": "mlp"}}
    )
    (note,) = check_trainable(config)
    assert note == (
        "the validation split has 2 images, so few that guesses may all be right: one of them is "
        "50.0 points of val_accuracy, and luck is ± 35; raise data.validation_fraction (0.1), or "
        "use more images"
    )
    larger = config.model_copy(update={"data": DataConfig(name="digits", train_size=490)})
    (note,) = check_trainable(larger)
    assert note.startswith("the validation split has 49 images: one of them is 2.0 points")
    assert check_trainable(TrialConfig.model_validate({"model": {"name": "mlp"}})) == []


def test_a_module_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="cannot import 'no_such_module'"):
        prepare(DataConfig(name="no_such_module:images"))
