"""Loads weights from a file or torchvision, whatever the number of classes."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainables.models.upanets import UPANet
from trainables.names import NotHere

AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # training heads of GoogLeNet and Inception


def load_file(model: nn.Module, path: str) -> None:
    """Load a state dict saved with `torch.save`, by itself or under `model`, `state_dict` or
    `net`; `nn.DataParallel`'s prefix goes.

    Raises ValueError if it is missing, unreadable, or of another architecture.
    """
    file = Path(path).expanduser()
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(
            f"pretrained weights {path!r} not found; give a file's path, true or false"
        ) from None
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"pretrained weights {path!r} are no state dict: {reason}") from error
    for key in ("model", "state_dict", "net"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise ValueError(f"pretrained weights {path!r} hold no state dict (names to tensors)")
    if all(name.startswith("module.") for name in loaded):
        loaded = {name.removeprefix("module."): value for name, value in loaded.items()}
    load_weights(model, loaded, path)


def load_torchvision(model: nn.Module, name: str, download: bool = True) -> None:
    """Load torchvision's best weights for the model, downloaded once into torch's hub folder.

    Raises NotHere if they would have to be, and may not.
    """
    from torchvision.models import get_model_weights

    weights: Any = getattr(get_model_weights(name), "DEFAULT", None)
    if weights is None:
        raise ValueError(f"torchvision has no weights for {name!r}: use pretrained: false")
    file = weights.url.rpartition("/")[2]
    if not download and not Path(torch.hub.get_dir(), "checkpoints", file).exists():
        raise NotHere(f"torchvision's weights of {name} are not in {torch.hub.get_dir()}")
    try:
        # a file that is in the hub folder already is not compared with its hash
        state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(
            f"torchvision's weights of {name} in {torch.hub.get_dir()} are no state dict: delete "
            f"{file} there"
        ) from None
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        raise ValueError(
            f"could not download torchvision's weights of {name} from {weights.url} ({error}); "
            "with no network, give pretrained the path of that file"
        ) from error
    load_weights(model, state, f"of torchvision's {name}")


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy all weights but a classifier of another number of classes, which stays fresh.

    Raises ValueError that lists a few names if anything else is missing, unknown or of another
    shape.
    """
    own = model.state_dict()
    weights = model.own_names(weights) if isinstance(model, UPANet) else weights
    weights = {k: v for k, v in weights.items() if k in own or not k.startswith(AUXILIARY)}
    head = classifier_name(model)
    fresh = {
        key
        for key in (f"{head}.weight", f"{head}.bias")
        if key in own
        and key in weights
        and own[key].shape != weights[key].shape
        # another size of the features is another architecture
        and own[key].shape[1:] == weights[key].shape[1:]
    }
    wrong = [f"{k} missing" for k in own if k not in weights]
    wrong += [f"{k} unknown" for k in weights if k not in own]
    wrong += [
        f"{k} {list(v.shape)} instead of {list(own[k].shape)}"
        for k, v in weights.items()
        if k in own and k not in fresh and v.shape != own[k].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        resized = any("pos_embedding" in line for line in wrong)  # a transformer's patches
        hint = "; set data.image_size to the size the weights were trained at" if resized else ""
        raise ValueError(
            f"pretrained weights {source} do not fit the model: {', '.join(wrong[:4])}{more}{hint}"
        )
    model.load_state_dict({k: v for k, v in weights.items() if k not in fresh}, strict=False)


def classifier_name(model: nn.Module) -> str | None:
    """The name of the last linear or convolutional layer: the one that yields the classes."""
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return layers[-1] if layers else None
