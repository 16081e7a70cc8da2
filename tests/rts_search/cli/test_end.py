"""The end of a sweep on a terminal of 80 columns and 24 lines: the answer is on it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from results.ledger import Ledger
from results.storage import SweepFolder
from rts_search.cli.launch import print_end
from rts_search.search.plan import open_study
from rts_search.spec.folder import write_spec
from rts_search.spec.model import SweepSpec
from rts_search.spec.reading import parse
from rts_search.sweep import Sweep
from rts_search.trials.rows import config_columns
from rts_search.trials.trial import controls
from tests.results.builders import epoch_row, trial_row

T = 27


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """Twenty trials of `rts`, half of them stopped, three audited, and the controls."""
    monkeypatch.chdir(tmp_path)
    folder = SweepFolder("sweeps", "demo")
    content = {"name": "demo", "search": {"trials": 20, "also": ["lr"]}, "train": {"epochs": T}}
    spec = parse(SweepSpec, content)
    write_spec(folder, spec)
    study, _ = open_study(spec, [])
    split = {"classes": 10, "validation_images": 4000, "objective": "val_accuracy"}
    with Ledger(folder) as ledger:
        for number in range(20):
            proposal = study.ask()
            assert proposal is not None
            done, accuracy = number % 2 == 0, 0.8 + number / 400
            row = trial_row(f"t{number:04d}", "completed" if done else "stopped", number=number)
            row |= {"params": json.dumps(proposal.params), "audited": number in (2, 4, 8)}
            row |= {"final_val_accuracy": accuracy, "final_objective": accuracy, **split}
            row |= {"family": "rts", "total_epochs": T, "gradient_evaluations": 123456, "seed": 42}
            row |= {"trigger_epoch": 2}
            row |= {"lost_rung": 0 if number == 8 else None, "test_accuracy": 0.8}
            ledger.put_trial(row | config_columns(proposal.config))
            cost = {"gradient_evaluations": 123456, "train_seconds": 9.0, "epoch_seconds": 10.0}
            last = epoch_row(row["trial_id"], T, val_accuracy=accuracy, eval_seconds=1.0, **cost)
            for epoch in range(1, T + 1) if done else ():
                ledger.add_epoch({**last, "epoch": epoch, "total_epochs": T})
        for place, control in enumerate(controls(spec)):
            row = trial_row(control.trial_id, control=control.control, **split)
            row |= {"family": control.config.optimizer.family, "total_epochs": control.total_epochs}
            row |= {"final_val_accuracy": 0.83 + place / 100, "final_objective": 0.83}
            row |= {"gradient_evaluations": 67890, "test_accuracy": 0.8}
            ledger.put_trial(row | config_columns(control.config))
    for kept in ("t0018", "t0016", "t0014", "t0012", "t0010", "sgd", "pugd", "sgd-2x"):
        folder.write(f"checkpoints/{kept}/weights.pt", b"")
    return Sweep(folder)


def test_the_answer_is_on_one_screen(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    print_end(sweep, Console(force_terminal=True, width=80, height=24))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 23  # and the prompt below
    assert max(map(len, lines)) <= 80
    said = " ".join(line.strip() for line in lines)
    assert said.startswith(
        "t0018 is the best of 10 trials by final_val_accuracy, 0.8450: -0.50 to sgd-2x (untuned), "
        "+0.50 to pugd (untuned), +1.50 to sgd (untuned), in points. "
        "4,000 validation images measure it to ± 0.57 points (one standard deviation); less "
        "than 1.6 may be chance; no second seed has run. The best of many is lucky."
    )
    assert [line.split()[0] for line in lines if line[:2] in ("t0", "sg", "pu")][1:] == [
        *("t0018", "t0016", "sgd-2x", "pugd", "sgd")
    ]
    assert "lr 0." in said  # what is searched beside the space
    assert said.count("audit: ") == 1
    (audit,) = [line for line in lines if line.startswith("audit: ")]
    assert audit == "audit: the stopper would have ended 1 of 3 audited trials, 1 of the 1 best"
    assert "rts-search show demo/t0018" in said


def test_where_no_terminal_is_a_line_is_a_line(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    print_end(sweep, Console(width=160))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("in points.")
    assert lines[1].endswith("The best of many is lucky.")


def test_where_nothing_completed_what_is_next_can_be_typed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = SweepFolder(tmp_path, "sad")
    write_spec(folder, SweepSpec(name="sad", storage=str(tmp_path)))
    with Ledger(folder) as ledger:
        ledger.put_trial(trial_row("t0000", "failed", number=0))
    print_end(Sweep(folder), Console(width=160))
    said = capsys.readouterr().out.partition("next: ")[2]
    assert said == f"rts-search best {folder.argument()} --top 10 --all\n"
