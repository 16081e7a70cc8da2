"""The searcher's memory: a thin layer over an Optuna study and its journal file.

Trials are asked for, and told as COMPLETE, PRUNED (stopped early; ranked by their last
intermediate value) or FAIL. All that is told twice is ignored the second time, for a resumed sweep
may tell a trial's end again. The journal is Optuna's own format and can be read by
optuna-dashboard while the search runs, but it has one writer.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, TrialState

from rts_search.search.bounds import WideTrial, choices_in
from rts_search.search.grid import GRID_POINTS, GridSampler
from rts_search.search.journal import Journal
from rts_search.search.known import Earlier, as_optuna, begin_lost, keep_earlier, kept_earlier
from rts_search.search.observations import Observations
from rts_search.search.opening import Direction, begin, first_bounds, is_begun, question, reopen
from rts_search.search.samplers import SeededSampler, make_sampler
from rts_search.search.twins import (
    CONFIG,
    FROM,
    LEFT_OUT,
    OUTCOME,
    SURE,
    TWIN,
    Twins,
    identity,
    on_device,
)
from search_spaces.space import Params, Space, apply, check_point
from trainables.config import TrialConfig

State = Literal["waiting", "running", "complete", "pruned", "fail"]

_STATES: dict[TrialState, State] = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "fail",
}
_START_POINTS, _WARM = "start_points", "warm_start"  # of the study: how many points of each
DUPLICATES_IN_A_ROW = 50  # then the space counts as exhausted
Steps = Mapping[int, float]
_NO_STEPS: Steps = {}


@dataclass(frozen=True)
class Proposal:
    """A trial to run; `resumed` if an earlier driver had begun it."""

    number: int
    params: Params
    config: TrialConfig
    resumed: bool = False


@dataclass(frozen=True)
class StudyTrial:
    """What the study knows of a trial. `values` are the objective, and the cost if there is one;
    None before the end and of failed trials; a pruned trial has its last intermediate value."""

    number: int
    state: State
    params: Params
    values: list[float] | None
    intermediates: dict[int, float]

    @property
    def value(self) -> float | None:
        return self.values[0] if self.values else None


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
        self._observations = Observations(study.study_name, storage)
        bounds = first_bounds(study)
        self._choices = choices_in(bounds)
        if isinstance(study.sampler, SeededSampler):
            study.sampler.learn_from(self._observations, bounds)
        self._begun = self._duplicates = self._left_out = 0
        self._unfinished: deque[int] = deque()
        self._twins = Twins()
        self._enqueued: int = sum(study.user_attrs.get(key, 0) for key in (_START_POINTS, _WARM))
        for trial in self._all():
            self._leave_out(trial)
            self._recall(self._frozen(trial.number))
        self._learn(kept_earlier(storage, study))

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
        against: str | None = None,
    ) -> SearchStudy:
        """Make the search, or take it up again where its journal exists (a local path).

        With `against`, the name of a cost to be minimised, it has two objectives. A search may
        come back with narrower bounds, which are then its own: numbers inside the old ones, or
        fewer choices. Raises ValueError if the sampler does not suit the space, if the journal is
        damaged, or if it belongs to a search that was asked for differently.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        made = make_sampler(sampler, space, seed, grid_points, 2 if against else 1)
        grid = grid_points if sampler == "grid" else None
        asked_for = question(space, sampler, seed, objective_name, direction, against, grid)
        journal = Journal(journal_path)
        storage = journal.storage()
        if is_begun(storage):
            study = reopen(journal_path, storage, made, asked_for)
        else:
            with journal.together():
                study = begin(storage, journal_path.resolve().parent.name, made, asked_for)
        return cls(journal, storage, study, space, base_config)

    # Asking

    def enqueue(self, points: Sequence[Mapping[str, Any]]) -> None:
        """Try these parameters first. Once in a search's life: later calls are ignored.
        Raises ValueError, and enqueues nothing, if a point lies outside of the space."""
        self._enqueue(_START_POINTS, points)

    def warm_start(
        self, earlier: Sequence[Earlier], points: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Learn from trials of other sweeps, and try these points before all new ones.

        Those trials are kept in the journal as a study of their own: here they have no numbers,
        are neither counted nor listed. Once in a search's life, as `enqueue`.
        """
        if self.warm_started:
            return
        made = [as_optuna(self._space, trial) for trial in earlier]
        with self._journal.together():
            if made:
                keep_earlier(self._storage, self._study, made)
            self._enqueue(_WARM, points)
        self._learn(kept_earlier(self._storage, self._study))

    @property
    def warm_started(self) -> bool:
        return _WARM in self._study.user_attrs

    def _enqueue(self, key: str, points: Sequence[Mapping[str, Any]]) -> None:
        if key in self._study.user_attrs:
            return
        checked = [check_point(self._space, point) for point in points]
        there = [trial.system_attrs.get("fixed_params") for trial in self._all()]
        with self._journal.together():
            for point in checked:
                if point not in there:  # as some are if a power cut has torn this
                    self._study.enqueue_trial(point)
            self._study.set_user_attr(key, len(checked))
        self._enqueued += len(checked)

    def _learn(self, earlier: Sequence[FrozenTrial]) -> None:
        self._twins.set_earlier(earlier)
        self._observations.set_earlier(earlier)

    def rebuild(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Begin the trials that the ledger has (as rows of `trials`) and the journal lacks.

        For a journal that is lost: call it after `enqueue` and `warm_start`, then tell the ends.
        Trials get their numbers, parameters and configs back and count as running. A number that
        the ledger lacks too (a duplicate, or one that never began to train) is proposed again.
        Raises ValueError for a trial outside of the space.
        """
        with self._journal.together():
            for number in begin_lost(self._storage, self._study_id, self._space, rows):
                self._recall(self._frozen(number))

    def resume_next(self) -> Proposal | None:
        """The next trial that was running when the study was opened, and has not ended since.

        It has the parameters and the config that it began with, whatever the bounds are now.
        """
        while self._unfinished:
            number = self._unfinished[0]
            runs = self._frozen(number).state == TrialState.RUNNING
            proposal = self._hand_out(number, resumed=True) if runs else None
            self._unfinished.popleft()  # now that it is on disk
            if proposal is not None:
                return proposal
        return None

    def ask(self) -> Proposal | None:
        """The next trial: unfinished ones first, then points to try first, then the sampler's.

        A config that is known, from this search or an earlier sweep, is told at once as its twin,
        and neither handed out nor counted. None if the grid is exhausted, or, after 50 of those in
        a row, the space. Raises ValueError, and fails the trial, if the space makes an invalid
        config; OSError if the journal cannot be written, and the next `ask` gives that trial.
        """
        if (proposal := self.resume_next()) is not None:
            return proposal
        for _ in range(DUPLICATES_IN_A_ROW if self.remaining is None else self.remaining):
            if (proposal := self._propose()) is not None:
                return proposal
        return None

    def _propose(self) -> Proposal | None:
        with self._journal.together():
            number = self._study.ask().number
            self._begun += 1
            self._unfinished.append(number)  # until it is on disk
            proposal = self._hand_out(number, resumed=False)
        self._unfinished.pop()
        return proposal

    def _hand_out(self, number: int, resumed: bool) -> Proposal | None:
        """The trial, made whole by the sampler; None if its config has a twin."""
        with self._journal.together(), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # it may have begun in other bounds
            trial = WideTrial(self._study, self._trial_id(number), self._choices)
            if (known := self._frozen(number).user_attrs.get(CONFIG)) is not None:
                config = on_device(TrialConfig.model_validate_json(known), self._base.train.device)
                self._twins.add(self._frozen(number))
                return Proposal(number, trial.params, config, resumed)
            try:
                config = apply(self._space, trial, self._base)
            except ValueError:
                self.fail(number)
                raise
            if (twin := self._twins.find(config)) is not None:
                self._tell_as(number, self._frozen(twin) if isinstance(twin, int) else twin)
                return None
            trial.set_user_attr(CONFIG, identity(config))
            self._twins.add(self._frozen(number))
            return Proposal(number, trial.params, config, resumed)

    def _tell_as(self, number: int, twin: FrozenTrial) -> None:
        """The trial ends as its twin has ended; if that is still running, it fails."""
        trial_id, name = self._trial_id(number), twin.user_attrs.get(FROM, twin.number)
        self._storage.set_trial_user_attr(trial_id, TWIN, name)
        self._duplicates += 1
        if twin.state == TrialState.COMPLETE:
            self._end(number, twin.state, twin.intermediate_values, twin.values)
        elif twin.state == TrialState.PRUNED:
            self._end(number, twin.state, twin.intermediate_values)
        else:
            self._end(number, TrialState.FAIL)

    @property
    def remaining(self) -> int | None:
        """How many new trials the grid still has, start points included; None without a grid."""
        if not isinstance(self._study.sampler, GridSampler):
            return None
        return max(0, len(self._study.sampler.points) + self._enqueued - self._begun)

    def count(self) -> int:
        """How many trials have been handed out, whatever became of them; no duplicates."""
        return self._begun - self._duplicates - self._left_out

    def duplicates(self) -> int:
        """How many proposals were told as their twins instead."""
        return self._duplicates

    # Telling

    def report(self, number: int, value: float, step: int) -> None:
        """Record an intermediate value at a step, in epochs. The first one at a step counts;
        values that are not finite, and those of a trial that has ended, are not recorded."""
        trial = self._frozen(number)
        if trial.state != TrialState.RUNNING or step in trial.intermediate_values:
            return
        if math.isfinite(value):
            self._storage.set_trial_intermediate_value(self._trial_id(number), step, float(value))

    def complete(
        self, number: int, value: float, steps: Steps = _NO_STEPS, cost: float | None = None
    ) -> None:
        """The trial ran to its end, with `steps` in between; a value that is not finite fails it.

        `cost` is the second objective, where there is one. What is told of an end reaches the disk
        at once: no step is ever there without its verdict.
        """
        values = [float(value)] if cost is None else [float(value), float(cost)]
        if all(map(math.isfinite, values)):
            self._end(number, TrialState.COMPLETE, steps, values)
        else:
            self._end(number, TrialState.FAIL, steps, outcome="diverged")

    def pruned(self, number: int, steps: Steps = _NO_STEPS) -> None:
        """The trial was stopped early; its intermediate values, `steps` included, rank it.

        With two objectives it has failed: half a pair ranks nothing.
        """
        if len(self._study.directions) > 1:
            self._end(number, TrialState.FAIL, steps, outcome="user_stopped")
        else:
            self._end(number, TrialState.PRUNED, steps)

    def fail(self, number: int, outcome: str = "failed") -> None:
        """The sampler does not learn from the trial. It may be proposed again, unless its outcome
        is one that its config would have again: diverged, collapsed, user_stopped."""
        self._end(number, TrialState.FAIL, outcome=outcome)

    def _end(
        self,
        number: int,
        state: TrialState,
        steps: Steps = _NO_STEPS,
        values: Sequence[float] | None = None,
        outcome: str | None = None,
    ) -> None:
        with self._journal.together():
            trial = self._frozen(number)
            if trial.state != TrialState.RUNNING:
                return
            for step, value in steps.items():
                self.report(number, value, step)
            if outcome is not None:
                self._storage.set_trial_user_attr(self._trial_id(number), OUTCOME, outcome)
                if outcome not in SURE:
                    self._twins.forget(trial)
            self._study.tell(number, values, state=state)

    def save(self) -> None:
        """Write what a failing disk has left unwritten. Raises OSError if it still fails."""
        with self._journal.together():
            pass

    # Looking

    def trials(self) -> list[StudyTrial]:
        """All trials but duplicates and points that were left out, by number."""
        return [
            StudyTrial(
                trial.number,
                _STATES[trial.state],
                dict(trial.params or trial.system_attrs.get("fixed_params", {})),
                trial.values,
                dict(trial.intermediate_values),
            )
            for trial in self._all()
            if not {TWIN, LEFT_OUT} & trial.user_attrs.keys()
        ]

    def completed(self) -> list[StudyTrial]:
        return [trial for trial in self.trials() if trial.state == "complete"]

    def intermediates(self) -> dict[int, dict[int, float]]:
        """The intermediate values by step, of every trial that has some, by its number."""
        return {trial.number: trial.intermediates for trial in self.trials() if trial.intermediates}

    def _all(self) -> list[FrozenTrial]:
        return list(self._storage.get_all_trials(self._study_id, deepcopy=False))

    def _trial_id(self, number: int) -> int:
        find = self._storage.get_trial_id_from_study_id_trial_number
        try:
            return int(find(self._study_id, number))
        except KeyError:
            raise ValueError(f"the search has no trial {number}, only {self.count()}") from None

    def _frozen(self, number: int) -> FrozenTrial:
        return self._storage.get_trial(self._trial_id(number))

    def _leave_out(self, trial: FrozenTrial) -> None:
        """Drop a point to try first that narrower bounds have left outside."""
        if trial.state == TrialState.WAITING:
            try:
                check_point(self._space, trial.system_attrs.get("fixed_params", {}))
            except ValueError as error:
                with self._journal.together():
                    self._storage.set_trial_user_attr(trial._trial_id, LEFT_OUT, str(error))
                    self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)

    def _recall(self, trial: FrozenTrial) -> None:
        """Take notice of a trial that has begun."""
        if trial.state == TrialState.WAITING:
            return
        self._begun += 1
        self._duplicates += TWIN in trial.user_attrs
        self._left_out += LEFT_OUT in trial.user_attrs
        if trial.state == TrialState.RUNNING:
            self._unfinished.append(trial.number)
        self._twins.add(trial)
