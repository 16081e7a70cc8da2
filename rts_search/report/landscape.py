"""The loss around trained weights, along random directions that are normalised filter by filter."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import cross_entropy

from results.schema import json_object
from rts_search.report.data import Told
from rts_search.report.figures import controls_of
from rts_search.spec.reading import parse
from rts_search.spec.trust import check_trust
from rts_search.sweep import Sweep, load_model
from trainables.checkpoint import WEIGHTS
from trainables.config import TrialConfig
from trainables.data.split import stratified
from trainables.loop import EVAL_BATCH
from trainables.names import import_named
from trainables.state import load_data, resolve_device
from trainables.weights import ImageModel

Images = tuple[Tensor, Tensor]  # uint8 [N, C, H, W], and their labels
SETS = {"train": "training", "validation": "validation"}  # never the test set


@dataclass(frozen=True)
class Grid:
    """Where the loss is told: over at most so many `images` of a set, drawn class by class, at an
    odd number of `points` from -`reach` to `reach` along each of the random `directions`, and all
    over the plane of the first two. The `seed` gives all trials the same draws.

    Raises ValueError, in one line.
    """

    on: str = "train"
    images: int = 1000
    points: int = 21
    reach: float = 1.0
    directions: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.on not in SETS:
            raise ValueError(f"on {self.on!r} is not one of {', '.join(SETS)}")
        if self.points < 3 or self.points % 2 == 0:
            raise ValueError(
                f"points must be odd and at least 3, one of them at the weights, not {self.points}"
            )
        if self.directions < 2:
            raise ValueError(f"directions must be at least 2, a plane's, not {self.directions}")
        if self.images < 1 or not 0 < self.reach < float("inf") or self.seed < 0:
            raise ValueError(
                "images must be at least 1, reach above 0 and seed at least 0, not "
                f"{self.images}, {self.reach} and {self.seed}"
            )

    @property
    def steps(self) -> list[float]:
        """The points on a direction, symmetric about 0, the weights."""
        half = self.points // 2
        return [self.reach * step / half for step in range(-half, half + 1)]

    @property
    def evaluations(self) -> int:
        """How often a trial's loss is asked for."""
        return self.directions * self.points + self.points**2


@dataclass(frozen=True)
class Landscape:
    """A trial's mean loss over `images` of `of`: along each direction, a value a step, and over the
    plane of the first two, a row for each step along the second."""

    name: str
    grid: Grid
    images: int
    of: int
    lines: Sequence[Sequence[float]]
    plane: Sequence[Sequence[float]]

    @property
    def loss(self) -> float:
        """At the weights."""
        return self.lines[0][self.grid.points // 2]

    @property
    def near(self) -> float:
        """The distance at which the rise is told: half the reach, or the next step outwards."""
        return -self.grid.steps[self.grid.points // 4]

    @property
    def rises(self) -> list[float]:
        """Of the loss `near` the weights: for each direction, the mean of both ways."""
        at = self.grid.points // 4
        return [(line[at] + line[-1 - at]) / 2 - self.loss for line in self.lines]

    def __str__(self) -> str:
        """How sharp it is, in words."""
        rises = self.rises
        return (
            f"{self.name}: {SETS[self.grid.on]} loss {self.loss:.3g}; {self.near:g} away it rises "
            f"by {fmean(rises):.3g} ({min(rises):.3g} to {max(rises):.3g} over {len(rises)} "
            "directions)"
        )


def measure(
    sweep: Sweep,
    trials: Sequence[str],
    grid: Grid,
    trust: bool = False,
    say: Callable[[str], None] = print,
) -> list[Landscape]:
    """The landscapes of trials whose weights are kept, by their names or unique beginnings.

    Their data are read and a model or dataset of one's own runs, as in `train --trial`, which
    `trust` allows where the sweep or the code is another user's. Raises ValueError, in one line.
    """
    rows = [sweep.trial(name) for name in dict.fromkeys(trials)]
    kept = weights_in(sweep)
    for row in rows:
        if row["trial_id"] not in kept:
            raise ValueError(
                f"{row['trial_id']} has no kept weights; of {sweep.name}, those that have: "
                f"{', '.join(kept) or 'none (checkpoint.keep_top)'}"
            )
    asked = {row["trial_id"]: parse(TrialConfig, json_object(row["config_json"])) for row in rows}
    for config in asked.values():
        check_trust(sweep.folder, config, trust, say)
    return [_measured(sweep, row, asked[row["trial_id"]], grid, say) for row in rows]


def usual(told: Told) -> list[str]:
    """Of the trials whose weights are kept: the best, and the best run of each control."""
    kept = weights_in(told.sweep)
    best = [trial.name for trial in told.best if trial.name in kept][:1]
    found = best + [trial.name for trial in controls_of(told) if trial.name in kept]
    if not found:
        raise ValueError(f"{told.sweep.name} keeps no weights of a trial (checkpoint.keep_top)")
    return found


def weights_in(sweep: Sweep) -> list[str]:
    """The trials whose weights are kept."""
    folder = sweep.folder
    names = sorted(folder.list("checkpoints"))
    return [name for name in names if folder.exists(f"checkpoints/{name}/{WEIGHTS}")]


def _measured(
    sweep: Sweep, row: dict[str, Any], config: TrialConfig, grid: Grid, say: Callable[[str], None]
) -> Landscape:
    name = row["trial_id"]
    own = import_named("model", config.model.name) if ":" in config.model.name else None
    path = sweep.folder.uri_of(f"checkpoints/{name}")
    model = load_model(path, device=_device(config), model=own)
    kept, asked = model.config.placed(), config.placed()
    if (kept.data, kept.model) != (asked.data, asked.model):
        raise ValueError(f"{path}/{WEIGHTS} is of other data or another model than the ledger's")
    images, of = images_of(config, grid)
    walk = Walk(model, images, grid.seed)
    steps, ways = grid.steps, [*islice(walk.directions(), grid.directions)]

    def along(way: Sequence[Tensor]) -> list[float]:
        return [walk.loss((step, way)) for step in steps]

    walk.loss()  # the first time takes longer
    began = time.perf_counter()
    first = along(ways[0])
    left = (time.perf_counter() - began) * (grid.evaluations / grid.points - 1)
    count = len(walk.labels)
    say(f"{name}: the loss of {count:,} images at {grid.evaluations} points, {left:.0f} s to go")
    return Landscape(
        name,
        grid,
        count,
        of,
        [first, *map(along, ways[1:])],
        [[walk.loss((a, ways[0]), (b, ways[1])) for a in steps] for b in steps],
    )


def _device(config: TrialConfig) -> str:
    """That of the trial or, if it is not here, the best that is."""
    try:
        return str(resolve_device(config.train.device))
    except ValueError:
        return str(resolve_device("auto"))


def images_of(config: TrialConfig, grid: Grid) -> tuple[Images, int]:
    """Images and labels of the set, as the trial was trained on, without augmentation; and how many
    there are in all."""
    data = load_data(config.data, torch.device("cpu"))
    images: Tensor = getattr(data, f"{grid.on}_images")
    labels: Tensor = getattr(data, f"{grid.on}_labels")
    if len(labels) <= grid.images:
        return (images, labels), len(labels)
    chosen = torch.from_numpy(stratified(labels.numpy(), grid.images, grid.seed)[0])
    return (images[chosen], labels[chosen]), len(labels)


class Walk:
    """A model that moves away from its weights, and its mean loss there."""

    def __init__(self, model: ImageModel, images: Images, seed: int) -> None:
        device = next(model.parameters()).device
        self.model, self.seed = model, seed
        self.images, self.labels = (each.to(device) for each in images)
        self.weights = [p for p in model.parameters() if p.dim() > 1]  # biases, batch norm: no
        self.origin = [weight.clone() for weight in self.weights]

    def directions(self) -> Iterator[list[Tensor]]:
        """Random directions, always the same for a seed and shapes of weights."""
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            draws = [torch.randn(weight.shape, generator=generator) for weight in self.origin]
            yield [filters_like(*both) for both in zip(draws, self.origin, strict=True)]

    def loss(self, *moves: tuple[float, Sequence[Tensor]]) -> float:
        """At the weights, or so many times each direction from there."""
        with torch.inference_mode():
            for place, (weight, origin) in enumerate(zip(self.weights, self.origin, strict=True)):
                weight.copy_(origin)
                for step, direction in moves:
                    weight.add_(direction[place], alpha=step)
            total = torch.zeros((), device=self.labels.device)
            for begin in range(0, len(self.labels), EVAL_BATCH):
                part = slice(begin, begin + EVAL_BATCH)
                total += cross_entropy(
                    self.model(self.images[part]), self.labels[part], reduction="sum"
                )
            return total.item() / len(self.labels)


def filters_like(draw: Tensor, weight: Tensor) -> Tensor:
    """The draw, each of whose filters (its first dimension) has the norm of the weight's."""
    draw = draw.to(weight)
    norm, drawn = (
        vector_norm(each, dim=tuple(range(1, each.dim())), keepdim=True) for each in (weight, draw)
    )
    scaled: Tensor = draw * (norm / drawn)
    return scaled
