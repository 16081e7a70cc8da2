"""What a sweep will cost, before it is launched: `rts-search estimate`.

The sweep's own stopper judges simulated sweeps: configurations are drawn from the space, values
are random, trials come in order of number, one after the other: plain SGD that they share is
trained once. Seconds come from earlier sweeps or a short probe.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import optuna
from numpy.typing import NDArray

from rts_search.cluster.layout import Layout, Node, make_layout
from rts_search.estimate.perturbed import Evidence, Stretch, perturbed_epochs, stretches
from rts_search.estimate.speed import Speed, like_sweeps, make_speed
from rts_search.replay.simulate import Moment, search
from rts_search.search.checks import search_space, sharing
from rts_search.search.grid import grid_of
from rts_search.search.samplers import make_sampler
from rts_search.spec.model import StopConfig, SweepSpec
from rts_search.stopping.stopper import Look, make_stopper
from rts_search.trials.trial import PLAIN, controls
from search_spaces.space import apply
from trainables.config import TrialConfig
from trainables.effect import has_trunk, trunk_of

SWEEPS, MOST_TRIALS = 300, 20_000  # simulated: sweeps, and trials in all of them
CONFIGS = 200, 2_000  # drawn from the space, at least and at most
AGREEMENT = 0.8  # correlation of a trial's values at two rungs: that of complete schedules

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Range:
    """The expected value, and the 5th and 95th percentile over simulated sweeps; those of the
    ends where it is also unknown when triggers fire."""

    likely: float
    low: float
    high: float

    @property
    def ends(self) -> tuple[float, float, float]:
        return self.likely, self.low, self.high

    def __mul__(self, factor: float) -> Range:
        return Range(self.likely * factor, self.low * factor, self.high * factor)

    def at_least(self, bound: float) -> Range:
        return Range(max(self.likely, bound), max(self.low, bound), max(self.high, bound))


@dataclass(frozen=True)
class Row:
    """A rung, the controls, or all; seconds are of one worker, None where they are unknown."""

    name: str
    total: int | None
    trials: Range
    epochs: Range
    gradients: Range
    seconds: Range | None


@dataclass(frozen=True)
class Estimate:
    """What is spent on a sweep. `hours` are those of each layout, `asked` that of the spec; `alone`
    is what its trials would cost if none shared its plain SGD."""

    rows: list[Row]
    whole: Row
    alone: Row
    never: float  # the share of proposals that are known never to fire, and are not trained
    audited: int
    speed: Speed | None
    hours: list[tuple[Layout, Range]]
    asked: Layout
    guessed: list[str]  # triggers of which it is unknown when they fire
    observed: list[str]  # triggers whose share of perturbed epochs is that of earlier sweeps
    known: list[str]  # triggers whose firing epochs plain SGD tells that is trained already


def estimate(spec: SweepSpec, cpus: float, gpus: float, probe: bool = True) -> Estimate:
    """Estimate a checked spec on a machine or cluster of so many CPUs and GPUs.

    Raises ValueError if a trial does not fit there.
    """
    from trainables.data import prepare

    needs_built_in(spec)
    layout = make_layout(spec.resources, [Node(cpus, gpus)])
    data = prepare(spec.data)
    earlier = like_sweeps(spec)
    speed = make_speed(spec, layout, earlier, data, probe)
    evidence = Evidence.of(spec, earlier)
    found = Sweeps(spec, len(data.train_labels), evidence).run()
    rows = [found.row(stretch, speed) for stretch in found.stretches]
    if spec.search.baselines:
        rows.append(found.controls(speed))
    whole = found.whole(found.spent, rows, speed)
    return Estimate(
        rows,
        whole,
        found.whole(found.alone, rows, speed),
        found.never,
        sum(found.stopper.audited(number) for number in range(found.trials)),
        speed,
        [] if speed is None else found.layouts(whole, speed, cpus, gpus),
        layout,
        sorted(found.unknown - evidence.shares.keys()),
        sorted(found.unknown & evidence.shares.keys()),
        sorted(found.watching - found.unknown),
    )


# Trials and what they train


@dataclass(frozen=True)
class Cost:
    """What simulated sweeps train: by sweep, stretch and firing."""

    epochs: Floats
    perturbed: Floats  # of those epochs
    gradients: Floats


class Sweeps:
    """Simulated sweeps of a spec. Arrays are by sweep, trial, stretch and, where it is unknown
    when triggers fire, by (never, likely, as soon as they can)."""

    def __init__(self, spec: SweepSpec, images: int, evidence: Evidence) -> None:
        if spec.stop.clock == "firing":  # when each is judged differs: what it costs at most
            spec = spec.model_copy(update={"stop": StopConfig(policy="none")})
        self.spec, self.stopper = spec, make_stopper(spec)
        self.trials = spec.search.trials
        if spec.search.sampler == "grid":
            self.trials = min(self.trials, len(grid_of(search_space(spec))))
        self.stretches = stretches(self.stopper)
        self.configs = sample_configs(spec, int(np.clip(2 * self.trials, *CONFIGS)))
        self.shared, _ = sharing(spec, self.configs)
        self.learn(evidence, images)
        # of each control: its epochs, and its steps in one
        self.runs = [(c, c.total_epochs, steps_of(c.config, images)) for c in controls(spec)]
        self.epochs = np.array([stretch.epochs for stretch in self.stretches], dtype=float)

    def learn(self, evidence: Evidence, images: int) -> None:
        """When the configurations' triggers fire. With shared SGD those that never do are told as
        plain SGD: they are no trials."""
        totals = sorted({stretch.total for stretch in self.stretches})
        steps = [steps_of(config, images) for config in self.configs]
        firsts = [
            {total: evidence.first(config.at_length(total), n) for total in totals}
            for config, n in zip(self.configs, steps, strict=True)
        ]
        triggers = [config.optimizer.trigger for config in self.configs]
        unsure = [not all(first.known for first in each.values()) for each in firsts]
        self.watching = {trigger.name for trigger in triggers if trigger.watches}
        self.unknown = {t.name for t, is_so in zip(triggers, unsure, strict=True) if is_so}
        fires = [
            is_so or any(first.soonest <= total for total, first in each.items())
            for is_so, each in zip(unsure, firsts, strict=True)
        ]
        kept = [i for i, is_so in enumerate(fires) if is_so or not self.shared]
        self.never = 1 - len(kept) / len(fires)
        kept = kept or list(range(len(fires)))
        self.configs = [self.configs[i] for i in kept]
        self.steps = [steps[i] for i in kept]
        self.perturbed = np.array(
            [
                [perturbed_epochs(part, firsts[i][part.total]) for part in self.stretches]
                for i in kept
            ]
        )
        likely = self.perturbed[..., 1]
        fired = (likely if self.stopper.by_schedule else likely.cumsum(1)) > 0
        plain = [config.optimizer.trigger.name == PLAIN for config in self.configs]
        self.judged: Bools = fired | np.array(plain)[:, None] | self.spec.stop.judge_unfired

    def run(self) -> Sweeps:
        sweeps = min(SWEEPS, max(5, MOST_TRIALS // self.trials))
        rng = np.random.default_rng(self.spec.search.seed)
        self.chosen = rng.integers(len(self.configs), size=(sweeps, self.trials))
        if self.spec.search.sampler == "random":  # then these are the very configurations
            self.chosen[:] = np.arange(self.trials) % len(self.configs)
        self.trained: Bools = np.stack(
            [train(self.spec, self.judged[chosen], rng) for chosen in self.chosen]
        )
        # by sweep and stretch
        self.counts: Floats = self.trained.sum(1).astype(float)
        self.begun: Floats = (self.trained & (self.trained.cumsum(2) == 1)).sum(1).astype(float)
        self.alone = self.spent = self.cost()
        if self.shared and self.spec.checkpoint.trunk_mb:
            self.spent = self.without_shared(self.alone)
        return self

    def cost(self) -> Cost:
        """As if each trial were alone."""
        trained = self.trained[..., None]
        perturbed = self.perturbed[self.chosen] * trained
        epochs = np.broadcast_to(self.epochs[:, None] * trained, perturbed.shape)
        steps = np.array(self.steps)[self.chosen][..., None, None]
        passes = steps * (epochs + perturbed)
        return Cost(epochs.sum(1), perturbed.sum(1), passes.sum(1))

    def without_shared(self, alone: Cost) -> Cost:
        """Plain SGD of one setting and T is paid once: by its control, or by the trial that goes
        furthest before it fires."""
        top = self.spec.train.epochs
        paid = {
            trunk_key(control.config)
            for control, total, _ in self.runs
            if total == top and control.config.optimizer.family == "sgd"
        }
        keys = [trunk_key(config) if has_trunk(config) else None for config in self.configs]
        plain = (self.epochs[:, None] - self.perturbed[self.chosen]) * self.trained[..., None]
        epochs, gradients = alone.epochs.copy(), alone.gradients.copy()
        for key in set(keys) - {None}:
            of_key = np.array([each == key for each in keys])
            mine = plain * of_key[self.chosen][..., None, None]
            by_control = [key in paid and part.total == top for part in self.stretches]
            once = mine.max(1) * ~np.array(by_control)[:, None]
            saved = mine.sum(1) - once
            epochs -= saved
            gradients -= saved * self.steps[keys.index(key)]
        return Cost(epochs, alone.perturbed, gradients)

    def row(self, stretch: Stretch, speed: Speed | None) -> Row:
        rung = stretch.rung
        return Row(
            str(rung),
            stretch.total if self.stopper.by_schedule else stretch.end,
            spread(self.counts[:, rung, None]),
            spread(self.spent.epochs[:, rung]),
            spread(self.spent.gradients[:, rung]),
            None if speed is None else spread(self.seconds(self.spent, speed)[:, rung]),
        )

    def seconds(self, cost: Cost, speed: Speed) -> Floats:
        """By sweep, stretch and firing."""
        seconds = (speed.sgd + speed.evaluation) * cost.epochs
        seconds = seconds + (speed.perturbed - speed.sgd) * cost.perturbed
        seconds += (speed.trial * self.begun)[..., None]
        seconds[:, -1] += speed.test * self.counts[:, -1, None]
        return np.asarray(seconds)

    def controls(self, speed: Speed | None) -> Row:
        """The baselines: exact."""
        epochs, gradients, seconds = 0, 0, 0.0
        for control, total, steps in self.runs:
            perturbed = control.config.optimizer.family != "sgd"
            epochs += total
            gradients += total * steps * (2 if perturbed else 1)
            if speed is not None:
                seconds += total * _epoch_seconds(speed, perturbed) + speed.test + speed.trial
        exact = None if speed is None else _exact(seconds)
        trials = _exact(len(self.runs))
        return Row("controls", None, trials, _exact(epochs), _exact(gradients), exact)

    def whole(self, cost: Cost, rows: list[Row], speed: Speed | None) -> Row:
        """All trials. Ranges of rungs do not add up: what is saved in one is spent in another."""
        extra = rows[-1] if rows[-1].name == "controls" else None

        def total(values: Floats, more: float) -> Range:
            return spread(values.sum(1) + more)

        return Row(
            "all",
            None,
            _exact(self.trials + (extra.trials.likely if extra else 0)),
            total(cost.epochs, extra.epochs.likely if extra else 0),
            total(cost.gradients, extra.gradients.likely if extra else 0),
            None
            if speed is None
            else total(
                self.seconds(cost, speed), extra.seconds.likely if extra and extra.seconds else 0
            ),
        )

    def layouts(
        self, whole: Row, speed: Speed, cpus: float, gpus: float
    ) -> list[tuple[Layout, Range]]:
        """Hours with 1, 2, 4, … trials at once, up to what fits, and with as many as the spec's."""
        assert whole.seconds is not None
        resources = self.spec.resources
        nodes = [Node(cpus, gpus)]
        fit = make_layout(resources.model_copy(update={"concurrent": None}), nodes).concurrent
        counts = {1 << i for i in range(fit.bit_length())} | {fit}
        counts.add(make_layout(resources, nodes).concurrent)
        longest = self.longest(speed) / 3600
        return [
            (
                make_layout(resources.model_copy(update={"concurrent": count}), nodes),
                (whole.seconds * (1 / 3600 / count)).at_least(longest),
            )
            for count in sorted(counts)
        ]

    def longest(self, speed: Speed) -> float:
        """Seconds of the trial that takes longest: no number of workers makes a sweep shorter."""
        perturbed = self.perturbed[..., 1].sum(1)
        climbs = self.epochs.sum() * (speed.sgd + speed.evaluation)
        climbs = climbs + perturbed * (speed.perturbed - speed.sgd)
        controls = [
            total * _epoch_seconds(speed, control.config.optimizer.family != "sgd")
            for control, total, _ in self.runs
        ]
        return float(max(climbs.max(), *controls, 0.0))


def _epoch_seconds(speed: Speed, perturbed: bool) -> float:
    return (speed.perturbed if perturbed else speed.sgd) + speed.evaluation


def needs_built_in(spec: SweepSpec) -> None:
    """Raises ValueError for a function of one's own, whose steps are known only as it trains."""
    if spec.task is not None:
        raise ValueError(
            f"task {spec.task.name} is code of your own, which is not run to estimate: "
            "rts-search sweep, with budget.hours or a few trials, shows what it costs"
        )


def sample_configs(spec: SweepSpec, count: int) -> list[TrialConfig]:
    """Configurations drawn from the space: those of the sampler `random`, by number; fewer where
    the space rejects nearly all."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = search_space(spec)
    study = optuna.create_study(sampler=make_sampler("random", space, spec.search.seed))
    found: list[TrialConfig] = []
    for _ in range(MOST_TRIALS):
        if len(found) == count:
            break
        with suppress(ValueError):  # a search leaves such a proposal out
            found.append(apply(space, study.ask(), spec.base))
    return found


def trunk_key(config: TrialConfig) -> str:
    """Configurations of one key share their plain SGD."""
    return trunk_of(config).model_dump_json()


def steps_of(config: TrialConfig, images: int) -> int:
    from trainables.data import steps_per_epoch

    return steps_per_epoch(images, config.train.batch_size, config.train.drop_last)


def train(spec: SweepSpec, judged: Bools, rng: np.random.Generator) -> Bools:
    """Which stretches each trial of one sweep trains, and whether it is `judged` at their ends: by
    trial and stretch.

    A trial's values at two rungs correlate; all trials are alike. Median, which compares curves,
    is shown the rungs only. One trial follows the other.
    """
    stopper = make_stopper(spec)
    parts, trials = stretches(stopper), len(judged)
    firsts = [stopper.climb(number)[0][0] for number in range(trials)]
    common, own = rng.normal(size=(trials, 1)), rng.normal(size=(trials, len(parts)))
    values = (AGREEMENT**0.5 * common + (1 - AGREEMENT) ** 0.5 * own).tolist()
    climbs = (
        [
            Moment(float(part.end), Look(part.total, part.end, value, None if fired else 0))
            for part, value, fired in zip(parts[first:], mine[first:], has[first:], strict=True)
        ]
        for first, mine, has in zip(firsts, values, judged, strict=True)
    )
    ends, _ = search(stopper, climbs)
    lasts = [stopper.rung_at(ends[number].look) for number in range(trials)]
    rungs = np.arange(len(parts))
    return (np.array(firsts)[:, None] <= rungs) & (rungs <= np.array(lasts)[:, None])


def spread(values: Floats) -> Range:
    """Over sweeps (rows); columns are one value, or those of (never, likely, soonest)."""
    low, likely, high = values[:, 0], values[:, values.shape[1] // 2], values[:, -1]
    return Range(float(likely.mean()), float(np.percentile(low, 5)), float(np.percentile(high, 95)))


def _exact(value: float) -> Range:
    return Range(value, value, value)
