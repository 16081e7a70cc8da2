"""Runs in CSV and Parquet, by columns of their own."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.rts_search.cli.calling import cli
from tests.rts_search.importing.imports import run_import, trials

EPOCHS = """name,step,acc,train,rate,note
a,0,51.0,1.5,0.1,x
a,1,60.0,1.2,0.1,y
b,0,40.0,1.9,0.01,x
b,1,45.5,1.8,0.01,y
"""
MAPPED = [
    *("--column", "run=name", "--column", "epoch=step"),
    *("--column", "val_accuracy=acc", "--column", "train_loss=train"),
]


def test_a_row_an_epoch(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    file.write_text(EPOCHS)
    done = run_import(tmp_path, file, *MAPPED, "--column", "params.lr=rate")
    assert (done.code, done.err) == (0, "")
    assert "val_accuracy in percent: divided by 100" in done.out
    a, b = trials(tmp_path).values()
    assert (a.trial_id, a.row["params"], a.row["config_lr"]) == ("a", '{"lr": 0.1}', 0.1)
    assert (a.row["final_val_accuracy"], a.row["total_epochs"]) == (0.6, 2)
    assert [row["epoch"] for row in b.epochs] == [1, 2]  # theirs are counted from 0
    assert [row["train_loss"] for row in b.epochs] == [1.9, 1.8]
    assert b.row["source"] == str(file)
    best = cli("best", "old", "--storage", tmp_path).out
    assert best.startswith("a is the best of 2 trials by final_val_accuracy, 0.6000")
    assert "lr 0.1" in best
    replayed = cli("replay", "old", "--replays", 3, "--storage", tmp_path)
    assert (replayed.code, "2 configurations, T = 2" in replayed.err) == (0, True)


def test_parameters_are_what_stays_the_same_unless_they_are_named(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    file.write_text(EPOCHS)
    done = run_import(tmp_path, file, *MAPPED, "--on-test")
    assert "parameters: rate (all columns that stay the same over a run" in done.out
    a, _ = trials(tmp_path).values()
    assert (a.row["params"], a.row["selected_on"]) == ('{"rate": 0.1}', "test")


def test_a_row_a_run(tmp_path: Path) -> None:
    columns = {"lr": [0.1, 0.2, None], "seed": [1.0, 2.0, 3.0], "loss": [0.5, 0.4, float("nan")]}
    pq.write_table(pa.table(columns), tmp_path / "runs.parquet")
    done = run_import(tmp_path, tmp_path / "runs.parquet", "--column", "val_loss=loss")
    assert done.code == 0
    found = list(trials(tmp_path).values())
    assert [trial.row["final_objective"] for trial in found[:2]] == [0.5, 0.4]
    assert [trial.row["seed"] for trial in found] == [1, 2, 3]
    assert [trial.row["params"] for trial in found[1:]] == ['{"lr": 0.2}', "{}"]
    best = cli("best", "old", "--storage", tmp_path).out
    assert best.startswith("row0002 is the best of 2 trials by final_val_loss, 0.4000")


def test_what_replay_exports_comes_back(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    file.write_text(EPOCHS)
    run_import(tmp_path, file, *MAPPED)
    curves = tmp_path / "curves.parquet"
    assert cli("replay", "old", "--export", curves, "--storage", tmp_path).code == 0
    assert run_import(tmp_path, curves, name="again").code == 0
    old, again = trials(tmp_path).values(), trials(tmp_path, "again").values()
    for column in ("final_val_accuracy", "params", "total_epochs", "best_epoch"):
        pairs = zip(old, again, strict=True)
        assert all(one.row[column] == pytest.approx(two.row[column]) for one, two in pairs)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--column", "val_accuracy"], "must be OURS=THEIRS"),
        (["--column", "val_acuracy=acc"], "unknown column of ours 'val_acuracy': did you mean"),
        (["--column", "val_accuracy=ac"], "unknown column of the file 'ac'"),
        ([], "nothing tells val_accuracy: name their column with --column val_accuracy=THEIRS"),
        (["--column", "val_accuracy=acc", "--column", "epoch=step"], "--column run=THEIRS"),
        (["--column", "val_accuracy=acc", "--column", "run=name"], "--column epoch=THEIRS"),
        (["--objective", "accuracy"], "unknown objective 'accuracy': did you mean"),
        ([*MAPPED[:2], *MAPPED[4:], "--column", "epoch=note"], "run 'a' has an epoch 'x'"),
        ([*MAPPED, "--column", "val_accuracy=rate", "--column", "epoch=train"], "1.5"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, arguments: list[str], line: str) -> None:
    file = tmp_path / "log.csv"
    file.write_text(EPOCHS)
    done = run_import(tmp_path, file, *arguments)
    assert done.code == 2
    assert line in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "old").exists()


def test_what_is_no_accuracy_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("val_accuracy\n0.5\n1234\n")
    done = run_import(tmp_path, tmp_path / "log.csv")
    assert done.code == 2
    assert "val_accuracy of 'row0002' is 1234, and an accuracy is a fraction" in done.err
