"""The audit's report, from the ledger alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from results.ledger import Ledger
from results.soundness import Rank, soundness, spearman
from results.storage import SweepFolder

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
    assert found.rungs[0].audited.value is None
    assert found.rungs[0].completed.value is not None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=30))
def test_spearman_against_scipy(pairs: list[tuple[int, int]]) -> None:
    a, b = np.array(pairs, dtype=float).T
    found = spearman(list(a), list(b), draws=20).value
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert found is None
    else:
        assert found == pytest.approx(spearmanr(a, b).statistic)
