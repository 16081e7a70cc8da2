"""Proposals that are in effect what was trained already are told as it, and not trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from results.ledger import Ledger
from results.meanings import Outcome
from results.storage import SweepFolder
from results.trials import read_trials
from rts_search.search.known import COLUMNS
from rts_search.search.plan import Teller, know_effects, open_study
from rts_search.search.study import SearchStudy
from rts_search.search.trunks import Effects
from rts_search.spec.model import SweepSpec
from rts_search.stopping.stopper import make_stopper
from rts_search.trials.recorder import Recorder
from rts_search.trials.trial import LiveTrial, controls, trial_name
from tests.trainables.test_trunk import runner
from trainables.config import TrialConfig
from trainables.tune import package_fingerprints

T = 8
SPEC: dict[str, Any] = {
    "name": "s",
    "data": {"name": "digits", "train_size": 200, "validation_fraction": 0.2},
    "model": {"name": "mlp", "args": {"width": 8}},
    "train": {"epochs": T, "batch_size": 40},
    "space": "timing",
    "search": {"sampler": "random", "trials": 12},
    "stop": {"policy": "none"},
}


class Search:
    """A sweep of a folder, without Ray: its trials are trained here, one after the other."""

    def __init__(self, spec: SweepSpec) -> None:
        self.spec, self.folder = spec, SweepFolder(spec.storage_path, spec.name)
        stored = read_trials(self.folder, [*COLUMNS, "epoch_seconds", "val_accuracy"])
        self.study, _ = open_study(spec, stored)
        stopper = make_stopper(spec)
        self.effects = Effects(self.folder, stopper, 1, package_fingerprints())
        ended = [trial for trial in stored if trial.outcome.finished]
        know_effects(spec, self.study, self.effects, ended)
        recorder = Recorder(spec, self.folder, Ledger(self.folder), stopper, ended)
        self.observers = [recorder, Teller(spec, self.study, print)]

    def train(self, trial: LiveTrial) -> LiveTrial:
        for observer in self.observers:
            observer.begins(trial)
        worker = runner(
            Path(str(self.folder.local_path)),
            trial.config,
            trial.trial_id,
            number=trial.number,
            climb=[[0, trial.total_epochs]],
        )
        done = False
        while not done:
            result = worker.step()
            done = result["done"]
            new = result["epochs"]
            trial.history += new
            for observer in self.observers:
                observer.reported(trial, new)
        trial.outcome = Outcome(result["outcome"])
        for observer in self.observers:
            observer.ended(trial)
        self.observers[0].settle()  # type: ignore[attr-defined]
        return trial

    def ask(self) -> LiveTrial | None:
        found = self.study.ask()
        if found is None:
            return None
        name = trial_name(found.number)
        return LiveTrial(name, found.config, found.number, dict(found.params), memory=found.memory)


def fired(trial: LiveTrial) -> int | None:
    first: int | None = trial.history[-1]["trigger_epoch"]
    return first


@pytest.fixture
def spec(tmp_path: Path) -> SweepSpec:
    (tmp_path / "s").mkdir()
    return SweepSpec.model_validate(SPEC | {"storage": str(tmp_path)})


def test_what_never_fires_is_told_as_sgd_and_each_firing_epoch_is_trained_once(
    spec: SweepSpec,
) -> None:
    search = Search(spec)
    sgd = search.train(next(c for c in controls(spec) if c.trial_id == "sgd"))
    value = sgd.history[-1]["val_accuracy"]
    trained: list[int | None] = []
    while (trial := search.ask()) is not None:
        first = search.effects.firing(trial.config)
        trained.append(fired(search.train(trial)))
        assert trained[-1] == first  # as was known before
    assert None not in trained
    assert len(set(trained)) == len(trained)  # radius and scale are those of the spec
    study = search.study
    assert study.end_reason in ("known", "never")
    assert sum(study.never.values()) == study.left_out["never"] > 0
    assert set(study.never) <= {"variance", "cosine", "gap", "epoch"}
    told = study.trials()
    never = [t for t in told if t.number not in (0,) and t.values == [value]]
    assert len(never) >= study.left_out["never"]
    assert never[0].intermediate_values == {
        row["epoch"]: row["val_accuracy"] for row in sgd.history
    }
    spent = [trial.row["spent_epochs"] for trial in read_trials(search.folder) if trial.number]
    assert sum(spent) < len(spent) * T


def rebuilt(study: SearchStudy) -> list[Any]:
    return [(t.state, t.params, t.values, t.intermediate_values) for t in study.trials()]


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_search_made_again_goes_on_as_if_nothing_had_happened(
    spec: SweepSpec, sampler: str
) -> None:
    spec = spec.model_copy(update={"search": spec.search.model_copy(update={"sampler": sampler})})
    search = Search(spec)
    search.train(next(c for c in controls(spec) if c.trial_id == "sgd"))
    for _ in range(4):
        trial = search.ask()
        assert trial is not None
        search.train(trial)
    again = Search(spec)
    one, other = search.ask(), again.ask()  # which learns when the others fired
    assert rebuilt(again.study) == rebuilt(search.study)
    assert one is not None
    assert other is not None
    assert (one.trial_id, one.params) == (other.trial_id, other.params)
    assert search.study.left_out == again.study.left_out
    assert search.study.never == again.study.never


def test_without_a_trunk_nothing_is_known_but_what_the_trigger_says(spec: SweepSpec) -> None:
    search = Search(spec)

    def at(trigger: dict[str, Any]) -> TrialConfig:
        rule = {"family": "rts", "trigger": trigger}
        return TrialConfig.model_validate(spec.base.model_dump() | {"optimizer": rule})

    assert search.effects.firing(at({"name": "variance"})) is None
    assert search.effects.of(at({"name": "gap"})) is None
    assert search.effects.firing(at({"name": "epoch", "fraction": 1.0})) == T + 1
    half, third = (at({"name": "epoch", "fraction": f}) for f in (0.5, 0.45))
    assert search.effects.of(half) != search.effects.of(third)
    assert search.effects.of(half) == search.effects.of(at({"name": "epoch", "epoch": 5}))
    never = search.effects.of(at({"name": "never"}))
    assert never is not None
    assert not never.fires
