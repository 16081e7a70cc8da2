"""The front of accuracy against cost."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from results.ledger import Ledger
from results.pareto import ACCURACY, COSTS, Front, on_front, pareto, plot_front
from results.ranking import METRICS
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
        ledger.add_epoch({**key, "trial_id": "sgd", "rung": 0, "gradient_evaluations": 150})
        control = {"trial_id": "sgd", "control": "sgd", "family": "sgd", "outcome": "completed"}
        ledger.put_trial({**control, "final_val_accuracy": 0.79})
    return str(tmp_path)


def test_only_what_nobody_beats_in_both(storage: str) -> None:
    front = pareto(storage, "s")
    assert [row["trial_id"] for row in front.trials] == ["t0000", "t0001", "t0004"]
    assert [row[front.cost] for row in front.trials] == [100, 200, 400]
    assert {row["trial_id"] for row in front.others} == {"t0002", "t0003"}
    seconds = pareto(storage, "s", cost="run_train_seconds")
    assert [row["run_train_seconds"] for row in seconds.trials] == [200, 400, 800]


def test_the_cost_of_the_climb_is_another_one(storage: str) -> None:
    climbed = pareto(storage, "s", cost="gradient_evaluations")
    assert climbed.trials == []  # the rows here do not have it
    assert all(METRICS[cost] for cost in COSTS)  # lower is better


def test_controls_stand_beside_the_front(storage: str) -> None:
    front = pareto(storage, "s", where="number = 1")
    assert [row["trial_id"] for row in front.trials] == ["t0001"]
    (control,) = front.controls
    assert control[front.cost] == 150
    assert front.beaten_by(control) is None  # t0001 is better, and dearer
    assert pareto(storage, "s").beaten_by(control) == "t0000"


def test_an_arm_of_controls_is_its_most_accurate(storage: str) -> None:
    with Ledger(SweepFolder(storage, "s")) as ledger:
        for name, accuracy in (("sgd.1", 0.84), ("sgd.2", 0.1)):
            key = {"trial_id": name, "rung": 0, "epoch": 2, "total_epochs": 2}
            ledger.add_epoch({**key, "gradient_evaluations": 150})
            control = {"trial_id": name, "control": "sgd", "outcome": "completed"}
            ledger.put_trial({**control, "final_val_accuracy": accuracy})
    assert [row["trial_id"] for row in pareto(storage, "s").controls] == ["sgd.1"]


def test_what_is_equal_does_not_beat() -> None:
    row = {"trial_id": "t0", "cost": 1.0, ACCURACY: 0.5}
    front = Front("cost", [row], [], [])
    assert front.beaten_by({**row, "trial_id": "sgd"}) is None
    assert front.beaten_by({**row, "cost": 1.1}) == "t0"
    assert front.beaten_by({**row, ACCURACY: 0.49}) == "t0"
    assert front.beaten_by({**row, "cost": 0.9}) is None


POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=30)


@given(POINTS)
def test_the_front_is_what_nobody_dominates(points: list[tuple[float, float]]) -> None:
    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a != b and a[0] <= b[0] and a[1] >= b[1]

    assert on_front(points) == [not any(beats(a, b) for a in points) for b in points]


@pytest.mark.parametrize("controls", [True, False])
def test_the_plot_is_drawn(storage: str, tmp_path: Path, controls: bool) -> None:
    front = pareto(storage, "s")
    if not controls:
        front.controls.clear()
    plot_front(front, tmp_path / "front.svg")
    plot_front(front, tmp_path / "front.png")
    texts = {
        text.strip() for text in ElementTree.parse(tmp_path / "front.svg").getroot().itertext()
    }
    assert {"Pareto front", "completed trials", "run gradient evaluations"} <= texts
    assert ("sgd" in texts) == controls
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


def test_refusals(storage: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gradient_evaluations"):
        pareto(storage, "s", cost="gradient_evaluation")
    with pytest.raises(ValueError, match=r"'front.gif': plots are drawn as .png or .svg"):
        plot_front(pareto(storage, "s"), tmp_path / "front.gif")


def test_the_front_is_of_the_objective(tmp_path: Path) -> None:
    with Ledger(SweepFolder(tmp_path, "s")) as ledger:
        for number, (loss, cost) in enumerate([(0.5, 100), (0.4, 200), (0.6, 300)]):
            row = {"trial_id": f"t{number}", "number": number, "outcome": "completed"}
            told = {"objective": "val_loss", "final_objective": loss, "final_val_accuracy": loss}
            ledger.put_trial({**row, **told, "gradient_evaluations": cost})
    front = pareto(tmp_path, cost="gradient_evaluations")
    assert front.metric == "final_val_loss"
    assert [row["trial_id"] for row in front.trials] == ["t0", "t1"]
    assert front.beaten_by({**front.trials[0], "trial_id": "x", "final_val_loss": 0.51}) == "t0"
    plot_front(front, tmp_path / "front.svg")
    assert "final val loss" in (tmp_path / "front.svg").read_text()


def test_what_learned_nothing_is_on_no_front(tmp_path: Path) -> None:
    """However cheap: of ten classes and 100 images, 0.16 is two standard errors above chance."""
    outcomes = ["completed", "completed", "collapsed", "completed"]
    with Ledger(SweepFolder(tmp_path, "s")) as ledger:
        for number, (accuracy, outcome) in enumerate(
            zip((0.15, 0.17, 0.1, 0.9), outcomes, strict=True)
        ):
            row = {"trial_id": f"t{number}", "number": number, "outcome": outcome}
            split = {"classes": 10, "validation_images": 100}
            cost = {"gradient_evaluations": 10 + number, "final_val_accuracy": accuracy}
            ledger.put_trial({**row, **split, **cost})
    front = pareto(tmp_path, cost="gradient_evaluations")
    assert [row["trial_id"] for row in front.trials] == ["t1", "t3"]
    assert [row["trial_id"] for row in front.others] == ["t0"]
