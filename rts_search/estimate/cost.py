"""What a sweep will cost, before it is launched: `rts-search estimate`.

The sweep's own stopper judges simulated sweeps: configurations are drawn from the space, values
are random, trials come in order of number. Seconds come from earlier sweeps or a short probe.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import optuna
from numpy.typing import NDArray

from rts_search.cluster.layout import Layout, Node, make_layout
from rts_search.estimate.speed import Speed, like_sweeps, make_speed, perturbed_shares
from rts_search.replay.simulate import Moment, search
from rts_search.search.checks import search_space
from rts_search.search.grid import grid_of
from rts_search.search.samplers import make_sampler
from rts_search.spec.model import StopConfig, SweepSpec
from rts_search.stopping.stopper import Look, Stopper, make_stopper
from rts_search.trials.trial import PLAIN, controls
from search_spaces.space import apply
from trainables.config import TrialConfig
from trainables.triggers import TriggerConfig

SWEEPS, MOST_TRIALS = 300, 20_000  # simulated: sweeps, and trials in all of them
CONFIGS = 200  # drawn from the space
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
class Stretch:
    """What a trial trains between two verdicts: epochs `start` + 1 to `end` of a run of `total`."""

    rung: int
    total: int
    start: int
    end: int

    @property
    def epochs(self) -> int:
        return self.end - self.start


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
    """The cost of a sweep. `hours` are those of each layout, `asked` that of the spec."""

    rows: list[Row]
    whole: Row
    audited: int
    speed: Speed | None
    hours: list[tuple[Layout, Range]]
    asked: Layout
    guessed: list[str]  # triggers of which it is unknown when they fire
    observed: list[str]  # triggers whose share of perturbed epochs is that of earlier sweeps


def estimate(spec: SweepSpec, cpus: float, gpus: float, probe: bool = True) -> Estimate:
    """Estimate a checked spec on a machine or cluster of so many CPUs and GPUs.

    Raises ValueError if a trial does not fit there.
    """
    from trainables.data import prepare

    layout = make_layout(spec.resources, [Node(cpus, gpus)])
    data = prepare(spec.data)
    earlier = like_sweeps(spec)
    speed = make_speed(spec, layout, earlier, data, probe)
    shares = perturbed_shares(spec, earlier)
    found = Sweeps(spec, len(data.train_labels), shares).run()
    rows = [found.row(stretch, speed) for stretch in found.stretches]
    if spec.search.baselines:
        rows.append(found.controls(speed))
    whole = found.whole(rows, speed)
    triggers = [config.optimizer.trigger for config in found.configs]
    names = {trigger.name for trigger in triggers if trigger.watches}
    return Estimate(
        rows,
        whole,
        sum(found.stopper.audited(number) for number in range(found.trials)),
        speed,
        [] if speed is None else found.layouts(whole, speed, cpus, gpus),
        layout,
        sorted(names - shares.keys()),
        sorted(names & shares.keys()),
    )


def first_to_end(spec: SweepSpec, found: Estimate) -> tuple[str, float] | None:
    """The budget of which the sweep is expected to need most, as in `budget.epochs 500`, and how
    much of the sweep it pays for: below 1 it ends the sweep before its trials do. None without a
    budget."""
    needed = {
        "hours": next((h.likely for layout, h in found.hours if layout == found.asked), None),
        "epochs": found.whole.epochs.likely,
        "gradient_evaluations": found.whole.gradients.likely,
    }
    budget = spec.budget.model_dump()
    paid = {name: budget[name] / cost for name, cost in needed.items() if cost and budget[name]}
    if not paid:
        return None
    name = min(paid, key=lambda name: paid[name])
    return f"budget.{name} {budget[name]:g}", paid[name]


# Trials and what they train


class Sweeps:
    """Simulated sweeps of a spec. Arrays are by sweep, trial, stretch and, where it is unknown
    when triggers fire, by (never, likely, as soon as they can)."""

    def __init__(self, spec: SweepSpec, images: int, shares: dict[str, float]) -> None:
        if spec.stop.clock == "firing":  # when each is judged differs: what it costs at most
            spec = spec.model_copy(update={"stop": StopConfig(policy="none")})
        self.spec, self.stopper = spec, make_stopper(spec)
        self.trials = spec.search.trials
        if spec.search.sampler == "grid":
            self.trials = min(self.trials, len(grid_of(search_space(spec))))
        self.configs = sample_configs(spec, max(CONFIGS, self.trials))
        self.stretches = stretches(self.stopper)
        self.steps = [steps_of(config, images) for config in self.configs]
        # of each control: its epochs, and its steps in one
        self.runs = [(c, c.total_epochs, steps_of(c.config, images)) for c in controls(spec)]
        self.epochs = np.array([stretch.epochs for stretch in self.stretches], dtype=float)
        self.perturbed = np.array(
            [
                [perturbed_epochs(config, stretch, steps, shares) for stretch in self.stretches]
                for config, steps in zip(self.configs, self.steps, strict=True)
            ]
        )
        likely = self.perturbed[..., 1]
        fired = (likely if self.stopper.by_schedule else likely.cumsum(1)) > 0
        plain = [config.optimizer.trigger.name == PLAIN for config in self.configs]
        self.judged: Bools = fired | np.array(plain)[:, None] | spec.stop.judge_unfired

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
        own = self.perturbed[self.chosen] * self.trained[..., None]
        self.perturbing: Floats = own.sum(1)
        steps = np.array(self.steps)[self.chosen][..., None, None]
        passes = (self.epochs[:, None] + self.perturbed[self.chosen]) * self.trained[..., None]
        self.gradients: Floats = (steps * passes).sum(1)
        self.begun: Floats = (self.trained & (self.trained.cumsum(2) == 1)).sum(1).astype(float)
        return self

    def row(self, stretch: Stretch, speed: Speed | None) -> Row:
        rung = stretch.rung
        counts = self.counts[:, rung, None]
        return Row(
            str(rung),
            stretch.total if self.stopper.by_schedule else stretch.end,
            spread(counts),
            spread(counts * stretch.epochs),
            spread(self.gradients[:, rung]),
            None if speed is None else spread(self.seconds(speed)[:, rung]),
        )

    def seconds(self, speed: Speed) -> Floats:
        """By sweep, stretch and firing."""
        epochs = (self.counts * self.epochs)[..., None]
        seconds = (speed.sgd + speed.evaluation) * epochs
        seconds = seconds + (speed.perturbed - speed.sgd) * self.perturbing
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

    def whole(self, rows: list[Row], speed: Speed | None) -> Row:
        """All trials. Ranges of rungs do not add up: what is saved in one is spent in another."""
        extra = rows[-1] if rows[-1].name == "controls" else None

        def total(values: Floats, more: float) -> Range:
            return spread(values.sum(1) + more)

        epochs = (self.counts * self.epochs)[..., None]
        return Row(
            "all",
            None,
            _exact(self.trials + (extra.trials.likely if extra else 0)),
            total(epochs, extra.epochs.likely if extra else 0),
            total(self.gradients, extra.gradients.likely if extra else 0),
            None
            if speed is None
            else total(self.seconds(speed), extra.seconds.likely if extra and extra.seconds else 0),
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


def steps_of(config: TrialConfig, images: int) -> int:
    from trainables.data import steps_per_epoch

    return steps_per_epoch(images, config.train.batch_size, config.train.drop_last)


def stretches(stopper: Stopper) -> list[Stretch]:
    """One for each rung: a complete schedule, or the epochs since the rung before."""
    if stopper.by_schedule:
        return [Stretch(rung, total, 0, total) for rung, total in enumerate(stopper.rungs)]
    starts = [0, *stopper.rungs[:-1]]
    return [
        Stretch(rung, stopper.epochs, start, end)
        for rung, (start, end) in enumerate(zip(starts, stopper.rungs, strict=True))
    ]


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


def perturbed_epochs(
    config: TrialConfig, part: Stretch, steps: int, shares: dict[str, float]
) -> list[float]:
    """Perturbed epochs in a stretch, if the trigger fires never, when it is likely to, and as
    soon as it can; thrice the same where it is known when it fires, or the mean share is."""
    trigger = config.at_length(part.total).optimizer.trigger
    firsts = first_perturbed(trigger, part.total, steps, shares.get(trigger.name))
    return [max(0.0, part.end - max(part.start, first - 1)) for first in firsts]


def first_perturbed(
    trigger: TriggerConfig, total: int, steps: int, share: float | None
) -> tuple[float, float, float]:
    """The first perturbed epoch of a run, from 1, T + 1 for none: latest, likely, soonest."""
    never = total + 1.0
    soonest = min(never, trigger.first_epoch(total, steps))
    if not trigger.watches:
        return soonest, soonest, soonest
    if share is not None:
        likely = never - share * total
        return likely, likely, likely
    return never, (soonest + never) / 2, soonest


def spread(values: Floats) -> Range:
    """Over sweeps (rows); columns are one value, or those of (never, likely, soonest)."""
    low, likely, high = values[:, 0], values[:, values.shape[1] // 2], values[:, -1]
    return Range(float(likely.mean()), float(np.percentile(low, 5)), float(np.percentile(high, 95)))


def _exact(value: float) -> Range:
    return Range(value, value, value)
