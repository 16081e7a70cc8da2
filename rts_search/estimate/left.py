"""The time that a running sweep still takes, by the arithmetic of its estimate."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from rts_search.cluster.package import names_own_functions
from rts_search.driver.budget import Budget
from rts_search.estimate.cost import Sweeps, spread
from rts_search.estimate.perturbed import Evidence
from rts_search.estimate.speed import like_sweeps
from rts_search.show.progress import Left, Spent
from rts_search.spec.model import SweepSpec
from rts_search.trials.trial import LiveTrial


def time_left(spec: SweepSpec, budget: Budget | None = None) -> Left | None:
    """What `Progress` asks for the seconds that are left; None where that cannot be known: the data
    is not here, or the space fails. A sweep does not end for that. Who is not its driver, and has
    no budget to give, only reads it: code or files that its spec names are left alone.

    The trials to come cost, in gradient evaluations, what they do on the mean of simulated sweeps
    under the sweep's own stopper; an evaluation takes what it took until now.
    """
    if budget is None and (names_own_functions(spec) or spec.data.root):
        return None
    try:
        work = expected(spec)
    except Exception:  # a user's space or data may raise anything
        return None
    return work.seconds if budget is None else within(spec, budget, work.seconds)


def expected(spec: SweepSpec) -> Work:
    """Raises whatever the data and the space raise."""
    from trainables.data import training_images

    images = training_images(spec.data.model_copy(update={"download": False}))
    evidence = Evidence.of(spec, like_sweeps(spec))
    found = Sweeps(spec, images, evidence).run()
    searched = spread(found.spent.gradients.sum(1)).likely / found.trials
    controls = found.controls(None)
    control = controls.gradients.likely / max(1.0, controls.trials.likely)
    return Work(searched, control)


def within(spec: SweepSpec, budget: Budget, left: Left) -> Left:
    """No longer than the budget allows."""
    config = spec.budget

    def seconds(live: Collection[LiveTrial], searched: int, controls: int, spent: Spent) -> float:
        ends = [left(live, searched, controls, spent)]
        one = spent.seconds / spent.gradients / max(1, len(live))
        if config.hours is not None:
            ends.append(config.hours * 3600 - budget.seconds())
        if config.gradient_evaluations is not None:
            ends.append((config.gradient_evaluations - budget.gradient_evaluations) * one)
        if config.epochs is not None and budget.epochs:
            each = budget.gradient_evaluations / budget.epochs
            ends.append((config.epochs - budget.epochs) * each * one)
        return max(0.0, min(ends))

    return seconds


@dataclass(frozen=True)
class Work:
    """Gradient evaluations of a searched trial and of a control, on the mean."""

    searched: float
    control: float

    def seconds(
        self, live: Collection[LiveTrial], searched: int, controls: int, spent: Spent
    ) -> float:
        """With so many `searched` trials and `controls` still to begin, and as many trials at once
        as are `live`; at least as long as the longest of those."""
        running = [self.rest(trial) for trial in live]
        total = sum(running) + searched * self.searched + controls * self.control
        longest = max(running, default=0.0)
        return max(total / max(1, len(live)), longest) * spent.seconds / spent.gradients

    def rest(self, trial: LiveTrial) -> float:
        """Of a control that has begun, as its epochs until now, shared or not; of a searched trial,
        what is spent on one on the mean beyond what was spent on it."""
        if trial.number is None and trial.history:
            last = trial.history[-1]
            epoch = int(last["epoch"])
            return float(last["gradient_evaluations"]) / epoch * (trial.total_epochs - epoch)
        done = Spent.of(trial.history).gradients
        return max(0.0, (self.control if trial.number is None else self.searched) - done)
