"""A trial while it runs, and the baseline controls of every sweep."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from results.meanings import Outcome
from rts_search.spec.model import SweepSpec
from trainables.config import OptimizerConfig, TrialConfig

SGD = "sgd"  # the control that all trials are compared with: at T, with the spec's settings
TWICE = "sgd-2x"  # the control of as many gradients as PUGD
PLAIN = "never"  # the trigger of plain SGD


@dataclass
class LiveTrial:
    """A trial that was handed out: what it is, and when, where and on what it runs.

    `number` is the searcher's, None for controls; `memory` is what the searcher keeps with it.
    `history` are its epochs so far, of all rungs, as dicts. A run that no search asked for has a
    `stage` (tune, confirm, verify, curve), the `arm` that it is a run of, and its `claim`'s id.
    """

    trial_id: str
    config: TrialConfig
    number: int | None = None
    params: dict[str, Any] = field(default_factory=dict)
    control: str | None = None
    stage: str | None = None
    arm: str | None = None
    claim: str | None = None
    memory: str | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    outcome: Outcome = Outcome.RUNNING
    message: str | None = None
    traceback: str | None = None  # of the exception that ended it
    retries: int = 0
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    host: str | None = None  # where it was trained last,
    device: str | None = None  # and on what,
    threads: int | None = None  # with so many threads
    precision: str | None = None  # and in this precision
    classes: int | None = None  # of the data that its worker loaded,
    validation_images: int | None = None  # and so many images in its validation split
    placed: bool = False  # on a worker, and not waiting for one
    heard: float = field(default_factory=time.monotonic)  # when it began, or last reported

    @property
    def total_epochs(self) -> int:
        return self.config.train.epochs

    @property
    def is_sgd(self) -> bool:
        """Whether it has no trigger to fire."""
        return self.config.optimizer.trigger.name == PLAIN

    @property
    def place(self) -> tuple[int, int]:
        """The rung and the epoch reached."""
        if not self.history:
            return -1, 0
        return self.history[-1]["rung"], self.history[-1]["epoch"]


def trial_name(number: int) -> str:
    """The name of a searched trial in the ledger."""
    return f"t{number:04d}"


def number_of(trial_id: str) -> int | None:
    """The inverse of `trial_name`; None for other names."""
    digits = trial_id.removeprefix("t")
    number = int(digits) if digits.isascii() and digits.isdigit() else None
    return number if number is not None and trial_name(number) == trial_id else None


def controls(spec: SweepSpec) -> list[LiveTrial]:
    """The baselines: an arm for each family at T, and for SGD one at 2T, which costs the same
    gradients as PUGD. Each is a full cosine; they are never stopped nor told to the sampler.

    `control` names the arm. What is searched beside the optimizer's own parameters is searched for
    each arm alike, if the spec gives it trials; the spec's own settings come first.
    """
    from search_spaces.registry import training_points  # loads Optuna

    asked, also = spec.search.baselines, spec.search.also
    if asked is None:
        return []
    arms: dict[str, tuple[str, int]] = {family: (family, 1) for family in asked.families}
    if SGD in arms:
        arms[TWICE] = ("sgd", 2)
    own = {key: getattr(spec.train, key) for key in also} if asked.trials > 1 else {}
    points = [own, *training_points(also, asked.trials - 1, spec.search.seed)]
    return [
        _control(spec, arm, number, *arms[arm], point)
        for number, point in enumerate(points)
        for arm in arms
    ]


def _control(
    spec: SweepSpec, arm: str, number: int, family: str, lengths: int, point: dict[str, Any]
) -> LiveTrial:
    train = spec.train.model_copy(update={**point, "epochs": lengths * spec.train.epochs})
    optimizer = OptimizerConfig.model_validate({"family": family})
    config = spec.base.model_copy(update={"train": train, "optimizer": optimizer})
    name = f"{arm}.{number}" if number else arm
    return LiveTrial(name, config, params=point, control=arm)


def trials_in(spec: SweepSpec) -> int:
    """All trials of a sweep: those asked for, and the controls."""
    return spec.search.trials + len(controls(spec))
