"""Runs that are interrupted and resumed; what seed, precision and layout decide."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from trainables.checkpoint import STATE, CheckpointFolder
from trainables.config import TrialConfig
from trainables.data import epoch_batches
from trainables.loop import train
from trainables.metrics import EpochMetrics, metrics_from_dict
from trainables.state import TrainingState, resolve_device

T = 5
MOVING = {
    "radius": {"alpha_start": 2.0, "alpha_end": 0.5},
    "scale": {"alpha_start": 0.5, "alpha_end": 2.0},
}
# what is interrupted, and the epoch in which its perturbation begins
RUNS: dict[str, tuple[dict[str, Any], int | None]] = {
    "sgd": ({"optimizer": {"family": "sgd"}}, None),
    "sgd-dampened": (
        {"optimizer": {"family": "sgd"}, "train": {"dampening": 0.5, "schedule_by": "epoch"}},
        None,
    ),
    "sgd-nesterov": ({"optimizer": {"family": "sgd"}, "train": {"nesterov": True}}, None),
    "pugd": ({"optimizer": {"family": "pugd"}, "train": {"batch_norm": "freeze"}}, 1),
    "rts": ({"optimizer": {"family": "rts", **MOVING}}, 1),
    "variance": (
        {
            "optimizer": {
                "family": "rts",
                "trigger": {"name": "variance", "k": 10, "gamma": 50.0},
                **MOVING,
            }
        },
        4,
    ),
    "cosine": (
        {
            "optimizer": {
                "family": "rts",
                "trigger": {"name": "cosine", "k": 10, "kappa": -0.9},
                **MOVING,
            }
        },
        4,
    ),
    "gap": (
        {
            "optimizer": {
                "family": "rts",
                "trigger": {"name": "gap", "mu": 1e-6, "period": 1},
                **MOVING,
            }
        },
        5,
    ),
    "gap-dynamic": (
        {"optimizer": {"family": "rts", "trigger": {"name": "gap", "baseline": "dynamic"}}},
        None,
    ),
    "epoch": ({"optimizer": {"family": "rts", "trigger": {"name": "epoch", "epoch": 3}}}, 3),
    "after": (
        {
            "optimizer": {
                "family": "rts",
                "trigger": {"name": "variance", "k": 2, "gamma": 50.0},
                "after": {"lr_factor": 0.5, "anneal": "own"},
            }
        },
        3,
    ),
    "sam": ({"optimizer": {"family": "sam"}}, 1),
    "asam": ({"optimizer": {"family": "asam"}}, 1),
    "bf16": ({"optimizer": {"family": "pugd"}, "train": {"precision": "bf16"}}, 1),
    "dropout": (
        {
            "optimizer": {"family": "pugd"},
            "model": {"name": "tests.trainables.test_state:dropout_net"},
        },
        1,
    ),
}


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RTS_SEARCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def dropout_net(num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, num_classes)
    )


def make(
    optimizer: dict[str, Any], model: dict[str, Any] | None = None, **sections: Any
) -> TrialConfig:
    return TrialConfig.model_validate(
        {
            "data": {"name": "digits", "train_size": 120, "test_size": 50, "augment": True},
            "model": model or {"name": "cnn", "args": {"width": 2}},
            "optimizer": optimizer,
            "train": {
                "epochs": T,
                "batch_size": 27,
                "seed": 3,
                "device": "cpu",
                **sections.get("train", {}),
            },
        }
    )


def without_times(m: EpochMetrics) -> EpochMetrics:
    none = {"train_seconds": 0.0, "eval_seconds": 0.0, "epoch_seconds": 0.0}
    return replace(m, **none, images_per_second=0.0)


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Where two nested values differ, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        equal = one.dtype == other.dtype and torch.equal(one, other)
        return [] if equal else [path]
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [f"{path}: {one.keys() ^ other.keys()}"]
        return [d for key in one for d in differences(one[key], other[key], f"{path}.{key}")]
    if isinstance(one, list):
        if len(one) != len(other):
            return [f"{path}: {len(one)} and {len(other)} items"]
        pairs = enumerate(zip(one, other, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{path}[{i}]")]
    return [] if one == other else [f"{path}: {one} and {other}"]


def everything(state: TrainingState) -> dict[str, Any]:
    """A state's checkpoint, but for times."""
    history = [asdict(without_times(metrics)) for metrics in state.history]
    return {**state.state_dict(), "history": history}


@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_equals_the_uninterrupted_one(name: str, tmp_path: Path) -> None:
    sections, first_perturbed = RUNS[name]
    config = make(**sections)
    uninterrupted = TrainingState(config)
    history = list(train(config, uninterrupted))
    firing = next((m.epoch for m in history if m.perturbing), None)
    assert firing == first_perturbed  # so that some checkpoints are from before, others after

    saved = TrainingState(config)
    for metrics in train(config, saved):
        CheckpointFolder(f"{tmp_path}/{metrics.epoch}").save(STATE, saved.state_dict())
    assert differences(everything(saved), everything(uninterrupted)) == []

    for epoch in range(1, T + 1):
        resumed = TrainingState(config)
        loaded = CheckpointFolder(f"{tmp_path}/{epoch}").load(STATE)
        assert loaded is not None
        resumed.load_state_dict(loaded)
        assert resumed.epochs_done == epoch
        rest = list(train(config, resumed))
        assert [m.epoch for m in rest] == list(range(epoch + 1, T + 1))
        assert differences(everything(resumed), everything(uninterrupted)) == [], epoch


def test_a_run_goes_on_in_the_same_process() -> None:
    config = make(RUNS["rts"][0]["optimizer"])
    whole, parts = TrainingState(config), TrainingState(config)
    list(train(config, whole))
    for _ in range(T):
        next(train(config, parts))
    assert list(train(config, parts)) == []
    assert differences(everything(parts), everything(whole)) == []


def test_a_checkpoint_is_not_changed_by_a_run_that_loaded_it(tmp_path: Path) -> None:
    config = make({"family": "pugd"})
    first = TrainingState(config)
    next(train(config, first))
    folder = CheckpointFolder(str(tmp_path))
    folder.save(STATE, first.state_dict())
    loaded, untouched = folder.load(STATE), folder.load(STATE)
    assert loaded is not None
    second = TrainingState(config)
    second.load_state_dict(loaded)
    list(train(config, second))
    assert differences(loaded, untouched) == []


def test_a_checkpoint_of_another_configuration_is_refused() -> None:
    state = TrainingState(make({"family": "pugd"})).state_dict()
    other = TrainingState(make({"family": "pugd"}, train={"lr": 0.2}))
    with pytest.raises(ValueError, match="this checkpoint belongs to another configuration"):
        other.load_state_dict(state)


def test_a_checkpoint_of_a_version_with_fewer_settings_is_taken() -> None:
    config = make({"family": "pugd"})
    run = TrainingState(config)
    next(train(config, run))
    state = run.state_dict()
    plain = json.loads(state["config"])
    del plain["optimizer"]["after"]  # whose default is what that version did
    other = TrainingState(config)
    other.load_state_dict({**state, "config": json.dumps(plain)})
    assert other.epochs_done == 1


def test_the_history_survives_with_its_test_results() -> None:
    config = make({"family": "sgd"}, train={"epochs": 2})
    first, last = train(config)
    assert last.test is not None
    assert [metrics_from_dict(asdict(m)) for m in (first, last)] == [first, last]


def test_a_seed_decides_weights_and_data_order_whatever_the_family() -> None:
    states = {name: TrainingState(make(**RUNS[name][0])) for name in ("sgd", "rts", "sam", "gap")}
    weights = [state.model.state_dict() for state in states.values()]
    batches = [list(epoch_batches(state.data, 27, state.generator)) for state in states.values()]
    for others in (weights, batches):
        for other in others[1:]:
            for one, two in zip(_tensors(others[0]), _tensors(other), strict=True):
                assert torch.equal(one, two)


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value
    return [tensor for item in items for tensor in _tensors(item)]


def test_training_draws_the_same_data_whatever_the_family() -> None:
    generators = []
    for name in ("sgd", "rts", "variance", "asam"):
        config = make(**RUNS[name][0])
        state = TrainingState(config)
        list(train(config, state))
        generators.append(state.generator.get_state())
    assert all(torch.equal(generators[0], other) for other in generators[1:])


def test_another_seed_is_another_run() -> None:
    one, two = (TrainingState(make({"family": "sgd"}, train={"seed": seed})) for seed in (3, 4))
    kernels = [state.model.state_dict()["0.0.weight"] for state in (one, two)]
    assert not torch.equal(*kernels)
    orders = [
        torch.cat([y for _, y in epoch_batches(state.data, 27, state.generator)])
        for state in (one, two)
    ]
    assert not torch.equal(*orders)
    assert torch.equal(one.data.validation_labels, two.data.validation_labels)  # the split stays


def test_the_same_seed_is_the_same_run() -> None:
    config = make({"family": "pugd"}, train={"epochs": 2})
    assert [without_times(m) for m in train(config)] == [without_times(m) for m in train(config)]


def test_devices() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="device 'gpu7' is not one of auto, cpu, cuda"):
        resolve_device("gpu7")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_refused() -> None:
    assert resolve_device("auto").type in ("cpu", "mps")
    with pytest.raises(ValueError, match="torch sees no CUDA GPU; use auto or cpu"):
        resolve_device("cuda:0")


def run(**settings: Any) -> tuple[list[EpochMetrics], TrainingState]:
    """Two epochs of PUGD on the CPU."""
    config = make({"family": "pugd"}, train={"epochs": 2, **settings})
    state = TrainingState(config)
    return list(train(config, state)), state


def test_precision_is_fp32_on_the_cpu_unless_asked_for() -> None:
    full, state = run(precision="auto")
    assert state.precision == torch.float32
    half, state = run(precision="bf16")
    assert state.precision == torch.bfloat16
    assert {p.dtype for p in state.model.parameters()} == {torch.float32}
    assert half[-1].train_loss != full[-1].train_loss
    assert half[-1].train_loss == pytest.approx(full[-1].train_loss, rel=0.05)


def fp16_runs_here() -> bool:
    try:
        with torch.autocast("cpu", torch.float16):
            convolution = torch.nn.Conv2d(1, 4, 3)
            convolution(torch.ones(2, 1, 8, 8)).sum().backward()
    except RuntimeError:
        return False
    return convolution(torch.ones(2, 1, 8, 8)).isfinite().all().item()


@pytest.mark.skipif(not fp16_runs_here(), reason="this torch has no fp16 autocast on the CPU")
def test_fp16_scales_its_loss() -> None:
    history, state = run(precision="fp16")
    full, _ = run(precision="fp32")
    assert state.loss_scale is not None
    assert state.loss_scale.factor > 1
    assert history[0].train_loss == pytest.approx(full[0].train_loss, rel=0.05)


def test_channels_last_changes_the_layout_only() -> None:
    results = {}
    for wanted in (True, False):
        (metrics, _), state = run(channels_last=wanted)
        convolution = state.model[2][0].weight
        assert convolution.is_contiguous(memory_format=torch.channels_last) is wanted
        results[wanted] = metrics
    assert results[True].train_loss == pytest.approx(results[False].train_loss, rel=1e-3)
    assert results[True].val_loss == pytest.approx(results[False].val_loss, rel=1e-2)


@pytest.mark.parametrize(("model", "channels_last"), [("cnn", True), ("mlp", False)])
def test_channels_last_by_default_for_convolutions(model: str, channels_last: bool) -> None:
    state = TrainingState(make({"family": "sgd"}, {"name": model}))
    wanted = torch.channels_last if channels_last else torch.contiguous_format
    assert state.memory_format == wanted
