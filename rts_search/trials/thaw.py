"""Trials that were stopped and go on: `rts-search resume SWEEP --thaw TRIAL`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from results.ledger import Ledger
from results.meanings import Outcome
from results.names import unknown
from results.storage import SweepFolder
from trainables.checkpoint import STATE


def is_thawed(row: Mapping[str, Any]) -> bool:
    """Whether the trial went on although it was stopped, and is not judged any more. What others
    wrote may lack the epoch of the stop: such a trial is one that was not stopped."""
    stopped = row["lost_rung"] is not None and row["stopped_epoch"] is not None
    return stopped and not row["audited"]


def thaw(folder: SweepFolder, ledger: Ledger, names: Collection[str]) -> None:
    """Make these trials unfinished again, on disk. Nothing is changed if one cannot go on: raises
    ValueError, in one line."""
    rows = {row["trial_id"]: row for row in ledger.trials()} if names else {}
    for name in names:
        _check(folder, rows, name)
    for name in names:
        row = rows[name]
        if not is_thawed(row):
            ledger.put_trial(
                row
                | {"outcome": str(Outcome.INTERRUPTED), "message": "thawed", "ended": None}
                | {"lost_rung": row["stopped_rung"] or 0, "updated": datetime.now(UTC)}
            )
    ledger.flush()


def _check(folder: SweepFolder, rows: Mapping[str, Mapping[str, Any]], name: str) -> None:
    if name not in rows:
        stopped = [each for each, row in rows.items() if row["outcome"] == Outcome.STOPPED]
        raise unknown(f"trial of {folder.name}", name, stopped)
    outcome = Outcome(rows[name]["outcome"])
    if is_thawed(rows[name]) and not outcome.finished:
        return
    if outcome is not Outcome.STOPPED:
        raise ValueError(
            f"trial {name} of {folder.name} is {outcome}: only one that the stopper ended is thawed"
        )
    if not folder.exists(f"checkpoints/{name}/{STATE}"):
        raise ValueError(
            f"trial {name} of {folder.name} has no checkpoint to go on from; those of trials that "
            "are stopped are kept with checkpoint.keep_stopped=true; to train it from its start: "
            f"rts-search train --trial {folder.argument(name)}"
        )
