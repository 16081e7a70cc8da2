"""A sweep asked about itself on the command line: audit, edges, front, and where it stands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from results.ledger import Ledger
from results.storage import SweepFolder
from rts_search.cli.app import main
from rts_search.spec.folder import write_spec
from rts_search.spec.model import SweepSpec
from rts_search.spec.reading import parse
from tests.results.builders import epoch_row, trial_row

T, RUNGS = 9, (1, 3, 9)


def write_sweep(storage: Path, name: str = "s", **groups: Any) -> None:
    """Six trials of `radius`, better by their number: two audited, one still on its way up."""
    content = {"name": name, "storage": str(storage), "space": "radius", "train": {"epochs": T}}
    spec = parse(SweepSpec, {**content, "stop": {"fidelity": "schedule"}, **groups})
    folder = SweepFolder(storage, name)
    write_spec(folder, spec)
    with Ledger(folder) as ledger:
        for number in range(6):
            trial, outcome = f"t{number}", "running" if number == 5 else "completed"
            for rung, total in enumerate(RUNGS):
                for epoch in range(1, (2 if outcome == "running" and total == T else total) + 1):
                    cost = {"gradient_evaluations": 10 * epoch, "total_epochs": total}
                    accuracy = number / 10 + epoch / 1000
                    row = epoch_row(trial, epoch, rung, val_accuracy=accuracy, **cost)
                    ledger.add_epoch(row)
            params = {"radius_alpha_start": 100 - number, "radius_alpha_end": 1.0}
            row = trial_row(trial, outcome, number=number, family="rts", total_epochs=T)
            row |= {"params": json.dumps({**params, "radius_shape": "plain"}), "epochs": 13}
            row |= {"final_val_accuracy": number / 10, "gradient_evaluations": 130}
            row |= {"config_trigger": "always", "audited": number in (1, 4)}
            for part in ("radius", "scale"):
                row |= {f"config_{part}_alpha_{end}": 1.0 for end in ("start", "end")}
                row |= {f"config_{part}_strategy": "constant"}
            ledger.put_trial({**row, "lost_rung": 0 if number == 4 else None})


def ask(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit code, and what is said, errors last."""
    code = 0
    try:
        main(list(arguments))
    except SystemExit as end:
        code = int(end.code or 0)
    return code, "".join(capsys.readouterr())


@pytest.fixture
def at(tmp_path: Path) -> tuple[str, str]:
    write_sweep(tmp_path)
    return "--storage", str(tmp_path)


def test_the_audit(at: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    code, said = ask(capsys, "audit", "s", *at)
    assert code == 0
    head, first, second, *trials = said.splitlines()
    assert head == (
        "audit: 2 trials went on whatever the stopper said, and 2 completed; it would have ended 1 "
        "of 2, and 1 of the 1 best in the end"
    )
    assert first.startswith("  after 1 epochs (6 trials): ")
    assert second.startswith("  after 3 epochs (6 trials): ")
    assert trials == [
        "  t4: rank 2 of 6 after 1, 2 of 6 after 3; 1 of 5 in the end, would have ended at rung 0",
        "  t1: rank 5 of 6 after 1, 5 of 6 after 3; 4 of 5 in the end",
    ]


def test_an_audit_at_epochs_of_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep(tmp_path, stop={"fidelity": "epoch", "first_rung": 1, "eta": 3})
    with Ledger(SweepFolder(tmp_path, "s")) as ledger:
        for epoch in range(2, 4):  # one run, from the epoch on that the rung above lacks
            ledger.add_epoch(epoch_row("t0", epoch, val_accuracy=0.9, total_epochs=T))
    _, said = ask(capsys, "audit", "s", "--storage", str(tmp_path))
    assert "after 1 epochs (6 trials)" in said
    assert "after 3 epochs (1 trials)" in said


@pytest.mark.parametrize("verb", ["audit", "status"])
def test_rungs_of_the_clock_that_starts_at_firing_are_perturbed_epochs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    stop = {"stop": {"clock": "firing"}, "train": {"epochs": T}}
    folder = SweepFolder(tmp_path, "s")
    write_spec(folder, parse(SweepSpec, {"name": "s", "storage": str(tmp_path), **stop}))
    with Ledger(folder) as ledger:
        for name, fired in (("t0", 3), ("sgd", None)):
            for epoch in range(1, T + 1):
                firing = {"trigger_epoch": fired, "perturbing": fired is not None and epoch >= 3}
                ledger.add_epoch(epoch_row(name, epoch, total_epochs=T, val_accuracy=0.5, **firing))
            of = {"number": None if name == "sgd" else 0, "total_epochs": T}
            row = trial_row(name, **of, control="sgd" if name == "sgd" else None)
            ledger.put_trial(row | {"config_trigger": "gap" if fired else "never"})
    _, said = ask(capsys, verb, "s", "--storage", str(tmp_path))
    assert "  after 2 perturbed epochs (" in said


def test_where_nobody_is_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep(tmp_path, stop={"policy": "none"})
    at = ("--storage", str(tmp_path))
    assert "stop.policy none: nobody was stopped" in ask(capsys, "audit", "s", *at)[1]
    code, said = ask(capsys, "status", "s", *at)
    assert (code, "audit" in said) == (0, False)
    code, said = ask(capsys, "audit", "other", *at)
    assert (code, said.count("\n")) == (2, 1)


def test_the_status_tells_the_place_on_the_climb_and_the_audit(
    at: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    _, said = ask(capsys, "status", "s", *at)
    (row,) = [line.split() for line in said.splitlines() if line.split()[:1] == ["t5"]]
    # nobody drives it
    assert row == ["t5", "rts", "interrupted", "2", "2", "9", "0.502"]
    assert "audit: 2 trials went on" in said


def test_the_best_warn_of_an_edge(at: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    for sweep in (["s"], []):  # the only one of the storage too
        code, said = ask(capsys, "best", *sweep, "--top", "1", *at)
        (warning,) = [line for line in said.splitlines() if line.startswith("edge of the space: ")]
        assert "5 of the best 5 with radius_alpha_start lie at its upper bound, 100" in warning
    assert code == 0
    assert "edge of" not in ask(capsys, "best", "--metric", "gradient_evaluations", *at)[1]


def test_without_ranges_a_space_of_ones_own_is_not_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep(tmp_path, space="no_such_module:space")
    code, said = ask(capsys, "best", "--storage", str(tmp_path))
    assert code == 0
    assert "best of 5 trials" in said
    assert "is not checked: an earlier version began the sweep without" in said


def test_the_front_and_its_plot(
    at: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "front.svg"
    code, said = ask(capsys, "best", "--pareto", "--plot", str(plot), *at)
    assert code == 0
    assert "1 of 5 completed trials are on the front" in said
    assert [line.split()[:2] for line in said.splitlines() if line[:2] == "t4"] == [["t4", "90"]]
    assert plot.stat().st_size > 1000
    for wrong in (["--plot", "front.gif"], ["--pareto", "--cost", "train_second"]):
        code, said = ask(capsys, "best", *wrong, *at)
        assert (code, said.count("\n")) == (2, 1)


CODE = """
import sys
from rts_search.cli.app import main

for command in {commands}:
    try:
        main(command)
    except SystemExit as end:
        assert end.code == 0, command
print([name for name in ("torch", "ray", "matplotlib") if name in sys.modules], file=sys.stderr)
"""


def test_neither_torch_nor_ray_is_loaded(at: tuple[str, str]) -> None:
    asked = (["audit", "s"], ["status", "s"], ["best", "s"], ["best", "--pareto"])
    code = CODE.format(commands=[[*command, *at] for command in asked])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "[]\n")
