"""An import is whole or not there, and what is no run is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from results.storage import SweepFolder
from rts_search.importing.asked import Asked
from rts_search.importing.command import import_runs
from tests.rts_search.cli.calling import cli
from tests.rts_search.importing.imports import author_file, run_import, trials

CURVE = [0.3, 0.4, 0.5, 0.6]


def test_what_is_no_run_is_named_and_the_rest_imported(tmp_path: Path) -> None:
    folder = tmp_path / "cifar_10"
    author_file(folder, "pugd_4", CURVE)
    (folder / "broken.json").write_text('{"train": ')
    (folder / "notes.json").write_text("[1, 2]")
    (folder / "plot.png").write_bytes(b"\x89PNG")
    uneven = {"loss": [1.0], "acc": [0.5]}
    author_file(folder, "pugd_5", CURVE, valid=uneven)
    done = run_import(tmp_path / "sweeps", folder)
    assert done.code == 1
    assert done.err.splitlines() == [
        f"not imported: {folder}/broken.json: not JSON: Expecting value: line 1 column 11 "
        "(char 10)",
        f"not imported: {folder}/notes.json: not a run of the author's: train and valid, with loss "
        "and acc",
        f"not imported: {folder}/pugd_5.json: its curves have 1 and 4 epochs",
    ]
    assert list(trials(tmp_path / "sweeps")) == ["pugd_4"]


@pytest.mark.parametrize("kind", ["author", "tune", "optuna", "table"])
def test_nothing_to_import_leaves_nothing(tmp_path: Path, kind: str) -> None:
    (tmp_path / "foreign.json").write_bytes(b"\xff\x00 nothing of anybody's\n{}\n")
    done = run_import(tmp_path / "sweeps", kind, tmp_path / "foreign.json")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "nothing to import" in done.err
    assert "foreign.json" in done.err
    assert not (tmp_path / "sweeps").exists()


def test_kinds_that_cannot_be_told(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    author = author_file(tmp_path, "pugd_4", CURVE)
    (tmp_path / "log.csv").write_text("val_accuracy\n0.5\n")
    for paths, line in (
        ([tmp_path / "text"], "text' is cannot be told: say what it is"),
        ([author, tmp_path / "log.csv"], "they are of several kinds: say what it is"),
        ([tmp_path / "none"], "no file or folder"),
        (["autor", author], "no file or folder 'autor' (nor a kind: author, tune, optuna, table)"),
        (["author"], "import author of what?"),
        (["table", "s3://bucket/log.csv"], "are files of this machine: copy it first"),
    ):
        done = run_import(tmp_path / "sweeps", *paths)
        assert done.code == 2
        assert line in done.err


def test_twice_is_refused_in_one_line(tmp_path: Path) -> None:
    author = author_file(tmp_path / "cifar_10", "pugd_4", CURVE)
    assert run_import(tmp_path / "sweeps", author).code == 0
    again = run_import(tmp_path / "sweeps", author)
    assert again.code == 2
    assert again.err.count("\n") == 1
    assert "'old' is a sweep in" in again.err
    assert "give --name another" in again.err
    assert len(trials(tmp_path / "sweeps")["pugd_4"].epochs) == 4
    resumed = cli("resume", "old", "--storage", tmp_path / "sweeps")
    assert resumed.code == 2
    assert resumed.err.count("\n") == 1


@pytest.mark.parametrize("table", ["epochs", "trials"])
def test_an_import_that_is_killed_leaves_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    author = author_file(tmp_path / "cifar_10", "pugd_4", CURVE)
    folder, write = SweepFolder(tmp_path / "sweeps", "old"), SweepFolder.write

    def killed(self: SweepFolder, path: str, data: bytes) -> None:
        if path.startswith(table):
            raise KeyboardInterrupt
        write(self, path, data)

    with monkeypatch.context() as patch:
        patch.setattr(SweepFolder, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            import_runs([str(author)], folder, Asked())
    assert trials(tmp_path / "sweeps") == {}
    assert run_import(tmp_path / "sweeps", author).code == 0
    (trial,) = trials(tmp_path / "sweeps").values()
    assert [row["epoch"] for row in trial.epochs] == [1, 2, 3, 4]
    counted = cli(
        "query",
        "SELECT count(*) AS n FROM epochs",
        "--format",
        "csv",
        "--storage",
        tmp_path / "sweeps",
    ).out
    assert counted.split()[-1] == "4"


def test_a_sweep_with_the_name_is_left_as_it_is(tmp_path: Path) -> None:
    author = author_file(tmp_path / "cifar_10", "pugd_4", CURVE)
    spec = tmp_path / "sweeps" / "old" / "spec.yaml"
    spec.parent.mkdir(parents=True)
    spec.write_text("begun\n")
    assert run_import(tmp_path / "sweeps", author).code == 2
    assert [path.name for path in spec.parent.iterdir()] == ["spec.yaml"]


def test_names_become_names_of_trials(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("run,val_accuracy\nlr=0.1/a,0.5\nlr=0.1|a,0.6\nü,0.7\n")
    assert run_import(tmp_path, tmp_path / "log.csv").code == 0
    found = {name: trial.row["message"] for name, trial in trials(tmp_path).items()}
    assert found == {
        "lr-0.1-a": "named 'lr=0.1/a'",
        "lr-0.1-a-2": "named 'lr=0.1|a'",
        "run": "named 'ü'",
    }


def test_on_an_object_store(tmp_path: Path, s3_storage: str) -> None:
    author = author_file(tmp_path / "cifar_10", "pugd_4", CURVE)
    done = cli("import", author, "--name", "old", "--storage", s3_storage)
    assert (done.code, done.err) == (0, "")
    assert "0.6000 (on the test set)" in cli("show", "old/pugd_4", "--storage", s3_storage).out
    assert cli("import", author, "--name", "old", "--storage", s3_storage).code == 2
