"""Live progress: a table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from results.meanings import Outcome, column, merit, metric_of
from results.trials import StoredTrial
from rts_search.show.console import duration
from rts_search.show.tables import describe_trial, in_words
from rts_search.spec.model import SweepSpec
from rts_search.trials.observer import Observer
from rts_search.trials.rows import final_value, spent_columns
from rts_search.trials.trial import LiveTrial, trials_in

REFRESH_SECONDS = 0.5
LINE_SECONDS = 30.0
SHOWN = 12


@dataclass(frozen=True)
class Best:
    """The best searched trial that has completed: the objective at its end, its name, and its
    configuration in words."""

    value: float
    trial_id: str
    words: str


@dataclass(frozen=True)
class Spent:
    """What epochs have cost, each on its own worker."""

    seconds: float = 0.0
    gradients: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.seconds + other.seconds, self.gradients + other.gradients)

    @classmethod
    def of(cls, epochs: Sequence[Mapping[str, Any]]) -> Spent:
        """What was trained of a trial's epochs."""
        found = spent_columns(epochs)
        return cls(found["spent_seconds"], found["spent_gradient_evaluations"])


# the seconds that are left, from the running trials, how many searched trials and controls are
# still to begin, and what was spent until now
Left = Callable[[Collection[LiveTrial], int, int, Spent], float]


class Progress(Observer):
    """Shows running trials, the best so far against the controls, outcomes and time left."""

    def __init__(
        self,
        spec: SweepSpec,
        live: dict[str, LiveTrial],
        console: Console,
        ended: Iterable[StoredTrial] = (),
        left: Left | None = None,
    ) -> None:
        self.name, self.planned, self.objective = spec.name, trials_in(spec), spec.search.objective
        self.live, self.console, self.left = live, console, left
        self.trials, self.searched, self.spent = spec.search.trials, 0, Spent()  # of ended trials
        self.outcomes: Counter[str] = Counter()
        self.controls: dict[str, float] = {}
        self.best: Best | None = None
        self.started = time.monotonic()
        self.ended_here = 0
        self.refreshed = 0.0
        self.screen = Live(console=console, auto_refresh=False) if console.is_terminal else None
        for trial in ended:
            self._spend(trial.number, trial.epochs)
            value = final_value(trial.epochs, self.objective)
            words = partial(describe_trial, trial.row)
            self._count(trial.trial_id, trial.row["control"], trial.outcome, value, words)

    def __enter__(self) -> Progress:
        if self.screen is not None:
            self.screen.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.screen is not None:
            self.screen.update(Text(""), refresh=True)
            self.screen.stop()

    def ended(self, trial: LiveTrial) -> None:
        outcome, message = trial.outcome, trial.message
        self.ended_here += 1
        self._spend(trial.number, trial.history)
        value = final_value(trial.history, self.objective)
        self._count(trial.trial_id, trial.control, outcome, value, partial(in_words, trial))
        line = f"{trial.trial_id:8} {trial.config.optimizer.family:5} {outcome:13} "
        line += f"epoch {_place(trial)}"
        line += f"  {metric_of(self.objective)} {value:.4f}" if value is not None else ""
        line += f"  {message}" if message else ""
        if self.screen is None:
            self.console.print(
                f"[{sum(self.outcomes.values())}/{self.planned}] {line}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
        elif outcome.told == "fail":
            self.console.print(line, markup=False, highlight=False)

    def tick(self) -> None:
        now = time.monotonic()
        interval = REFRESH_SECONDS if self.screen is not None else LINE_SECONDS
        if now - self.refreshed < interval:
            return
        self.refreshed = now
        if self.screen is not None:
            self.screen.update(self.table(), refresh=True)
        elif self.ended_here:
            self.console.print(self.summary(), markup=False, highlight=False, soft_wrap=True)

    def summary(self) -> str:
        """One line: trials done, best against the controls, time left."""
        done = sum(self.outcomes.values())
        counts = ", ".join(f"{n} {outcome}" for outcome, n in sorted(self.outcomes.items()))
        parts = [f"{self.name}: {done}/{self.planned} trials" + (f" ({counts})" if counts else "")]
        if self.best is not None:
            parts.append(f"best {self.best.trial_id} {self.best.value:.4f}")
        parts += [f"{name} {value:.4f}" for name, value in sorted(self.controls.items())]
        if (left := self.seconds_left()) is not None:
            parts.append(f"about {duration(left)} left")
        elapsed = time.monotonic() - self.started
        return " · ".join([*parts, f"{duration(elapsed)} elapsed"])

    def seconds_left(self) -> float | None:
        """None before the first epoch, and where nothing is known."""
        live = list(self.live.values())
        spent = sum((Spent.of(trial.history) for trial in live), self.spent)
        if self.left is None or not spent.gradients:
            return None
        running = sum(trial.number is not None for trial in live)
        done = sum(self.outcomes.values())
        searched = max(0, self.trials - self.searched - running)
        controls = max(0, self.planned - done - len(live) - searched)
        return self.left(live, searched, controls, spent)

    def table(self) -> RenderableType:
        table = Table(box=None, pad_edge=False, header_style="bold")
        shown = metric_of(self.objective).replace("_", " ")
        for title in ("trial", "family", "epoch", shown, "radius", "scale", "perturbing"):
            table.add_column(title, justify="left" if title in ("trial", "family") else "right")
        for trial in list(self.live.values())[:SHOWN]:
            last = trial.history[-1] if trial.history else None
            cells = ["–"] * 4
            if last is not None:
                forms = {column(self.objective): ".4f", "radius": ".3g", "scale": ".3g"}
                cells = [_cell(last[name], form) for name, form in forms.items()]
                cells.append("yes" if last["perturbing"] else "no")
            table.add_row(trial.trial_id, trial.config.optimizer.family, _place(trial), *cells)
        hidden = len(self.live) - SHOWN
        more = [Text(f"… and {hidden} more running", style="dim")] if hidden > 0 else []
        best = [] if self.best is None else [Text(self._best_line(self.best))]
        return Group(table, *more, *best, Text(self.summary(), style="bold"))

    def _best_line(self, best: Best) -> str:
        told = f"{metric_of(self.objective)} {best.value:.4f}"
        return f"best so far {best.trial_id}, {told}: {best.words}"

    def _spend(self, number: int | None, epochs: Sequence[Mapping[str, Any]]) -> None:
        self.searched += number is not None
        self.spent += Spent.of(epochs)

    def _count(
        self,
        trial_id: str,
        control: str | None,
        outcome: str,
        value: float | None,
        words: Callable[[], str],
    ) -> None:
        self.outcomes[outcome] += 1
        if outcome != Outcome.COMPLETED or value is None:
            return
        if control is not None:
            known = self.controls.get(control)
            if known is None or self._better(value, known):
                self.controls[control] = value
        elif self.best is None or self._better(value, self.best.value):
            self.best = Best(value, trial_id, words())

    def _better(self, value: float, other: float) -> bool:
        return merit(value, self.objective) > merit(other, self.objective)


def _cell(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _place(trial: LiveTrial) -> str:
    """As in `4/9`: an epoch of the complete schedule that the trial is in."""
    if not trial.history:
        return f"0/{trial.total_epochs}"
    return f"{trial.history[-1]['epoch']}/{trial.history[-1]['total_epochs']}"
