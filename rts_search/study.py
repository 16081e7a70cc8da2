"""The searcher's memory: a thin layer over an Optuna study and its journal file.

Trials are asked for, and told as COMPLETE, PRUNED (stopped early; ranked by their last
intermediate value) or FAIL. All that is told twice is ignored the second time, for a resumed sweep
may tell a trial's end again. The journal is Optuna's own format and can be read by
optuna-dashboard while the search runs, but it has one writer.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import distribution_to_json
from optuna.exceptions import ExperimentalWarning
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState

from rts_search.samplers import GRID_POINTS, GridSampler, make_sampler
from search_spaces.space import Params, Space, apply, check_point, describe
from trainables.config import TrialConfig

Direction = Literal["maximize", "minimize"]
State = Literal["waiting", "running", "complete", "pruned", "fail"]

_STATES: dict[TrialState, State] = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "fail",
}
_ASKED_FOR, _START_POINTS = "asked_for", "start_points"


@dataclass(frozen=True)
class Proposal:
    """A trial to run; `resumed` if an earlier driver had begun it."""

    number: int
    params: Params
    config: TrialConfig
    resumed: bool = False


@dataclass(frozen=True)
class StudyTrial:
    """What the study knows of a trial. `value` is the objective, None before the end and of
    failed trials; a pruned trial's is its last intermediate value."""

    number: int
    state: State
    params: Params
    value: float | None
    intermediates: dict[int, float]


class Journal(BaseJournalBackend):  # type: ignore[misc]
    """The journal file of one writer: JSON lines, as Optuna's own file backend writes them.

    What is written inside `together()` reaches the disk at once, so that a kill cannot leave a
    trial with half of its parameters. A line torn by a kill is dropped at the next opening.
    """

    def __init__(self, path: Path) -> None:
        path.touch()
        whole = path.read_bytes()
        lines = whole[: whole.rfind(b"\n") + 1]
        if len(lines) < len(whole):
            os.truncate(path, len(lines))
        self._path = path
        self._unread: list[dict[str, Any]] = [json.loads(line) for line in lines.splitlines()]
        self._unwritten = ""
        self._held = False

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        """The records since the last call; the storage that owns this reads each once."""
        unread, self._unread = self._unread, []
        return unread

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        for log in logs:
            line = json.dumps(log, separators=(",", ":"))
            self._unread.append(json.loads(line))  # as a later reader will see it
            self._unwritten += line + "\n"
        if not self._held:
            self._write()

    @contextmanager
    def together(self) -> Iterator[None]:
        self._held = True
        try:
            yield
        finally:
            self._held = False
            self._write()

    def _write(self) -> None:
        with self._path.open("ab") as file:
            file.write(self._unwritten.encode())
            file.flush()
            os.fsync(file.fileno())
        self._unwritten = ""


class SearchStudy:
    """One search. Made by `open`; the ask side gives proposals, the tell side takes results."""

    def __init__(
        self,
        journal: Journal,
        storage: JournalStorage,
        study: optuna.Study,
        space: Space,
        base_config: TrialConfig,
    ) -> None:
        self._journal, self._storage, self._study = journal, storage, study
        self._space, self._base = space, base_config
        self._study_id: int = storage.get_study_id_from_name(study.study_name)
        self._unfinished = deque(t.number for t in self._all() if t.state == TrialState.RUNNING)

    @classmethod
    def open(
        cls,
        journal_path: Path,
        space: Space,
        base_config: TrialConfig,
        sampler: str,
        seed: int,
        objective_name: str,
        direction: Direction,
        grid_points: int = GRID_POINTS,
    ) -> SearchStudy:
        """Make the search, or take it up again where its journal exists (a local path).

        Raises ValueError if the sampler does not suit the space, or if the journal belongs to a
        search that was asked for differently.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        made = make_sampler(sampler, space, seed, grid_points)
        asked_for = {
            "space": space.name,
            "parameters": {p.name: distribution_to_json(p.distribution) for p in describe(space)},
            "sampler": sampler,
            "seed": seed,
            "objective": objective_name,
            "direction": direction,
            "grid_points": grid_points if sampler == "grid" else None,
        }
        try:
            journal = Journal(journal_path)
            storage = JournalStorage(journal)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"journal {str(journal_path)!r} cannot be read: {error}") from error
        if storage.get_all_studies():
            study = optuna.load_study(study_name=None, storage=storage, sampler=made)
            _check_same(journal_path, study.user_attrs.get(_ASKED_FOR, {}), asked_for)
        else:
            name = journal_path.resolve().parent.name
            with journal.together():
                study = optuna.create_study(
                    storage=storage, study_name=name, sampler=made, direction=direction
                )
                study.set_user_attr(_ASKED_FOR, asked_for)
                _name_objective(study, objective_name)
        return cls(journal, storage, study, space, base_config)

    # Asking

    def enqueue(self, points: Sequence[Mapping[str, Any]]) -> None:
        """Try these parameters first. Once in a search's life: later calls are ignored.

        Raises ValueError, and enqueues nothing, if a point lies outside of the space.
        """
        if _START_POINTS in self._study.user_attrs:
            return
        checked = [check_point(self._space, point) for point in points]
        with self._journal.together():
            for point in checked:
                self._study.enqueue_trial(point)
            self._study.set_user_attr(_START_POINTS, len(checked))

    def resume_next(self) -> Proposal | None:
        """The next trial that was running when the study was opened, and has not ended since."""
        while self._unfinished:
            number = self._unfinished.popleft()
            if self._frozen(number).state == TrialState.RUNNING:
                with self._journal.together():
                    trial = optuna.trial.Trial(self._study, self._trial_id(number))
                    return self._propose(trial, resumed=True)
        return None

    def ask(self) -> Proposal | None:
        """The next trial: unfinished ones first, then start points, then the sampler's.

        None if the grid is exhausted. Raises ValueError, and fails the trial, if the space makes
        an invalid config.
        """
        if (proposal := self.resume_next()) is not None:
            return proposal
        if self.remaining == 0:
            return None
        with self._journal.together():
            return self._propose(self._study.ask(), resumed=False)

    def _propose(self, trial: optuna.Trial, resumed: bool) -> Proposal:
        try:
            config = apply(self._space, trial, self._base)
        except ValueError:
            self.fail(trial.number)
            raise
        return Proposal(trial.number, trial.params, config, resumed)

    @property
    def remaining(self) -> int | None:
        """How many new trials the grid still has, start points included; None without a grid."""
        if not isinstance(self._study.sampler, GridSampler):
            return None
        start_points: int = self._study.user_attrs.get(_START_POINTS, 0)
        return max(0, len(self._study.sampler.points) + start_points - self.count())

    def count(self) -> int:
        """How many trials have been handed out, whatever became of them."""
        return sum(trial.state != TrialState.WAITING for trial in self._all())

    # Telling

    def report(self, number: int, value: float, step: int) -> None:
        """Record an intermediate value at a step, in epochs. The first one at a step counts;
        values that are not finite, and those of a trial that has ended, are not recorded."""
        trial = self._frozen(number)
        if trial.state != TrialState.RUNNING or step in trial.intermediate_values:
            return
        if math.isfinite(value):
            self._storage.set_trial_intermediate_value(self._trial_id(number), step, float(value))

    def complete(self, number: int, value: float) -> None:
        """The trial ran to its end; one whose value is not finite has failed."""
        if math.isfinite(value):
            self._tell(number, TrialState.COMPLETE, float(value))
        else:
            self.fail(number)

    def pruned(self, number: int) -> None:
        """The trial was stopped early; its intermediate values rank it."""
        self._tell(number, TrialState.PRUNED)

    def fail(self, number: int) -> None:
        """The trial diverged or broke; the sampler does not learn from it."""
        self._tell(number, TrialState.FAIL)

    def _tell(self, number: int, state: TrialState, value: float | None = None) -> None:
        if self._frozen(number).state == TrialState.RUNNING:
            self._study.tell(number, value, state=state)

    # Looking

    def trials(self) -> list[StudyTrial]:
        """All trials, by number."""
        return [
            StudyTrial(
                trial.number,
                _STATES[trial.state],
                dict(trial.params or trial.system_attrs.get("fixed_params", {})),
                trial.value,
                dict(trial.intermediate_values),
            )
            for trial in self._all()
        ]

    def intermediates(self) -> dict[int, dict[int, float]]:
        """The intermediate values by step, of every trial that has some, by its number."""
        return {trial.number: trial.intermediates for trial in self.trials() if trial.intermediates}

    def _all(self) -> list[FrozenTrial]:
        found: list[FrozenTrial] = self._storage.get_all_trials(self._study_id, deepcopy=False)
        return found

    def _trial_id(self, number: int) -> int:
        try:
            trial_id: int = self._storage.get_trial_id_from_study_id_trial_number(
                self._study_id, number
            )
        except KeyError:
            raise ValueError(f"the search has no trial {number}, only {self.count()}") from None
        return trial_id

    def _frozen(self, number: int) -> FrozenTrial:
        return self._storage.get_trial(self._trial_id(number))


def _check_same(journal: Path, known: Mapping[str, Any], asked_for: Mapping[str, Any]) -> None:
    for key, value in asked_for.items():
        if known.get(key) != value:
            change = (
                "other parameters or bounds"
                if key == "parameters"
                else f"{key} {known.get(key)!r}, not {value!r}"
            )
            raise ValueError(
                f"the search in {str(journal)!r} was begun with {change}: begin a new sweep"
            )


def _name_objective(study: optuna.Study, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names([name])  # what dashboards show
