"""`build_model`: a network by its name, checked against the data's shape."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from trainables.config import ModelConfig
from trainables.models.nets import ImageShape, cnn, mlp, repeat_gray, resnet18
from trainables.models.pretrained import load_file, load_torchvision
from trainables.models.upanets import upanets16
from trainables.names import OWN, import_named, own_error, place, unknown

BUILT_IN: dict[str, Callable[..., nn.Module]] = {
    "cnn": cnn,
    "mlp": mlp,
    "resnet18": resnet18,
    "upanets16": upanets16,
}


def model_names() -> list[str]:
    """The built-in models, then torchvision's classifiers (resnet18 is ours, with its stem)."""
    return [*sorted(BUILT_IN), *(name for name in _torchvision_names() if name not in BUILT_IN)]


def build_model(
    config: ModelConfig,
    num_classes: int,
    image_shape: ImageShape,
    own: Callable[..., nn.Module] | None = None,
    download: bool = True,
) -> nn.Module:
    """The config's network in training mode, for images [B, C, H, W] and logits [B, num_classes].

    Initial weights depend on torch's global seed alone. One's own `package.module:function` is
    called with num_classes, image_shape and the args; it is imported unless it is given as `own`.
    Raises ValueError for an unknown name or argument, weights that do not fit, or a network that
    cannot take the images.
    """
    model = _build(config, num_classes, image_shape, own)
    if isinstance(config.pretrained, str):
        load_file(model, config.pretrained)
    elif config.pretrained:
        if (config.name in BUILT_IN and config.name != "resnet18") or ":" in config.name:
            raise ValueError(
                f"pretrained: true is for torchvision's models; for {config.name!r} give the path "
                "of a weights file"
            )
        if config.name == "resnet18" and config.args.get("stem") != "imagenet":
            raise ValueError(
                "torchvision's resnet18 weights need its own stem: add args: {stem: imagenet}"
            )
        load_torchvision(model, config.name, download)
    _try(model, config.name, num_classes, image_shape)
    return model.train()


def _build(
    config: ModelConfig,
    num_classes: int,
    image_shape: ImageShape,
    own: Callable[..., nn.Module] | None,
) -> nn.Module:
    name, args = config.name, config.args
    shape = {"num_classes": num_classes, "image_shape": image_shape}
    if ":" in name:
        function = own or import_named("model", name)
        _check_args(name, args, function)
        try:
            model = function(**shape, **args)
        except Exception as error:  # whatever the user's function raises
            raise own_error("model", name, error) from error
        if not isinstance(model, nn.Module):
            raise ValueError(f"model {name!r} must return an nn.Module, not {type(model).__name__}")
        return model
    if name in BUILT_IN:
        _check_args(name, args, BUILT_IN[name])
        for key, value in args.items():
            if key in ("width", "depth") and not (type(value) is int and value >= 1):
                raise ValueError(
                    f"model {name}: {key} must be a whole number from 1, not {value!r}"
                )
        return BUILT_IN[name](**shape, **args)
    if name not in _torchvision_names():
        raise unknown("model", name, [OWN, *model_names()])
    return repeat_gray(_build_torchvision(name, args, num_classes, image_shape), image_shape)


def _torchvision_names() -> list[str]:
    from torchvision import models

    names: list[str] = models.list_models(module=models)
    return names


def _build_torchvision(
    name: str, args: dict[str, Any], num_classes: int, image_shape: ImageShape
) -> Any:
    from torchvision.models import get_model_builder

    builder = get_model_builder(name)
    network = inspect.signature(builder, eval_str=True).return_annotation
    taken = inspect.signature(network).parameters
    _check_args(name, args, network)
    defaults: dict[str, Any] = {"num_classes": num_classes}
    if "aux_logits" in taken:
        defaults["aux_logits"] = False  # the training loop takes one output
    if "init_weights" in taken:
        defaults["init_weights"] = True  # its default, said aloud to silence a warning
    if "image_size" in taken:
        defaults["image_size"] = image_shape[1]
    return _call(name, builder, {**defaults, **args})


def _call(name: str, function: Callable[..., Any], args: dict[str, Any]) -> Any:
    try:
        return function(**args)
    except TypeError as error:  # a value of the wrong type, or an argument it sets itself
        raise ValueError(f"model {name!r} cannot be built with {args}: {error}") from error


def _check_args(name: str, args: dict[str, Any], function: Callable[..., Any]) -> None:
    """Raises ValueError, naming the argument and what the model takes."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    taken = [p.name for p in parameters if p.name not in ("num_classes", "image_shape")]
    for key in args:
        if key not in taken:
            raise ValueError(
                f"model {name!r} takes no argument {key!r}; it takes {', '.join(taken) or 'none'}"
            )


@torch.no_grad()
def _try(model: nn.Module, name: str, num_classes: int, image_shape: ImageShape) -> None:
    """One forward pass of two blank images, so that a misfit is one clear line before training."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    model.eval()  # batch norm's statistics and the random state stay as they are
    shape = "×".join(map(str, image_shape))
    try:
        output = model(torch.zeros(2, *image_shape, device=device))
    except Exception as error:
        if not isinstance(error, RuntimeError | ValueError | AssertionError):
            raise own_error("model", name, error) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0] + place(name, error)
        raise ValueError(
            f"model {name!r} cannot take images of {shape}: {reason}; set data.image_size to a "
            "size that it takes"
        ) from error
    if not isinstance(output, Tensor) or output.shape != (2, num_classes):
        got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"model {name!r} yields {got} for 2 images of {shape}, not [2, {num_classes}]"
        )
