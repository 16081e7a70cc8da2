"""Which thresholds fire at which epoch, as plain SGD tells: `rts-search firing`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from results.storage import SweepFolder
from rts_search.cluster.layout import threads_of
from rts_search.estimate.cost import needs_built_in
from rts_search.search.trunks import whole_trunks
from rts_search.spec.folder import read_spec
from rts_search.spec.model import SweepSpec
from trainables.config import OptimizerConfig, TrialConfig
from trainables.effect import in_effect, trunk_of
from trainables.triggers import Threshold, TriggerConfig
from trainables.trunk import History, Trunk, TrunkEpoch, firing_epoch, trunk_prefix

LINES = 6  # of epochs, in a trigger's table, where there are more
EDGE = 0.01  # of the range of thresholds, within which it is known where another epoch begins


@dataclass(frozen=True)
class Segment:
    """Thresholds from `low` to `high`, both of which were tried, fire at `epoch`; None is never."""

    low: float
    high: float
    epoch: int | None


@dataclass(frozen=True)
class Firing:
    """A trigger's thresholds. `first` is the first epoch at which it may fire."""

    trigger: dict[str, Any]  # without the threshold
    threshold: Threshold
    symbol: str
    first: int
    segments: list[Segment]

    def at(self, threshold: float) -> int | None:
        """The epoch; None for never."""
        return next((s.epoch for s in self.segments if threshold <= s.high), None)

    def grid(self, points: int) -> list[float]:
        """So many thresholds, evenly, from one end to the other."""
        return [place_on(self.threshold, i / (points - 1)) for i in range(points)]

    def lines(self, total: int) -> list[tuple[float, float, str]]:
        """The segments as threshold, threshold and words; where they are many, epochs of about the
        same share of T in one."""

        def part(segment: Segment) -> int:
            if segment.epoch in (None, self.first) or len(self.segments) <= LINES + 2:
                return -(segment.epoch or 0) - 1
            return (segment.epoch * LINES - 1) // total

        groups = [list(same) for _, same in groupby(self.segments, part)]
        return [(same[0].low, same[-1].high, self._epochs(same)) for same in groups]

    def _epochs(self, same: list[Segment]) -> str:
        epochs = [segment.epoch for segment in same if segment.epoch is not None]
        if not epochs:
            return "never"
        low, high = min(epochs), max(epochs)
        first = " (the first allowed)" if high == self.first else ""
        return f"{low}{first}" if low == high else f"{low} – {high}"

    @property
    def words(self) -> str:
        """As in `gap, period 3, baseline fixed`."""
        others = (f"{key} {value}" for key, value in self.trigger.items() if key != "name")
        return ", ".join([self.trigger["name"], *others])


@dataclass(frozen=True)
class FiringTable:
    """All triggers on one run of plain SGD, of `total` epochs; `source` is where it was found."""

    source: str
    trunk: str | None
    total: int
    steps: int
    lr: float
    triggers: list[Firing]


def place_on(threshold: Threshold, place: float) -> float:
    """The value at a place from 0 to 1 in its range."""
    low, high = threshold.low, threshold.high
    if place in (0.0, 1.0):
        return (low, high)[int(place)]
    return float(low * (high / low) ** place if threshold.log else low + (high - low) * place)


def segments(fires: Callable[[float], int | None], threshold: Threshold) -> list[Segment]:
    """The thresholds by the epoch at which they fire, which must rise with them or fall. Between
    two segments, within `EDGE` of the range, are those that were not tried."""

    def at(place: float) -> float:
        return place_on(threshold, place)

    found = {place: fires(at(place)) for place in (0.0, 1.0)}

    def split(left: float, right: float) -> None:
        if found[left] == found[right] or right - left <= EDGE:
            return
        middle = (left + right) / 2
        found[middle] = fires(at(middle))
        split(left, middle)
        split(middle, right)

    split(0.0, 1.0)
    groups = [(epoch, list(same)) for epoch, same in groupby(sorted(found), found.__getitem__)]
    return [Segment(at(same[0]), at(same[-1]), epoch) for epoch, same in groups]


def watching(own: TriggerConfig) -> Iterator[tuple[type[TriggerConfig], Threshold, dict[str, Any]]]:
    """Every kind of trigger that has a threshold, with the settings to show beside it: those of the
    spec's `own` trigger, where it is of the kind, and those that the kind names."""
    for name, kind in TriggerConfig.kinds.items():
        asked = kind.threshold
        if asked is None:
            continue
        base = own.model_dump() if own.name == name else {"name": name}
        shown: list[Mapping[str, Any]] = []
        for beside in ({}, *asked.beside) if own.name == name else asked.beside:
            start = {**base, **beside, asked.parameter: asked.low}
            settings = kind.model_validate(start).model_dump(exclude={asked.parameter})
            if settings not in shown:
                shown.append(settings)
                yield kind, asked, settings


def firing_of(config: TrialConfig, epochs: list[TrunkEpoch]) -> list[Firing]:
    """When triggers fire in a run of this T, of which `epochs` is the plain SGD."""
    total, steps = config.train.epochs, len(epochs[0].norms)
    found = []
    for kind, asked, settings in watching(config.optimizer.trigger):

        def trigger(
            value: float,
            kind: type[TriggerConfig] = kind,
            settings: Mapping[str, Any] = settings,
            key: str = asked.parameter,
        ) -> TriggerConfig:
            return kind.model_validate({**settings, key: value})

        def fires(value: float, trigger: Callable[[float], TriggerConfig] = trigger) -> int | None:
            rule = OptimizerConfig(family="rts", trigger=trigger(value))
            first = firing_epoch(config.model_copy(update={"optimizer": rule}), epochs)
            assert first is not None, "the trunk is whole"
            return None if first > total else first

        parts = segments(fires, asked)
        symbol = kind.model_fields[asked.parameter].title or asked.parameter
        first = trigger(asked.low).first_epoch(total, steps)
        found.append(Firing(settings, asked, symbol, first, parts))
    return found


def sweep_firing(folder: SweepFolder, total: int | None) -> FiringTable:
    """From the plain SGD that a sweep has trained, of its T or of another. No code of the sweep is
    run. Raises ValueError where it has none."""
    spec = read_spec(folder)
    needs_built_in(spec)
    config = spec.base.at_length(total or spec.train.epochs)
    asked = trunk_of(config).model_dump_json()
    known = list(whole_trunks(folder))
    trunks = [trunk for trunk in known if trunk.config == asked]
    if not trunks:
        raise ValueError(_none_in(folder, spec, config.train.epochs, known))
    # on several kinds of devices, or with another version since: the first by name
    return _table(f"sweep {folder.name}", trunks[0].trunk, config, trunks[0].epochs)


def _none_in(folder: SweepFolder, spec: SweepSpec, total: int, known: Sequence[History]) -> str:
    lengths = sorted(
        {
            length
            for trunk in known
            if (length := trunk.epochs[0].metrics.total_epochs) != total
            and trunk.config == trunk_of(spec.base.at_length(length)).model_dump_json()
        }
    )
    others = f" (of T {', '.join(map(str, lengths))} it has: --epochs)" if lengths else ""
    return (
        f"sweep {folder.name} has no whole run of plain SGD of T {total}{others}: its spec instead "
        "of its name (rts-search firing SPEC.yaml, or --preset NAME) trains one"
    )


def spec_firing(spec: SweepSpec, total: int | None, say: Callable[[str], None]) -> FiringTable:
    """From plain SGD with a spec's settings, trained here and now; only its progress is told."""
    needs_built_in(spec)
    config = spec.base.at_length(total or spec.train.epochs)
    epochs = train_trunk(config, threads_of(spec.resources), say)
    return _table(f"spec {spec.name}", None, config, epochs)


def train_trunk(config: TrialConfig, threads: int, say: Callable[[str], None]) -> list[TrunkEpoch]:
    """Raises ValueError if it diverges."""
    import torch

    from trainables.guard import verdict
    from trainables.loop import train
    from trainables.state import TrainingState

    total = config.train.epochs
    plain = in_effect(config, total + 1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with tempfile.TemporaryDirectory() as folder:
            trunk = Trunk(folder, f"{trunk_prefix(plain, threads, {})}here", limit=0)
            run = TrainingState(plain, watch_all=True)
            for metrics in train(plain, run, final=False, trunk=trunk):
                say(f"plain SGD: epoch {metrics.epoch}/{total}")
                if ended := verdict(run.history, None):
                    raise ValueError(f"plain SGD with these settings has {ended[0]}: {ended[1]}")
            return trunk.epochs
    finally:
        torch.set_num_threads(before)


def _table(
    source: str, trunk: str | None, config: TrialConfig, epochs: list[TrunkEpoch]
) -> FiringTable:
    train = config.train
    steps = len(epochs[0].norms)
    return FiringTable(source, trunk, train.epochs, steps, train.lr, firing_of(config, epochs))
