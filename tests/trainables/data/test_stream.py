"""Images that stream: the same bits as resident ones, in little memory, and no thread left."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trainables import loop
from trainables.config import TrialConfig
from trainables.data import Augmentation, DeviceData, epoch_batches, eval_batches, stream
from trainables.data.stream import AHEAD, streamed, streams
from trainables.state import TrainingState

CPU = torch.device("cpu")
TIMES = {"train_seconds", "eval_seconds", "epoch_seconds", "images_per_second"}


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RTS_SEARCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert not threads()


def threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("images")]


def make(residence: str, data: dict[str, Any] | None = None, **train: Any) -> TrialConfig:
    return TrialConfig.model_validate(
        {
            "data": {"train_size": 230, "test_size": 60, "residence": residence} | (data or {}),
            "model": {"name": "cnn", "args": {"width": 4}},
            "train": {"epochs": 3, "batch_size": 32, "device": "cpu"} | train,
            "optimizer": {"trigger": {"name": "epoch", "epoch": 2}},
        }
    )


def outcome(run: TrainingState) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    history = [
        {name: value for name, value in asdict(m).items() if name not in TIMES} for m in run.history
    ]
    return history, run.model.state_dict()


def same(one: TrainingState, other: TrainingState) -> bool:
    (history, weights), (others, theirs) = outcome(one), outcome(other)
    return history == others and all(torch.equal(weights[k], theirs[k]) for k in weights)


@pytest.mark.parametrize(
    ("data", "train"),
    [
        ({}, {}),
        ({"augment": False, "label_noise": 0.2}, {"drop_last": True}),
        ({}, {"batch_size": 206}),  # the last batch is one image, and dropped
    ],
)
def test_a_streaming_run_has_the_bits_of_a_resident_one(
    data: dict[str, Any], train: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "EVAL_BATCH", 9)
    runs = {}
    for residence in ("device", "stream"):
        config = make(residence, data, **train)
        runs[residence] = TrainingState(config)
        list(loop.train(config, runs[residence]))
    assert [run.data.streams for run in runs.values()] == [False, True]
    assert runs["stream"].history[-1].test is not None
    assert same(runs["device"], runs["stream"])


@pytest.mark.parametrize("residences", [("stream", "stream"), ("stream", "device")])
def test_a_run_goes_on_from_its_checkpoint_wherever_its_images_are(
    residences: tuple[str, str],
) -> None:
    whole = TrainingState(make("device"))
    list(loop.train(whole.config, whole))
    begun = TrainingState(make(residences[0]))
    for _ in zip(range(2), loop.train(begun.config, begun), strict=False):
        pass
    resumed = TrainingState(make(residences[1]))
    resumed.load_state_dict(begun.state_dict())
    list(loop.train(resumed.config, resumed))
    assert same(whole, resumed)


def stored(path: Path, count: int, size: int) -> DeviceData:
    """Black images in a sparse file, mapped as the cache's are."""
    shape = (count, 3, size, size)
    np.lib.format.open_memmap(path / "images.npy", "w+", np.uint8, shape).flush()
    images = torch.from_numpy(np.load(path / "images.npy", mmap_mode="c"))
    labels = torch.arange(count) % 10
    mean, std = torch.full((3,), 0.5), torch.ones(3)
    few = images[:10], labels[:10]
    augmentation = Augmentation(2, True, 15.0)
    return DeviceData(images, labels, *few, *few, mean, std, 10, augmentation)


def held() -> int:
    """Bytes of memory that this process has for itself; mapped files do not count."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_the_dataset_is_never_held(tmp_path: Path) -> None:
    data = stored(tmp_path, 12_000, 64).to("cpu", streams=True)
    order = torch.Generator().manual_seed(0)
    next(iter(epoch_batches(data, 50, order)))  # what torch sets up
    before, most, images = held(), 0, 0
    for x, _ in epoch_batches(data, 50, order):
        images += len(x)
        most = max(most, held() - before)
    assert images == 12_000
    assert data.image_bytes > 147e6
    assert most < 40e6


def test_no_more_batches_than_asked_for_are_gathered_ahead() -> None:
    drawn = []

    def parts() -> Iterator[Tensor]:
        for i in range(20):
            drawn.append(i)
            yield torch.tensor([i])

    images = torch.arange(20, dtype=torch.uint8)[:, None, None, None]
    batches = streamed(images, parts(), CPU)
    for i, batch in enumerate(batches):
        assert batch.flatten().tolist() == [i]
        assert len(drawn) == min(20, i + AHEAD + 1)


def test_an_error_of_a_thread_is_raised_where_its_batch_is_due() -> None:
    images = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    parts = [torch.tensor([0, 1]), torch.tensor([2, 3]), torch.tensor([0.5])]
    batches = streamed(images, parts, CPU)
    assert len(next(batches)) == len(next(batches)) == 2
    with pytest.raises(TypeError, match="float"):
        next(batches)


def test_closed_in_mid_epoch_it_leaves_no_thread(tmp_path: Path) -> None:
    data = stored(tmp_path, 300, 8).to("cpu", streams=True)
    training = epoch_batches(data, 2, torch.Generator())
    evaluation = eval_batches(data, data.train_images, data.train_labels, 2)
    for batches in (training, evaluation):
        next(batches)
        assert threads()
        batches.close()
        assert not threads()


def test_a_run_that_fails_in_mid_epoch_leaves_no_thread() -> None:
    run = TrainingState(make("stream", batch_size=8))
    model, calls = run.forward, []

    def failing(x: Tensor) -> Tensor:
        calls.append(len(threads()))
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return model(x)

    run.forward = failing
    with pytest.raises(RuntimeError, match="out of memory") as caught:
        loop.train_epoch(run, 1)
    assert calls[-1] > 0
    assert caught.traceback  # which holds the frames, and what they refer to
    assert not threads()


@pytest.mark.parametrize(
    ("residence", "size", "free", "expected"),
    [
        ("auto", 10, None, False),  # on the CPU they are mapped
        ("auto", 25, 100, False),
        ("auto", 26, 100, True),
        ("device", 100, 100, False),
        ("device", 100, None, False),
        ("stream", 1, 100, True),
        ("stream", 1, None, True),
    ],
)
def test_what_is_large_for_the_free_memory_streams(
    residence: Any, size: int, free: int | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "free_memory", lambda device: free)
    assert streams(residence, size, CPU) is expected


def test_what_has_no_room_on_the_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "free_memory", lambda device: 80 * 2**30)
    with pytest.raises(ValueError, match=r"take 180\.0 GiB and cuda:0 has 80\.0 free: use auto or"):
        streams("device", 180 * 2**30, torch.device("cuda", 0))


def test_nothing_tells_the_free_memory_of_a_cpu() -> None:
    assert stream.free_memory(CPU) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_gpu(tmp_path: Path) -> None:
    data = stored(tmp_path, 300, 8)
    data.train_images.copy_(torch.randint(256, data.train_images.shape))
    both = []
    for streaming in (False, True):
        there = data.to("cuda", streams=streaming)
        both.append([x for x, _ in epoch_batches(there, 32, torch.Generator().manual_seed(1))])
    assert both[0][0].is_cuda
    assert all(torch.equal(a, b) for a, b in zip(*both, strict=True))
