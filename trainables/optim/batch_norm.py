"""Batch norm in the second pass: running statistics stay as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class BatchNormFreezer:
    """The model's batch-norm modules that keep running statistics, looked up once."""

    def __init__(self, model: nn.Module) -> None:
        modules = model.modules()
        self.modules = [m for m in modules if isinstance(m, _BatchNorm) and m.track_running_stats]

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """A training-mode forward under it normalises by its batch and updates no statistic."""
        for module in self.modules:
            module.track_running_stats = False
        try:
            yield
        finally:
            for module in self.modules:
                module.track_running_stats = True
