"""A run of a training function of the user's own: its state, and an EpochMetrics an epoch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from trainables.config import TaskConfig, TrialConfig
from trainables.metrics import EpochMetrics, metrics_from_dict
from trainables.own.controller import Controller
from trainables.own.task import Task, load_task
from trainables.state import RunState, precision_name


class OwnRun(RunState):
    """Has a model and an optimizer from the function's `rts.prepare` on; what a checkpoint holds
    of them waits until `resume`.

    `kept` are further objects of the function's, with a `state_dict` of their own.
    """

    def __init__(self, config: TrialConfig) -> None:
        super().__init__(config)
        self.kept: dict[str, Any] = {}
        self.waiting: Mapping[str, Any] | None = None

    @property
    def task(self) -> TaskConfig:
        assert self.config.task is not None
        return self.config.task

    def state_dict(self) -> dict[str, Any]:
        numpy: Any = np.random.get_state(legacy=True)
        return {
            **super().state_dict(),
            "kept": {name: each.state_dict() for name, each in self.kept.items()},
            "python_rng": list(random.getstate()[1]),
            "numpy_rng": [torch.from_numpy(numpy[1].astype(np.int64)), int(numpy[2])],
            # under the names that the built-in loop's weights have
            "best_weights": {},
            "facts": {"precision": precision_name(self.precision)},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """All of it once the function has its model. Raises ValueError as the built-in loop's."""
        self.check_same(state)
        self.gradient_evaluations = state["gradient_evaluations"]
        self.history = [metrics_from_dict(row) for row in state["history"]]
        self.waiting = state

    def resume(self) -> None:
        """Take over what waits. Raises ValueError for what the function keeps otherwise by now."""
        if (state := self.waiting) is None:
            return
        if state["kept"].keys() != self.kept.keys():
            raise ValueError(
                f"the checkpoint holds {sorted(state['kept'])} beside the model, and the function "
                f"keeps {sorted(self.kept)}: it has changed since"
            )
        super().load_state_dict(state)
        for name, each in self.kept.items():
            each.load_state_dict(state["kept"][name])
        random.setstate((3, tuple(state["python_rng"]), None))
        keys, place = state["numpy_rng"]
        np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), place, 0, 0.0))
        self.waiting = None

    def seed(self) -> None:
        """Of all generators that the function may use."""
        seed = self.config.train.seed
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)


def train_own(
    run: OwnRun, task: Task | None = None, rung: int = 0, final: bool = True
) -> Iterator[EpochMetrics]:
    """Train for the epochs of T that are left, as `trainables.loop.train` does.

    Raises ValueError where the function does not keep to its part, and what it raises itself.
    """
    task = task or load_task(run.task)
    run.seed()
    controller = Controller(run, rung, final)
    told = task(controller, **run.task.args)
    for metrics in told:
        yield controller.observe(metrics)
        if run.epochs_done == run.config.train.epochs:
            return
    raise ValueError(
        f"task {task.name!r} ended after {run.epochs_done} of {run.config.train.epochs} epochs: "
        "it must yield after each one of rts.epochs()"
    )
