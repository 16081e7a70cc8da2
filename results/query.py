"""Questions to the ledgers of a storage: how sweeps stand, one trial and its curve."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from results.database import Storage, Sweep, Sweeps, ask, literal, sweep_folders
from results.meanings import merit
from results.names import unknown
from results.ranking import OBJECTIVE_COLUMNS, TOLD, rankings
from results.schema import records
from results.storage import sweep_names


@dataclass(frozen=True)
class SweepListing:
    """A sweep at a glance; `outcomes` counts its searched trials, `best` is the best final value
    of its objective among the completed ones."""

    name: str
    trials: int
    controls: int
    outcomes: dict[str, int]
    objective: str
    best: float | None
    updated: datetime | None


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
    """How a sweep stands. Epochs and gradient evaluations are those of all trials and controls."""

    listing: SweepListing
    epochs: int
    gradient_evaluations: int
    started: datetime | None
    ended: datetime | None  # of the trial that ended last
    best: dict[str, Any] | None  # its row of `trials`
    firing: dict[str, Firing]  # by kind of trigger


def list_sweeps(storage: Storage) -> list[SweepListing]:
    """All sweeps of a storage by name, those without a trial included; empty if there are none."""
    if not sweep_names(storage):
        return []
    columns = ["control", "outcome", "updated", *OBJECTIVE_COLUMNS]
    folders = sweep_folders(storage)
    table = ask(
        storage,
        f"SELECT * REPLACE ({TOLD}) FROM trials",
        sweeps=folders,
        tables=["trials"],
        trial_columns=columns,
    )
    rows: dict[str, list[dict[str, Any]]] = {folder.name: [] for folder in folders}
    for row in records(table):
        rows[row["sweep"]].append(row)
    return [_listing(name, own) for name, own in rows.items()]


def _listing(name: str, rows: list[dict[str, Any]]) -> SweepListing:
    searched = [row for row in rows if row["control"] is None]
    objective = rows[0]["objective"] if rows else "val_accuracy"
    finals = [row["final_objective"] for row in searched if row["outcome"] == "completed"]
    known = [value for value in finals if value is not None and not math.isnan(value)]
    return SweepListing(
        name,
        trials=len(searched),
        controls=len(rows) - len(searched),
        outcomes=dict(Counter(row["outcome"] for row in searched).most_common()),
        objective=objective,
        best=max(known, key=lambda value: merit(value, objective), default=None),
        updated=_latest(row["updated"] for row in rows),
    )


def _latest(times: Iterable[datetime | None]) -> datetime | None:
    return max((time for time in times if time is not None), default=None)


def sweep_summary(storage: Storage, sweep: Sweep) -> SweepSummary:
    """Raises ValueError for an unknown sweep."""
    (folder,) = sweep_folders(storage, sweep)
    columns = [
        *("control", "outcome", "updated", "gradient_evaluations", *OBJECTIVE_COLUMNS),
        *("started", "ended", "config_trigger", "trigger_epoch"),
    ]
    rows = ask(
        storage,
        f"SELECT * REPLACE ({TOLD}) FROM trials",
        sweeps=sweep,
        tables=["trials"],
        trial_columns=columns,
    ).to_pylist()
    epochs = ask(storage, "SELECT count(*) AS n FROM epochs", sweeps=sweep, tables=["epochs"])
    winners = [row for each in rankings(storage, sweep, top=1) for row in each.trials]
    return SweepSummary(
        _listing(folder.name, rows),
        epochs=epochs["n"][0].as_py(),
        gradient_evaluations=sum(row["gradient_evaluations"] or 0 for row in rows),
        started=min((row["started"] for row in rows if row["started"]), default=None),
        ended=_latest(row["ended"] for row in rows),
        best=winners[0] if winners else None,
        firing=_firing([row for row in rows if row["control"] is None]),
    )


def _firing(rows: list[dict[str, Any]]) -> dict[str, Firing]:
    with_trigger = Counter(row["config_trigger"] for row in rows if row["config_trigger"])
    fired = Counter(row["config_trigger"] for row in rows if row["trigger_epoch"] is not None)
    return {kind: Firing(fired[kind], count) for kind, count in sorted(with_trigger.items())}


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
    ids = ask(
        storage,
        "SELECT sweep, trial_id FROM trials ORDER BY sweep, trial_id",
        sweeps=list(folders.values()),
        tables=["trials"],
        trial_columns=["trial_id"],
    ).to_pylist()
    found = [row for row in ids if row["trial_id"] == trial_id]
    if not found and not exact:
        found = [row for row in ids if row["trial_id"].startswith(trial_id)]
    if not found:
        raise unknown("trial", trial_id, list(dict.fromkeys(row["trial_id"] for row in ids)))
    if len(found) > 1:
        listed = ", ".join(f"{row['trial_id']} in {row['sweep']}" for row in found[:10])
        more = ", …" if len(found) > 10 else ""
        raise ValueError(
            f"trial {trial_id!r} may be {listed}{more}: give its whole name and its sweep"
        )
    row: dict[str, Any] = ask(
        storage,
        f"SELECT * FROM trials WHERE trial_id = {literal(found[0]['trial_id'])}",
        sweeps=folders[found[0]["sweep"]],
        tables=["trials"],
    ).to_pylist()[0]
    return row
