"""A sweep is its folder: renamed, moved or copied, all that is asked of it answers as itself."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from results.database import find_sweep, query
from results.export import export
from results.ledger import Ledger, history
from results.pareto import pareto
from results.query import find_trial, list_sweeps, sweep_summary, trial_curve
from results.ranking import best
from results.soundness import soundness
from results.storage import SweepFolder
from tests.results.builders import epoch_row, raw_rows, trial_row

T = 20


def fill(folder: SweepFolder) -> None:
    """Four completed trials, in a few parts: t0 is the worst, t3 the best."""
    for number in range(4):
        with Ledger(folder) as ledger:
            value = 0.5 + number / 10
            for epoch in range(1, T + 1):
                columns = {"val_accuracy": value, "gradient_evaluations": epoch}
                ledger.add_epoch(epoch_row(f"t{number}", epoch, **columns))
            known = {"final_val_accuracy": value, "total_epochs": T, "gradient_evaluations": T}
            ledger.put_trial(trial_row(f"t{number}", number=number, audited=True, **known))


def renamed(folder: SweepFolder) -> SweepFolder:
    Path(folder.root).rename(Path(folder.storage) / "new")
    return SweepFolder(folder.storage, "new")


def moved(folder: SweepFolder) -> SweepFolder:
    elsewhere = Path(folder.storage).parent / "elsewhere"
    elsewhere.mkdir()
    shutil.move(folder.root, elsewhere / "new")
    return SweepFolder(elsewhere, "new")


def copied(folder: SweepFolder) -> SweepFolder:
    shutil.copytree(folder.root, Path(folder.storage) / "new")
    return SweepFolder(folder.storage, "new")


@pytest.fixture(params=[renamed, moved, copied])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> SweepFolder:
    change: Callable[[SweepFolder], SweepFolder] = request.param
    old = SweepFolder(tmp_path / "sweeps", "old")
    fill(old)
    return change(old)


@pytest.mark.parametrize("given", ["name", "folder"])
def test_all_questions_answer_as_the_folder_is_called(folder: SweepFolder, given: str) -> None:
    storage, sweep = folder.storage, "new" if given == "name" else folder
    ranking = best(storage, sweep)
    assert [(row["sweep"], row["trial_id"]) for row in ranking.trials] == [
        ("new", f"t{number}") for number in (3, 2, 1, 0)
    ]
    assert [row["sweep"] for row in pareto(storage, sweep).trials] == ["new"]
    summary = sweep_summary(storage, sweep)
    assert (summary.listing.name, summary.listing.trials, summary.epochs) == ("new", 4, 4 * T)
    assert find_trial(storage, "t1", sweep)["sweep"] == "new"
    assert set(trial_curve(storage, sweep, "t1")["sweep"].to_pylist()) == {"new"}
    report = soundness(storage, sweep, milestones=[5])
    assert (report.sweep, report.completed, report.rungs[0].reached) == ("new", 4, 4)
    for table, count in (("trials", 4), ("epochs", 4 * T)):
        found = query(storage, f"SELECT count(*) AS n FROM {table} WHERE sweep = 'new'", sweep)
        assert found["n"].to_pylist() == [count]


def test_it_lists_and_exports_as_itself(folder: SweepFolder, tmp_path: Path) -> None:
    listed = {each.name: each.trials for each in list_sweeps(folder.storage)}
    assert listed["new"] == 4
    assert set(listed.values()) == {4}
    for table in ("trials", "epochs"):
        path = tmp_path / f"{table}.parquet"
        export(folder.storage, table, "parquet", path, "new")
        assert set(pq.read_table(path)["sweep"].to_pylist()) == {"new"}


def test_two_copies_are_two_sweeps(tmp_path: Path) -> None:
    old = SweepFolder(tmp_path, "old")
    fill(old)
    with Ledger(copied(old)) as ledger:
        ledger.put_trial(trial_row("t0", number=0, final_val_accuracy=0.99, total_epochs=T))
    ranked = [(row["sweep"], row["trial_id"]) for row in best(tmp_path, top=2).trials]
    assert ranked == [("new", "t0"), ("new", "t3")]
    counted = query(tmp_path, "SELECT sweep, count(*) AS n FROM epochs GROUP BY 1 ORDER BY 1")
    assert counted.to_pylist() == [{"sweep": "new", "n": 4 * T}, {"sweep": "old", "n": 4 * T}]
    with pytest.raises(ValueError, match="trial 't1' may be t1 in new, t1 in old"):
        find_trial(tmp_path, "t1")


def test_the_writer_goes_on_under_the_new_name(folder: SweepFolder) -> None:
    with Ledger(folder) as ledger:
        assert {row["sweep"] for row in ledger.trials()} == {"new"}
        assert not ledger.add_epoch(epoch_row("t0", 1))
        ledger.put_trial(trial_row("t4", "running", number=4))
        ledger.add_epoch(epoch_row("t4", 1))
        ledger.compact()
    for table, count in (("trials", 5), ("epochs", 4 * T + 1)):
        rows = raw_rows(Path(folder.root), table)
        assert [row["sweep"] for row in rows] == ["new"] * count
    assert [row["sweep"] for row in history(folder, "t4")] == ["new"]


def test_files_of_the_old_name_and_the_new_one_are_one_sweep(folder: SweepFolder) -> None:
    with Ledger(folder) as ledger:
        ledger.add_epoch(epoch_row("t0", T + 1))
    assert {row["sweep"] for row in raw_rows(Path(folder.root), "epochs")} == {"old", "new"}
    assert [row["sweep"] for row in history(folder, "t0")] == ["new"] * (T + 1)
    assert len(query(folder.storage, "FROM epochs WHERE trial_id = 't0'", "new")) == T + 1


def test_sweeps_of_several_storages(folder: SweepFolder, s3_storage: str) -> None:
    there = SweepFolder(s3_storage, "there")
    fill(there)
    rows = query(
        "unused", "SELECT sweep, count(*) AS n FROM epochs GROUP BY 1 ORDER BY 1", [folder, there]
    ).to_pylist()
    assert rows == [{"sweep": "new", "n": 4 * T}, {"sweep": "there", "n": 4 * T}]
    twin = SweepFolder(s3_storage, "new")
    fill(twin)
    with pytest.raises(ValueError, match="have the same name, 'new'") as error:
        best("unused", [folder, twin])
    assert "\n" not in str(error.value)


def test_on_an_object_store(s3_storage: str) -> None:
    old = SweepFolder(s3_storage, "old")
    fill(old)
    fs.copy_files(old.root, f"{old.root[: -len('old')]}new", old.filesystem, old.filesystem)
    assert [each.name for each in list_sweeps(s3_storage)] == ["new", "old"]
    uri = SweepFolder(s3_storage, "new").uri
    assert best(s3_storage, find_sweep(uri), top=1).trials[0]["sweep"] == "new"
    assert trial_curve(s3_storage, "new", "t2").num_rows == T
    old.filesystem.delete_dir(old.root)
    with pytest.raises(ValueError, match=r"unknown sweep in s3://.* 'old': "):
        find_sweep(old.uri)
    with pytest.raises(ValueError, match=r"unknown sweep in s3://.* 'nwe': did you mean 'new'"):
        find_sweep("nwe", s3_storage)
