"""What a sweep has cost, all its drivers together, against what it may cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from results.meanings import Outcome
from results.trials import StoredTrial
from rts_search.spec.model import SweepSpec
from rts_search.trials.observer import Observer
from rts_search.trials.rows import final_value
from rts_search.trials.trial import LiveTrial


@dataclass(frozen=True)
class UsedUp:
    """The budget that ended a sweep, in a line, and the option of `resume` that allows more."""

    line: str
    option: str

    def __str__(self) -> str:
        return self.line


class Budget(Observer):
    """Counts epochs and gradient evaluations of searched trials and controls alike.

    Each epoch in the ledger counts once: one that was trained again after a worker was lost adds
    nothing, nor does one that was shared. `seconds` gives the wall clock that all drivers of the
    sweep have run so far. A budget ends the sweep after it is used up: running epochs may take it
    over.
    """

    def __init__(
        self, spec: SweepSpec, seconds: Callable[[], float], stored: Iterable[StoredTrial] = ()
    ) -> None:
        self.config, self.seconds = spec.budget, seconds
        self.objective, self.direction = spec.search.objective, spec.direction
        self.epochs = 0
        self.gradient_evaluations = 0
        self.best: float | None = None
        # (trial id, rung): the epoch that was reached, and the gradient evaluations until then
        self._reached: dict[tuple[str, int], tuple[int, int]] = {}
        for trial in stored:
            self.add(trial.trial_id, trial.epochs)
            if trial.outcome is Outcome.COMPLETED and trial.number is not None:
                self.completed(final_value(trial.epochs, self.objective))

    def reported(self, trial: LiveTrial, epochs: Sequence[dict[str, Any]]) -> None:
        self.add(trial.trial_id, epochs)

    def ended(self, trial: LiveTrial) -> None:
        if trial.outcome is Outcome.COMPLETED and trial.number is not None:
            self.completed(final_value(trial.history, self.objective))

    def add(self, trial_id: str, epochs: Iterable[Mapping[str, Any]]) -> None:
        """Count a trial's epochs, as metrics or as rows of `epochs`; known ones are ignored."""
        for row in epochs:
            key = trial_id, row["rung"]
            epoch, gradients = self._reached.get(key, (0, 0))
            if row["epoch"] > epoch:
                self._reached[key] = row["epoch"], row["gradient_evaluations"]
                if not row.get("shared"):
                    self.epochs += row["epoch"] - epoch
                    self.gradient_evaluations += row["gradient_evaluations"] - gradients

    def completed(self, value: float | None) -> None:
        """The objective of a searched trial that ran to full T."""
        if value is not None and (self.best is None or self._reaches(value, self.best)):
            self.best = value

    def used_up(self) -> UsedUp | None:
        """The first budget that is used up, or the target that is reached; None to go on."""
        config, best = self.config, self.best
        if config.target is not None and best is not None and self._reaches(best, config.target):
            line = f"budget.target {config.target:g} is reached: {best:.4f}"
            return UsedUp(line, "--set budget.target=VALUE")
        if config.hours is not None and self.seconds() >= config.hours * 3600:
            return UsedUp(f"budget.hours {config.hours:g} is used up", "--hours HOURS")
        if config.epochs is not None and self.epochs >= config.epochs:
            line = f"budget.epochs {config.epochs} is used up: {self.epochs} were trained"
            return UsedUp(line, "--set budget.epochs=NUMBER")
        allowed = config.gradient_evaluations
        if allowed is not None and self.gradient_evaluations >= allowed:
            spent = self.gradient_evaluations
            line = f"budget.gradient_evaluations {allowed} is used up: {spent} were spent"
            return UsedUp(line, "--set budget.gradient_evaluations=NUMBER")
        return None

    def _reaches(self, value: float, target: float) -> bool:
        return value >= target if self.direction == "maximize" else value <= target
