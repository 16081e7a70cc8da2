"""The Ray Tune Trainable around the training loop: the one file here that imports ray."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from ray import tune

from trainables.checkpoint import STATE, WEIGHTS, CheckpointFolder
from trainables.config import TrialConfig
from trainables.guard import verdict
from trainables.loop import train
from trainables.metrics import EpochMetrics
from trainables.state import TrainingState


@dataclass(frozen=True)
class Assignment:
    """What the driver hands a worker; travels through Tune as a plain dict."""

    trial_id: str
    config: str  # a TrialConfig as JSON
    checkpoints: str  # URI of the trial's checkpoint folder
    checkpoint_seconds: float
    objective: str
    threads: int
    gpus: float
    exempt: bool  # from early stopping
    packages: dict[str, str]  # of the driver: what this worker's must equal


class TrialRunner(tune.Trainable):  # type: ignore[misc]
    """Trains one trial after another in the same process, one epoch a step.

    State lives in the sweep's checkpoint folder only: a retried or resumed trial finds its
    checkpoint there, goes on, and reports the history that it holds again, since the driver may
    have died before writing it. The driver's ledger ignores what it already has.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self.assignment = Assignment(**config["assignment"])
        check_packages(self.assignment.packages)
        if self.assignment.gpus == 0:
            # Ray hides GPUs only from trials that hold some
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        torch.set_num_threads(self.assignment.threads)
        self.folder = CheckpointFolder(self.assignment.checkpoints)
        self.state: TrainingState | None = None
        self.epochs: Iterator[EpochMetrics] = iter(())
        self.saved_at = time.monotonic()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Everything is rebuilt: nothing of the last trial survives but the cached dataset."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        earlier = self.begin() if self.state is None else []
        assert self.state is not None
        metrics = next(self.epochs, None)
        if metrics is None:  # the checkpoint was of the run's end
            metrics, earlier = earlier[-1], earlier[:-1]
        data = self.state.data
        ended = verdict(self.state.history, data.num_classes, len(data.validation_labels))
        completed = metrics.epoch == metrics.total_epochs and ended is None
        if completed:
            self.keep_weights()
        elif ended is None:
            self.checkpoint()
        objective = float(getattr(metrics, self.assignment.objective))
        return {
            "metrics": asdict(metrics),
            "earlier": [asdict(row) for row in earlier],
            "epoch": metrics.epoch,
            "objective": objective if math.isfinite(objective) else math.nan,
            "outcome": ended[0] if ended else "completed" if completed else "running",
            "message": ended[1] if ended else None,
            "device": str(self.state.device),
            "done": completed or ended is not None,
        }

    def begin(self) -> list[EpochMetrics]:
        """Build the run, or take it up from its checkpoint; returns the epochs it then holds."""
        config = TrialConfig.model_validate_json(self.assignment.config)
        self.state = TrainingState(config)
        saved = self.folder.load(STATE)
        if saved is not None:
            self.state.load_state_dict(saved)
        self.epochs = train(config, self.state)
        return list(self.state.history)

    def checkpoint(self) -> None:
        """Save the state, at most once every `checkpoint_seconds`."""
        now = time.monotonic()
        if now - self.saved_at >= self.assignment.checkpoint_seconds:
            assert self.state is not None
            self.folder.save(STATE, self.state.state_dict())
            self.saved_at = now

    def keep_weights(self) -> None:
        """The end of a completed run: its weights, and its state until the driver has seen it."""
        assert self.state is not None
        self.folder.save(STATE, self.state.state_dict())
        self.folder.save(WEIGHTS, self.state.weights())

    def cleanup(self) -> None:
        self.state = None


def package_fingerprints() -> dict[str, str]:
    """torch's version, and a hash of the source of `trainables` as this process loads it.

    A folder `./trainables` in a worker's working directory, or an older installation on another
    node, would train something else than the driver believes.
    """
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return {"torch": torch.__version__, "trainables": digest.hexdigest()[:12]}


def check_packages(driver: dict[str, str]) -> None:
    """Raise RuntimeError if this worker loads other code than the driver does."""
    ours = package_fingerprints()
    for name, theirs in driver.items():
        if ours[name] != theirs:
            raise RuntimeError(
                f"this worker's {name} is {ours[name]} (loaded from {Path(__file__).parent}), the "
                f"driver's is {theirs}; install the same rts-search and torch on every node"
            )
