"""A sweep as a study of Optuna's: the same trials, in a journal and in optuna-dashboard."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from results.ledger import Ledger
from results.storage import SweepFolder
from rts_search.answers.studio import dashboard
from rts_search.search.edges import plain_ranges
from rts_search.spec.folder import write_spec
from rts_search.spec.model import SweepSpec
from tests.results.builders import epoch_row, trial_row
from tests.rts_search.cli.calling import cli
from trainables.config import TrialConfig

START = datetime(2026, 1, 1, tzinfo=UTC)
OUTCOMES = ["completed", "completed", "stopped", "failed", "running", "completed"]


def params(number: int) -> dict[str, Any]:
    trigger = {"trigger": "epoch", "trigger_fraction": 0.1 * number} if number % 2 else {}
    shapes = {"radius_shape": "plain", "scale_shape": "inverse"}
    return {"radius_alpha_start": 0.1 + number, "radius_alpha_end": 2.0} | shapes | trigger


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepFolder:
    """A sweep of six trials and a control."""
    monkeypatch.chdir(tmp_path)
    write(SweepFolder("sweeps", "s"), spec=True)
    return SweepFolder("sweeps", "s")


def write(folder: SweepFolder, spec: bool) -> None:
    asked = SweepSpec.model_validate({"name": folder.name, "space": "rts", "train": {"epochs": 4}})
    if spec:
        write_spec(folder, asked, ranges=plain_ranges(asked))
    config = TrialConfig().model_dump_json()
    with Ledger(folder) as ledger:
        for number, outcome in [*enumerate(OUTCOMES), (None, "completed")]:
            name = "sgd" if number is None else f"t{number:04d}"
            known = {"total_epochs": 4, "val_loss": 1.0, "gradient_evaluations": 5, "shared": False}
            epochs = 4 if outcome == "completed" else 2
            for epoch in range(1, epochs + 1):
                accuracy = 0.5 + (number or 0) / 100 + epoch / 1000
                ledger.add_epoch(epoch_row(name, epoch, val_accuracy=accuracy) | known)
            row = trial_row(name, outcome, number=number, epochs=epochs, config_json=config)
            row |= {"objective": "val_accuracy", "trigger_epoch": 3, "test_accuracy": 0.4}
            row |= {"started": START, "updated": START, "total_epochs": 4}
            row |= {"params": None if number is None else json.dumps(params(number))}
            if outcome == "completed":
                row |= {"ended": START + timedelta(minutes=2), "final_objective": accuracy}
            ledger.put_trial(row)


def load(journal: str) -> optuna.Study:
    return optuna.load_study(study_name=None, storage=JournalStorage(JournalFileBackend(journal)))


def test_the_journal_has_the_trials_as_the_sampler_knows_them(folder: SweepFolder) -> None:
    done = cli("studio", "s", "--journal", "study.log")
    assert (done.code, done.out, done.err) == (0, "wrote study.log: study s, 6 trials\n", "")
    study = load("study.log")
    complete, pruned, fail = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
    states = [complete, complete, pruned, fail, TrialState.RUNNING, complete]
    assert [trial.state for trial in study.trials] == states
    assert (study.direction.name, study.metric_names) == ("MAXIMIZE", ["val_accuracy"])
    best = study.best_trial
    assert best.user_attrs["trial_id"] == "t0005"
    assert best.value == pytest.approx(0.554)  # the last epoch of four
    assert best.params == params(5)
    assert study.trials[2].value == pytest.approx(0.522)
    assert study.trials[2].intermediate_values == pytest.approx({1: 0.521, 2: 0.522})
    assert best.user_attrs["test_accuracy"] == 0.4
    assert best.duration == timedelta(minutes=2)
    assert best.distributions["radius_alpha_start"] == FloatDistribution(0.01, 100.0, log=True)
    assert best.distributions["radius_shape"] == CategoricalDistribution(["plain"])
    assert "trigger" not in study.trials[0].params
    again = cli("studio", "s", "--journal", "study.log")
    assert again.code == 2
    assert again.err.startswith("rts-search: study.log is there already: ")


def test_a_study_goes_there_and_back(folder: SweepFolder) -> None:
    assert cli("studio", "s", "--journal", "study.log").code == 0
    assert cli("import", "study.log", "--name", "back").code == 0
    assert cli("studio", "back", "--journal", "back.log").code == 0  # without a spec
    ours, theirs = load("study.log"), load("back.log")
    assert [t.value for t in theirs.trials if t.state is TrialState.COMPLETE] == pytest.approx(
        [t.value for t in ours.trials if t.state is TrialState.COMPLETE]
    )
    assert {t.params["radius_alpha_start"] for t in theirs.trials} <= {
        t.params["radius_alpha_start"] for t in ours.trials
    }


@pytest.fixture
def served(folder: SweepFolder) -> Iterator[str]:
    with dashboard(folder, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_dashboard_shows_the_sweep(served: str) -> None:
    with urlopen(f"{served}/dashboard/studies/0") as page:
        assert b"<html" in page.read().lower()
    with urlopen(f"{served}/api/studies") as answer:
        (summary,) = json.load(answer)["study_summaries"]
    assert (summary["study_name"], summary["directions"]) == ("s", ["maximize"])
    with urlopen(f"{served}/api/studies/0") as answer:
        study = json.load(answer)
    assert [t["state"].lower() for t in study["trials"]].count("complete") == 3
    assert study["best_trials"][0]["values"] == pytest.approx([0.554])
    assert study["objective_names"] == ["val_accuracy"]


def test_what_is_missing_is_one_line(folder: SweepFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = cli("studio", "s", "--port", str(port))
    said = f"rts-search: port {port} is taken: give another one with --port\n"
    assert (done.code, done.out, done.err) == (2, "", said)
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    done = cli("studio", "s")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "rts-search: optuna-dashboard is not installed: pip install optuna-dashboard, or write the "
        "study into a file with --journal FILE\n"
    )
    empty = SweepFolder("sweeps", "empty")
    with Ledger(empty) as ledger:
        ledger.put_trial(trial_row("run0", config_json="{}"))
    done = cli("studio", "empty", "--journal", "empty.log")
    assert (done.code, done.out) == (2, "")
    assert done.err == ("rts-search: empty has no searched trials: there is nothing to show\n")
    assert not Path("empty.log").exists()
