"""The trunk: the plain SGD that trials are until their triggers fire, trained once.

Before it fires an RTS trial is plain SGD to the bit, and what its trigger sees is a function of
that run. A trunk keeps this for every epoch, and snapshots of the run. It is a cache: whoever is in
its SGD phase adds to it, nothing waits, and what is missing or damaged is trained again.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import re
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pyarrow import fs

from trainables.checkpoint import CheckpointFolder, left_aside, one_line
from trainables.config import TrialConfig
from trainables.effect import trunk_of
from trainables.guard import Chance, verdict
from trainables.metrics import EpochMetrics, metrics_from_dict
from trainables.triggers import EpochObservation, Trigger

if TYPE_CHECKING:
    from trainables.state import TrainingState

logger = logging.getLogger(__name__)
HISTORY = "history.npz"
MOST = 128  # snapshots of a trunk: a fork trains no more than about T/128 epochs again
_SNAPSHOT = re.compile(r"at-(\d+)\.pt")
_FOLDER = re.compile(r"T(\d+)-[0-9a-f]+-.*")


@dataclass(frozen=True, slots=True)
class TrunkEpoch:
    """An epoch of plain SGD: its metrics, and ‖g_t‖ and cos(g_t, g_{t−1}) of its steps."""

    metrics: EpochMetrics
    norms: NDArray[np.float64]
    cosines: NDArray[np.float64]

    def show(self, trigger: Trigger) -> None:
        seen = self.metrics
        trigger.observe(
            EpochObservation(seen.epoch, self.norms, self.cosines, seen.train_loss, seen.val_loss)
        )


@dataclass(frozen=True)
class History:
    """What is kept of a trunk for readers too, who load no torch: its name, the SGD's configuration
    (`trunk_of`, as JSON), and its epochs, each of as many steps."""

    trunk: str
    config: str
    epochs: list[TrunkEpoch]

    def pack(self) -> bytes:
        """As NumPy's .npz: norms [E, S]; cosines [E·S − 1], for the first step has none."""
        buffer = io.BytesIO()
        np.savez(
            buffer,
            trunk=self.trunk,
            config=self.config,
            metrics=json.dumps([asdict(epoch.metrics) for epoch in self.epochs]),
            norms=np.stack([epoch.norms for epoch in self.epochs]),
            cosines=np.concatenate([epoch.cosines for epoch in self.epochs]),
        )
        return buffer.getvalue()

    @classmethod
    def unpack(cls, content: bytes, name: str) -> History:
        """The inverse of `pack`. Raises ValueError, in one line, for what is no whole history of
        the trunk `name`."""
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                if (damaged := archive.testzip()) is not None:
                    raise ValueError(f"{damaged} is damaged")
                if any(member.compress_type for member in archive.infolist()):
                    raise ValueError("it is compressed")  # ours are not, and how large is it then?
            with np.load(io.BytesIO(content), allow_pickle=False) as held:
                if str(held["trunk"]) != name:
                    raise ValueError("it is of another trunk")
                rows = [metrics_from_dict(row) for row in json.loads(str(held["metrics"]))]
                norms, cosines, config = held["norms"], held["cosines"], str(held["config"])
            if [row.epoch for row in rows] != list(range(1, len(rows) + 1)):
                raise ValueError("its epochs are not those of a run")
            numbers = norms.dtype == cosines.dtype == np.float64
            if not numbers or norms.ndim != 2 or cosines.shape != (norms.size - 1,):
                raise ValueError("its statistics are not those of steps")
            steps = norms.shape[1]
            after = np.split(cosines, np.arange(steps - 1, cosines.size, steps))
            epochs = zip(rows, norms, after, strict=True)
            return cls(name, config, [TrunkEpoch(*each) for each in epochs])
        except Exception as error:  # whatever a damaged file makes of numpy
            raise ValueError(one_line(error)) from None


def trunk_prefix(config: TrialConfig, threads: int, packages: Mapping[str, str]) -> str:
    """How the names of the folders begin that hold a configuration's trunk, on whatever device."""
    content = [trunk_of(config).model_dump_json(), threads, dict(sorted(packages.items()))]
    digest = hashlib.blake2b(json.dumps(content).encode(), digest_size=10).hexdigest()
    return f"T{config.train.epochs}-{digest}-"


def firing_epoch(config: TrialConfig, epochs: Sequence[TrunkEpoch]) -> int | None:
    """The first perturbed epoch of a configuration, T + 1 for none, as its trunk's `epochs` show
    it; None where they are too few to tell."""
    total = config.train.epochs
    trigger = config.optimizer.trigger.make(total, len(epochs[0].norms) if epochs else 1)
    for epoch in epochs:
        if trigger.firing_epoch is not None:
            break
        epoch.show(trigger)
    if trigger.firing_epoch is not None:
        return trigger.firing_epoch
    return total + 1 if len(epochs) >= total - 1 else None


class Trunk:
    """One trunk's folder, `history.npz` and snapshots `at-<epoch>.pt`, as one worker sees it.

    `uri` is that of the folder of the sweep's trunks, in which its own is called `name`; `claim` as
    `CheckpointFolder` has it. All snapshots of the sweep together take `limit` bytes at
    most; when they would take more, every second, fourth, … of each trunk is kept.
    """

    def __init__(
        self, uri: str, name: str, limit: float, claim: Sequence[str] | None = None
    ) -> None:
        self.folder = CheckpointFolder(uri, claim, shared=name)
        self.name, self.total, self.limit = name, _length(name), limit
        self.epochs = self._history()
        self.snapshots = sorted(self._sizes().get(self.name, {}))  # as it found them,
        self.damaged: set[int] = set()  # of which these are to be written again
        self.stride = _power(self.total / MOST)
        self.warned = False

    def add(
        self,
        run: TrainingState,
        metrics: EpochMetrics,
        norms: NDArray[np.float64],
        cosines: NDArray[np.float64],
    ) -> None:
        """An epoch of plain SGD that `run` has just trained. A full disk costs the trunk only."""
        epoch, steps = metrics.epoch, run.steps_per_epoch
        if len(norms) != steps or len(cosines) != steps - (epoch == 1):
            return  # it goes on from a checkpoint that was made without a trunk
        if epoch > len(self.epochs) + 1:
            return  # what a trigger saw before is not known
        if epoch == len(self.epochs) + 1:
            self.epochs.append(TrunkEpoch(replace(metrics, test=None), norms, cosines))
        due = epoch < self.total and epoch % self.stride == 0
        try:
            if due and (epoch in self.damaged or not self.folder.exists(f"at-{epoch}.pt")):
                self._save_snapshot(run)
            if due or epoch == self.total:
                self._save_history(run.config)
        except OSError as error:
            if not self.warned:
                logger.warning("%s: cannot be written: %s", self.folder.path, error)
            self.warned = True

    def snapshot(self, at_most: int) -> dict[str, Any] | None:
        """What `_save_snapshot` kept of the latest epoch until `at_most`, as far as it is whole."""
        for epoch in reversed([e for e in self.snapshots if e <= at_most]):
            found = self.folder.load(f"at-{epoch}.pt")
            if found is not None:
                if (found.get("trunk"), found.get("epoch")) == (self.name, epoch):
                    return found
                left_aside(f"{self.folder.path}/at-{epoch}.pt", "it is of another trunk or epoch")
            self.damaged.add(epoch)
        return None

    def _save_snapshot(self, run: TrainingState) -> None:
        state = run.state_dict()
        epoch = len(state.pop("history"))
        content = {"trunk": self.name, "epoch": epoch, "run": state}
        size = _bytes(state)
        self._make_room(size)
        if epoch % self.stride == 0:
            self.folder.save(f"at-{epoch}.pt", content)
            self.damaged.discard(epoch)

    def _make_room(self, size: int) -> None:
        """Where the sweep's snapshots would take more than their limit, thin them evenly."""
        kept = self._sizes()
        kept.setdefault(self.name, {})[0] = size
        if sum(sum(one.values()) for one in kept.values()) <= self.limit:
            return
        for name, sizes in kept.items():
            share = self.limit / len(kept) / max(sizes.values())  # how many it may keep
            stride = _power(_length(name) / share) if share >= 1 else 2 * _length(name)
            if name == self.name:
                self.stride = max(self.stride, stride)
            for epoch in (e for e in sizes if e % stride):
                self._delete(f"{name}/at-{epoch}.pt")

    def _sizes(self) -> dict[str, dict[int, int]]:
        """The bytes of the sweep's snapshots, by trunk and epoch."""
        above = self.folder.path.rpartition("/")[0]
        found: dict[str, dict[int, int]] = {}
        selector = fs.FileSelector(above, allow_not_found=True, recursive=True)
        for info in self.folder.filesystem.get_file_info(selector):
            name, _, file = info.path.removeprefix(f"{above}/").rpartition("/")
            match = _SNAPSHOT.fullmatch(file)
            if match and _length(name) and info.type == fs.FileType.File:
                found.setdefault(name, {})[int(match[1])] = info.size
        return found

    def _delete(self, name: str) -> None:
        above = self.folder.path.rpartition("/")[0]
        with suppress(FileNotFoundError):  # another worker was first
            self.folder.filesystem.delete_file(f"{above}/{name}")

    def _save_history(self, config: TrialConfig) -> None:
        """Unless another worker has come further."""
        known = self._history()
        if len(known) >= len(self.epochs):
            self.epochs = known
            return
        history = History(self.name, trunk_of(config).model_dump_json(), self.epochs)
        self.folder.write(HISTORY, history.pack())

    def _history(self) -> list[TrunkEpoch]:
        try:
            return History.unpack(self.folder.read(HISTORY), self.name).epochs
        except FileNotFoundError:
            return []
        except ValueError as error:
            left_aside(f"{self.folder.path}/{HISTORY}", error)
            return []


def fork(run: TrainingState, trunk: Trunk, rung: int, chance: Chance | None) -> None:
    """Take a run that has not begun as far along its trunk as its trigger does not fire, from the
    latest snapshot there. Where the guard ends the run on the way, it ends there."""
    rows: list[EpochMetrics] = []
    trigger = run.new_trigger()
    for epoch in trunk.epochs[: run.config.train.epochs - 1]:
        if trigger.firing_epoch is not None:
            break
        epoch.show(trigger)
        rows.append(_row(run, epoch.metrics, trigger, rung))
        if verdict(rows, chance):
            run.trigger, run.history = trigger, rows
            run.gradient_evaluations = rows[-1].gradient_evaluations
            return
    if (found := trunk.snapshot(len(rows))) is None:
        return
    trigger = run.new_trigger()
    for epoch in trunk.epochs[: found["epoch"]]:
        epoch.show(trigger)
    state = {
        **found["run"],
        "config": run.config.model_dump_json(),
        "trigger": trigger.state_dict(),
        "history": [asdict(row) for row in rows[: found["epoch"]]],
    }
    run.load_state_dict(state)


def _row(run: TrainingState, metrics: EpochMetrics, trigger: Trigger, rung: int) -> EpochMetrics:
    """A trunk's epoch as the run itself would have reported it."""
    rule, progress = run.config.optimizer, (metrics.epoch - 1) / metrics.total_epochs
    return replace(
        metrics,
        rung=rung,
        radius=rule.radius(progress),
        scale=rule.scale(progress),
        trigger_statistic=trigger.statistic,
        trigger_threshold=trigger.threshold,
        trigger_epoch=trigger.firing_epoch,
        shared=True,
    )


def _length(folder: str) -> int:
    """T of the trunk in a folder of this name; 0 for other folders."""
    match = _FOLDER.fullmatch(folder)
    return int(match[1]) if match else 0


def _power(least: float) -> int:
    """The smallest power of two that is no less."""
    return 1 << (math.ceil(least) - 1).bit_length() if least > 1 else 1


def _bytes(content: Any) -> int:
    """Of all tensors in a state dict."""
    if isinstance(content, Mapping):
        content = list(content.values())
    if isinstance(content, list):
        return sum(map(_bytes, content))
    return int(getattr(content, "nbytes", 0))
