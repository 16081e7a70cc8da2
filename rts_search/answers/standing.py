"""How a sweep stands, by its ledger: while it runs, or after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from results.query import SweepSummary, list_sweeps
from results.soundness import Soundness
from rts_search.answers.audit import audit_of
from rts_search.notebook import Sweep
from rts_search.show.console import make_console
from rts_search.show.tables import print_rows, print_soundness, print_summary

UNFINISHED_TRIALS = """
    SELECT trial_id AS trial, any_value(t.family) AS family, any_value(outcome) AS outcome,
           max(e.rung) AS rung, arg_max(e.epoch, (e.rung, e.epoch)) AS epoch,
           coalesce(max(e.total_epochs), any_value(t.total_epochs)) AS T,
           arg_max(e.{objective}, (e.rung, e.epoch)) AS {objective}
    FROM trials t LEFT JOIN epochs e USING (sweep, trial_id)
    WHERE outcome IN ('running', 'interrupted') GROUP BY trial_id ORDER BY trial_id
"""


def newest_sweep(storage: str) -> str:
    """The sweep that was updated last. Raises ValueError if there is none."""
    dated = [each for each in list_sweeps(storage) if each.updated is not None]
    if not dated:
        raise ValueError(f"no sweeps in {storage!r}; begin one: rts-search sweep --preset demo")
    newest: str = max(dated, key=lambda each: each.updated).name  # type: ignore[arg-type,return-value]
    return newest


@dataclass(frozen=True)
class Standing:
    """How a sweep stands; `unfinished` are its trials that run or were interrupted."""

    summary: SweepSummary
    unfinished: list[dict[str, Any]]
    audit: Soundness | None


def standing(sweep: Sweep) -> Standing:
    summary = sweep.summary()
    unfinished = sweep.query(UNFINISHED_TRIALS.format(objective=summary.listing.objective))
    audit = audit_of(sweep) if sweep.has_spec else None
    return Standing(summary, unfinished.to_pylist(), audit)


def print_standing(sweep: Sweep) -> None:
    """Its trials by outcome, those that are unfinished, and what its audit says."""
    console, found = make_console(), standing(sweep)
    print_summary(console, found.summary)
    if found.unfinished:
        print_rows(console, list(found.unfinished[0]), found.unfinished)
    if found.audit is not None:
        print_soundness(console, found.audit)
