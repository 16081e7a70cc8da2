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


def test_a_run_that_is_none_is_left_out(tmp_path: Path) -> None:
    rows = ["run,epoch,T,val_accuracy", "a,1,2,0.5", "a,2,2,0.6", "b,1,1,0.5", "b,2,1,0.5"]
    rows += ["c,1,2,0.5", "c,1,2,0.5", "d,1,1,-3", "e,1,1,1234"]
    (tmp_path / "log.csv").write_text("\n".join(rows))
    done = run_import(tmp_path, tmp_path / "log.csv", "--column", "total_epochs=T")
    assert done.code == 1
    reasons = (
        "run 'b' of T = 1 has the epochs 1 to 2: they are 1 to T",
        "run 'c' has epoch 1 2 times: name what tells runs apart, with --column run=THEIRS",
        "val_accuracy of 'd' is -3, and an accuracy is a fraction, or in percent",
        "val_accuracy of 'e' is 1234, and an accuracy is a fraction, or in percent",
    )
    for line, reason in zip(done.err.splitlines(), reasons, strict=True):
        assert line.startswith(f"not imported: {tmp_path}/log.csv: {reason}")
    assert list(trials(tmp_path)) == ["a"]


def test_fractions_and_percent_are_not_mixed(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("val_accuracy\n0.5\n0.6\n64.0\n")
    done = run_import(tmp_path, tmp_path / "log.csv")
    assert done.code == 2
    assert "val_accuracy is a fraction in most runs, and 64 in 'row0003'" in done.err
    (tmp_path / "log.csv").write_text("val_accuracy\n50\n0.6\n64.0\n")
    assert run_import(tmp_path, tmp_path / "log.csv").code == 0
    found = [trial.row["final_objective"] for trial in trials(tmp_path).values()]
    assert found == pytest.approx([0.5, 0.006, 0.64])


def test_runs_of_which_not_all_is_told(tmp_path: Path) -> None:
    """Their end counts; their curve is none that could be replayed."""
    rows = ["run,epoch,total_epochs,width,val_accuracy"]
    rows += [f"{run},{epoch},9,{run},0.{run}{epoch}" for run in (5, 6) for epoch in range(1, 10)]
    rows += ["7,5,9,7,0.7", "7,9,9,7,0.8"]
    (tmp_path / "log.csv").write_text("\n".join(rows))
    assert run_import(tmp_path, tmp_path / "log.csv").code == 0
    sparse = trials(tmp_path)["7"]
    assert (sparse.row["final_val_accuracy"], sparse.has_all_epochs) == (0.8, False)
    assert cli("best", "old", "--storage", tmp_path).out.startswith("7 is the best of 3 trials")
    replayed = cli("replay", "old", "--replays", 3, "--storage", tmp_path)
    assert (replayed.code, "2 configurations, T = 9" in replayed.err) == (0, True)


def test_a_run_without_a_value_has_failed(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("run,val_accuracy\na,\nb,0.5\n")
    assert run_import(tmp_path, tmp_path / "log.csv").code == 0
    a, b = (trial.row for trial in trials(tmp_path).values())
    assert (a["outcome"], a["message"]) == ("failed", "it has no val_accuracy")
    assert b["outcome"] == "completed"
