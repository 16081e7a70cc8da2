"""Training histories: of arms over seeds the mean and the band, of trials their own lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from results.ledger import Ledger
from results.storage import SweepFolder
from rts_search.notebook import Sweep
from rts_search.report.command import plot
from rts_search.report.data import read
from rts_search.report.histories import history
from rts_search.report.runs import runs_over_seeds
from tests.results.builders import epoch_row
from tests.rts_search.answers.recorded import PUGD, SGD, trial
from tests.rts_search.report.ledgers import T, reported

EPOCHS = 4
FIRST = {"sgd": None, "t0": 3}  # the first perturbed epoch


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """A trial that was searched and a control, each confirmed on three seeds; one that was
    stopped; and one that climbed a rung."""
    folder = SweepFolder(tmp_path, "s")
    with Ledger(folder) as ledger:
        for name, rule, value in (("t0", PUGD, 0.9), ("sgd", SGD, 0.8)):
            control = {"control": "sgd"} if name == "sgd" else {}
            put(ledger, name, name, rule, value, 42, **control)
            for seed in (1, 2, 3):
                own = {"stage": "confirm", "arm": name, "claim": "c"}
                put(ledger, f"{name}-{seed}", name, rule, value + seed / 100, seed, **own)
        put(ledger, "t1", "sgd", SGD | {"family": "sam"}, 0.5, 42, outcome="stopped", epochs=2)
        put(ledger, "t2", "t0", {"family": "asam"}, 0.6, 42)
        ledger.add_epoch(row("t2", 1, 0.1, None, rung=-1))  # as of a shorter run before
    return Sweep(folder)


def put(
    ledger: Ledger, name: str, of: str, rule: Any, value: float, seed: int, **more: Any
) -> None:
    ledger.put_trial(trial(name, rule, value, seed, train={"epochs": EPOCHS}, **more))
    for epoch in range(1, more.get("epochs", EPOCHS) + 1):
        ledger.add_epoch(row(name, epoch, value, FIRST[of]))


def row(name: str, epoch: int, value: float, first: int | None, **more: Any) -> dict[str, Any]:
    told = {
        "train_loss": 2 - value * epoch / EPOCHS,
        "val_loss": 3 - value * epoch / EPOCHS,
        "train_accuracy": value,
        "val_accuracy": value / 2,
        "generalization_gap": 1.0,
        "trigger_epoch": first if first and epoch >= first else None,
        "total_epochs": EPOCHS,
    }
    return epoch_row(name, epoch, **told | more)


def test_an_arm_is_its_runs_on_new_seeds_and_a_trial_without_any_itself(sweep: Sweep) -> None:
    found = {each.name: each for each in runs_over_seeds(sweep, ["t0", "sgd", "t1", "t2"])}
    assert {name: len(each.runs) for name, each in found.items()} == {
        "t0": 3,
        "sgd": 3,
        "t1": 1,
        "t2": 1,
    }
    assert {run[0]["trial_id"] for run in found["t0"].runs} == {"t0-1", "t0-2", "t0-3"}
    assert [len(each.runs[0]) for each in found.values()] == [4, 4, 2, 4]  # the last rung's
    assert [each.firings for each in found.values()] == [[3], [], [], [3]]
    with pytest.raises(ValueError, match="unknown trial 't9'"):
        runs_over_seeds(sweep, ["t9"])


def test_the_mean_over_seeds_with_the_band_and_the_firing(sweep: Sweep) -> None:
    figure = history(read(sweep, names=["t0", "t1"]))
    assert figure is not None
    loss = [trace for trace in figure.data if trace.yaxis in (None, "y")]
    first = [trace for trace in loss if trace.name != "training"]
    train_band, train, band, mean, fires, *_ = first
    assert (train_band.fill, band.fill) == ("toself", "toself")
    assert (train.line.dash, mean.line.dash) == ("dot", "solid")
    assert mean.name == "t0 (3 seeds)"
    assert mean.x == (1, 2, 3, 4)
    assert mean.y == pytest.approx([3 - 0.92 * e / 4 for e in (1, 2, 3, 4)], rel=1e-4)
    assert train.y == pytest.approx([2 - 0.92 * e / 4 for e in (1, 2, 3, 4)], rel=1e-4)
    ends = [3 - 0.91 * e / 4 for e in (1, 2, 3, 4)] + [3 - 0.93 * e / 4 for e in (4, 3, 2, 1)]
    assert band.y == pytest.approx(ends, rel=1e-4)
    assert (fires.x, fires.y) == ((3,), (mean.y[2],))
    of_t1 = [trace for trace in figure.data if trace.legendgroup == "t1"]
    assert {trace.fill for trace in of_t1} == {None}  # one run has no band
    assert len(of_t1) == 5  # loss and accuracy twice, the gap; it never fired
    assert {trace.name for trace in figure.data if trace.showlegend is not False} >= {
        "t0 (3 seeds)",
        "t1",
        "training",
        "validation",
    }


def test_by_itself_it_is_of_the_best_and_the_controls(tmp_path: Path) -> None:
    sweep = reported(tmp_path)
    told = read(sweep)
    best = told.ranked[0].trials[0]["trial_id"]
    assert [each.name for each in told.arms] == [best, "pugd", "sgd"]
    assert all(len(run) == T for each in told.arms for run in each.runs)
    page = tmp_path / "h.html"
    plot("history", sweep, page, print, names=["t0003", "sgd"])  # a stopped one
    assert "Training histories" in page.read_text()
