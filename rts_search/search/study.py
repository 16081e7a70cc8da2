"""A search: an Optuna study in memory, made from the ledger's trials and told of their ends.

A proposal depends on the search's seed, the trial's number and what is known by then, so that a
study that is made again from the ledger goes on as if nothing had happened.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from rts_search.search.firing_parameter import Firing
from rts_search.search.grid import GRID_POINTS, GridSampler
from rts_search.search.known import (
    CONFIG,
    FIRING,
    STATES,
    Effect,
    Known,
    Told,
    identity,
    optuna_trial,
    read_memory,
)
from rts_search.search.samplers import FIRST_GENERATION, make_sampler, recalled, remembered
from rts_search.search.trunks import Effects
from search_spaces.space import Invalid, Parameter, Params, Rejected, Space, apply, check_point
from trainables.config import TrialConfig

# After so many in a row the search ends, by why they were not handed out. Known ones: the space
# counts as exhausted. Constraints may leave little of a space; mistakes should leave much of it.
IN_A_ROW = {"known": 50, "never": 200, "rejected": 500, "invalid": 10}

PRUNED = Told("pruned")  # without a step: below all others


@dataclass(frozen=True)
class Proposal:
    """A trial to run; `resumed` if an earlier driver had begun it. `memory` is kept with its row,
    for the study to be made again."""

    number: int
    params: Params
    config: TrialConfig
    resumed: bool = False
    memory: str | None = None


class SearchStudy:
    """One search; the ask side gives proposals, the tell side takes their ends.

    `points` are tried first, in their order. `earlier` are trials of other sweeps: the sampler
    learns from them, and they have no numbers here. `known` are the search's own trials so far.
    `taken` are numbers of trials of which nothing is known but that they began: no other gets them.
    `objectives` is 2 with a cost to be minimised beside the objective. `worst` is told of what the
    space rejects. Raises ValueError if the sampler does not suit the space, or if a point or a
    trial lies outside of it.
    """

    def __init__(
        self,
        space: Space,
        base: TrialConfig,
        sampler: str,
        seed: int,
        direction: Literal["maximize", "minimize"],
        *,
        objectives: int = 1,
        grid_points: int = GRID_POINTS,
        points: Sequence[Mapping[str, Any]] = (),
        earlier: Sequence[Known] = (),
        known: Sequence[Known] = (),
        taken: Collection[int] = (),
        worst: Told | None = None,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space, self.base = space, base
        self.points = [check_point(space, point) for point in points]
        self.seed = seed
        self._make_sampler = partial(
            make_sampler, sampler, space, seed, grid_points, objectives, len(earlier)
        )
        self.study = optuna.create_study(
            sampler=self._make_sampler(), directions=[direction, "minimize"][:objectives]
        )
        self._storage = self.study._storage  # in memory: a trial's id is its number
        self.first = len(earlier)  # Optuna's number of our trial 0
        self.worst = worst or PRUNED
        self.taken = frozenset(taken)
        self.handed_out = 0
        self.left_out: Counter[str] = Counter()  # proposals that were not trained, as in IN_A_ROW
        self.mistake = ""  # why the last invalid one was
        self.end_reason: str | None = None  # why `ask` had nothing more to give
        self._of_config: dict[str, int] = {}  # Optuna's number of the trial that has it
        self.effects: Effects | None = None  # what configs are in effect: from `know_effects` on
        self._of_effect: dict[str, int | Told] = {}  # likewise; or how a control has ended
        self._asks_thresholds = sampler == "tpe"  # as long as it is not known when triggers fire
        self.firing: Firing | None = None  # what it asks for instead
        self.never: Counter[str] = Counter()  # triggers of proposals that were plain SGD
        self._unfinished: deque[Proposal] = deque()
        self._skipped: dict[str, Any] = {}  # left out since the last trial was handed out
        for trial in earlier:
            self._add(trial.as_optuna(space, FIRST_GENERATION))
        self._recall(known)

    # Asking

    def ask(self) -> Proposal | None:
        """The next trial: unfinished ones first, then points to try first, then the sampler's.

        A config that is known, from this search or an earlier sweep, is told at once as its twin,
        and neither handed out nor counted. Nor is one that the space rejects, or makes no valid
        config of. None if the grid is exhausted, or after IN_A_ROW of one kind, for `end_reason`.
        """
        if (proposal := self.resume_next()) is not None:
            return proposal
        in_a_row: Counter[str] = Counter()
        remaining = self.remaining
        for _ in count() if remaining is None else range(remaining):
            found = self._propose()
            if isinstance(found, Proposal):
                return found
            in_a_row[found] += 1
            endless = remaining is None or found == "invalid"
            if endless and in_a_row[found] == IN_A_ROW[found]:
                self.end_reason = found
                return None
        self.end_reason = "known"
        return None

    def resume_next(self) -> Proposal | None:
        """The next trial that an earlier driver had begun, with the config that it began with."""
        return self._unfinished.popleft() if self._unfinished else None

    @property
    def remaining(self) -> int | None:
        """How many new trials the grid still has, start points included; None without a grid."""
        if not isinstance(self.study.sampler, GridSampler):
            return None
        grid: list[Params] = self.study.sampler.points
        begun: int = sum(trial.state != TrialState.WAITING for trial in self.trials())
        again = len(grid) if self.taken else 0  # once more around, to meet those that were lost
        return max(0, len(grid) + len(self.points) + again - begun)

    def _propose(self) -> Proposal | str:
        """A proposal, or why the sampler's next one is left out, as in IN_A_ROW."""
        self._pass_over()
        self._learn_firing()
        trial = self.study.ask()
        try:
            config = self._apply(trial)
        except (Rejected, Invalid) as error:
            joint = getattr(self.study.sampler, "joint", None) or {}
            whole = (
                joint.keys() <= self._frozen(trial.number).params.keys()
            )  # else no sampler can place a value
            why = "rejected" if isinstance(error, Rejected) else "invalid"
            return self._leave_out(trial, why, self.worst if whole else PRUNED, error)
        except ValueError as error:  # the space itself failed
            return self._leave_out(trial, "invalid", Told("fail"), error)
        effect = self.effects.of(config) if self.effects is not None else None
        which = identity(config)
        if (twin := self._twin(which, effect)) is not None:
            end = twin if isinstance(twin, Told) else self._end_of(twin)
            if effect is None or effect.fires or which in self._of_config:
                return self._leave_out(trial, "known", end)
            return self._leave_out(trial, "never", end, trigger=config.optimizer.trigger.name)
        self._of_config[which] = trial.number
        if effect is not None:
            self._of_effect[effect.key] = trial.number
        self.handed_out += 1
        number = trial.number - self.first
        return Proposal(number, self._own(trial), config, memory=self._memory(trial.number))

    def _twin(self, config: str, effect: Effect | None) -> int | Told | None:
        """What is known already and the same, or the same in effect."""
        found = self._of_config.get(config)
        return self._of_effect.get(effect.key) if found is None and effect is not None else found

    def _apply(self, trial: Trial) -> TrialConfig:
        """What the space makes of the proposal. Raises ValueError as `apply` does."""
        if self.firing is None or self.effects is None:
            return apply(self.space, trial, self.base)
        of = self.effects.of
        return self.firing.apply(
            trial, self._storage, lambda config: self._twin(identity(config), of(config)) is None
        )

    def _own(self, trial: Trial) -> Params:
        """Its parameters as the space asks for them."""
        params = self._frozen(trial.number).params
        return {name: value for name, value in params.items() if name != FIRING}

    def _learn_firing(self) -> None:
        """Once the trunk tells when triggers fire, ask for that epoch: in a study with the same
        trials, all of which have it, so that it is modelled with what they have in common."""
        if self.effects is None or not self._asks_thresholds:
            return
        if (when := self.effects.when(self.base)) is None:
            return
        self._asks_thresholds = False
        firing = Firing(self.space, self.base, self.seed, when)
        if not firing.settings:
            return
        self.firing = firing
        trials = [firing.told(t, t.number < self.first) for t in self.study.get_trials(False)]
        some_lack_it = any(FIRING not in trial.params for trial in trials[: self.first])
        asked = Parameter(FIRING, firing.distribution, conditional=some_lack_it)
        self.study = optuna.create_study(
            sampler=self._make_sampler(firing=asked), directions=self.study.directions
        )
        self._storage = self.study._storage
        for trial in trials:
            self._storage.create_new_trial(self.study._study_id, trial)
            config = firing.config(trial)
            twin = self._of_config.get(identity(config)) if config else None
            if config and twin is not None and (effect := self.effects.of(config)):
                self._of_effect.setdefault(effect.key, twin)

    def _leave_out(
        self,
        trial: Trial,
        why: str,
        told: Told,
        error: ValueError | None = None,
        trigger: str | None = None,
    ) -> str:
        self._tell(trial.number, told)
        each = {"params": self._own(trial), "why": why, **vars(told)}
        if (firing := self._frozen(trial.number).params.get(FIRING)) is not None:
            each["firing"] = firing
        if trigger is not None:
            each["trigger"] = trigger
        self._count(each)
        if told.state == "complete":
            each["trial"] = remembered(self._frozen(trial.number).system_attrs)
        if why == "invalid":
            self.mistake = each["mistake"] = str(error)
        self._skipped[str(trial.number - self.first)] = each
        return why

    def _count(self, left_out: Mapping[str, Any]) -> None:
        self.left_out[left_out.get("why", "known")] += 1  # in ledgers of older versions all were
        if trigger := left_out.get("trigger"):
            self.never[trigger] += 1

    def know(self, effect: Effect | None, number: int | None, told: Told) -> None:
        """How a run has ended that is so in effect: a control, or the trial of this number."""
        if effect is not None and (told.repeats if number is not None else told.state != "fail"):
            self._of_effect.setdefault(effect.key, told if number is None else number + self.first)

    def _end_of(self, twin: int) -> Told:
        """How a known trial has ended; one that runs yet teaches nothing."""
        trial = self._frozen(twin)
        if trial.state == TrialState.COMPLETE:
            return Told("complete", list(trial.values), dict(trial.intermediate_values))
        if trial.state == TrialState.PRUNED:
            return Told("pruned", steps=dict(trial.intermediate_values))
        return Told("fail")

    def _memory(self, index: int) -> str | None:
        """What must be found again with the trial just proposed, as JSON; None if nothing."""
        of_study = self._storage.get_study_system_attrs(self.study._study_id)
        memory = {
            "known": self._skipped,
            "trial": remembered(self._frozen(index).system_attrs),
            "study": dict(list(remembered(of_study).items())[-1:]),  # the newest generation's
        }
        self._skipped = {}
        kept = {key: value for key, value in memory.items() if value}
        return json.dumps(kept) if kept else None

    # Telling

    def end(self, number: int, told: Told) -> None:
        """The trial has ended; what is told twice is ignored the second time."""
        index = number + self.first
        try:
            trial = self._frozen(index)
        except KeyError:
            raise ValueError(f"the search has no trial {number}, only {self.handed_out}") from None
        if trial.state != TrialState.RUNNING:
            return
        if not told.repeats:
            self._forget(trial)
        self._tell(index, told)

    def _tell(self, index: int, told: Told) -> None:
        for step, value in told.steps.items():
            self._storage.set_trial_intermediate_value(index, step, value)
        self.study.tell(index, told.values, state=STATES[told.state])

    def _forget(self, trial: FrozenTrial) -> None:
        self._of_config = {c: n for c, n in self._of_config.items() if n != trial.number}
        self._of_effect = {e: n for e, n in self._of_effect.items() if n != trial.number}

    # The ledger's trials

    def trials(self) -> list[FrozenTrial]:
        """The search's own trials as Optuna has them, duplicates included."""
        found: list[FrozenTrial] = self.study.get_trials(deepcopy=False)[self.first :]
        return found

    def _recall(self, known: Sequence[Known]) -> None:
        """Put the search's own trials back, under their numbers.

        A number that the ledger lacks (of a proposal that never began, or of a duplicate in a
        sweep of an older version) is proposed again.
        """
        trials = {trial.number: trial for trial in known}
        memories = [read_memory(trial.memory) for trial in known]
        skipped = {int(n): each for memory in memories for n, each in memory["known"].items()}
        for number in range(max([len(self.points) - 1, *trials, *skipped], default=-1) + 1):
            if number in trials:
                self._put_back(trials[number])
            elif number in self.taken:
                self.study.add_trial(create_trial(state=TrialState.FAIL))
            elif number in skipped:
                each = skipped[number]
                self._put_back_left_out(each)
            elif number < len(self.points):
                self.study.enqueue_trial(self.points[number])
            else:
                self.study.add_trial(create_trial(state=TrialState.WAITING))
        begun = [trial.params for trial in known]
        for number, point in enumerate(self.points):
            if number in self.taken and point not in begun:
                self._pass_over()
                self.study.enqueue_trial(point)
        for memory in memories:
            for key, value in memory["study"].items():
                self._storage.set_study_system_attr(self.study._study_id, key, value)

    def _pass_over(self) -> None:
        """Leave out numbers that are taken, so that the next new trial has another."""
        while self._next() in self.taken:
            self.study.add_trial(create_trial(state=TrialState.FAIL))

    def _next(self) -> int:
        return int(self._storage.get_n_trials(self.study._study_id)) - self.first

    def _put_back_left_out(self, each: Mapping[str, Any]) -> None:
        if (
            each.get("why") == "invalid" and each["state"] == "fail"
        ):  # it cannot be asked for its parameters
            self.study.add_trial(create_trial(state=TrialState.FAIL))
        else:
            told = Told(each["state"], each["values"], _by_step(each["steps"]))
            trial = optuna_trial(self.space, each["params"], told)
            trial.system_attrs = recalled(each.get("trial", {}))
            trial.user_attrs = {FIRING: each["firing"]} if "firing" in each else {}
            self.study.add_trial(trial)
        self._count(each)
        self.mistake = each.get("mistake", self.mistake)

    def _put_back(self, trial: Known) -> None:
        try:
            attrs = recalled(read_memory(trial.memory)["trial"])
            frozen = trial.as_optuna(self.space, attrs)
        except ValueError as error:
            raise ValueError(
                f"trial {trial.name} of the ledger does not lie in the space: {error}; begin a new "
                "sweep, with search.warm_start naming this one"
            ) from None
        self._add(frozen, sure=trial.told is None or trial.told.repeats)
        self.handed_out += 1
        if trial.told is None:
            config = trial.config.placed(self.base.train.device, self.base.data.residence)
            self._unfinished.append(
                Proposal(trial.number, trial.params, config, resumed=True, memory=trial.memory)
            )

    def _add(self, trial: FrozenTrial, sure: bool = True) -> None:
        index = self._storage.create_new_trial(self.study._study_id, trial)
        if sure:
            self._of_config.setdefault(trial.user_attrs[CONFIG], index)

    def _frozen(self, index: int) -> FrozenTrial:
        trial: FrozenTrial = self._storage.get_trial(index)
        return trial


def _by_step(steps: Mapping[str, float]) -> dict[int, float]:
    return {int(step): value for step, value in steps.items()}
