"""The cache: made once, whole or not at all, and made anew when its source changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from trainables.config import DataConfig
from trainables.data import prepare
from trainables.data.cache import (
    FORMAT,
    channel_moments,
    data_fingerprint,
    histograms,
    prepared_folder,
)

HELD_OUT = ("validation_images", "validation_labels", "test_images", "test_labels")
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RTS_SEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def folders(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.is_dir())


SLOW = """
import os, time, numpy as np
def images():
    with open(os.environ["READ_LOG"], "a") as log:
        log.write("read\\n")
    time.sleep(1.0)
    x = np.random.default_rng(0).integers(0, 256, (60, 3, 8, 8), dtype=np.uint8)
    y = np.arange(60) % 3
    return x, y, x[:12], y[:12]
"""
PREPARE = """
from trainables.config import DataConfig
from trainables.data import prepare
data = prepare(DataConfig(name="slow_data:images"))
print(int(data.train_images.long().sum()), data.validation_labels.tolist())
"""


def test_two_processes_at_once_make_one_cache_and_both_are_right(
    tmp_path: Path, cache: Path
) -> None:
    (tmp_path / "slow_data.py").write_text(SLOW)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path}:{ROOT}",
        "READ_LOG": str(tmp_path / "log"),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", PREPARE]
    both = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert outputs[0] == outputs[1] != ""
    assert (tmp_path / "log").read_text() == "read\n"
    assert len(folders(cache)) == 1


def test_the_second_time_reads_the_cache_and_nothing_else(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(DataConfig(name="digits"))
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)  # an import fails
    second = prepare(DataConfig(name="digits", augment=False))
    assert torch.equal(first.train_images, second.train_images)
    assert second.augmentation is None
    with pytest.raises(ImportError):
        prepare(DataConfig(name="digits", validation_seed=1))
    assert len(folders(cache)) == 1


def test_a_failure_in_mid_way_leaves_no_half_cache(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, calls = np.save, []

    def full_disk(path: Path, array: np.ndarray) -> None:
        calls.append(path)
        if len(calls) == 3:
            raise OSError("no space left on device")
        save(path, array)

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full_disk)
        with pytest.raises(OSError, match="no space left"):
            prepare(DataConfig(name="digits"))
    assert folders(cache) == []
    assert len(prepare(DataConfig(name="digits")).train_labels) == 1294
    assert len(folders(cache)) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"validation_seed": 1},
        {"validation_fraction": 0.2},
        {"train_size": 500},
        {"test_size": 100},
        {"image_size": 10},
    ],
)
def test_what_decides_the_arrays_decides_the_folder(cache: Path, other: dict[str, float]) -> None:
    prepare(DataConfig(name="digits"))
    prepare(DataConfig.model_validate({"name": "digits", **other}))
    assert len(folders(cache)) == 2


def test_augmentation_shares_the_folder(cache: Path) -> None:
    for options in ({}, {"augment": False}, {"flip": True}, {"rotation": 3.0}, {"download": True}):
        prepare(DataConfig.model_validate({"name": "digits", **options}))
    assert len(folders(cache)) == 1


def test_label_noise_shares_the_folder_and_leaves_all_but_training_labels(cache: Path) -> None:
    clean = prepare(DataConfig(name="digits"))
    for seed in (0, 1):
        noisy = prepare(DataConfig(name="digits", label_noise=0.4, label_noise_seed=seed))
        assert (noisy.train_labels != clean.train_labels).sum() == round(0.4 * 1294)
        for part in ("train_images", "mean", "std", *HELD_OUT):
            assert torch.equal(getattr(noisy, part), getattr(clean, part)), part
    assert torch.equal(prepare(DataConfig(name="digits")).train_labels, clean.train_labels)
    none = prepare(DataConfig(name="digits", label_noise=0.0, label_noise_seed=3))
    assert torch.equal(none.train_labels, clean.train_labels)
    assert len(folders(cache)) == 1


def test_writing_to_the_data_leaves_the_cache_alone() -> None:
    data = prepare(DataConfig(name="digits"))
    before = data.train_images.clone()
    data.train_images.fill_(3)
    assert torch.equal(prepare(DataConfig(name="digits")).train_images, before)


def test_the_arrays_are_mapped_not_read(cache: Path) -> None:
    data = prepare(DataConfig(name="digits"))
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs /proc")
    assert "train_images.npy" in maps.read_text()
    assert data.to("cpu").train_images.data_ptr() == data.train_images.data_ptr()


def test_a_cache_that_cannot_be_written_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RTS_SEARCH_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ValueError, match=r"cannot write to .*set RTS_SEARCH_CACHE"):
        prepare(DataConfig(name="digits"))


def test_moments_are_those_of_the_pixels() -> None:
    images = np.random.default_rng(0).integers(0, 200, (5000, 3, 4, 4), dtype=np.uint8)
    images[:, 2] = 9
    mean, std = channel_moments(histograms(images))
    pixels = images.transpose(1, 0, 2, 3).reshape(3, -1) / 255
    np.testing.assert_allclose(mean, pixels.mean(axis=1), rtol=1e-9)
    np.testing.assert_allclose(std[:2], pixels[:2].std(axis=1), rtol=1e-9)
    assert std[2] == 1.0


def test_what_is_cached_changes_with_its_format_only(cache: Path) -> None:
    """Files of an earlier format are left alone: they lack what is asked of these."""
    facts = json.loads((prepared_folder(DataConfig(name="digits")) / "facts.json").read_text())
    assert (FORMAT, sorted(facts)) == (3, ["digest", "flip", "mean", "num_classes", "std"])
    assert data_fingerprint(DataConfig(name="digits")) == facts["digest"]
