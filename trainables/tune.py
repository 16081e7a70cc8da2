"""The Ray Tune Trainable around the training loop: the one module here that imports ray.

The driver imports it too, for what workers are told: torch is loaded where a trial begins.
"""

from __future__ import annotations

import faulthandler
import hashlib
import logging
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
from typing import TYPE_CHECKING, Any, cast

from ray import tune

from trainables import worker_log
from trainables.checkpoint import STATE, WEIGHTS, CheckpointFolder, left_aside, weights_from
from trainables.config import TrialConfig
from trainables.data.share import SharedData
from trainables.effect import has_trunk
from trainables.guard import Chance, verdict
from trainables.metrics import EpochMetrics, metrics_from_dict, tail_mean
from trainables.names import place
from trainables.trunk import Trunk, fork, trunk_prefix

if TYPE_CHECKING:
    from trainables.state import RunState, TrainingState

logger = logging.getLogger(__name__)
STORAGE_SECONDS = 180.0  # the driver gives up after two minutes of its own


@dataclass(frozen=True)
class Assignment:
    """What the driver hands a worker; travels through Tune as a plain dict."""

    sweep: str
    trial_id: str
    number: int | None  # None: a control, which is never stopped
    words: str  # the configuration as a person would tell it
    config: str  # a TrialConfig as JSON
    climb: list[list[int]]  # [rung, epochs] of the complete schedules to train, the last of T
    checkpoints: str  # URI of the trial's checkpoint folder
    claim: tuple[str, str]  # URI of the file that says who drives the sweep, and the driver's key
    checkpoint_seconds: float
    patience_seconds: float | None  # for one epoch; None: without end
    objective: str  # its name among an epoch's metrics
    threads: int
    gpus: float
    row: str  # the trial's row in the ledger as it begins, as JSON: kept with its checkpoints
    packages: dict[str, str]  # of the driver: what this worker's must equal
    keep_weights: bool = True  # of a completed run, until the driver has chosen
    keep_stopped: bool = False  # a checkpoint of where the sweep ended the trial
    trunks: str | None = None  # URI of the folder of the sweep's trunks; None: nothing is shared
    trunk_bytes: float = 0  # that all of them may take

    @property
    def name(self) -> str:
        return f"{self.sweep}/{self.trial_id}"


class EpochTrainable(tune.Trainable):  # type: ignore[misc]
    """Reports epochs: a result's `epochs`, the newest last. They are a list for the sake of the
    driver, which would pick each number in a dict apart three times, and keep its mean."""

    def get_auto_filled_metrics(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Without the config, that the driver sent itself."""
        filled: dict[str, Any] = super().get_auto_filled_metrics(*arguments, **options)
        del filled["config"]
        return filled


class TrialRunner(EpochTrainable):
    """Trains one trial after another in the same process, one epoch a step.

    A trial climbs rungs: complete schedules, each trained afresh with the same seed. State lives
    in the sweep's checkpoint folder only: a retried or resumed trial finds its checkpoint there
    and first reports again what that holds, since the driver may have died before writing it, or
    before saying whether to go on. The driver ignores what it already has.
    """

    def setup(self, config: dict[str, Any], shared: SharedData | None = None) -> None:
        """`shared` is the sweep's dataset, offered to nodes that lack its files."""
        self.assignment = Assignment(**config["assignment"])
        self.shared = shared
        check_packages(self.assignment.packages)
        import torch

        if self.assignment.gpus == 0:
            # Ray hides GPUs only from trials that hold some
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        torch.set_num_threads(self.assignment.threads)
        self.folder = CheckpointFolder(self.assignment.checkpoints, self.assignment.claim)
        self.state: RunState | None = None
        self.trunk: Trunk | None = None
        self.epochs: Iterator[EpochMetrics] = iter(())
        self.place = 0  # in the climb
        self.climbed: list[EpochMetrics] = []  # the epochs of the rungs below
        self.saved_at = time.monotonic()
        self.saved = False  # all that was trained
        self.told_end = False

    def __repr__(self) -> str:
        """The actor's name in Ray's dashboard, which asks once: so the sweep's, not a trial's."""
        return f"{type(self).__name__}({self.assignment.sweep})"

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Everything is rebuilt: nothing of the last trial survives but the cached dataset."""
        self.leave()
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """An epoch. A step that takes too long ends this process, its stack in its log."""
        if self.assignment.patience_seconds is not None:
            faulthandler.dump_traceback_later(self.assignment.patience_seconds, exit=True)
        try:
            return self.train_epoch()
        except Exception as error:
            if where := self.state and place(self.state.config.code, error).strip():
                error.add_note(where)  # on the driver the line is lost
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()

    def train_epoch(self) -> dict[str, Any]:
        held = self.begin() if self.state is None else self.climb_on()
        epochs = held or [next(self.epochs)]
        assert self.state is not None
        ended = verdict(self.state.history, self.chance)
        completed = ended is None and self.at_top and epochs[-1].epoch == epochs[-1].total_epochs
        if ended is None and not held:
            self.save(completed)
        if completed and self.assignment.keep_weights:
            self.save_weights()
        if ended or completed:
            self.tell_end(ended[0] if ended else "completed")
        return {
            "epochs": [asdict(row) for row in epochs],
            "trial": self.assignment.trial_id,
            "objective": self.objective(),
            "outcome": ended[0] if ended else "completed" if completed else "running",
            "message": ended[1] if ended else None,
            **self.state.surroundings,
            "done": completed or ended is not None,
        }

    def begin(self) -> list[EpochMetrics]:
        """Build the run, or take it up from its checkpoint; returns the epochs it then holds."""
        worker_log.speak_as(self.assignment.name)
        saved = self.load()
        if saved is None or not self.take_up(saved):
            self.place, self.climbed = 0, []
            self.begin_rung()
        assert self.state is not None
        held = [*self.climbed, *self.state.history]
        asked = self.assignment
        worker_log.begins(asked.name, asked.words, asked.climb, held, self.state.streams)
        return held

    def take_up(self, saved: dict[str, Any]) -> bool:
        """Go on from a checkpoint; False, and a warning, if it does not fit the trial."""
        import torch

        try:
            self.place = saved["place"]
            self.climbed = [metrics_from_dict(row) for row in saved["climbed"]]
            rung, epochs = self.assignment.climb[self.place]
            state = self.enter()
            state.load_state_dict(saved["run"])
            below = [
                (low, epoch + 1)
                for low, last in self.assignment.climb[: self.place]
                for epoch in range(last)
            ]
            own = [(rung, epoch + 1) for epoch in range(epochs)][: len(state.history)]
            if [(m.rung, m.epoch) for m in (*self.climbed, *state.history)] != below + own:
                raise ValueError("its epochs are not those of the trial")
        except (OSError, MemoryError, torch.OutOfMemoryError, torch.AcceleratorError):
            raise  # the machine's fault, not the checkpoint's
        except Exception as error:
            left_aside(f"{self.assignment.checkpoints}/{STATE}", error)
            return False
        self.saved = True
        return True

    def tell_end(self, outcome: str) -> None:
        """Into the worker's log, once, if the trial has begun."""
        if self.state is None or self.told_end:
            return
        self.told_end = True
        last = self.state.history[-1] if self.state.history else None
        worker_log.ends(self.assignment.name, outcome, last)

    def load(self) -> dict[str, Any] | None:
        """The trial's checkpoint. A storage that is down is asked again for some minutes: to fail
        at once would use up the trial's retries in seconds."""
        deadline = time.monotonic() + STORAGE_SECONDS
        while True:
            try:
                return self.folder.load(STATE)
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(2.0)

    def enter(self) -> RunState:
        """Begin the rung at `place`."""
        from trainables.own.start import new_run, train_run

        rung, epochs = self.assignment.climb[self.place]
        config = TrialConfig.model_validate_json(self.assignment.config).at_length(epochs)
        folder = self.shared.folder_for(config.data) if self.shared else None
        self.trunk = self.open_trunk(config)
        self.state = new_run(config, folder, watch_all=self.trunk is not None)
        self.saved = False
        self.epochs = train_run(self.state, rung, self.at_top, self.trunk)
        return self.state

    def open_trunk(self, config: TrialConfig) -> Trunk | None:
        asked = self.assignment
        if asked.trunks is None or not has_trunk(config):
            return None
        from trainables.state import device_kind

        name = trunk_prefix(config, asked.threads, asked.packages) + device_kind(config.train)
        try:
            return Trunk(asked.trunks, name, asked.trunk_bytes, asked.claim)
        except OSError as error:
            left_aside(asked.trunks, error)
            return None

    def begin_rung(self) -> list[EpochMetrics]:
        """Enter the rung at `place`, as far along as its trunk is; returns its epochs."""
        state = self.enter()
        if self.trunk is not None:  # which runs of the built-in loop have
            run = cast("TrainingState", state)
            fork(run, self.trunk, self.assignment.climb[self.place][0], self.chance)
        return list(state.history)

    def climb_on(self) -> list[EpochMetrics]:
        """Begin the next rung if this one is at its end; returns the epochs that it then holds."""
        assert self.state is not None
        if self.state.epochs_done < self.state.config.train.epochs:
            return []
        self.climbed += self.state.history
        self.place += 1
        return self.begin_rung()

    @property
    def chance(self) -> Chance | None:
        """What counts as collapsed; a control never does."""
        guarded = self.state is not None and self.assignment.number is not None
        return self.state.chance if guarded and self.state else None

    @property
    def at_top(self) -> bool:
        return self.place == len(self.assignment.climb) - 1

    def objective(self) -> float:
        """What a rung here is judged by: the mean over the tail until the newest epoch."""
        assert self.state is not None
        history = self.state.history
        values = [float(getattr(row, self.assignment.objective)) for row in history]
        value = tail_mean(values, history[-1].total_epochs)
        return value if math.isfinite(value) else math.nan

    def save(self, now: bool) -> None:
        """Checkpoint, at most once every `checkpoint_seconds` unless `now`, which is at a completed
        run's end: its weights can be made from that too. A full disk costs the checkpoint, not the
        trial."""
        at = time.monotonic()
        self.saved = False
        if not now and at - self.saved_at < self.assignment.checkpoint_seconds:
            return
        assert self.state is not None
        try:
            self.folder.save(STATE, self.checkpoint())
            self.saved = True
        except OSError as error:
            logger.warning("%s: no checkpoint: %s", self.assignment.trial_id, error)
        self.saved_at = at

    def checkpoint(self) -> dict[str, Any]:
        """Of all but the run a row that the ledger has lost is made again."""
        assert self.state is not None
        return {
            "place": self.place,
            "run": self.state.state_dict(),
            "row": self.assignment.row,
            "surroundings": self.state.surroundings,
            "saved": time.time(),
            "climbed": [asdict(row) for row in self.climbed],
        }

    def save_weights(self) -> None:
        """The weights of a completed run, unless they are there: as long as there is no room for
        them this waits, for the only copy is in this process."""
        assert self.state is not None
        deadline = time.monotonic() + STORAGE_SECONDS
        while True:
            try:
                content = None if self.folder.exists(WEIGHTS) else weights_from(self.checkpoint())
                if content is not None:
                    self.folder.save(WEIGHTS, content)
                return
            except OSError as error:
                faulthandler.cancel_dump_traceback_later()  # it is not the epoch that takes so long
                if time.monotonic() > deadline:
                    logger.warning("%s: no weights: %s", self.assignment.trial_id, error)
                    return
                time.sleep(2.0)

    def cleanup(self) -> None:
        self.leave()
        self.state = None

    def leave(self) -> None:
        """The sweep has ended the trial, unless it has ended by itself."""
        if self.state is not None and not self.told_end:
            if self.assignment.keep_stopped and not self.saved:
                self.save(now=True)
            self.tell_end("ended by the sweep")


@cache  # a process keeps the code that it began with
def package_fingerprints() -> dict[str, str]:
    """torch's version, and a hash of the source of `trainables`, as this process loads them.

    A folder `./trainables` in a worker's working directory, or an older installation on another
    node, would train something else than the driver believes.
    """
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    torch = find_spec("torch")
    assert torch is not None
    assert torch.origin is not None
    version = run_path(str(Path(torch.origin).with_name("version.py")))["__version__"]
    return {"torch": version, "trainables": digest.hexdigest()[:12]}


def check_packages(driver: dict[str, str]) -> None:
    """Raise RuntimeError if this worker loads other code than the driver does."""
    ours = package_fingerprints()
    for name, theirs in driver.items():
        if ours[name] != theirs:
            raise RuntimeError(
                f"this worker's {name} is {ours[name]} (loaded from {Path(__file__).parent}), the "
                f"driver's is {theirs}; install the same rts-search and torch on every node"
            )
