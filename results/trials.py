"""The one reader back: a sweep's trials as its ledger has them, with their epochs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from results.meanings import Outcome
from results.parts.reading import read_epochs, read_parts
from results.schema import TIME, records
from results.storage import SweepFolder

Row = Mapping[str, Any]
LONG_AGO = datetime.min.replace(tzinfo=UTC)  # where a time is not known


@dataclass(frozen=True)
class StoredTrial:
    """A trial's newest row of `trials`, and its rows of `epochs` by rung and epoch, each once."""

    row: Row
    epochs: Sequence[Row]

    @property
    def trial_id(self) -> str:
        return str(self.row["trial_id"])

    @property
    def number(self) -> int | None:
        """The searcher's; None for controls."""
        return None if self.row["number"] is None else int(self.row["number"])

    @property
    def outcome(self) -> Outcome:
        return Outcome(self.row["outcome"])

    @property
    def has_all_epochs(self) -> bool:
        """False where some were in a part that was damaged."""
        return len(self.epochs) >= (self.row["epochs"] or 0)

    @property
    def params(self) -> dict[str, Any]:
        """Raises ValueError for what is none of ours: a search would go by it."""
        try:
            return dict(json.loads(self.row["params"] or "{}"))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"the parameters of trial {self.trial_id}: {error}") from None


def read_trials(
    folder: SweepFolder,
    columns: Sequence[str] | None = None,
    where: Callable[[Row], bool] = lambda row: True,
    stage: str | None = None,
) -> list[StoredTrial]:
    """The trials of a sweep whose row passes `where`: by number, and then the controls by name.
    Those of the search or, by their `stage`, others.

    `columns` are those of `epochs` to read beside their keys (trial_id, rung, epoch); None: all.
    """
    newest: dict[str, Row] = {}
    for part in read_parts(folder, "trials").values():
        for row in _rows(part):
            known = newest.get(row["trial_id"])
            if known is None or _updated(row) >= _updated(known):
                newest[row["trial_id"]] = row
    chosen = [row for row in newest.values() if row["stage"] == stage and where(row)]
    chosen.sort(key=lambda row: (row["number"] is None, row["number"] or 0, row["trial_id"]))
    epochs = _epochs(folder, [row["trial_id"] for row in chosen], columns)
    return [StoredTrial(row, epochs[row["trial_id"]]) for row in chosen]


def _epochs(
    folder: SweepFolder, trial_ids: Sequence[str], columns: Sequence[str] | None
) -> dict[str, list[Row]]:
    import pyarrow.dataset as ds

    found: dict[str, list[Row]] = {trial_id: [] for trial_id in trial_ids}
    if not trial_ids or columns == []:
        return found
    keys = ("trial_id", "rung", "epoch")
    table = read_epochs(
        folder,
        None if columns is None else [*keys, *(c for c in columns if c not in keys)],
        ds.field("trial_id").isin(trial_ids),
    )
    unique = {(row["trial_id"], row["rung"], row["epoch"]): row for row in _rows(table)}
    for key in sorted(unique):
        found[key[0]].append(unique[key])
    return found


def _rows(table: pa.Table) -> Iterator[Row]:
    """Times that Python has no date for, which only others write, are unknown."""
    times = [field.name for field in table.schema if field.type == TIME]
    for row in records(table):
        unknown = [name for name in times if isinstance(row[name], str)]
        yield row | dict.fromkeys(unknown) if unknown else row


def _updated(row: Row) -> datetime:
    return row["updated"] or LONG_AGO
