"""Beginning a search's Optuna study, and taking it up again: only as it was, or narrower."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.storages import JournalStorage

from rts_search.search.bounds import Distributions, widening
from search_spaces.space import Space, describe

Direction = Literal["maximize", "minimize"]

_ASKED_FOR, _BOUNDS = "asked_for", "bounds"  # of the study: how it began; as narrowed since
_FREE = ("space", "parameters", "conditional")  # a space of another name may hold narrower bounds
_STUCK = {
    "grid": "a grid within other bounds is another grid",
    "cmaes": "cmaes goes on from a distribution over the old bounds",
}
_INSTEAD = "begin a new sweep, with search.warm_start naming this one"


def question(
    space: Space,
    sampler: str,
    seed: int,
    objective: str,
    direction: Direction,
    against: str | None,
    grid_points: int | None,
) -> dict[str, Any]:
    """What a search is asked for, as its study's user attributes have it."""
    parameters = describe(space)
    return {
        "space": space.name,
        "parameters": {p.name: distribution_to_json(p.distribution) for p in parameters},
        "conditional": [p.name for p in parameters if p.conditional],
        "sampler": sampler,
        "seed": seed,
        "objective": objective,
        "direction": direction,
        "against": against,
        "grid_points": grid_points,
    }


def is_begun(storage: JournalStorage) -> bool:
    """Whether there is a search; a kill may have torn its very beginning."""
    return any(s.user_attrs or storage.get_n_trials(s._study_id) for s in storage.get_all_studies())


def begin(
    storage: JournalStorage, name: str, sampler: BaseSampler, asked_for: Mapping[str, Any]
) -> optuna.Study:
    against = asked_for["against"]
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        sampler=sampler,
        directions=[asked_for["direction"]] + ["minimize"] * bool(against),
        load_if_exists=True,
    )
    study.set_user_attr(_ASKED_FOR, asked_for)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names([asked_for["objective"]] + [against] * bool(against))
    return study


def reopen(
    journal: Path, storage: JournalStorage, sampler: BaseSampler, asked_for: Mapping[str, Any]
) -> optuna.Study:
    """The journal's search. Raises ValueError if what is asked for is not that, or narrower."""
    first = storage.get_all_studies()[0].study_name  # the search's own; earlier sweeps' follow it
    study = optuna.load_study(study_name=first, storage=storage, sampler=sampler)
    attrs = study.user_attrs
    known: Mapping[str, Any] = attrs.get(_ASKED_FOR, {})
    if not known:
        raise ValueError(f"journal {str(journal)!r} holds a study that rts-search did not begin")
    where = f"the search in {str(journal)!r} was begun with"
    for key, value in asked_for.items():
        if key not in _FREE and known[key] != value:
            raise ValueError(f"{where} {key} {known[key]!r}, not {value!r}: {_INSTEAD}")
    bounds = attrs.get(_BOUNDS, known["parameters"])
    if bounds != asked_for["parameters"]:
        reason = widening(_parse(bounds), _parse(asked_for["parameters"]), known["conditional"])
        if reason := reason or _STUCK.get(known["sampler"]):
            raise ValueError(f"{where} other parameters or bounds: {reason}; {_INSTEAD}")
        study.set_user_attr(_BOUNDS, asked_for["parameters"])
    return study


def first_bounds(study: optuna.Study) -> Distributions:
    """Each parameter as the search began, before any narrowing."""
    return _parse(study.user_attrs[_ASKED_FOR]["parameters"])


def _parse(parameters: Mapping[str, str]) -> Distributions:
    return {name: json_to_distribution(each) for name, each in parameters.items()}
