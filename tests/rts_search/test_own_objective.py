"""A sweep of a task of one's own, as its spec and its ledger have it, without training anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from results.ledger import Ledger
from rts_search.claims.confirm import Asked, make_claim
from rts_search.notebook import open_sweep
from rts_search.spec.folder import read_spec, write_spec
from rts_search.spec.model import SweepSpec
from rts_search.spec.reading import load_spec
from rts_search.trials.rows import trial_columns
from rts_search.trials.trial import LiveTrial, controls
from tests.rts_search.claims.builders import rts, searched
from tests.rts_search.cli.calling import cli
from trainables.config import TrialConfig

TASK = {"name": "tests.trainables.own.tasks:line", "objective": "mse"}


def spec_of(storage: Path, **task: Any) -> SweepSpec:
    content = {
        "name": "s",
        "storage": str(storage),
        "task": TASK | task,
        "train": {"epochs": 10, "device": "cpu"},
        "space": "timing",
        "search": {"trials": 3},
    }
    return load_spec(json.dumps(content))


def put(ledger: Ledger, spec: SweepSpec, trial: LiveTrial, value: float, first: int | None) -> None:
    row = trial_columns(trial, spec.search.objective) | {"outcome": "completed", "epochs": 10}
    ends = {"final_objective": value, "trigger_epoch": first, "test_value": value + 0.1}
    cost = {"gradient_evaluations": 20}
    ledger.put_trial(row | ends | cost | {"ended": row["updated"]})
    for epoch in range(1, 11):
        told = {"rung": 0, "epoch": epoch, "total_epochs": 10, "train_loss": 1.0}
        value_then = {"value": value + 0.1 * (10 - epoch), "gradient_evaluations": 2 * epoch}
        ledger.add_epoch({"trial_id": trial.trial_id, **told, **value_then})


def ledger_of(spec: SweepSpec) -> None:
    """Three trials that end at 0.5, 0.4 and 0.6, and controls at 0.45, 0.55 and 0.44."""
    write_spec(spec.folder, spec)
    with Ledger(spec.folder) as ledger:
        for number, value in enumerate((0.5, 0.4, 0.6)):
            put(ledger, spec, searched(spec, number, rts(number + 2)), value, number + 2)
        for control, value in zip(controls(spec), (0.45, 0.55, 0.44), strict=True):
            put(ledger, spec, control, value, None)


def test_a_spec_is_written_and_read_with_its_task(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    assert spec.search.objective == "mse:min"
    assert spec_of(tmp_path, direction="maximize").search.objective == "mse:max"
    assert spec_of(tmp_path, objective="val_loss").search.objective == "val_loss"
    write_spec(spec.folder, spec)
    assert read_spec(spec.folder) == spec
    text = spec.folder.read("spec.yaml").decode()
    assert "task:" in text
    assert not {"data:", "model:"} & {*text.splitlines()}
    assert TrialConfig.model_validate_json(spec.base.model_dump_json()) == spec.base
    assert "task" not in SweepSpec().model_dump()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": {"name": "digits", "train_size": 300}}, "data belongs to the built-in loop"),
        ({"model": {"name": "mlp"}}, "model belongs to the built-in loop"),
        ({"search": {"objective": "val_accuracy"}}, "a task's objective is in task.objective"),
        ({"task": {"name": "tasks"}}, "'tasks' is no package.module:function"),
        ({"task": TASK | {"objective": "test_mse"}}, "test metrics are never an objective"),
        ({"task": TASK | {"objectve": "mse"}}, "did you mean 'objective'"),
        ({"task": TASK | {"objective": "val mse"}}, "task.objective"),
        ({"task": None, "search": {"objective": "mse:min"}}, "is of a task of your own: set task"),
    ],
)
def test_what_does_not_go_with_a_task(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=r".") as found:
        load_spec(json.dumps({"task": TASK} | changes))
    assert said in str(found.value)
    assert "\n" not in str(found.value)


def test_lower_is_better(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    ledger_of(spec)
    sweep = open_sweep("s", tmp_path)
    ranking = sweep.ranking()
    assert ranking.lower_is_better
    assert [row["trial_id"] for row in ranking.trials] == ["t0001", "t0000", "t0002"]
    assert ranking.trials[0][ranking.metric] == 0.4
    assert [row["trial_id"] for row in ranking.controls] == ["sgd-2x", "sgd", "pugd"]
    assert sweep.summary().listing.best == 0.4
    out = cli("best", "s", "--storage", str(tmp_path)).out
    assert (
        "t0001 is the best of 3 trials by final_mse, 0.4000: 0.0400 below sgd-2x, 0.0500 below sgd"
        in out
    )
    assert "accuracy" not in out
    out = cli("best", "s", "--pareto", "--storage", str(tmp_path)).out
    assert "on the front of final_mse against" in out
    out = cli("show", "s/t0001", "--storage", str(tmp_path)).out
    assert "final mse                    0.4000" in out
    out = cli("compare", "s/sgd", "s/t0001", "--storage", str(tmp_path)).out
    assert "final_mse, a value a seed" in out
    assert "-0.0500" in out
    out = cli("best", "s", "--as", "yaml", "--storage", str(tmp_path)).out
    asked = tmp_path / "best.yaml"
    asked.write_text(out)
    assert f"name: {TASK['name']}" in out
    assert "data:" not in out


def test_higher_is_better_where_the_spec_says_so(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, direction="maximize")
    ledger_of(spec)
    ranking = open_sweep("s", tmp_path).ranking()
    assert [row["trial_id"] for row in ranking.trials] == ["t0002", "t0000", "t0001"]


def test_a_claim_is_made_in_the_tasks_metric(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    ledger_of(spec)
    claim = make_claim(spec, spec.folder, Asked())
    assert claim.metric == "test_mse:min"
    assert next(iter(claim.candidates)) == "t0001"
    assert claim.gain == 0.004  # 1 % of the best
    assert make_claim(spec, spec.folder, Asked(gain=0.02)).gain == 0.02
    arm = claim.baselines["sgd-equal"]
    assert arm.config.task == spec.task


@pytest.mark.parametrize("verb", ["estimate", "firing", "replay"])
def test_what_looks_into_the_built_in_loop_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    spec = spec_of(tmp_path / "sweeps")
    ledger_of(spec)
    monkeypatch.chdir(tmp_path)
    Path("spec.yaml").write_text(json.dumps({"task": TASK}))
    done = cli(verb, "s" if verb == "replay" else "spec.yaml")
    assert done.code != 0
    assert ("of a task of your own" if verb == "replay" else "is code of your own") in str(done)
