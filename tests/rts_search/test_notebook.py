"""A sweep opened by name, path or URI, wherever its folder lies."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import rts_search
from results.ledger import Ledger
from results.storage import SweepFolder
from rts_search.notebook import Sweep
from rts_search.search.plan import open_study
from rts_search.spec.changes import resumed_spec
from rts_search.spec.folder import write_spec
from rts_search.spec.reading import load_spec
from rts_search.sweep import split_trial
from tests.results.builders import epoch_row, trial_row
from tests.rts_search.cli.calling import SPEC, cli


def fill(folder: SweepFolder) -> None:
    """Three completed trials and a control; t0002 is the best."""
    write_spec(folder, load_spec(SPEC.replace("STORAGE", folder.storage)))
    study, _ = open_study(resumed_spec(folder))
    with Ledger(folder) as ledger:
        ledger.put_trial(trial_row("sgd", control="sgd", final_val_accuracy=0.5))
        for number in range(3):
            proposal = study.ask()
            assert proposal is not None
            known = trial_row(f"t000{number}", number=number, final_val_accuracy=0.7 + number / 10)
            known |= {"config_json": proposal.config.model_dump_json(), "total_epochs": 1}
            ledger.put_trial(known | {"params": json.dumps(proposal.params)})
            ledger.add_epoch(epoch_row(f"t000{number}", 1))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepFolder:
    monkeypatch.chdir(tmp_path)
    folder = SweepFolder("sweeps", "demo")
    fill(folder)
    return folder


def check(sweep: Sweep, name: str) -> None:
    assert sweep.name == name
    assert (sweep.spec.name, sweep.spec.storage) == (name, sweep.folder.storage)
    assert sweep.space.name == "rts"
    trials = sweep.trials
    assert list(trials.trial_id) == ["t0000", "t0001", "t0002", "sgd"]
    assert set(trials.sweep) == set(sweep.epochs.sweep) == {name}
    assert list(sweep.best(top=2).trial_id) == ["t0002", "t0001"]
    assert [row["trial_id"] for row in sweep.ranking().controls] == ["sgd"]
    assert sweep.trial("t0001")["number"] == 1
    assert list(sweep.curve("t0001").epoch) == [1]
    assert sweep.query("SELECT count(*) AS n FROM trials").to_dict("records") == [{"n": 4}]
    assert sweep.summary().listing.trials == 3
    assert sweep.driver() is None
    assert repr(sweep) == f"<Sweep {name} at {sweep.uri}>"


@pytest.mark.parametrize(
    "named", ["demo", "sweeps/demo", "./sweeps/demo/", "sweeps/../sweeps/demo", "ABSOLUTE", "FILE"]
)
def test_by_name_and_by_path(folder: SweepFolder, named: str) -> None:
    named = named.replace("ABSOLUTE", folder.root).replace("FILE", f"file://{folder.root}")
    check(rts_search.open(named), "demo")


def test_in_another_storage_and_by_uri(tmp_path: Path, s3_storage: str) -> None:
    for storage in (str(tmp_path / "elsewhere"), s3_storage):
        folder = SweepFolder(storage, "demo")
        fill(folder)
        check(rts_search.open("demo", storage), "demo")
        check(rts_search.open(folder.uri), "demo")
        assert cli("best", folder.uri).code == 0


def test_a_moved_sweep_is_itself(folder: SweepFolder, tmp_path: Path) -> None:
    Path(folder.root).rename(tmp_path / "sweeps" / "renamed")
    check(rts_search.open("renamed"), "renamed")
    (tmp_path / "far").mkdir()
    (tmp_path / "sweeps" / "renamed").rename(tmp_path / "far" / "off")
    check(rts_search.open("far/off"), "off")
    with pytest.raises(ValueError, match=r"no sweeps in .*/sweeps"):
        rts_search.open("demo")
    spec = resumed_spec(SweepFolder.at("far/off"), ["search.trials=9"])
    assert (spec.name, spec.storage) == ("off", str(tmp_path / "far"))


@pytest.mark.parametrize(
    "command",
    [
        "best SWEEP",
        "best SWEEP --pareto --cost gradient_evaluations",
        "audit SWEEP",
        "status SWEEP",
        "show SWEEP/t0001",
        "show t0001 --sweep SWEEP",
        "export epochs --sweep SWEEP",
        "query SELECT.1.AS.n --sweep SWEEP",
        "replay SWEEP --export curves.parquet",
    ],
)
def test_every_verb_takes_name_path_and_uri(
    folder: SweepFolder, command: str, s3_storage: str
) -> None:
    fill(stored := SweepFolder(s3_storage, "demo"))

    def ask(sweep: str) -> str:
        words = [
            word.replace("SWEEP", sweep) if "SELECT" not in word else word.replace(".", " ")
            for word in command.split()
        ]
        if "SWEEP/" in command and "?" in sweep:  # what is inside comes before the query
            words = ["show", stored.uri_of("t0001")]
        done = cli(*words)
        assert (done.code, done.err) == (0, ""), sweep
        return done.out

    there = ask(stored.uri)
    assert ask("demo") == ask("sweeps/demo") == ask(folder.root)
    assert len(there.splitlines()) == len(ask("demo").splitlines())


def test_what_is_not_there_is_one_line(folder: SweepFolder) -> None:
    with pytest.raises(ValueError, match=r"unknown sweep in .* 'dmeo': did you mean 'demo'"):
        rts_search.open("sweeps/dmeo")
    with pytest.raises(ValueError, match=r"sweep '.*' must be letters"):
        rts_search.open("a b/c d")
    with pytest.raises(ValueError, match="unknown trial 't9'"):
        rts_search.open("demo").trial("t9")
    folder.delete("spec.yaml")
    single = rts_search.open("demo")  # as `train` leaves it
    assert not single.has_spec
    assert len(single.trials) == 4
    with pytest.raises(ValueError, match=r"no sweep at .*/demo: it has no spec\.yaml"):
        _ = single.spec


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("demo/t0003", ("demo", "t0003")),
        ("./sweeps/demo/t0003", ("./sweeps/demo", "t0003")),
        ("s3://b/p/demo/t1?scheme=http", ("s3://b/p/demo?scheme=http", "t1")),
    ],
)
def test_a_trial_of_a_sweep(text: str, parts: tuple[str, str]) -> None:
    assert split_trial(text) == parts


def test_the_package_loads_nothing_until_it_is_asked() -> None:
    code = (
        "import sys, rts_search; heavy = ('torch', 'ray', 'optuna', 'pandas', 'duckdb'); "
        "print([m for m in heavy if m in sys.modules]); rts_search.open; "
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n['optuna', 'duckdb']\n"


def test_the_best_by_a_metric_of_epochs_have_it(folder: SweepFolder) -> None:
    with Ledger(folder) as ledger:
        for number, loss in enumerate((0.3, 0.1, 0.2)):
            ledger.add_epoch(epoch_row(f"t000{number}", 20, val_loss=loss))
    ranked = rts_search.open("demo").best(top=2, metric="final_val_loss")
    assert list(ranked.columns[:3]) == ["trial_id", "final_val_loss", "configuration"]
    assert ranked[["trial_id", "final_val_loss"]].to_dict("records") == [
        {"trial_id": "t0001", "final_val_loss": 0.1},
        {"trial_id": "t0002", "final_val_loss": 0.2},
    ]


def test_what_a_resume_changes_is_seen(folder: SweepFolder) -> None:
    sweep = rts_search.open("demo")
    assert sweep.spec.search.trials == 4
    write_spec(folder, resumed_spec(folder, ["search.trials=9"]))
    assert sweep.spec.search.trials == 9
