"""What a sweep's trunks tell of configurations before they are trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from results.storage import SweepFolder
from rts_search.search.known import Effect, fired, identity
from rts_search.stopping.stopper import Stopper
from trainables.checkpoint import TRUNKS, left_aside
from trainables.config import TrialConfig
from trainables.effect import in_effect
from trainables.trunk import HISTORY, History, TrunkEpoch, firing_epoch, trunk_prefix


class Effects:
    """Tells configurations that are the same in effect, as far as trunks show when they fire.

    With complete schedules as rungs they must be the same in each.
    """

    def __init__(
        self, folder: SweepFolder, stopper: Stopper, threads: int, packages: Mapping[str, str]
    ) -> None:
        self.folder, self.threads, self.packages = folder, threads, packages
        self.lengths = stopper.rungs if stopper.by_schedule else stopper.rungs[-1:]
        self._histories: dict[str, list[TrunkEpoch]] = {}  # by folder

    def of(self, config: TrialConfig) -> Effect | None:
        """None where it is not known when it fires."""
        return self._of(config, [self.firing(config.at_length(n)) for n in self.lengths])

    def of_run(self, config: TrialConfig, epochs: Sequence[Mapping[str, Any]]) -> Effect | None:
        """As its own epochs, of all its rungs, tell."""
        last = {row["total_epochs"]: row for row in epochs}
        return self._of(
            config, [fired(last[total]) if total in last else None for total in self.lengths]
        )

    def _of(self, config: TrialConfig, firing: Sequence[int | None]) -> Effect | None:
        known = [first for first in firing if first is not None]
        if len(known) < len(firing):
            return None
        runs = [
            in_effect(config.at_length(total), first)
            for total, first in zip(self.lengths, known, strict=True)
        ]
        fires = any(first <= n for first, n in zip(known, self.lengths, strict=True))
        return Effect("".join(map(identity, runs)), fires)

    def firing(self, config: TrialConfig) -> int | None:
        """The first perturbed epoch, T + 1 for none; None where it is not known."""
        return _first(config, partial(self.trunks, config))

    def when(self, config: TrialConfig) -> Callable[[TrialConfig], int | None] | None:
        """Tells of configurations of the same trunk when they fire; None until it is known of all
        triggers."""
        trunks = self.trunks(config)
        whole = all(len(epochs) >= config.train.epochs - 1 for epochs in trunks)
        return partial(_first, trunks=lambda: trunks) if trunks and whole else None

    def trunks(self, config: TrialConfig) -> list[list[TrunkEpoch]]:
        """The epochs of a configuration's trunk, as far as they are known, by kind of device."""
        prefix = trunk_prefix(config, self.threads, self.packages)
        names = [name for name in self.folder.list(TRUNKS) if name.startswith(prefix)]
        return [self._read(name, config.train.epochs) for name in names]

    def _read(self, name: str, total: int) -> list[TrunkEpoch]:
        known = self._histories.get(name, [])
        if len(known) >= total - 1:  # no trigger sees more
            return known
        found = read_trunk(self.folder, name)
        self._histories[name] = known = found.epochs if found else []
        return known


def _first(config: TrialConfig, trunks: Callable[[], list[list[TrunkEpoch]]]) -> int | None:
    trigger, total = config.optimizer.trigger, config.train.epochs
    if not trigger.watches:
        return min(trigger.first_epoch(total, 1), total + 1)
    found = {firing_epoch(config, epochs) for epochs in trunks()}
    return found.pop() if len(found) == 1 else None  # else kinds of devices differ


def read_trunk(folder: SweepFolder, name: str) -> History | None:
    """What a sweep's trunk of this name holds so far; None, and a warning, for one that is torn or
    foreign: a worker makes it again. No code of the sweep is run."""
    path = f"{TRUNKS}/{name}/{HISTORY}"
    try:
        if any(folder.leads_out(at) for at in (TRUNKS, f"{TRUNKS}/{name}", path)):
            raise ValueError("a link that leads out of the storage")
        return History.unpack(folder.read(path), name)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        left_aside(folder.uri_of(path), error)
        return None


def whole_trunks(folder: SweepFolder, total: int | None = None) -> Iterator[History]:
    """A sweep's trunks, of T = `total` or of any, that tell of every trigger when it fires."""
    for name in folder.list(TRUNKS):
        if not name.startswith("T" if total is None else f"T{total}-"):
            continue
        found = read_trunk(folder, name)
        if found is not None and found.epochs:
            length = found.epochs[0].metrics.total_epochs
            if len(found.epochs) >= length - 1 and name.startswith(f"T{length}-"):
                yield found
