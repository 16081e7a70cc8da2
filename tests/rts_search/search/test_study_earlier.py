"""What a study knows from elsewhere: known configurations, earlier sweeps, the ledger."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import BaseTrial, FixedTrial

from rts_search.search.known import Earlier
from rts_search.search.study import SearchStudy
from search_spaces.registry import start_points
from search_spaces.space import Space, apply
from tests.contracts.sampler_contract import open_study
from tests.rts_search.search.studies import SPACE, as_optuna_reads_it, ask, lr_space, run, states
from trainables.config import TrialConfig

# Duplicates


def choices() -> Space:
    def suggest(trial: BaseTrial) -> dict[str, Any]:
        return {"train": {"batch_size": trial.suggest_categorical("b", [10, 20, 30, 40])}}

    return Space("choices", "", suggest)


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_known_configs_are_told_as_their_twins(tmp_path: Path, sampler: str) -> None:
    study = open_study(tmp_path, sampler, choices())
    seen = []
    while (proposal := study.ask()) is not None:
        seen.append(proposal.params["b"])
        if proposal.params["b"] == 10:
            study.pruned(proposal.number, {3: 0.2})
        elif proposal.params["b"] == 20:
            study.fail(proposal.number, "collapsed")
        else:
            study.complete(proposal.number, proposal.params["b"] / 100, {3: 0.1})
        if len(seen) == 2:
            study = open_study(tmp_path, sampler, choices())
    assert sorted(seen) == [10, 20, 30, 40]
    assert study.count() == len(study.trials()) == 4
    assert study.duplicates() >= 50
    assert len(study.intermediates()) == 3  # the stopper sees each once
    for trial in as_optuna_reads_it(tmp_path).trials:
        if "duplicate_of" in trial.user_attrs:
            twin = as_optuna_reads_it(tmp_path).trials[trial.user_attrs["duplicate_of"]]
            assert (trial.state, trial.values, trial.intermediate_values) == (
                twin.state, twin.values, twin.intermediate_values,
            )  # fmt: skip
            break
    reopened = open_study(tmp_path, sampler, choices())
    assert (reopened.count(), reopened.duplicates()) == (4, study.duplicates())


def test_twins_of_running_trials_are_left_out_and_broken_ones_tried_again(tmp_path: Path) -> None:
    study = open_study(tmp_path, "random", choices())
    study.enqueue([{"b": 10}, {"b": 10}, {"b": 20}, {"b": 10}])
    assert [ask(study).params["b"] for _ in range(2)] == [10, 20]
    study.fail(0, "out_of_memory")
    assert ask(study).params["b"] == 10
    assert (study.count(), study.duplicates()) == (3, 1)
    assert states(study) == ["fail", "running", "running"]
    study = open_study(tmp_path, "random", choices())
    study.fail(0)
    study.fail(3)
    study.fail(2)
    again = [ask(study).params["b"] for _ in range(4)]
    assert sorted(again) == [10, 20, 30, 40]


def test_another_seed_is_no_duplicate(tmp_path: Path) -> None:
    first = open_study(tmp_path / "a", "random", choices())
    proposal = ask(first)

    def known(seed: int) -> list[Earlier]:
        train = proposal.config.train.model_copy(update={"seed": seed, "device": "cuda"})
        config = proposal.config.model_copy(update={"train": train})
        return [Earlier("old/t0000", proposal.params, config, "complete", [0.5])]

    other = open_study(tmp_path / "b", "random", choices())
    other.warm_start(known(seed=7))
    assert ask(other).params == proposal.params
    same = open_study(tmp_path / "c", "random", choices())
    same.warm_start(known(seed=TrialConfig().train.seed))
    assert ask(same).params != proposal.params
    attrs = as_optuna(tmp_path / "c")[0].user_attrs
    assert attrs["duplicate_of"] == "old/t0000"


def as_optuna(folder: Path) -> list[optuna.trial.FrozenTrial]:
    storage = JournalStorage(JournalFileBackend(str(folder / "optuna.journal")))
    first = storage.get_all_studies()[0].study_name
    found: list[optuna.trial.FrozenTrial] = optuna.load_study(
        study_name=first, storage=storage
    ).trials
    return found


# Warm start and rebuilding


def test_earlier_trials_teach_and_have_no_numbers(tmp_path: Path) -> None:
    old = open_study(tmp_path / "old", "tpe", lr_space())
    run(old, 40)
    earlier = []
    for trial in old.trials():
        config = apply(lr_space(), FixedTrial(trial.params), TrialConfig())
        name = f"old/t{trial.number:04d}"
        earlier.append(Earlier(name, trial.params, config, "complete", trial.values))
    point = {"lr": 0.29, "momentum": 0.1, "batch": 50}

    def warm(folder: Path) -> SearchStudy:
        study = open_study(folder, "tpe", lr_space())
        study.warm_start(earlier, [point])
        return study

    study = warm(tmp_path / "new")
    assert study.warm_started
    assert (study.count(), study.intermediates()) == (0, {})
    proposals = [ask(study) for _ in range(3)]
    assert [p.number for p in proposals] == [0, 1, 2]
    assert proposals[0].params == point
    study = warm(tmp_path / "new")  # once in a search's life
    assert [ask(study) for _ in range(3)] == [replace(p, resumed=True) for p in proposals]
    learnt = [ask(study) for _ in range(10)]
    cold = open_study(tmp_path / "cold", "tpe", lr_space())
    far, near = (
        statistics.median(abs(p.params["lr"] - 0.3) for p in proposals)
        for proposals in ([ask(cold) for _ in range(10)], learnt)
    )
    assert near < far
    assert [p.number for p in learnt] == list(range(3, 13))
    whole = warm(tmp_path / "whole")
    assert [ask(whole).params for _ in range(13)][3:] == [p.params for p in learnt]


def test_a_lost_journal_is_made_again_from_the_ledger(tmp_path: Path) -> None:
    points = start_points(SPACE)
    assert len(points) > 1
    study = open_study(tmp_path / "a", "random", SPACE)
    study.enqueue(points)
    proposals = [ask(study) for _ in range(8)]
    rows = [
        {
            "trial_id": f"t{p.number:04d}", "number": p.number, "params": json.dumps(p.params),
            "config_json": p.config.model_dump_json(),
        }
        for p in proposals
        if p.number not in (1, 6)
    ]  # fmt: skip
    rows.append({"trial_id": "sgd", "number": None, "params": "{}", "config_json": "{}"})
    again = open_study(tmp_path / "b", "random", SPACE)
    again.enqueue(points)
    again.rebuild(rows)
    for p in proposals[2:5]:
        again.complete(p.number, 0.5)
    again.rebuild(rows)  # a second time changes nothing
    found = {t.number: (t.state, t.params) for t in again.trials()}
    for p in proposals:
        if p.number not in (1, 6):
            state = "complete" if p.number in (2, 3, 4) else "running"
            assert found[p.number] == (state, p.params)
    reopened = open_study(tmp_path / "b", "random", SPACE)
    given = [ask(reopened) for _ in range(6)]
    by_number = {p.number: p for p in given}
    assert sorted(by_number) == [0, 1, 5, 6, 7, 8]
    for number in (0, 1, 5, 6, 7):  # those that the ledger lacks are proposed again
        assert by_number[number].params == proposals[number].params
        assert by_number[number].config == proposals[number].config
    assert by_number[8].params == ask(study).params
    assert reopened.count() == 9


def test_a_ledger_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    study = open_study(tmp_path, "random", lr_space(0.1))
    params = {"lr": 0.05, "momentum": 0.5, "batch": 50}
    row = {"trial_id": "t0000", "number": 0, "params": json.dumps(params), "config_json": "{}"}
    with pytest.raises(ValueError, match=r"lacks trial t0000 .*lr = 0.05 is outside .*resume once"):
        study.rebuild([row])
    assert study.trials() == []
