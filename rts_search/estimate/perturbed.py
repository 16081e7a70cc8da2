"""How much of a trial is perturbed: as its trigger says, or as earlier sweeps tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from results.storage import SweepFolder
from rts_search.estimate.speed import perturbed_shares
from rts_search.search.trunks import whole_trunks
from rts_search.spec.model import SweepSpec
from rts_search.stopping.stopper import Stopper
from trainables.config import TrialConfig
from trainables.effect import trunk_of
from trainables.trunk import TrunkEpoch, firing_epoch

READ = 10  # sweeps, at most, of which the plain SGD is read


@dataclass(frozen=True)
class Stretch:
    """What a trial trains between two verdicts: epochs `start` + 1 to `end` of a run of `total`."""

    rung: int
    total: int
    start: int
    end: int

    @property
    def epochs(self) -> int:
        return self.end - self.start


def stretches(stopper: Stopper) -> list[Stretch]:
    """One for each rung: a complete schedule, or the epochs since the rung before."""
    if stopper.by_schedule:
        return [Stretch(rung, total, 0, total) for rung, total in enumerate(stopper.rungs)]
    starts = [0, *stopper.rungs[:-1]]
    return [
        Stretch(rung, stopper.epochs, start, end)
        for rung, (start, end) in enumerate(zip(starts, stopper.rungs, strict=True))
    ]


@dataclass(frozen=True)
class First:
    """The first perturbed epoch of a run, from 1, T + 1 for none; thrice the same where it is
    `known`, or the mean is."""

    latest: float
    likely: float
    soonest: float
    known: bool

    @property
    def ends(self) -> tuple[float, float, float]:
        return self.latest, self.likely, self.soonest


@dataclass
class Evidence:
    """What sweeps tell of when triggers fire: the plain SGD that they have trained, of the very
    setting; else the mean share of perturbed epochs, by trigger."""

    folders: Sequence[SweepFolder] = ()
    shares: Mapping[str, float] = field(default_factory=dict)
    _trunks: dict[int, dict[str, list[TrunkEpoch]]] = field(default_factory=dict)  # by T

    @classmethod
    def of(cls, spec: SweepSpec, sweeps: list[str]) -> Evidence:
        """From these sweeps in the spec's storage, newest first."""
        folders = [SweepFolder(spec.storage_path, name) for name in sweeps[:READ]]
        return cls(folders, perturbed_shares(spec, sweeps))

    def firing(self, config: TrialConfig, steps: int) -> int | None:
        """The first perturbed epoch of a run, T + 1 for none; None where it is not known."""
        trigger, total = config.optimizer.trigger, config.train.epochs
        if not trigger.watches:
            return min(trigger.first_epoch(total, steps), total + 1)
        if not self.folders:
            return None
        epochs = self._of_length(total).get(trunk_of(config).model_dump_json())
        return None if epochs is None else firing_epoch(config, epochs)

    def _of_length(self, total: int) -> dict[str, list[TrunkEpoch]]:
        if total not in self._trunks:
            known: dict[str, list[TrunkEpoch]] = {}
            self._trunks[total] = known
            for folder in self.folders:
                for trunk in whole_trunks(folder, total):
                    known.setdefault(trunk.config, trunk.epochs)
        return self._trunks[total]

    def first(self, config: TrialConfig, steps: int) -> First:
        """Half way between never and as soon as it can, where nothing tells."""
        trigger, total = config.optimizer.trigger, config.train.epochs
        if (known := self.firing(config, steps)) is not None:
            return First(known, known, known, True)
        never = total + 1.0
        if (share := self.shares.get(trigger.name)) is not None:
            likely = never - share * total
            return First(likely, likely, likely, False)
        soonest = min(never, trigger.first_epoch(total, steps))
        return First(never, (soonest + never) / 2, soonest, False)


def perturbed_epochs(part: Stretch, first: First) -> list[float]:
    """Perturbed epochs in a stretch: at least, likely, at most."""
    return [max(0.0, part.end - max(part.start, epoch - 1)) for epoch in first.ends]
