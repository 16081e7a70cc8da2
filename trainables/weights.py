"""The model that a completed trial's `weights.pt` holds, ready for uint8 images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from trainables.checkpoint import unpack
from trainables.config import TrialConfig
from trainables.data.device import affine, normalize
from trainables.models import build_model
from trainables.state import (
    PRECISIONS,
    resolve_device,
    resolve_memory_format,
)

# older files lack these
NEEDED = ("image_shape", "num_classes", "mean", "std", "precision")


class Kept(BaseModel):
    """What a `weights.pt` must hold, to be used on images."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    config: str
    final: dict[str, Tensor]
    best: dict[str, Tensor]
    image_shape: tuple[int, int, int]
    num_classes: int = Field(ge=1, le=10**6)
    mean: list[float] = Field(min_length=1)
    std: list[float] = Field(min_length=1)
    precision: Literal["fp32", "bf16", "fp16"]


class ImageModel(nn.Module):
    """A trained network with its normalisation: uint8 [B, C, H, W] → float32 logits [B, classes].

    The same arithmetic as the training loop's evaluation, in the precision that it had.
    """

    def __init__(self, network: nn.Module, config: TrialConfig, kept: Kept, device: str) -> None:
        super().__init__()
        self.config = config
        self.image_shape = kept.image_shape
        self.num_classes = kept.num_classes
        self.precision = PRECISIONS[kept.precision]
        target = resolve_device(device)
        self.memory_format = resolve_memory_format(config, target)
        self.factor, self.offset = affine(torch.tensor(kept.mean), torch.tensor(kept.std))
        self.network = network.to(memory_format=self.memory_format)
        self.to(target).eval().requires_grad_(False)

    def forward(self, images: Tensor | NDArray[np.uint8]) -> Tensor:
        """Raises ValueError for images of another type or shape."""
        images = torch.as_tensor(images)
        if images.dtype != torch.uint8 or images.shape[1:] != self.image_shape:
            wanted = ", ".join(map(str, self.image_shape))
            raise ValueError(
                f"images must be uint8 [N, {wanted}] with values from 0 to 255, not "
                f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}; they are "
                "normalised here"
            )
        half = self.precision != torch.float32
        by = self.factor.to(images.device), self.offset.to(images.device)
        x = normalize(images, by, self.memory_format)
        with torch.autocast(images.device.type, self.precision if half else None, enabled=half):
            logits: Tensor = self.network(x)
        return logits.float()


def image_model(
    content: bytes,
    source: str,
    weights: Literal["final", "best"] = "final",
    device: str = "cpu",
    function: Callable[..., nn.Module] | None = None,
) -> ImageModel:
    """The model in a `weights.pt`; a model of one's own is built by its `function`.

    What the file names is not imported: it may come from anybody. Raises ValueError, in one line,
    for a file that is not whole, or not of this form.
    """
    if weights not in ("final", "best"):
        raise ValueError(f"weights {weights!r} is not one of final, best")
    try:
        loaded = unpack(content)
        lacking = [name for name in (*NEEDED, weights) if name not in loaded]
        kept = None if lacking else Kept.model_validate(loaded)
        config = TrialConfig.model_validate_json(loaded["config"])
    except (KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{source} is no whole weights.pt of rts-search: {reason}") from None
    if config.task is not None:
        raise ValueError(
            f"{source} is of task {config.task.name}, whose model is its own: build it, and load "
            "the state dict that stands in the file as 'final'"
        )
    if kept is None:
        raise ValueError(
            f"{source} lacks {', '.join(lacking)}: it was written by an earlier rts-search; train "
            "the trial again (rts-search train --trial SWEEP/TRIAL)"
        )
    if ":" in config.model.name and function is None:
        raise ValueError(
            f"{source} is of your own model {config.model.name!r}, which is not imported at a "
            "file's word: give its function, load_model(path, model=function)"
        )
    untrained = config.model.model_copy(update={"pretrained": False})  # nothing is downloaded
    with torch.random.fork_rng(devices=[]):
        network = build_model(untrained, kept.num_classes, kept.image_shape, function)
    try:
        network.load_state_dict(getattr(kept, weights))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{source}: its weights do not fit {config.model.name}: {reason}"
        ) from None
    return ImageModel(network, config, kept, device)
