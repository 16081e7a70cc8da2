"""UPANets (Tseng et al., arXiv 2103.08640): attention over pixels in CNNs."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.models.nets import ImageShape

# the names of modules in the author's code, and here
AUTHORS = {
    "root": "stem.convolutions",
    "emb": "stem",
    "cnn": "convolutions",
    "cp_ffc": "attention.0",
    "bn": "attention.1",
    "cp_ffc_sc": "shortcut.0",
    "bn_sc": "shortcut.1",
    "linear": "classifier",
}
BLOCKS = 4  # densely connected UPA blocks a layer, each adding a quarter of the layer's width


def _conv(channels_in: int, channels_out: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True)]


class Pointwise(nn.Sequential):
    """The same linear map at every pixel (a 1×1 convolution), then batch norm."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(nn.Conv2d(channels_in, channels_out, 1), nn.BatchNorm2d(channels_out))


class UPABlock(nn.Module):
    """Two 3×3 convolutions and channel pixel attention (CPA): LayerNorm(conv(x) + pointwise(x)).

    LayerNorm is over channels and pixels, without weights. A block that is not dense adds a
    pointwise shortcut; a dense one hands on its input with its output, channel by channel.
    """

    def __init__(self, channels_in: int, channels_out: int, *, dense: bool) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            *_conv(channels_in, 2 * channels_out), *_conv(2 * channels_out, channels_out)
        )
        self.attention = Pointwise(channels_in, channels_out)
        self.shortcut = None if dense else Pointwise(channels_in, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        out = self.convolutions(x) + self.attention(x)
        out = functional.layer_norm(out, out.shape[1:])
        return torch.cat((x, out), 1) if self.shortcut is None else out + self.shortcut(x)


class UPALayer(nn.Sequential):
    """A plain block to `width` channels, halving the image if asked, then four dense blocks,
    which double the channels.
    """

    def __init__(self, channels_in: int, width: int, *, halve: bool) -> None:
        growth = width // BLOCKS
        super().__init__(
            UPABlock(channels_in, width, dense=False),
            *([nn.AvgPool2d(2)] if halve else []),
            *(UPABlock(width + i * growth, growth, dense=True) for i in range(BLOCKS)),
        )


class UPANet(nn.Module):
    """UPANets with `filters` filters and one block: 4 UPA layers of 1, 2, 4, 8 times the filters.

    Extreme connection (ExC): the stem's and every layer's feature map is pooled to one number a
    channel, by the mean plus spatial pixel attention (SPA, a learned weighting of pixels), then
    LayerNorm; all together go to the classifier.
    """

    def __init__(self, num_classes: int, image_shape: ImageShape, filters: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        if min(height, width) < 8:
            raise ValueError(f"upanets16 halves images 3 times: {height}×{width} is below 8×8")
        widths = [filters * 2**i for i in range(4)]
        self.stem = UPABlock(channels, filters, dense=False)
        inputs = [filters, *(2 * w for w in widths[:3])]
        self.layers = nn.ModuleList(
            UPALayer(n, w, halve=i > 0) for i, (n, w) in enumerate(zip(inputs, widths, strict=True))
        )
        halvings = (0, 0, 1, 2, 3)
        self.pools = nn.ModuleList(nn.Linear((height >> i) * (width >> i), 1) for i in halvings)
        features = filters + sum(2 * w for w in widths)
        self.norm = nn.BatchNorm1d(features)
        self.classifier = nn.Linear(features, num_classes)

    def own_names(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A state dict of the author's code (hanktseng131415go/UPANets) under our names; any other
        as it is. Its linear maps of pixels are 1×1 convolutions here."""
        if "root.0.weight" not in weights:
            return weights
        found = {}
        for key, value in weights.items():
            name = _own_name(key)
            pointwise = re.search(r"(attention|shortcut)\.0\.weight$", name) and value.ndim == 2
            found[name] = value[:, :, None, None] if pointwise else value
        return found

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.stem(x)]
        for layer in self.layers:
            maps.append(layer(maps[-1]))
        pooled = []
        for features, pool in zip(maps, self.pools, strict=True):
            pixels = features.flatten(2)
            summary = pixels.mean(2) + pool(pixels).squeeze(2)
            pooled.append(functional.layer_norm(summary, summary.shape[1:]))
        out: Tensor = self.classifier(self.norm(torch.cat(pooled[::-1], 1)))
        return out


def _own_name(name: str) -> str:
    if pool := re.fullmatch(r"spa(\d)\.sp_ffc\.0\.(\w+)", name):
        return f"pools.{pool[1]}.{pool[2]}"
    if name.startswith("bn."):
        return f"norm{name[2:]}"
    prefix = ""
    if block := re.match(r"layer(\d)\.(\d)\.", name):
        layer, place = int(block[1]) - 1, int(block[2])
        pooled = layer > 0 and place > 0  # the pooling is a place of its own here
        prefix, name = f"layers.{layer}.{place + pooled}.", name[block.end() :]
    parts = name.removeprefix("att.").split(".")
    return prefix + ".".join(AUTHORS.get(part, part) for part in parts)


def upanets16(num_classes: int, image_shape: ImageShape) -> nn.Module:
    """UPANets-16: 16 filters, 1 block, about 1.5 M parameters, from 8×8 pixels on."""
    return UPANet(num_classes, image_shape, filters=16)
