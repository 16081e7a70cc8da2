"""Optuna's studies, as Optuna writes them."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from tests.rts_search.cli.calling import cli
from tests.rts_search.importing.imports import run_import, trials


def objective(trial: optuna.Trial) -> float:
    lr = trial.suggest_float("lr", 0.01, 1, log=True)
    trial.suggest_categorical("nesterov", [True, False])
    trial.set_user_attr("seed", 7)
    for step in range(4):
        trial.report(0.5 + 0.1 * step * lr, step)
        if trial.number == 1 and step == 1:
            raise optuna.TrialPruned
    if trial.number == 2:
        raise RuntimeError("theirs")
    return 0.5 + 0.3 * lr


def make(path: Path, kind: str, name: str = "mine", direction: str = "maximize") -> str:
    """A real study of five trials, one of which still runs."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    backend = JournalFileBackend(str(path)) if kind == "journal" else None
    storage = JournalStorage(backend) if backend else RDBStorage(f"sqlite:///{path}")
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(
        storage=storage, study_name=name, direction=direction, sampler=sampler
    )
    study.optimize(objective, n_trials=4, catch=RuntimeError)
    study.ask()
    return name


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_a_study_is_a_sweep(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "study.log"  # what it is is told by its content
    make(path, kind)
    before = path.read_bytes()
    done = run_import(tmp_path / "sweeps", path)
    assert (done.code, done.err) == (0, "")
    assert "imported 4 runs (14 epochs)" in done.out
    assert "1 trials of study 'mine' have not ended: left out" in done.out
    found = trials(tmp_path / "sweeps")
    outcomes = [trial.row["outcome"] for trial in found.values()]
    assert outcomes == ["completed", "stopped", "failed", "completed"]
    first, pruned = found["trial0000"], found["trial0001"]
    lr = first.params["lr"]
    assert (first.row["config_lr"], first.row["seed"]) == (lr, 7)
    assert first.row["config_nesterov"] == first.params["nesterov"]
    assert first.row["final_val_accuracy"] == pytest.approx(0.5 + 0.3 * lr)
    assert (first.row["total_epochs"], [row["epoch"] for row in first.epochs]) == (4, [1, 2, 3, 4])
    assert (pruned.row["stopped_epoch"], len(pruned.epochs)) == (2, 2)
    assert first.row["message"] == "trial 0 of study 'mine'"
    assert first.row["started"] <= first.row["ended"]
    assert path.read_bytes() == before  # only read
    assert sorted(p.name for p in tmp_path.iterdir()) == ["study.log", "sweeps"]


def test_values_without_reports(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    study = optuna.create_study(storage=f"sqlite:///{path}", study_name="plain")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    assert run_import(tmp_path, path).code == 0
    found = trials(tmp_path).values()
    assert [t.row["final_objective"] for t in found] == [t.params["x"] for t in found]
    assert {t.row["objective"] for t in found} == {"val_loss"}  # to be minimised
    best = cli("best", "old", "--storage", tmp_path).out
    assert "is the best of 3 trials by final_val_loss" in best


def test_studies_that_are_none_or_several(tmp_path: Path) -> None:
    path = tmp_path / "several.db"
    make(path, "sqlite", "one")
    make(path, "sqlite", "two", "minimize")
    done = run_import(tmp_path, path)
    assert (done.code, "has 2 studies: give --study (one, two)" in done.err) == (2, True)
    assert "did you mean 'one'" in run_import(tmp_path, path, "--study", "ones").err
    wrong = run_import(tmp_path, path, "--study", "two", "--objective", "val_accuracy")
    assert "study 'two' is to minimize, and val_accuracy is not" in wrong.err
    assert run_import(tmp_path, path, "--study", "two").code == 0

    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE theirs (a INT)")
    before = other.read_bytes()
    done = run_import(tmp_path, other, name="none")
    assert done.code == 2
    assert "other.db: no storage of Optuna's that can be read" in done.err
    assert other.read_bytes() == before  # no table was made in it

    done = run_import(tmp_path, "postgresql://me:secret@host/db", name="none")
    assert (done.code, "secret" in done.err, "holds credentials" in done.err) == (2, False, True)
