"""What earlier sweeps, and the ledger of this one, tell a search."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import optuna
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from rts_search.search.bounds import Distributions, distributions_at
from rts_search.search.samplers import FIRST_GENERATION
from rts_search.search.twins import CONFIG, FROM, identity
from search_spaces.space import Params, Space
from trainables.config import TrialConfig

_STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "fail": TrialState.FAIL,
}


@dataclass(frozen=True)
class Earlier:
    """A trial of another sweep that has ended; `name` is as in `sweep/t0003`.

    `values` are the objective, and the cost if the search has one: None if it failed, and of a
    pruned one, which its `intermediates` rank.
    """

    name: str
    params: Params
    config: TrialConfig
    state: Literal["complete", "pruned", "fail"]
    values: list[float] | None = None
    intermediates: dict[int, float] = field(default_factory=dict)


def as_optuna(space: Space, trial: Earlier) -> FrozenTrial:
    """Raises ValueError if it lies outside of the space."""
    values = trial.values
    if trial.state == "pruned" and trial.intermediates:
        values = [trial.intermediates[max(trial.intermediates)]]  # as Optuna has it
    return create_trial(
        state=_STATES[trial.state],
        values=values,
        params=trial.params,
        distributions=distributions_at(space, trial.params),
        user_attrs={FROM: trial.name, CONFIG: identity(trial.config)},
        system_attrs=FIRST_GENERATION,
        intermediate_values=trial.intermediates,
    )


def keep_earlier(storage: JournalStorage, study: optuna.Study, trials: list[FrozenTrial]) -> None:
    """Write them to the journal, as a study beside the search's own; those that are there stay."""
    there = {trial.user_attrs[FROM] for trial in kept_earlier(storage, study)}
    kept = optuna.create_study(
        storage=storage,
        study_name=_name(study),
        directions=study.directions,
        load_if_exists=True,
    )
    kept.add_trials([trial for trial in trials if trial.user_attrs[FROM] not in there])


def kept_earlier(storage: JournalStorage, study: optuna.Study) -> list[FrozenTrial]:
    """The trials of earlier sweeps in the journal."""
    if _name(study) not in (each.study_name for each in storage.get_all_studies()):
        return []
    kept = optuna.load_study(study_name=_name(study), storage=storage)
    found: list[FrozenTrial] = kept.get_trials(deepcopy=False)
    return found


def begin_lost(
    storage: JournalStorage, study_id: int, space: Space, rows: Iterable[Mapping[str, Any]]
) -> list[int]:
    """Begin the trials of `rows` (of the ledger's `trials`) that the journal lacks.

    Returns the numbers of all that it began, which includes those between that nobody knows.
    Raises ValueError, and begins none, if one does not lie in the space.
    """
    trials = storage.get_all_trials(study_id, deepcopy=False)
    lost = {row["number"]: row for row in rows if _is_lost(trials, row["number"])}
    asked = {number: _asked_in(space, row) for number, row in lost.items()}
    new = list(range(len(trials), max(lost, default=-1) + 1))
    for _ in new:
        storage.create_new_trial(study_id)
    for number, row in lost.items():
        trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
        if storage.get_trial(trial_id).state == TrialState.WAITING:
            storage.set_trial_state_values(trial_id, TrialState.RUNNING)
            new.append(number)
        params = json.loads(row["params"])
        for name, distribution in asked[number].items():
            internal = distribution.to_internal_repr(params[name])
            storage.set_trial_param(trial_id, name, internal, distribution)
        config = TrialConfig.model_validate_json(row["config_json"])
        storage.set_trial_user_attr(trial_id, CONFIG, identity(config))
    return sorted(new)


def _is_lost(trials: list[FrozenTrial], number: int | None) -> bool:
    if number is None:  # a control
        return False
    if number >= len(trials) or trials[number].state == TrialState.WAITING:
        return True
    # a kill has torn its beginning
    return trials[number].state == TrialState.RUNNING and CONFIG not in trials[number].user_attrs


def _asked_in(space: Space, row: Mapping[str, Any]) -> Distributions:
    try:
        return distributions_at(space, json.loads(row["params"]))
    except ValueError as error:
        raise ValueError(
            f"the journal lacks trial {row['trial_id']} of the ledger, which cannot be put back: "
            f"{error}; resume once with the bounds that the sweep began with"
        ) from None


def _name(study: optuna.Study) -> str:
    return f"{study.study_name}: earlier sweeps"
