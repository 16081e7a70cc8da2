"""The audit's report, from the ledger alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from results.ledger import Ledger
from results.soundness import FEWEST, Correlation, Rank, soundness, spearman
from results.storage import SweepFolder
from tests.results.builders import epoch_row, trial_row

RUNGS, T = (3, 9), 27


def write(storage: Path, climb: bool, audited: list[int], lost: dict[int, int]) -> None:
    """Twelve trials, better by their number; those not audited stop at rung number % 3."""
    with Ledger(SweepFolder(str(storage), "s")) as ledger:
        for number in range(12):
            reached = 2 if number in audited or number > 8 else number % 3
            lengths = [*RUNGS, T][: reached + 1] if climb else [T]
            name = f"t{number:04d}"
            for rung, total in enumerate(lengths):
                done = total if climb else [*RUNGS, T][reached]
                for epoch in range(1, done + 1):
                    value = number / 100 + epoch / 1000 + (0.5 if total == T and climb else 0)
                    key = {"rung": rung, "epoch": epoch, "total_epochs": total}
                    ledger.add_epoch({"trial_id": name, "val_accuracy": value, **key})
            row = {
                "outcome": "completed" if reached == 2 else "stopped",
                "audited": number in audited,
                "lost_rung": lost.get(number),
                "final_val_accuracy": number / 100 + 0.6,
                "total_epochs": T,
            }
            ledger.put_trial({"trial_id": name, "number": number, **row})
        control = {"trial_id": "sgd", "control": "sgd", "outcome": "completed", "total_epochs": T}
        ledger.put_trial({**control, "final_val_accuracy": 1.0})


@pytest.mark.parametrize("climb", [True, False])
def test_ranks_and_what_would_have_been_lost(tmp_path: Path, climb: bool) -> None:
    write(tmp_path, climb, [0, 3, 6, 10], {0: 0, 10: 1})
    found = soundness(str(tmp_path), "s", milestones=None if climb else RUNGS)
    assert [(r.epochs, r.reached) for r in found.rungs] == [(3, 12), (9, 12)]
    assert [trial.trial_id for trial in found.audited] == ["t0010", "t0006", "t0003", "t0000"]
    assert found.audited[0].ranks == (Rank(2, 12), Rank(2, 12))
    assert found.audited[3].ranks == (Rank(12, 12), Rank(12, 12))
    assert [trial.final.place for trial in found.audited if trial.final] == [2, 5, 7, 9]
    assert (found.completed, found.lost, found.top, found.top_lost) == (9, 2, 1, 1)
    audited = found.rungs[0].audited
    assert (audited.value, audited.n) == (pytest.approx(1.0), 4)


def test_too_few_say_nothing(tmp_path: Path) -> None:
    write(tmp_path, True, [1], {})
    found = soundness(str(tmp_path), "s")
    assert found.rungs[0].audited == Correlation(1)
    assert found.rungs[0].completed.n >= FEWEST
    assert found.rungs[0].completed.value is not None


def test_a_sweep_without_audited_trials_or_rungs(tmp_path: Path) -> None:
    write(tmp_path, True, [], {})
    found = soundness(tmp_path, "s")
    assert (found.audited, found.lost, found.top, found.top_lost) == ((), 0, 0, 0)
    write(tmp_path / "none", False, [], {})
    assert soundness(tmp_path / "none", "s").rungs == ()
    with pytest.raises(ValueError, match="unknown sweep"):
        soundness(tmp_path, "other")
    with pytest.raises(ValueError, match="unknown objective 'val_los': did you mean 'val_loss'"):
        soundness(tmp_path, "s", objective="val_los")


def test_an_unfinished_rung_has_no_value_and_an_unfinished_trial_no_end(tmp_path: Path) -> None:
    with Ledger(SweepFolder(tmp_path, "s")) as ledger:
        for name, outcome, done in [
            ("t0", "running", 2),
            ("t1", "diverged", 3),
            ("t2", "failed", 0),
        ]:
            for epoch in range(1, done + 1):
                ledger.add_epoch(epoch_row(name, epoch, total_epochs=3, val_accuracy=0.5))
            ledger.put_trial(trial_row(name, outcome, number=1, total_epochs=9, audited=True))
    found = soundness(tmp_path, "s")
    assert [(rung.rung, rung.epochs, rung.reached) for rung in found.rungs] == [(0, 3, 1)]
    assert [(each.trial_id, each.final) for each in found.audited] == [
        ("t0", None),
        ("t1", None),
        ("t2", None),
    ]
    assert [each.ranks for each in found.audited] == [(None,), (Rank(1, 1),), (None,)]
    assert (found.trials, found.completed, found.top) == (3, 0, 0)


def test_a_rungs_value_is_the_mean_of_its_last_twentieth(tmp_path: Path) -> None:
    """The last of 40 epochs misleads: the mean of two ranks the other way round."""
    tails = {"t0": (0.9, 0.6), "t1": (0.5, 0.7), "t2": (0.8, 0.8)}
    with Ledger(SweepFolder(tmp_path, "s")) as ledger:
        for name, tail in tails.items():
            for epoch, value in enumerate((*[1.0] * 38, *tail), 1):
                ledger.add_epoch(epoch_row(name, epoch, total_epochs=40, val_accuracy=value))
            ledger.put_trial(trial_row(name, number=1, total_epochs=40, audited=True))
    found = soundness(tmp_path, "s")
    assert [each.trial_id for each in found.audited] == ["t2", "t0", "t1"]


def test_a_milestones_value_is_the_mean_over_the_tail_until_it(tmp_path: Path) -> None:
    """Of 40 epochs that is two: the trial with the better epoch 10 has the worse 9 and 10."""
    with Ledger(SweepFolder(tmp_path, "s")) as ledger:
        for name, nine, ten in (("t0", 0.1, 0.9), ("t1", 0.6, 0.6), ("t2", 0.5, 0.5)):
            for epoch in range(1, 41):
                value = {9: nine, 10: ten}.get(epoch, 0.5)
                ledger.add_epoch(epoch_row(name, epoch, total_epochs=40, val_accuracy=value))
            ledger.put_trial(trial_row(name, number=1, total_epochs=40, audited=True))
    found = soundness(tmp_path, "s", milestones=[10])
    assert {each.trial_id: each.ranks[0] for each in found.audited} == {
        "t0": Rank(2.5, 3),
        "t1": Rank(1, 3),
        "t2": Rank(2.5, 3),
    }


def test_of_a_loss_the_lowest_is_the_best(tmp_path: Path) -> None:
    with Ledger(SweepFolder(tmp_path, "s")) as ledger:
        for number, (early, late) in enumerate([(3.0, 1.0), (2.0, 0.5), (1.0, 0.1)]):
            for epoch, loss in enumerate((early, late), 1):
                row = epoch_row(f"t{number}", epoch, total_epochs=2, val_loss=loss)
                ledger.add_epoch(row)
            ledger.put_trial(trial_row(f"t{number}", number=number, total_epochs=2, audited=True))
    found = soundness(tmp_path, "s", milestones=[1], objective="val_loss")
    assert [(t.trial_id, t.ranks[0], t.final) for t in found.audited] == [
        ("t2", Rank(1, 3), Rank(1, 3)),
        ("t1", Rank(2, 3), Rank(2, 3)),
        ("t0", Rank(3, 3), Rank(3, 3)),
    ]


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng, truth, covered = np.random.default_rng(1), 0.7, 0
    pearson = 2 * np.sin(np.pi * truth / 6)  # of a normal pair with that rank correlation
    for _ in range(200):
        x, noise = rng.normal(size=(2, 30))
        y = pearson * x + np.sqrt(1 - pearson**2) * noise
        found = spearman(list(x), list(y), draws=500)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= truth <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_the_interval_does_not_depend_on_the_ledgers_order(tmp_path: Path) -> None:
    write(tmp_path, True, list(range(12)), {})
    assert len({soundness(tmp_path, "s").rungs for _ in range(5)}) == 1


PAIRS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=30)


@settings(deadline=None)  # the first one loads SciPy
@given(PAIRS)
def test_the_interval_is_a_correlations(pairs: list[tuple[int, int]]) -> None:
    x, y = zip(*pairs, strict=True)
    found = spearman(x, y, draws=50)
    if found.value is not None:
        assert found.low is not None
        assert found.high is not None
        assert -1.0000001 <= found.low <= found.high <= 1.0000001


@settings(deadline=None)  # the first one loads SciPy
@given(PAIRS)
def test_spearman_against_scipy(pairs: list[tuple[int, int]]) -> None:
    a, b = np.array(pairs, dtype=float).T
    found = spearman(list(a), list(b), draws=20).value
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert found is None
    else:
        assert found == pytest.approx(spearmanr(a, b).statistic)


def test_a_rung_is_reached_once_a_trial_has_fired(tmp_path: Path) -> None:
    """t0 at epoch 1, t1 at 4, t2 never; plain SGD has no trigger, and another's rows say nothing.
    With `gain` rungs are perturbed epochs, and values the difference to the sgd control's."""
    fires = {"t0": 1, "t1": 4, "t2": None, "t3": None, "t4": None, "sgd": None}
    with Ledger(SweepFolder(tmp_path, "s")) as ledger:
        for number, (name, fired) in enumerate(fires.items()):
            for epoch in range(1, 10):
                perturbing = None if name == "t4" else fired is not None and epoch >= fired
                row = epoch_row(name, epoch, total_epochs=9, trigger_epoch=fired)
                value = epoch / 100 + (number + 1) / 1000 * bool(perturbing) * (epoch + 1)
                ledger.add_epoch(row | {"perturbing": perturbing, "val_accuracy": value})
            sgd = name == "sgd"
            row = trial_row(name, number=None if sgd else number, total_epochs=9, audited=not sgd)
            row |= {"control": name if sgd else None, "final_val_accuracy": 0.1}
            ledger.put_trial(row | {"config_trigger": "never" if name in ("t3", "sgd") else "gap"})
    every = soundness(tmp_path, "s", milestones=[3, 5])
    assert [rung.reached for rung in every.rungs] == [5, 5]
    found = soundness(tmp_path, "s", milestones=[3, 5], judged="fired")
    assert [rung.reached for rung in found.rungs] == [3, 4]
    ranks = {each.trial_id: each.ranks for each in found.audited}
    assert ranks["t1"][0] is ranks["t2"][0] is ranks["t2"][1] is None
    gain = soundness(tmp_path, "s", milestones=[2, 6, 8], judged="gain")
    assert [(rung.epochs, rung.reached) for rung in gain.rungs] == [(2, 2), (6, 2), (8, 1)]
    ranks = {each.trial_id: each.ranks for each in gain.audited}
    # after 2: t0 gains 3 thousandths (at epoch 2), t1 12 (at 5); after 6: 7 (at 6), 20 (at 9)
    assert ranks["t0"] == (Rank(2, 2), Rank(2, 2), Rank(1, 1))
    assert ranks["t1"] == (Rank(1, 2), Rank(1, 2), None)
