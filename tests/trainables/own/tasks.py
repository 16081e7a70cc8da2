"""Training functions, as a user writes them: of the built-in task, and one that uses all it can."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from rts_search import searchable
from trainables.config import DataConfig, ModelConfig
from trainables.data import epoch_batches, prepare, steps_per_epoch
from trainables.models import build_model

DATA = DataConfig(name="digits", train_size=200)
MODEL = ModelConfig(name="mlp", args={"width": 8})


@searchable
def digits(rts: Any) -> Iterator[dict[str, Any]]:
    """What the built-in loop trains."""
    data, train = prepare(DATA).to(rts.device), rts.config.train
    torch.manual_seed(rts.seed)
    model = rts.prepare(
        build_model(MODEL, data.num_classes, data.image_shape),
        steps_per_epoch=steps_per_epoch(len(data.train_labels), train.batch_size, True),
    )
    for _ in rts.epochs():
        for x, y in epoch_batches(
            data, train.batch_size, rts.generator, True, torch.contiguous_format
        ):
            rts.step(lambda x=x, y=y: functional.cross_entropy(model(x), y))
        yield {"val_loss": 1.0}


@searchable
def line(rts: Any, kept: bool = True, slope: float = 2.0) -> Iterator[dict[str, Any]]:
    """A noisy line, with dropout, and with noise from every generator that there is."""
    scale = nn.Linear(1, 1)
    extra = {"scale": scale} if kept else {}
    model = rts.prepare(
        nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.2), nn.Tanh(), nn.Linear(8, 1)),
        steps_per_epoch=3,
        **extra,
    )
    for epoch in rts.epochs():
        with torch.no_grad():
            scale.bias += 1  # what only a checkpoint knows
        for _ in range(3):
            x = torch.rand(16, 1, generator=rts.generator)
            noise = random.random() + float(np.random.rand()) + float(torch.rand(1))
            y = slope * x + 0.01 * noise
            rts.step(lambda x=x, y=y: functional.mse_loss(model(x), y))
        model.eval()
        with torch.no_grad():
            error = functional.mse_loss(model(torch.ones(1, 1)), torch.tensor([[slope]]))
        metrics = {"mse": error, "bias": scale.bias}
        if rts.testing:
            metrics["test_mse"] = 2 * error
        yield metrics | {"val_loss": error, "epoch_seen": epoch}


@searchable
def faulty(rts: Any, how: str) -> Iterator[Any]:
    """Does not keep to its part."""
    if how == "unprepared":
        next(rts.epochs())
    model = rts.prepare(nn.Linear(1, 1), steps_per_epoch=0 if how == "no steps" else 2)
    if how == "twice":
        rts.prepare(model, steps_per_epoch=2)

    def loss() -> torch.Tensor:
        return model(torch.ones(1, 1)).sum() ** 2

    if how == "outside":
        rts.step(loss)
    if how == "early":
        yield {"mse": 1.0}
    for epoch in rts.epochs():
        if how == "short" and epoch == 2:
            return
        if how == "silent" and epoch == 1:
            continue
        for _ in range({"few": 1, "many": 3}.get(how, 2)):
            rts.step(loss)
        yield {
            "no dict": 0.5,
            "text": {"mse": "0.5"},
            "name": {"mse": 1.0, "val mse": 1.0},
            "several": {"mse": torch.ones(2)},
            "taken": {"mse": 1.0, "lr": 0.1},
            "test": {"mse": 1.0, "test_mse": 1.0},
            "other": {"rmse": 1.0},
            "nan": {"mse": float("nan")},
            "raises": lambda: None,
        }.get(how, {"mse": 1.0})
