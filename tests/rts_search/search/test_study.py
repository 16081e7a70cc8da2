"""The searcher's memory: proposals, their ends, and its journal."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import BaseTrial, FixedTrial, TrialState

from rts_search.search.known import Earlier, kept_earlier
from rts_search.search.study import SearchStudy
from search_spaces.registry import also, get_space, start_points
from search_spaces.space import Space, apply
from tests.contracts.sampler_contract import open_study, search
from tests.rts_search.search.studies import SPACE, as_optuna_reads_it, ask, lr_space, states
from trainables.config import TrialConfig


def test_a_proposal_is_numbered_and_valid(tmp_path: Path) -> None:
    study = open_study(tmp_path, "random", SPACE)
    first, second = ask(study), ask(study)
    assert (first.number, second.number) == (0, 1)
    assert not first.resumed
    assert first.params != second.params
    assert first.config.optimizer.radius(0.0) == pytest.approx(first.params["radius_alpha_start"])
    assert study.count() == 2


def test_outcomes_reach_optuna_as_they_are(tmp_path: Path) -> None:
    study = open_study(tmp_path, "tpe", SPACE)
    for _ in range(4):
        ask(study)
    study.report(1, 0.5, 3)
    study.report(1, 0.6, 9)
    study.complete(0, 0.9)
    study.pruned(1)
    study.fail(2)
    study.complete(3, math.nan)
    read = as_optuna_reads_it(tmp_path)
    assert [t.state.name for t in read.trials] == ["COMPLETE", "PRUNED", "FAIL", "FAIL"]
    assert read.trials[1].intermediate_values == {3: 0.5, 9: 0.6}
    assert read.trials[1].value == 0.6
    assert read.best_trial.number == 0
    assert read.direction == optuna.study.StudyDirection.MAXIMIZE
    assert read.metric_names == ["val_accuracy"]
    assert states(study) == ["complete", "pruned", "fail", "fail"]
    assert [t.value for t in study.trials()] == [0.9, 0.6, None, None]
    assert study.intermediates() == {1: {3: 0.5, 9: 0.6}}


def test_what_is_told_twice_counts_once(tmp_path: Path) -> None:
    study = open_study(tmp_path, "tpe", SPACE)
    ask(study)
    study.report(0, 0.5, 1)
    study.report(0, 0.7, 1)
    study.complete(0, 0.8)
    study.complete(0, 0.1)
    study.pruned(0)
    study.fail(0)
    study.report(0, 0.9, 2)
    (trial,) = study.trials()
    assert (trial.state, trial.value, trial.intermediates) == ("complete", 0.8, {1: 0.5})
    reopened = open_study(tmp_path, "tpe", SPACE)
    reopened.fail(0)
    assert reopened.trials() == [trial]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_only_finite_intermediates_are_recorded(tmp_path: Path, value: float) -> None:
    study = open_study(tmp_path, "tpe", SPACE)
    ask(study)
    study.report(0, value, 1)
    assert study.intermediates() == {}


def test_a_trial_that_does_not_exist(tmp_path: Path) -> None:
    study = open_study(tmp_path, "tpe", SPACE)
    with pytest.raises(ValueError, match="no trial 3"):
        study.complete(3, 0.5)


def test_start_points_come_first_and_once(tmp_path: Path) -> None:
    points = start_points(SPACE)
    study = open_study(tmp_path, "tpe", SPACE)
    study.enqueue(points)
    assert study.count() == 0
    assert states(study) == ["waiting"] * len(points)
    assert ask(study).params == points[0]
    study = open_study(tmp_path, "tpe", SPACE)
    study.enqueue(points)
    proposals = [ask(study) for _ in range(len(points) + 1)]
    assert [p.params for p in proposals[:-1]] == points
    assert [p.resumed for p in proposals] == [True] + [False] * len(points)
    assert proposals[-1].params not in points
    assert study.count() == len(points) + 1


def test_a_start_point_outside_is_refused_and_none_enqueued(tmp_path: Path) -> None:
    study = open_study(tmp_path, "tpe", get_space("radius"))
    good = {"radius_alpha_start": 1.0, "radius_alpha_end": 1.0, "radius_shape": "plain"}
    with pytest.raises(ValueError, match="radius_alpha_end = 101 is outside"):
        study.enqueue([good, {**good, "radius_alpha_end": 101}])
    assert study.trials() == []


def test_a_trial_that_ended_since_is_not_given_out_again(tmp_path: Path) -> None:
    study = open_study(tmp_path, "tpe", SPACE)
    proposals = [ask(study) for _ in range(3)]
    study = open_study(tmp_path, "tpe", SPACE)
    study.complete(1, 0.5)  # the ledger knew of its end
    again = [study.resume_next() for _ in range(3)]
    assert [(p.number, p.params) for p in again if p is not None] == [
        (0, proposals[0].params),
        (2, proposals[2].params),
    ]
    assert ask(study).number == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space": get_space("radius")}, r"other parameters .*: scale_alpha_start was searched \("),
        (
            {"space": also(SPACE, ["lr"])},
            r"other parameters .*: rts_lr \(0.01 to 1 .* not searched",
        ),
        ({"sampler": "random"}, "begun with sampler 'tpe', not 'random'"),
        ({"seed": 8}, "begun with seed 7, not 8"),
        ({"objective_name": "val_loss"}, "begun with objective 'val_accuracy'"),
        ({"direction": "minimize"}, "begun with direction 'maximize'"),
        ({"against": "train_seconds"}, "begun with against None, not 'train_seconds': begin a new"),
    ],
)
def test_a_journal_of_another_search_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    asked_for: dict[str, Any] = {
        "journal_path": tmp_path / "optuna.journal", "space": SPACE, "base_config": TrialConfig(),
        "sampler": "tpe", "seed": 7, "objective_name": "val_accuracy", "direction": "maximize",
    }  # fmt: skip
    SearchStudy.open(**asked_for)
    with pytest.raises(ValueError, match=message):
        SearchStudy.open(**asked_for | change)
    SearchStudy.open(**asked_for)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"not JSON\n", "line 4: Expecting value"),
        (b"\xff\xfe\n", "line 4: "),
        (b'{"a": 1}\n', "line 4: no record of an Optuna journal"),
        (b'{"op_code":99,"worker_id":"w"}\n', "line 4: AssertionError"),
        (b'{"op_code":6,"worker_id":"w"}\n', "line 4: KeyError: 'trial_id'"),
        (b"a file of another kind", "line 4: no record of an Optuna journal"),
    ],
)
def test_a_damaged_journal_is_one_line_and_left_alone(
    tmp_path: Path, line: bytes, fault: str
) -> None:
    study = open_study(tmp_path, "tpe", SPACE)
    ask(study)
    journal = tmp_path / "optuna.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    after = lines[3:] if line.endswith(b"\n") else []
    damaged = b"".join([*lines[:3], line, *after])
    journal.write_bytes(damaged)
    with pytest.raises(ValueError, match=rf"journal '.*' cannot be read: {fault}") as error:
        open_study(tmp_path, "tpe", SPACE)
    assert "\n" not in str(error.value)
    assert journal.read_bytes() == damaged


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = open_study(tmp_path, "tpe", SPACE)
    journal = tmp_path / "optuna.journal"
    whole = journal.read_bytes()
    full = True

    def fsync(file: int) -> None:
        if full:
            os.ftruncate(file, os.fstat(file).st_size - 10)  # as much as there was room for
            raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    for _ in range(3):
        with pytest.raises(OSError, match="no space"):
            study.ask()
    assert journal.read_bytes().startswith(whole)
    full = False
    first = ask(study)
    assert (first.number, study.count()) == (0, 1)
    assert ask(open_study(tmp_path, "tpe", SPACE)).params == first.params


def test_an_invalid_config_fails_the_trial_and_is_explained(tmp_path: Path) -> None:
    def suggest(trial: BaseTrial) -> dict[str, Any]:
        return {"train": {"lr": trial.suggest_float("lr", -2.0, -1.0)}}

    study = open_study(tmp_path, "random", Space("mine", "", suggest))
    with pytest.raises(ValueError, match=r"space 'mine': train\.lr = -1\."):
        study.ask()
    assert states(study) == ["fail"]


def test_nothing_is_printed_and_nothing_warned(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        search(tmp_path, "tpe", SPACE, 16, reopen_after=[3, 12])
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_a_torn_line_is_dropped_and_the_search_goes_on(tmp_path: Path) -> None:
    study = open_study(tmp_path, "tpe", SPACE)
    first = ask(study)
    journal = tmp_path / "optuna.journal"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code":4,"worker_')
    study = open_study(tmp_path, "tpe", SPACE)
    assert journal.read_bytes() == whole
    assert ask(study).params == first.params
    study.complete(0, 0.5)
    assert [t.state for t in as_optuna_reads_it(tmp_path).trials] == [TrialState.COMPLETE]


def test_a_trial_torn_in_the_middle_is_made_whole(tmp_path: Path) -> None:
    study = open_study(tmp_path, "tpe", SPACE)
    ask(study)
    journal = tmp_path / "optuna.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-3]))  # a power cut: the last parameters are gone
    study = open_study(tmp_path, "tpe", SPACE)
    resumed = ask(study)
    assert (resumed.number, resumed.resumed) == (0, True)
    (trial,) = study.trials()
    assert trial.params == resumed.params
    assert "trigger" in trial.params


def test_a_journal_cut_anywhere_goes_on(tmp_path: Path) -> None:
    """Trials whose beginning is whole are as they were; all the others can be begun again."""
    points = [{"lr": 0.5, "momentum": 0.1, "batch": 50}, {"lr": 0.3, "momentum": 0.1, "batch": 50}]
    config = apply(lr_space(), FixedTrial(points[1]), TrialConfig())
    old = [Earlier(f"old/{i}", points[1], config, "complete", [0.1 * i]) for i in range(3)]

    def begin(folder: Path) -> SearchStudy:
        study = open_study(folder, "random", lr_space())
        study.enqueue(points[:1])
        study.warm_start(old)
        return study

    study = begin(tmp_path / "whole")
    proposals = [ask(study) for _ in range(4)]
    for proposal in proposals[:2]:
        study.complete(proposal.number, 0.5, {3: 0.1})
    whole = (tmp_path / "whole" / "optuna.journal").read_bytes()
    for cut in range(0, len(whole), len(whole) // 60):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "optuna.journal").write_bytes(whole[:cut])
        study = begin(folder)
        ended = {t.number for t in study.completed()}
        given = [ask(study) for _ in range(4 - len(ended))]
        assert sorted([*ended, *(p.number for p in given)]) == [0, 1, 2, 3], cut
        kept = whole[:cut].count(b'"user_attr":{"config":')  # each trial's last record
        assert all(p.params == proposals[p.number].params for p in given if p.number < kept), cut
        assert len(kept_earlier(study._storage, study._study)) == 3, cut


DRIVER = """
import os, signal, sys
from pathlib import Path
from search_spaces.registry import get_space
from search_spaces.space import Space, apply
from tests.contracts.sampler_contract import open_study, tell

rts = get_space("rts")

def suggest(trial):
    found = rts.suggest(trial)
    if trial.number == 5 and len(trial.params) > 2:
        os.kill(os.getpid(), signal.SIGKILL)  # in the middle of an ask
    return found

study = open_study(Path(sys.argv[1]), "tpe", Space("rts", "", suggest))
for number in range(6):
    proposal = study.ask()
    if number < 2:
        tell(study, proposal)
"""


def test_a_killed_driver_loses_and_changes_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path / "killed")],
        env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    study = open_study(tmp_path / "killed", "tpe", SPACE)
    assert states(study) == ["complete", "pruned", "running", "running", "running"]
    proposals = [ask(study) for _ in range(4)]
    assert [p.resumed for p in proposals] == [True, True, True, False]
    assert [p.number for p in proposals] == [2, 3, 4, 5]

    whole = open_study(tmp_path / "whole", "tpe", SPACE)  # before the model: results play no part
    expected = [ask(whole) for _ in range(6)]
    assert [p.params for p in proposals] == [p.params for p in expected[2:]]


def test_the_journal_is_one_record_a_line(tmp_path: Path) -> None:
    search(tmp_path, "tpe", SPACE, 14)
    for line in (tmp_path / "optuna.journal").read_text().splitlines():
        assert {"op_code", "worker_id"} <= json.loads(line).keys()
    assert len(as_optuna_reads_it(tmp_path).trials) == 14


# Ends


def test_an_end_and_its_steps_are_one_write(tmp_path: Path) -> None:
    """Whatever a kill leaves of the journal, no step is there without its verdict."""
    study = open_study(tmp_path, "tpe", SPACE)
    for _ in range(2):
        ask(study)
    journal = tmp_path / "optuna.journal"
    before = journal.stat().st_size
    writes = []
    original = type(study._journal)._write

    def write(self: Any) -> None:
        writes.append(len(self._unwritten))
        original(self)

    type(study._journal)._write = write  # type: ignore[method-assign]
    try:
        study.pruned(0, {3: 0.5, 9: 0.6})
        study.complete(1, 0.9, {3: 0.7})
    finally:
        type(study._journal)._write = original  # type: ignore[method-assign]
    assert len(writes) == 2
    assert sum(writes) == journal.stat().st_size - before
    assert study.intermediates() == {0: {3: 0.5, 9: 0.6}, 1: {3: 0.7}}
    assert [t.value for t in study.trials()] == [0.6, 0.9]


def test_two_objectives(tmp_path: Path) -> None:
    study = open_study(tmp_path, "tpe", SPACE, against="gradient_evaluations")
    for _ in range(3):
        ask(study)
    study.complete(0, 0.9, {3: 0.5}, cost=1000.0)
    study.complete(1, 0.8, cost=math.nan)
    study.pruned(2, {3: 0.1})  # by the user
    assert [t.values for t in study.trials()] == [[0.9, 1000.0], None, None]
    assert [t.value for t in study.completed()] == [0.9]
    assert states(study) == ["complete", "fail", "fail"]
    read = as_optuna_reads_it(tmp_path)
    assert [d.name for d in read.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert read.metric_names == ["val_accuracy", "gradient_evaluations"]
    assert open_study(tmp_path, "tpe", SPACE, against="gradient_evaluations").count() == 3
