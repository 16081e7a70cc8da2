"""Questions to the ledgers of a storage: how sweeps stand, one trial and its curve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from results.database import Storage, Sweep, Sweeps, ask, sweep_folders
from results.meanings import Outcome, merit, minimised
from results.names import unknown
from results.ranking import OBJECTIVE_COLUMNS, TOLD, rankings
from results.schema import records
from results.storage import sweep_names
from results.views import literal


@dataclass(frozen=True)
class SweepListing:
    """A sweep at a glance; `outcomes` counts its searched trials, `best` is the best final value
    of its objective among the completed ones. Of so many, `on_test`, what is called validation is
    the test set."""

    name: str
    trials: int
    controls: int
    outcomes: dict[str, int]
    objective: str
    best: float | None
    updated: datetime | None
    on_test: int = 0


@dataclass(frozen=True)
class Firing:
    """In how many of the searched trials with a trigger it fired."""

    fired: int
    trials: int

    @property
    def share(self) -> float:
        return self.fired / self.trials


@dataclass(frozen=True)
class SweepSummary:
    """How a sweep stands. Epochs and gradient evaluations are those of all trials and controls as
    if each were alone; what was `spent` is less where plain SGD was shared."""

    listing: SweepListing
    epochs: int
    gradient_evaluations: int
    spent_epochs: int
    spent_gradient_evaluations: int
    started: datetime | None
    ended: datetime | None  # of the trial that ended last
    best: dict[str, Any] | None  # its row of `trials`
    firing: dict[str, Firing]  # by kind of trigger


_OVER_TRIALS = f"""
    SELECT sweep, count(*) FILTER (control IS NULL) AS trials, count(control) AS controls,
        count(*) FILTER (selected_on = 'test') AS on_test,
        max(objective) AS objective, max(value) AS highest, min(value) AS lowest,
        max(updated) AS updated, histogram(outcome) FILTER (control IS NULL) AS outcomes,
        {{more}}
    FROM (
        SELECT *, CASE WHEN control IS NULL AND outcome = 'completed'
            AND NOT isnan(final_objective) THEN final_objective END AS value
        FROM (SELECT * REPLACE ({TOLD}) FROM trials)
    ) GROUP BY sweep
"""
_LISTED = ["control", "outcome", "updated", "selected_on", *OBJECTIVE_COLUMNS]
_SUMMED = """coalesce(sum(gradient_evaluations), 0)::BIGINT AS gradient_evaluations,
    coalesce(sum(coalesce(spent_gradient_evaluations, gradient_evaluations)), 0)::BIGINT AS spent,
    min(started) AS started, max(ended) AS ended,
    histogram(config_trigger) FILTER (control IS NULL) AS with_trigger,
    histogram(config_trigger) FILTER (control IS NULL AND trigger_epoch IS NOT NULL) AS fired"""
_SUMMARISED = [
    *("gradient_evaluations", "spent_gradient_evaluations", "started", "ended"),
    *("config_trigger", "trigger_epoch"),
]
_EPOCHS = """
    SELECT count(*) AS n, count(*) FILTER (shared) AS shared FROM epochs
    ANTI JOIN (FROM trials WHERE stage IS NOT NULL) USING (trial_id)
"""


def list_sweeps(storage: Storage) -> list[SweepListing]:
    """All sweeps of a storage by name, those without a trial included; empty if there are none."""
    if not sweep_names(storage):
        return []
    folders = sweep_folders(storage)
    rows = {row["sweep"]: row for row in _over_trials(storage, folders, "", _LISTED)}
    return [_listing(folder.name, rows.get(folder.name)) for folder in folders]


def _over_trials(
    storage: Storage, sweeps: Sweeps, more: str, columns: list[str]
) -> list[dict[str, Any]]:
    """A row a sweep that has trials."""
    sql = _OVER_TRIALS.format(more=more)
    return records(
        ask(storage, sql, sweeps=sweeps, tables=["trials"], trial_columns=columns, searched=True)
    )


def _listing(name: str, row: Mapping[str, Any] | None) -> SweepListing:
    if row is None:
        return SweepListing(name, 0, 0, {}, "val_accuracy", None, None)
    best = row["lowest" if minimised(row["objective"]) else "highest"]
    counts = dict(row["outcomes"] or [])
    known = dict.fromkeys([*Outcome, *counts])
    outcomes = {
        str(o): counts[o] for o in sorted(known, key=lambda o: -counts.get(o, 0)) if o in counts
    }
    trials, controls, objective = (row[name] for name in ("trials", "controls", "objective"))
    ended = row["updated"], row["on_test"]
    return SweepListing(name, trials, controls, outcomes, objective, best, *ended)


def sweep_summary(storage: Storage, sweep: Sweep) -> SweepSummary:
    """Raises ValueError for an unknown sweep."""
    (folder,) = sweep_folders(storage, sweep)
    found = _over_trials(storage, folder, _SUMMED, [*_LISTED, *_SUMMARISED])
    row = found[0] if found else {}
    (epochs,) = ask(storage, _EPOCHS, sweeps=folder, trial_columns=[]).to_pylist()
    winners = [trial for each in rankings(storage, folder, top=1) for trial in each.trials]
    fired = dict(row.get("fired") or [])
    return SweepSummary(
        _listing(folder.name, row or None),
        epochs=epochs["n"],
        gradient_evaluations=row.get("gradient_evaluations", 0),
        spent_epochs=epochs["n"] - epochs["shared"],
        spent_gradient_evaluations=row.get("spent", 0),
        started=row.get("started"),
        ended=row.get("ended"),
        best=max(winners, key=_merit, default=None),
        firing={
            kind: Firing(fired.get(kind, 0), count)
            for kind, count in sorted(row.get("with_trigger") or [])
        },
    )


def _merit(row: Mapping[str, Any]) -> float:
    return merit(row["final_objective"], row["objective"])


def trial_curve(storage: Storage, sweep: Sweep, trial_id: str) -> pa.Table:
    """All epochs of a trial, by rung and epoch. Raises ValueError for an unknown trial."""
    table = ask(
        storage,
        f"SELECT * FROM epochs WHERE trial_id = {literal(trial_id)} ORDER BY rung, epoch",
        sweeps=sweep,
        tables=["epochs"],
    )
    if not table.num_rows:
        find_trial(storage, trial_id, sweep, exact=True)
    return table


def find_trial(
    storage: Storage, trial_id: str, sweeps: Sweeps = None, *, exact: bool = False
) -> dict[str, Any]:
    """The row of the one trial with this name, or (unless `exact`) with this unique beginning.

    Raises ValueError if there is none, with the nearest name, or if there are several.
    """
    folders = {folder.name: folder for folder in sweep_folders(storage, sweeps)}
    name = literal(trial_id)

    def find(rest: str) -> list[dict[str, Any]]:
        rows = ask(
            storage,
            f"SELECT sweep, trial_id FROM trials {rest}",
            sweeps=list(folders.values()),
            tables=["trials"],
            trial_columns=["trial_id"],
        )
        return records(rows)

    few = "ORDER BY sweep, trial_id LIMIT 11"
    found = find(f"WHERE trial_id = {name} {few}")
    if not found and not exact:
        found = find(f"WHERE starts_with(trial_id, {name}) {few}")
    if not found:
        near = find(f"ORDER BY levenshtein(trial_id, {name}), sweep, trial_id LIMIT 20")
        raise unknown("trial", trial_id, sorted({row["trial_id"] for row in near}))
    if len(found) > 1:
        listed = ", ".join(f"{row['trial_id']} in {row['sweep']}" for row in found[:10])
        more = ", …" if len(found) > 10 else ""
        raise ValueError(
            f"trial {trial_id!r} may be {listed}{more}: give its whole name and its sweep"
        )
    row: dict[str, Any] = records(
        ask(
            storage,
            f"SELECT * FROM trials WHERE trial_id = {literal(found[0]['trial_id'])}",
            sweeps=folders[found[0]["sweep"]],
            tables=["trials"],
        )
    )[0]
    return row
