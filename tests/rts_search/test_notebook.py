"""A sweep opened by name, path or URI, wherever its folder lies, and what a notebook has of it."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import pandas as pd
import pytest
from plotly.graph_objects import Figure

import rts_search
from results.ledger import Ledger
from results.schema import TRIALS
from results.storage import SweepFolder
from rts_search import runner
from rts_search.notebook import HEIGHT, Sweep
from rts_search.report.command import KINDS
from rts_search.report.page import PLOTS, TITLES
from rts_search.search.plan import open_study
from rts_search.spec.changes import resumed_spec
from rts_search.spec.folder import write_spec
from rts_search.spec.reading import load_spec
from rts_search.sweep import split_trial
from rts_search.trials.rows import config_columns
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
            known |= config_columns(proposal.config) | {"family": "rts", "total_epochs": 1}
            ledger.put_trial(known | {"params": json.dumps(proposal.params)})
            told = {"val_accuracy": 0.5, "gradient_evaluations": 3, "epoch_seconds": 1.0}
            ledger.add_epoch(epoch_row(f"t000{number}", 1, train_seconds=1.0, **told))


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
        "import sys, rts_search; assert {'open', 'run'} < {*dir(rts_search)}\n"
        "heavy = ('torch', 'ray', 'optuna', 'pandas', 'duckdb'); "
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


def test_integers_with_gaps_stay_integers_and_times_have_their_zone(folder: SweepFolder) -> None:
    sweep = rts_search.open("demo")
    with Ledger(folder) as ledger:
        row = trial_row("t0000", number=0, final_val_accuracy=0.7, audited=True)
        ledger.put_trial(row | {"trigger_epoch": 3, "started": datetime(2026, 5, 1, tzinfo=UTC)})
    trials = sweep.trials.set_index("trial_id")
    assert trials.number.dropna().to_dict() == {"t0000": 0, "t0001": 1, "t0002": 2}
    kinds = {name: str(trials[name].dtype) for name in ("number", "trigger_epoch", "audited")}
    assert kinds == {"number": "Int32", "trigger_epoch": "Int32", "audited": "boolean"}
    assert trials.started["t0000"] == pd.Timestamp("2026-05-01", tz="UTC")
    assert trials.final_val_accuracy.dtype == "float64"
    asked = sweep.query("SELECT sum(number) AS n, 2::HUGEINT ** 70 AS big, 0.5 AS half FROM trials")
    assert asked.dtypes.map(str).to_dict() == {"n": "Int64", "big": "float64", "half": "float64"}
    assert asked.n[0] == 3
    for table in (sweep.epochs, sweep.curve("t0001"), sweep.best()):
        assert {str(table[name].dtype) for name in ("epoch", "epochs") if name in table} == {
            "Int32"
        }


def test_of_the_best_what_tells_most_is_in_front(folder: SweepFolder) -> None:
    best = rts_search.open("demo").best()
    assert list(best.columns[:6]) == [
        *("trial_id", "final_val_accuracy", "configuration", "test_accuracy", "seeds", "deviation")
    ]
    assert set(TRIALS.names) < set(best.columns)
    assert best.configuration.str.contains("rts radius ").all()
    folder.delete("trials")
    assert rts_search.open("demo").best().empty


@pytest.mark.parametrize("kind", KINDS)
def test_every_plot_of_the_report_is_a_method(folder: SweepFolder, kind: str) -> None:
    sweep = rts_search.open("demo")
    assert f"plot_{kind}" in dir(sweep)  # what the Tab key completes
    method = getattr(sweep, f"plot_{kind}")
    assert inspect.getdoc(method).startswith(f"{TITLES[kind]}, as plotly's figure. ")  # type: ignore[union-attr]
    assert "where" in inspect.signature(method).parameters
    with pytest.raises(ValueError, match="nosuch"):
        method(where="nosuch = 1")


def test_a_plot_is_the_reports_figure_with_its_title(folder: SweepFolder) -> None:
    sweep = rts_search.open("demo")
    figure = sweep.plot_curves(where="trial_id = 't0001'")
    assert isinstance(figure, Figure)
    assert figure.layout.title.text == PLOTS["curves"].title
    assert figure.layout.height == HEIGHT
    assert set(figure.data[0].customdata) == {"t0001"}
    folder.delete("spec.yaml")
    with pytest.raises(ValueError, match=r"demo: no rungs to draw\. The sweep has no rungs"):
        sweep.plot_rungs()


def test_a_name_that_is_there_is_refused_gone_on_with_or_replaced(
    folder: SweepFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = rts_search.open("demo").spec
    for asked in (spec, {"name": "demo"}):
        with pytest.raises(ValueError, match=r"^sweep 'demo' exists in .*: open") as refused:
            rts_search.run(asked)
        assert "resume=True goes on with it, overwrite=True replaces it" in str(refused.value)
    with pytest.raises(ValueError, match=r"^resume goes on with a sweep that overwrite would"):
        rts_search.run(spec, resume=True, overwrite=True)
    with pytest.raises(ValueError, match=r"^train.epochs cannot change: earlier trials were"):
        rts_search.run(spec, {"train.epochs": 4}, resume=True)
    with pytest.raises(ValueError, match=r"^unknown model 'cn'"):  # which cannot run
        rts_search.run(spec, {"model.name": "cn"}, overwrite=True)
    assert len(rts_search.open("demo").trials) == 4  # nothing is gone
    assert capsys.readouterr().out == ""


@pytest.fixture
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run changes for Ray goes with the test."""
    monkeypatch.setattr(os, "environ", dict(os.environ))


@pytest.mark.usefixtures("surroundings")
def test_a_budget_that_is_used_up_is_said_and_the_sweep_opened(
    folder: SweepFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = rts_search.run(rts_search.open("demo").spec, {"budget.epochs": 1}, resume=True)
    assert (sweep.name, sweep.spec.budget.epochs) == ("demo", 1)
    said = capsys.readouterr().out
    assert "t0002 is the best of 3 trials by final_val_accuracy" in said
    assert said.endswith("; with resume=True and a larger budget it goes on\n")


@pytest.mark.usefixtures("surroundings")
def test_an_interrupt_keeps_all_and_says_how_to_go_on(
    folder: SweepFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> NoReturn:
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError

    monkeypatch.setattr(runner, "ray_session", interrupted)  # while Ray starts
    before = signal.getsignal(signal.SIGINT)
    sweep = rts_search.run(rts_search.open("demo").spec, resume=True)
    assert len(sweep.trials) == 4
    *_, last = capsys.readouterr().out.splitlines()
    assert last == (
        "interrupted by SIGINT: everything so far is kept; run it with resume=True to go on"
    )
    assert signal.getsignal(signal.SIGINT) is before
    assert sweep.driver() is None
