"""The front of accuracy against cost."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from results.ledger import Ledger
from results.pareto import pareto
from results.plots import plot_front
from results.storage import SweepFolder

# accuracy, gradient evaluations of the run of T alone, and of the rung before it
TRIALS = {
    "t0000": (0.80, 100, 10),
    "t0001": (0.90, 200, 10),
    "t0002": (0.85, 200, 90),  # beaten by t0001 at the same cost
    "t0003": (0.80, 150, 10),  # beaten by t0000
    "t0004": (0.95, 400, 10),
}


@pytest.fixture
def storage(tmp_path: Path) -> str:
    with Ledger(SweepFolder(str(tmp_path), "s")) as ledger:
        for number, (name, (accuracy, cost, before)) in enumerate(TRIALS.items()):
            for rung, spent in enumerate((before, cost)):
                for epoch in (1, 2):
                    key = {"trial_id": name, "rung": rung, "epoch": epoch, "total_epochs": 2}
                    evaluations = spent * epoch // 2
                    seconds = {"train_seconds": float(spent)}
                    ledger.add_epoch({**key, "gradient_evaluations": evaluations, **seconds})
            row = {"number": number, "family": "rts", "outcome": "completed"}
            ledger.put_trial({"trial_id": name, "final_val_accuracy": accuracy, **row})
        ledger.put_trial({"trial_id": "t0009", "number": 9, "outcome": "stopped"})
    return str(tmp_path)


def test_only_what_nobody_beats_in_both(storage: str) -> None:
    front = pareto(storage, "s")
    assert [row["trial_id"] for row in front.trials] == ["t0000", "t0001", "t0004"]
    assert [row[front.cost] for row in front.trials] == [100, 200, 400]
    assert {row["trial_id"] for row in front.others} == {"t0002", "t0003"}
    seconds = pareto(storage, "s", cost="run_train_seconds")
    assert [row["run_train_seconds"] for row in seconds.trials] == [200, 400, 800]


def test_the_plot_is_drawn(storage: str, tmp_path: Path) -> None:
    path = tmp_path / "front.svg"
    plot_front(pareto(storage, "s"), path)
    ElementTree.parse(path)


def test_refusals(storage: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gradient_evaluations"):
        pareto(storage, "s", cost="gradient_evaluation")
    with pytest.raises(ValueError, match=r"'front.gif': plots are drawn as .png or .svg"):
        plot_front(pareto(storage, "s"), tmp_path / "front.gif")
