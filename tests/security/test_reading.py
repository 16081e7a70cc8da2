"""Reading is not running: a sweep of another's whose spec and trials name code."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import rts_search
from results.ledger import Ledger
from results.storage import SweepFolder
from rts_search.cli.app import app
from rts_search.estimate.firing import train_trunk
from rts_search.spec import provenance
from rts_search.spec.folder import SPEC, write_spec
from rts_search.spec.model import SweepSpec
from rts_search.trials.rows import config_columns
from tests.results.builders import epoch_row, trial_row
from tests.rts_search.cli.calling import Outcome, cli
from trainables.config import TrialConfig
from trainables.effect import trunk_of
from trainables.trunk import HISTORY, History

EVIL = "open('executed', 'a').close()\n"  # and then no space, model or data is found
OWN = {
    "space": "evil_space:space",
    "model": {"name": "evil_model:model"},
    "data": {"name": "evil_data:data"},
}
READING = [
    "best theirs",
    "best",
    "best theirs --json",
    "best theirs --all --metric best_val_accuracy",
    "best theirs --pareto",
    "best theirs --plot front.svg",
    "best theirs --as yaml",
    "best theirs --as python",
    "compare theirs theirs/t0001",
    "compare theirs --json",
    "tables theirs",  # of which none belongs there
    "report theirs",
    "plot curves theirs",
    "audit theirs",
    "audit theirs --json",
    "query 'SELECT * FROM trials'",
    "query 'SELECT * FROM trials' --json",
    "list",
    "list --json",
    "status theirs",
    "status",
    "status theirs --json",
    "status theirs --follow",
    "show t0000",
    "show theirs/t0001 --json",
    "export trials",
    "export epochs --format json",
    "replay theirs --replays 2",
    "replay theirs --export curves.parquet",
    "firing theirs",
    "firing theirs --json",
    "stop theirs",
    "compare theirs",
    "tables theirs",
    "studio theirs --journal study.log",
    "selftest theirs --simulations 2000",
    "estimate --preset quick --no-probe",  # looks at earlier sweeps of the storage
    "sweep --preset quick --dry-run --set search.warm_start=[theirs]",
]
# what trains, or reads no sweep
OTHERS = {"resume", "train", "reproduce", "submit", "logs", "spaces", "models", "datasets"}
OTHERS |= {"doctor", "dashboard", "confirm", "verify", "switch_curve", "import"}


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """We stand where the modules lie, in a repository whose settings name a program."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("RTS_SEARCH_CACHE", str(tmp_path / "cache"))
    for name in ("evil_space", "evil_model", "evil_data"):
        Path(f"{name}.py").write_text(EVIL)
    subprocess.run(["git", "init", "-q"], check=True)
    Path("monitor.sh").write_text(f"#!/bin/sh\ntouch {tmp_path}/executed\n")
    Path("monitor.sh").chmod(0o755)
    subprocess.run(["git", "config", "core.fsmonitor", f"{tmp_path}/monitor.sh"], check=True)
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@x", "-c", "core.fsmonitor=false"]
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    subprocess.run(["git", "status"], check=True, capture_output=True)
    assert Path("executed").exists()  # git alone runs it
    Path("executed").unlink()
    write_theirs(tmp_path / "sweeps")
    yield tmp_path
    provenance.provenance.cache_clear()


def write_theirs(storage: Path) -> None:
    content = {"name": "theirs", "storage": str(storage), "train": {"epochs": 9}}
    spec = SweepSpec.model_validate({**content, **OWN, "stop": {"fidelity": "schedule"}})
    folder = SweepFolder(storage, "theirs")
    write_spec(folder, spec)
    provenance.provenance.cache_clear()  # the readers' own
    write_trunk(folder, spec)
    with Ledger(folder) as ledger:
        for number in range(5):
            trial, now = f"t{number:04d}", datetime.now(UTC)
            for epoch in range(1, 10):
                row = epoch_row(trial, epoch, val_accuracy=0.1 * number, epoch_seconds=1.0)
                known = {"gradient_evaluations": 10 * epoch, "total_epochs": 9, "val_loss": 1.0}
                ledger.add_epoch(row | known)
            row = trial_row(trial, "completed" if number else "interrupted", number=number)
            train = spec.train.model_copy(update={"lr": 0.1 + number / 100})
            config = spec.base.model_copy(update={"train": train})
            row |= config_columns(config) | {"total_epochs": 9, "epochs": 9, "family": "rts"}
            row |= {"final_val_accuracy": 0.1 * number, "gradient_evaluations": 90, "seed": 1}
            row |= {
                "started": now,
                "ended": now,
                "updated": now,
                "params": json.dumps({"x": 1.0 - number / 1000}),
            }
            ledger.put_trial(row)


def write_trunk(folder: SweepFolder, spec: SweepSpec) -> None:
    """A run of plain SGD under their spec's names."""
    ours = {"data": {"name": "digits", "train_size": 200}, "model": {"name": "mlp"}}
    config = TrialConfig.model_validate({**ours, "train": {"epochs": 9, "device": "cpu"}})
    epochs = train_trunk(config, 1, lambda line: None)
    history = History("T9-0-cpu-fp32", trunk_of(spec.base).model_dump_json(), epochs)
    folder.write(f"trunks/{history.trunk}/{HISTORY}", history.pack())


def ask(words: str) -> Outcome:
    Path("executed").unlink(missing_ok=True)
    provenance.provenance.cache_clear()
    for name in ("evil_space", "evil_model", "evil_data"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()
    return cli(*shlex.split(words))


def executed() -> bool:
    return Path("executed").exists()


def test_no_reading_verb_runs_code_of_a_sweep(theirs: Path) -> None:
    for words in READING:
        done = ask(words)
        assert not executed(), words
        assert "Traceback" not in done.err, words
        known = words.startswith(("stop", "tables")) or "warm_start" in words
        assert done.code == 0 or known, (words, done)


def test_every_verb_is_looked_at_here() -> None:
    groups = (group.typer_instance.registered_commands for group in app.registered_groups)
    verbs = {each.name or each.callback.__name__ for group in groups for each in group}  # type: ignore[union-attr]
    assert verbs == {words.split()[0] for words in READING if "--dry-run" not in words} | OTHERS | {
        "sweep"
    }


def test_a_notebook_runs_none_either(theirs: Path) -> None:
    sweep = rts_search.open("theirs")
    for asked in (sweep.best, sweep.summary, sweep.driver, sweep.plot_curves):
        asked()
    assert len(sweep.trials)
    assert len(sweep.epochs)
    assert sweep.trial("t0001")["outcome"] == "completed"
    assert sweep.spec.space == "evil_space:space"
    with pytest.raises(ValueError, match="is code of its own, and reading a sweep runs none"):
        _ = sweep.space
    assert not executed()


@pytest.mark.parametrize("verb", ["resume theirs", "train --trial theirs/t0001",
                                  "reproduce theirs/t0001"])  # fmt: skip
def test_what_runs_says_what_and_from_where(theirs: Path, verb: str) -> None:
    done = ask(verb)
    assert executed()
    assert f"runs model evil_model:model from {theirs}/evil_model.py\n" in done.out
    assert f"runs data evil_data:data from {theirs}/evil_data.py\n" in done.out
    assert ("evil_space.py" in done.out) == verb.startswith("resume")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("given", ["sweeps/theirs", f"sweeps/theirs/{SPEC}", "evil_model.py"])
@pytest.mark.parametrize("verb", ["resume theirs", "train --trial theirs/t0001",
                                  "reproduce theirs/t0001"])  # fmt: skip
def test_what_is_anothers_is_run_only_if_trusted(theirs: Path, given: str, verb: str) -> None:
    os.chown(given, 12345, 12345)
    done = ask(verb)
    assert not executed()
    assert done.code == 2
    assert done.err == (
        f"rts-search: {theirs}/{given} belongs to user 12345: to go on is to run what is named "
        "there, as you; look at it first, and then add --trust\n"
    )
    ask(f"{verb} --trust")
    assert executed()


def test_the_driver_writes_the_ranges_that_readers_need(theirs: Path) -> None:
    from rts_search.search.edges import plain_ranges

    spec = SweepSpec(name="mine", storage=str(theirs / "sweeps"), space="radius")
    folder = SweepFolder(spec.storage, spec.name)
    write_spec(folder, spec, ranges=plain_ranges(spec))
    own = {"x": {"low": 0.0, "high": 1.0}}
    write_spec(SweepFolder(spec.storage, "theirs"), rts_search.open("theirs").spec, ranges=own)
    done = ask("best theirs")
    assert "4 of the best 4 with x lie at its upper bound, 1 (at 0.996 to 0.999)" in done.out
    assert not executed()
