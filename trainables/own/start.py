"""Begins and trains any run: one of the built-in loop, or of a function of the user's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from trainables.config import TrialConfig
from trainables.loop import train
from trainables.metrics import EpochMetrics
from trainables.own.run import OwnRun, train_own
from trainables.own.task import load_task
from trainables.state import RunState, TrainingState, check_trainable, resolve_device
from trainables.trunk import Trunk


def new_run(
    config: TrialConfig, data_folder: Path | None = None, watch_all: bool = False
) -> RunState:
    """At the run's start; the arguments are those of `TrainingState`."""
    if config.task is not None:
        return OwnRun(config)
    return TrainingState(config, data_folder, watch_all)


def train_run(
    run: RunState, rung: int = 0, final: bool = True, trunk: Trunk | None = None
) -> Iterator[EpochMetrics]:
    """Go on from where the run stands to its end; as `trainables.loop.train`."""
    if isinstance(run, OwnRun):
        return train_own(run, rung=rung, final=final)
    assert isinstance(run, TrainingState)
    return train(run.config, run, rung, final, trunk)


def check_run(config: TrialConfig, download: bool = True) -> list[str]:
    """What a worker would fail to do, as far as it can be known before; returns notes.

    A function of one's own is imported, and not called. Raises ValueError, in one line.
    """
    if config.task is None:
        return check_trainable(config, download)
    resolve_device(config.train.device)
    load_task(config.task)
    return []
