"""A trial while it runs, and the baseline controls of every sweep."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from results.meanings import Outcome
from rts_search.spec.model import SweepSpec
from trainables.config import OptimizerConfig, TrialConfig


@dataclass
class LiveTrial:
    """A trial that was handed out: what it is, and when, where and on what it runs.

    `number` is the searcher's, None for controls; `memory` is what the searcher keeps with it.
    `history` are its epochs so far, of all rungs, as dicts.
    """

    trial_id: str
    config: TrialConfig
    number: int | None = None
    params: dict[str, Any] = field(default_factory=dict)
    control: str | None = None
    memory: str | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    outcome: Outcome = Outcome.RUNNING
    message: str | None = None
    retries: int = 0
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    host: str | None = None  # where it was trained last,
    device: str | None = None  # and on what
    classes: int | None = None  # of the data that its worker loaded,
    validation_images: int | None = None  # and so many images in its validation split
    placed: bool = False  # on a worker, and not waiting for one
    heard: float = field(default_factory=time.monotonic)  # when it began, or last reported

    @property
    def total_epochs(self) -> int:
        return self.config.train.epochs

    @property
    def place(self) -> tuple[int, int]:
        """The rung and the epoch reached."""
        if not self.history:
            return -1, 0
        return self.history[-1]["rung"], self.history[-1]["epoch"]


def controls(base: TrialConfig) -> list[LiveTrial]:
    """The baselines of every sweep: SGD and PUGD at T, and SGD at 2T, which costs the same
    gradients as PUGD. Each is a full cosine; they are never stopped nor told to the sampler."""

    def control(name: str, family: str, epochs: int) -> LiveTrial:
        train = base.train.model_copy(update={"epochs": epochs})
        optimizer = OptimizerConfig.model_validate({"family": family})
        config = base.model_copy(update={"train": train, "optimizer": optimizer})
        return LiveTrial(name, config, control=name)

    epochs = base.train.epochs
    return [
        control("sgd", "sgd", epochs),
        control("pugd", "pugd", epochs),
        control("sgd-2x", "sgd", 2 * epochs),
    ]


def trials_in(spec: SweepSpec) -> int:
    """All trials of a sweep: those asked for, and the controls."""
    return spec.search.trials + (len(controls(spec.base)) if spec.search.controls else 0)
