"""The built-in networks, torchvision's, and one's own."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from trainables.config import ModelConfig
from trainables.models import build_model, model_names
from trainables.models.nets import ImageShape

RGB: ImageShape = (3, 32, 32)


def build(name: str, classes: int = 10, shape: ImageShape = RGB, **options: Any) -> nn.Module:
    return build_model(ModelConfig(name=name, **options), classes, shape)


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet18", "upanets16"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 28, 28), (3, 32, 32), (3, 16, 24)])
def test_every_parameter_gets_a_gradient(name: str, shape: ImageShape) -> None:
    model = build(name, 7, shape)
    assert model.training
    images = torch.randn(4, *shape)
    loss = functional.cross_entropy(model(images), torch.tensor([0, 1, 2, 6]))
    loss.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", ["mlp", "cnn", "upanets16"])
def test_a_few_steps_lower_the_loss(name: str) -> None:
    torch.manual_seed(0)
    model = build(name, 4, (1, 8, 8))
    images, labels = torch.randn(16, 1, 8, 8), torch.arange(16) % 4
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_parameter_counts() -> None:
    assert size(build("mlp", 10, (1, 8, 8), args={"width": 5, "depth": 3})) == (
        (64 * 5 + 5) + 2 * (5 * 5 + 5) + (5 * 10 + 10)
    )
    assert size(build("cnn", 10, (1, 8, 8), args={"width": 8})) == (
        9 * (1 * 4 + 4 * 8 + 8 * 16) + 2 * (4 + 8 + 16) + (16 * 10 + 10)
    )
    # torchvision's 11,689,512, its 7×7 stem and its 1,000 classes replaced
    expected = 11_689_512 - 64 * 3 * (49 - 9) - 513 * (1000 - 10)
    assert size(build("resnet18")) == expected
    upanets = build("upanets16")
    assert 1_400_000 < size(upanets) < 1_600_000
    assert len(list(upanets.parameters())) == 244  # as published


def test_resnet18_keeps_small_images_large() -> None:
    small, imagenet = build("resnet18"), build("resnet18", args={"stem": "imagenet"})
    shapes = []
    for model in (small, imagenet):
        layer = model.get_submodule("layer1")
        layer.register_forward_hook(lambda _m, _i, output: shapes.append(output.shape[2:]))
        model(torch.randn(2, *RGB))
    assert shapes == [(32, 32), (8, 8)]


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet18", "upanets16", "squeezenet1_1"])
def test_weights_depend_on_torchs_seed_alone(name: str) -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(build(name).state_dict())
    first, again, other = states
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_building_leaves_batch_norm_untouched() -> None:
    model = build("cnn")
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.num_batches_tracked == 0
            assert layer.running_mean is not None
            assert (layer.running_mean == 0).all()


@pytest.mark.parametrize(
    "name",
    ["resnet50", "densenet121", "mobilenet_v3_small", "vgg11_bn", "vit_b_32", "convnext_tiny"],
)
def test_torchvision_models_have_the_datas_classes(name: str) -> None:
    with torch.device("meta"):
        model = build(name, 17, (3, 64, 64))
    assert model(torch.zeros(2, 3, 64, 64, device="meta")).shape == (2, 17)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_models_with_auxiliary_classifiers_yield_one_output(name: str) -> None:
    with torch.device("meta"):
        model = build(name, 5, (3, 96, 96), args={"init_weights": False})
    assert model.train()(torch.zeros(4, 3, 96, 96, device="meta")).shape == (4, 5)


def test_the_list_holds_classifiers_only() -> None:
    names = model_names()
    assert names[:4] == ["cnn", "mlp", "resnet18", "upanets16"]
    assert {"resnet50", "vit_b_16", "efficientnet_b0"} < set(names)
    assert not any("rcnn" in name or "quantized" in name or "r3d" in name for name in names)
    assert len(set(names)) == len(names)


def test_gray_images_are_repeated_for_torchvision() -> None:
    model = build("mobilenet_v3_small", 5, (1, 32, 32)).eval()
    gray = torch.randn(2, 1, 32, 32)
    expected = model(gray.expand(-1, 3, -1, -1))
    assert torch.equal(model(gray), expected)
    assert torch.equal(copy.deepcopy(model)(gray), expected)
    with pytest.raises(ValueError, match="3 channels, or of 1 which is repeated, not of 2"):
        build("mobilenet_v3_small", 5, (2, 32, 32))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cn", {}, "unknown model 'cn': did you mean 'cnn'"),
        ("resnet_50", {}, "did you mean 'resnet50'"),
        ("cnn", {"args": {"depth": 3}}, "model 'cnn' takes no argument 'depth'; it takes width"),
        ("mlp", {"args": {"widht": 3}}, "no argument 'widht'; it takes width, depth"),
        ("upanets16", {"args": {"width": 3}}, "it takes none"),
        ("cnn", {"args": {"width": 0}}, "width must be a whole number from 1, not 0"),
        ("mlp", {"args": {"depth": 1.5}}, "depth must be a whole number from 1, not 1.5"),
        ("resnet18", {"args": {"stem": "big"}}, "stem 'big' is not one of cifar, imagenet"),
        (
            "resnet50",
            {"args": {"widht": 3}},
            "'resnet50' takes no argument 'widht'; it takes block",
        ),
        ("resnet50", {"args": {"layers": 3}}, "'resnet50' cannot be built with .*layers"),
        ("alexnet", {}, "'alexnet' cannot take images of 3×32×32: .*data.image_size"),
        ("cnn", {"pretrained": True}, "pretrained: true is for torchvision's models"),
        ("resnet18", {"pretrained": True}, "stem: imagenet"),
        ("cnn", {"pretrained": "/no/such/file"}, "'/no/such/file' not found"),
        ("nowhere:net", {}, "cannot import 'nowhere'"),
    ],
)
def test_bad_names_and_arguments_are_one_clear_line(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        build(name, **options)
    assert "\n" not in str(caught.value)


def test_too_small_images_are_refused() -> None:
    with pytest.raises(ValueError, match="7×7 is below 8×8"):
        build("upanets16", 10, (1, 7, 7))
    with pytest.raises(ValueError, match=r"'cnn' cannot take images of 1×3×3"):
        build("cnn", 10, (1, 3, 3))


OWN = """
from torch import nn
def net(num_classes, image_shape, bias=True):
    channels, height, width = image_shape
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, num_classes, bias))
def any_args(num_classes, image_shape, **args):
    return net(num_classes, image_shape, args["really"])
def no_model(num_classes, image_shape): return 3
def wrong_classes(num_classes, image_shape): return net(num_classes + 1, image_shape)
def wrong_size(num_classes, image_shape): return net(num_classes, (1, 2, 2))
def raises(num_classes, image_shape): return nn.Linear(undefined, 3)
class Raises(nn.Flatten):
    def forward(self, x): return {}["missing"]
def raises_later(num_classes, image_shape): return Raises()
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_net.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_net", raising=False)
    return "own_net"


def test_ones_own_network(own: str) -> None:
    assert size(build(f"{own}:net", 5, (1, 8, 8))) == 64 * 5 + 5
    assert size(build(f"{own}:net", 5, (1, 8, 8), args={"bias": False})) == 64 * 5
    assert size(build(f"{own}:any_args", 5, (1, 8, 8), args={"really": False})) == 64 * 5


@pytest.mark.parametrize(
    ("function", "args", "message"),
    [
        ("net", {"biass": 1}, "takes no argument 'biass'; it takes bias"),
        ("no_model", {}, "must return an nn.Module, not int"),
        ("wrong_classes", {}, r"yields \[2, 6\] for 2 images of 1×8×8, not \[2, 5\]"),
        ("wrong_size", {}, "cannot take images of 1×8×8"),
        ("absent", {}, "unknown name in own_net 'absent'"),
        (
            "raises",
            {},
            r"^model 'own_net:raises' failed with NameError: name 'undefined' is not "
            r"defined \(\S*/own_net.py, line 11\)$",
        ),
        ("raises_later", {}, r" failed with KeyError: 'missing' \(\S*/own_net.py, line 13\)$"),
    ],
)
def test_a_bad_network_of_ones_own(
    own: str, function: str, args: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build(f"{own}:{function}", 5, (1, 8, 8), args=args)
