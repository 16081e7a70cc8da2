"""Runs that no search asked for, under Ray Tune and into a sweep's ledger: each stage asks for
those that are due, as long as there are any, and finds what earlier drivers did."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from rich.console import Console

from results.ledger import Ledger
from results.meanings import Outcome
from results.storage import SweepFolder
from results.trials import Row, read_trials
from rts_search.cluster.placement import Placement, place
from rts_search.cluster.session import Session, ray_session
from rts_search.driver.budget import Budget
from rts_search.driver.control import Control
from rts_search.driver.interrupt import Interrupt, raise_on_signals, signals_raise
from rts_search.driver.lock import hold_lock
from rts_search.run import Work, finish, run_trials
from rts_search.show.console import prose
from rts_search.spec.model import BudgetConfig, CheckpointConfig, StopConfig, SweepSpec
from rts_search.stopping.stopper import make_stopper
from rts_search.trials.observer import Observer
from rts_search.trials.recorder import Recorder
from rts_search.trials.rows import trial_columns
from rts_search.trials.trial import LiveTrial
from rts_search.trials.tune import Seam
from trainables.checkpoint import TRUNKS
from trainables.trunk import trunk_prefix
from trainables.tune import package_fingerprints

Due = Callable[[Mapping[str, Row]], Sequence[LiveTrial]]  # given what has ended, by trial
# how a run may end and still say something: what it came to counts
TELLING = (Outcome.COMPLETED, Outcome.DIVERGED)


class EndedEarlyError(Exception):
    """The stage ended before its runs did; what there is stays."""


@dataclass(frozen=True)
class Stages:
    """A driver that runs one stage after the other; `spec` says where and with what resources."""

    spec: SweepSpec
    folder: SweepFolder
    control: Control
    ledger: Ledger
    session: Session
    placement: Placement
    say: Callable[[str], None]
    verbose: bool

    def run(self, stage: str, claim: str | None, due: Due) -> dict[str, Row]:
        """The rows of a stage's runs (of that claim) that have ended, once none is due any more.

        Raises EndedEarlyError, and ValueError for a run that failed.
        """
        rows = ended_rows(self.folder, stage, claim)
        plan = Plan(due, rows, self.spec.search.objective, self.say)
        if not plan.asked:
            return rows
        recorder = Recorder(self.spec, self.folder, self.ledger, make_stopper(self.spec), (), stage)
        live = plan.live
        budget = Budget(self.spec, self.control.seconds)
        with Interrupt(budget, self.control, recorder.given_up) as interrupt:
            seam = Seam(self.spec, live, [recorder, plan], interrupt.user_stopped)
            work = Work(self.spec, self.folder, iter(plan), recorder.stopper, shares=True)
            run_trials(
                work,
                self.control,
                seam,
                self.placement,
                interrupt,
                self.session.folder,
                self.verbose,
            )
        result = finish(recorder, live, interrupt)
        if result.interrupted:
            raise EndedEarlyError(result.interrupted)
        if plan.failed:
            name, why = next(iter(plan.failed.items()))
            more = f" (and {len(plan.failed) - 1} more)" if len(plan.failed) > 1 else ""
            raise ValueError(f"run {name} {why}{more}: nothing is said without it; try again")
        return rows

    def drop_trunks(self, runs: Sequence[LiveTrial]) -> None:
        """Of runs that are not needed again: each seed has one of its own."""
        threads, packages = self.placement.layout.threads, package_fingerprints()
        prefixes = {trunk_prefix(run.config, threads, packages) for run in runs}
        for name in self.folder.list(TRUNKS):
            if any(name.startswith(prefix) for prefix in prefixes):
                self.folder.delete(f"{TRUNKS}/{name}")


class Plan(Observer):
    """The runs that are due, in order, and what becomes of them. `rows` are those that ended."""

    def __init__(
        self, due: Due, rows: dict[str, Row], objective: str, say: Callable[[str], None]
    ) -> None:
        self.due, self.rows, self.objective, self.say = due, rows, objective, say
        self.live: dict[str, LiveTrial] = {}
        self.asked = list(due(rows))  # as of the last end
        self.handed_out: set[str] = set()
        self.failed: dict[str, str] = {}

    def __iter__(self) -> Iterator[LiveTrial | None]:
        while True:
            run = next((r for r in self.asked if r.trial_id not in self.handed_out), None)
            if run is not None and not self.failed:
                self.handed_out.add(run.trial_id)
                yield run
            elif self.live:
                yield None
            else:
                return

    def ended(self, trial: LiveTrial) -> None:
        row = trial_columns(trial, self.objective)
        tests = (row.get(name) for name in ("test_accuracy", "test_value"))
        value = next((value for value in tests if value is not None), None)
        told = f"on test {value:.4f}" if value is not None else trial.message or ""
        self.say(f"{trial.trial_id} {trial.outcome}  {told}")
        if trial.outcome in TELLING:
            self.rows[trial.trial_id] = row
            self.asked = list(self.due(self.rows))
        else:
            self.failed[trial.trial_id] = f"{trial.outcome}: {trial.message}"


def ended_rows(folder: SweepFolder, stage: str, claim: str | None) -> dict[str, Row]:
    """The runs of a stage (of a claim) that say something, by name."""
    stored = read_trials(folder, [], lambda row: row["claim"] == claim, stage)
    return {trial.trial_id: trial.row for trial in stored if trial.outcome in TELLING}


def staged(spec: SweepSpec) -> SweepSpec:
    """A spec for runs that are never stopped, and of which no weights are kept."""
    checkpoint = spec.checkpoint.model_dump() | {"keep_top": 0, "keep_stopped": False}
    return spec.model_copy(
        update={
            "stop": StopConfig(policy="none"),
            "budget": BudgetConfig(),
            "checkpoint": CheckpointConfig.model_validate(checkpoint),
            "loggers": [],
        }
    )


@contextmanager
def stages(
    spec: SweepSpec, folder: SweepFolder, console: Console, address: str | None, verbose: bool
) -> Iterator[Stages]:
    """Take the sweep's lock, start or join Ray, and place runs. Raises ValueError, in one line."""
    say, spec = partial(prose, console), staged(spec)
    with signals_raise(), hold_lock(folder, say), Control(folder, counted=False) as control:
        held = control.confirmed()
        with Ledger(held) as ledger, ray_session(address, verbose) as session:
            raise_on_signals()
            placement = place(spec, held, session, say, control.poll)
            for line in placement.lines:
                say(line)
            yield Stages(spec, held, control, ledger, session, placement, say, verbose)
