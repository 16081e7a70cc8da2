"""Weights from files, into the same and into another number of classes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.models
from torch import nn

from trainables.config import ModelConfig
from trainables.models import build_model
from trainables.models.nets import ImageShape
from trainables.models.pretrained import classifier_name, load_weights

GRAY: ImageShape = (1, 16, 16)


def build(name: str, classes: int, shape: ImageShape = GRAY, **options: Any) -> nn.Module:
    return build_model(ModelConfig(name=name, **options), classes, shape)


@pytest.mark.parametrize("under", [None, "model", "state_dict"])
def test_a_round_trip(tmp_path: Path, under: str | None) -> None:
    torch.manual_seed(0)
    state = build("cnn", 4).state_dict()
    torch.save({under: state, "epoch": 3} if under else state, tmp_path / "weights.pt")
    loaded = build("cnn", 4, pretrained=str(tmp_path / "weights.pt")).state_dict()
    assert all(torch.equal(state[key], loaded[key]) for key in state)


@pytest.mark.parametrize(
    ("name", "head"),
    [("cnn", "5"), ("mlp", "5"), ("resnet18", "fc"), ("upanets16", "classifier"),
     ("squeezenet1_1", "classifier.1"), ("mobilenet_v3_small", "classifier.3")],
)  # fmt: skip
def test_a_classifier_of_another_size_stays_fresh(tmp_path: Path, name: str, head: str) -> None:
    shape = (3, 32, 32)
    state = build(name, 4, shape).state_dict()
    torch.save(state, tmp_path / "weights.pt")
    torch.manual_seed(1)
    fresh = build(name, 6, shape).state_dict()
    torch.manual_seed(1)
    loaded = build(name, 6, shape, pretrained=str(tmp_path / "weights.pt")).state_dict()
    heads = {f"{head}.weight", f"{head}.bias"}
    assert heads < loaded.keys()
    for key, value in loaded.items():
        assert torch.equal(value, (fresh if key in heads else state)[key]), key


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "weights.pt")
    torch.save(build("cnn", 4).state_dict(), path)
    with pytest.raises(ValueError, match=r"do not fit the model: .* instead of .* and \d+ more"):
        build("cnn", 4, args={"width": 8}, pretrained=path)
    with pytest.raises(ValueError, match=r"do not fit the model: .*missing"):
        build("mlp", 4, pretrained=path)
    torch.save({**build("cnn", 4).state_dict(), "extra": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="extra unknown"):
        build("cnn", 4, pretrained=path)


def test_a_classifier_on_other_features_is_another_architecture() -> None:
    model, other = nn.Sequential(nn.Linear(4, 3)), nn.Sequential(nn.Linear(5, 3))
    with pytest.raises(ValueError, match=r"0.weight \[3, 5\] instead of \[3, 4\]"):
        load_weights(model, other.state_dict(), "of a test")


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


def test_files_that_are_no_state_dict_are_refused_and_never_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pt"
    for content in (Payload(), build("cnn", 4)):
        torch.save(content, path)
        with pytest.raises(ValueError, match="are no state dict"):
            build("cnn", 4, pretrained=str(path))
    assert not Path("executed").exists()
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="are no state dict"):
        build("cnn", 4, pretrained=str(path))
    torch.save({"epoch": 3}, path)
    with pytest.raises(ValueError, match="hold no state dict"):
        build("cnn", 4, pretrained=str(path))


def test_torchvisions_weights_are_loaded_from_its_hub_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The download, from a file in place of the network: 1,000 classes into 4."""
    state = torchvision.models.squeezenet1_1().state_dict()
    torch.save(state, tmp_path / "source.pth")
    weights = torchvision.models.SqueezeNet1_1_Weights.DEFAULT
    served = weights.value.__class__(
        url=(tmp_path / "source.pth").as_uri(), transforms=weights.transforms, meta=weights.meta
    )
    monkeypatch.setattr(weights, "_value_", served)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.setattr(type(weights), "get_state_dict", _without_hash)
    model = build("squeezenet1_1", 4, (3, 32, 32), pretrained=True)
    assert torch.equal(model.state_dict()["features.0.weight"], state["features.0.weight"])
    assert model.state_dict()["classifier.1.weight"].shape[0] == 4


def _without_hash(self: Any, *args: Any, **options: Any) -> Any:
    return torch.hub.load_state_dict_from_url(self.url, **{**options, "check_hash": False})


def test_a_failed_download_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    weights = torchvision.models.SqueezeNet1_1_Weights.DEFAULT
    served = weights.value.__class__(
        url="http://127.0.0.1:9/weights-00000000.pth", transforms=weights.transforms, meta={}
    )
    monkeypatch.setattr(weights, "_value_", served)
    with pytest.raises(ValueError, match=r"could not download .*squeezenet1_1 from http"):
        build("squeezenet1_1", 4, (3, 32, 32), pretrained=True)


@pytest.mark.parametrize(
    ("name", "head"),
    [("vit_b_32", "heads.head"), ("densenet121", "classifier"), ("swin_t", "head"),
     ("convnext_tiny", "classifier.2"), ("inception_v3", "fc"),
     ("googlenet", "fc"), ("vgg11", "classifier.6"), ("maxvit_t", "classifier.5"),
     ("efficientnet_b0", "classifier.1"), ("mnasnet0_5", "classifier.1")],
)  # fmt: skip
def test_the_classifier_is_found(name: str, head: str) -> None:
    with torch.device("meta"):
        options: dict[str, Any] = {"weights": None}
        if name in ("inception_v3", "googlenet"):
            options |= {"aux_logits": False, "init_weights": False}
        assert classifier_name(torchvision.models.get_model(name, **options)) == head


def authors_names(ours: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """UPANets-16's weights as the author's code names and shapes them."""
    pixels = {"attention.0": "cp_ffc", "attention.1": "bn"}
    pixels |= {"shortcut.0": "cp_ffc_sc", "shortcut.1": "bn_sc"}
    names = {"stem.convolutions": "root"} | {f"stem.{k}": f"emb.{v}" for k, v in pixels.items()}
    for layer in range(4):
        for place in range(5):
            here = f"layers.{layer}.{place if layer == 0 or place == 0 else place + 1}"
            there = f"layer{layer + 1}.{place}"
            names[f"{here}.convolutions"] = f"{there}.cnn"
            names |= {f"{here}.{k}": f"{there}.att.{v}" for k, v in pixels.items()}
    names |= {f"pools.{k}": f"spa{k}.sp_ffc.0" for k in range(5)}
    names |= {"norm": "bn", "classifier": "linear"}
    found = {}
    for key, value in ours.items():
        prefix = next(name for name in names if key.startswith(f"{name}."))
        flat = prefix.endswith((".attention.0", ".shortcut.0")) and value.ndim == 4
        found[names[prefix] + key.removeprefix(prefix)] = value.flatten(1) if flat else value
    return found


@pytest.mark.parametrize("parallel", [False, True])
def test_upanets_weights_of_the_authors_naming(tmp_path: Path, parallel: bool) -> None:
    torch.manual_seed(1)
    ours = build("upanets16", 10, (3, 32, 32)).state_dict()
    authors = authors_names(ours)
    assert len(authors) == len(ours)
    assert authors["layer2.1.att.cp_ffc.weight"].shape == (8, 32)
    if parallel:
        authors = {f"module.{key}": value for key, value in authors.items()}
    torch.save({"net": authors, "acc": 0.9, "epoch": 399}, tmp_path / "ckpt.pth")
    torch.manual_seed(2)
    for classes in (10, 100):
        loaded = build("upanets16", classes, (3, 32, 32), pretrained=str(tmp_path / "ckpt.pth"))
        for key, value in loaded.state_dict().items():
            assert torch.equal(value, ours[key]) == (classes == 10 or "classifier" not in key), key


def test_another_upanets_is_one_line(tmp_path: Path) -> None:
    authors = authors_names(build("upanets16", 10, (3, 32, 32)).state_dict())
    authors["layer1.5.cnn.0.weight"] = torch.zeros(1)  # of two blocks a layer
    torch.save(authors, tmp_path / "ckpt.pth")
    with pytest.raises(ValueError, match=r"do not fit the model: layers\.0\.5\.\S+ unknown"):
        build("upanets16", 10, (3, 32, 32), pretrained=str(tmp_path / "ckpt.pth"))
