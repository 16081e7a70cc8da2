"""A kept model gives the logits that the training loop's evaluation had."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import rts_search
from tests.trainables.test_loop import _cache, make, run  # noqa: F401  (a fixture)
from trainables.checkpoint import STATE, WEIGHTS, CheckpointFolder, weights_from, weights_of
from trainables.data import eval_batches
from trainables.state import TrainingState

OWN = "tests.trainables.test_weights:own_net"


def own_net(num_classes: int, image_shape: tuple[int, int, int], width: int = 4) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(image_shape[0], width, 3),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, num_classes),
    )


def kept(folder: Path, **config: Any) -> TrainingState:
    """A completed run whose weights lie in the folder."""
    _, state = run(make(**config))
    CheckpointFolder(str(folder)).save(WEIGHTS, weights_of(state.state_dict()))
    return state


@torch.no_grad()
def evaluated(state: TrainingState) -> torch.Tensor:
    """The loop's own logits of the test images."""
    state.model.eval()
    data, logits = state.data, []
    for x, _ in eval_batches(data, data.test_images, data.test_labels, 1000, state.memory_format):
        with state.autocast():
            logits.append(state.forward(x).float())
    return torch.cat(logits)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model", [{"name": "cnn", "args": {"width": 4}}, {"name": "mlp"}])
def test_logits_are_those_of_the_loop(
    tmp_path: Path, model: dict[str, Any], precision: str
) -> None:
    state = kept(tmp_path, model=model, lr=0.3, precision=precision)
    loaded = rts_search.load_model(tmp_path)
    images = state.data.test_images
    assert images.dtype == torch.uint8
    assert not loaded.training
    assert torch.equal(loaded(images), evaluated(state))
    assert torch.equal(loaded(images.numpy()), evaluated(state))
    state.model.load_state_dict(state.best_weights)
    best = rts_search.load_model(tmp_path / "weights.pt", weights="best")
    assert torch.equal(best(images), evaluated(state))
    found = (loaded(images).argmax(1) == state.data.test_labels).double().mean().item()
    test = state.history[-1].test
    assert test is not None
    assert found == pytest.approx(test.test_accuracy)


def test_a_kept_file_tells_its_trial(tmp_path: Path) -> None:
    state = kept(tmp_path)
    found = CheckpointFolder(str(tmp_path)).load(WEIGHTS)  # weights_only
    assert found is not None
    assert found["config"] == state.config.model_dump_json()
    assert [row["val_accuracy"] for row in found["history"]] == [
        metrics.val_accuracy for metrics in state.history
    ]
    assert (found["image_shape"], found["num_classes"]) == ([1, 8, 8], 10)
    assert (found["mean"], found["std"]) == (state.data.mean.tolist(), state.data.std.tolist())


def test_other_images_are_refused(tmp_path: Path) -> None:
    state = kept(tmp_path)
    loaded = rts_search.load_model(tmp_path)
    images = state.data.test_images
    for wrong in (images / 255, images.permute(0, 2, 3, 1), images[0]):
        with pytest.raises(ValueError, match=r"must be uint8 \[N, 1, 8, 8\] .* not "):
            loaded(wrong)


def test_loading_leaves_the_random_state_alone(tmp_path: Path) -> None:
    kept(tmp_path)
    before = torch.get_rng_state()
    rts_search.load_model(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_of_ones_own_is_not_imported_at_a_files_word(tmp_path: Path) -> None:
    state = kept(tmp_path, model={"name": OWN, "args": {"width": 5}})
    with pytest.raises(ValueError, match=f"your own model '{OWN}'.*model=function"):
        rts_search.load_model(tmp_path)
    loaded = rts_search.load_model(tmp_path, model=own_net)
    assert torch.equal(loaded(state.data.test_images), evaluated(state))


def test_files_that_are_no_weights_are_one_line(tmp_path: Path) -> None:
    kept(tmp_path)
    file = tmp_path / WEIGHTS
    whole = file.read_bytes()
    old = torch.load(io.BytesIO(whole), weights_only=True)
    del old["mean"]
    torch.save(old, tmp_path / "old.pt")
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    torch.save({"config": "{}"}, tmp_path / "other.pt")
    torch.save([1], tmp_path / "list.pt")
    (tmp_path / "folder.pt").mkdir()
    os.mkfifo(tmp_path / "pipe.pt")
    for name, words in {
        "folder.pt": "is no file",
        "pipe.pt": "is no file",
        "old.pt": "lacks mean: it was written by an earlier rts-search",
        "half.pt": "is no whole weights.pt",
        "other.pt": "lacks image_shape",
        "list.pt": "is no whole weights.pt",
        "none.pt": "no weights at",
    }.items():
        with pytest.raises(ValueError, match=words) as caught:
            rts_search.load_model(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="'last' is not one of final, best"):
        rts_search.load_model(tmp_path, weights="last")  # type: ignore[arg-type]


def test_weights_are_made_from_a_last_checkpoint_only(tmp_path: Path) -> None:
    state = kept(tmp_path)
    folder = CheckpointFolder(str(tmp_path))
    folder.save(STATE, {"run": state.state_dict()})
    made, written = weights_from(folder.load(STATE)), folder.load(WEIGHTS)
    assert made is not None
    assert written is not None
    assert {k: v for k, v in made.items() if k not in ("final", "best")} == {
        k: v for k, v in written.items() if k not in ("final", "best")
    }
    assert all(torch.equal(made["best"][name], written["best"][name]) for name in made["best"])
    run = state.state_dict()
    earlier = {key: value for key, value in run.items() if key != "facts"}
    for other in (None, {}, {"run": None}, {"run": {"history": []}}, {"run": earlier}):
        assert weights_from(other) is None
    unfinished = run | {"history": [run["history"][0] | {"test": None}]}
    assert weights_from({"run": unfinished}) is None
