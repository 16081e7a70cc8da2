"""Others' columns by our names, as `OURS=THEIRS`, and the files that have them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from results.meanings import OBJECTIVES
from results.names import unknown
from results.schema import EPOCHS, TRIALS
from results.storage import check_file

PARAMS = "params."  # a parameter: params.lr=learning_rate
VALUE = "value"  # the objective, whatever it is
# what tells a run; `params` is JSON of its parameters
RUN = ("run", "config", "seed", "total_epochs", "params")
_FILLED = ("sweep", "trial_id", "rung", "total_epochs", "shared", "time")
EPOCH = tuple(name for name in EPOCHS.names if name not in _FILLED)
TRIAL = (
    *("family", "seed", "total_epochs", "message", "selected_on", "trigger_epoch"),
    *("final_val_accuracy", "test_loss", "test_accuracy", "best_test_loss", "best_test_accuracy"),
    *("classes", "validation_images", "gradient_evaluations", "train_seconds", "epoch_seconds"),
    *(name for name in TRIALS.names if name.startswith("config_") and name != "config_json"),
)
OURS = tuple(dict.fromkeys((VALUE, *RUN, *EPOCH, *TRIAL)))
_TYPES = {field.name: field.type for schema in (EPOCHS, TRIALS) for field in schema}


def pairs(columns: Iterable[str]) -> dict[str, str]:
    """`OURS=THEIRS` as users write them. Raises ValueError."""
    found = {}
    for column in columns:
        ours, equals, theirs = column.partition("=")
        if not (ours and equals and theirs):
            raise ValueError(f"--column {column!r} must be OURS=THEIRS, such as value=valid_acc")
        found[ours] = theirs
    return found


def check_columns(columns: Mapping[str, str], ours: Sequence[str], theirs: Collection[str]) -> None:
    """Raises ValueError for a column that is none of ours, or none of theirs."""
    for own, other in columns.items():
        if own not in ours:
            raise unknown("column of ours", own, ours)
        if other not in theirs:
            raise unknown("column of the file", other, list(theirs))


def read_table(file: Path) -> pa.Table:
    """A CSV or Parquet file. Raises ValueError."""
    is_csv = file.suffix.lower() == ".csv"
    try:
        check_file(file)
        return pyarrow.csv.read_csv(file) if is_csv else pq.read_table(file)
    except FileNotFoundError:
        raise ValueError(f"no file {str(file)!r}: give a CSV or Parquet file") from None
    except (pa.ArrowException, OSError) as error:
        kind = "CSV" if is_csv else "Parquet"
        why = " ".join(str(error).split())[:200]
        raise ValueError(f"{str(file)!r} is not a {kind} file: {why}") from None


@dataclass(frozen=True)
class Columns:
    """Their name for each of ours that they have; `objective` is what their runs are ranked by."""

    objective: str
    theirs: Mapping[str, str]

    @classmethod
    def of(
        cls, asked: Mapping[str, str], has: Collection[str], objective: str | None, where: str
    ) -> Columns:
        """Those that are `asked` for, and what they call as we do. Raises ValueError where nothing
        tells the objective."""
        check_columns(asked, (*OURS, *(own for own in asked if own.startswith(PARAMS))), has)
        theirs = {name: name for name in OURS if name in has} | dict(asked)
        if objective is None:
            there = [o for names in (asked, theirs) for o in OBJECTIVES if o in names]
            objective = there[0] if there else "val_accuracy"
        told = asked.get(objective) or theirs.get(VALUE) or theirs.get(objective)
        told = told or (theirs.get("final_val_accuracy") if objective == "val_accuracy" else None)
        if told is None:
            others = [name for name in has if name not in theirs.values()]
            raise ValueError(
                f"{where}: nothing tells {objective}: name their column with --column "
                f"{objective}=THEIRS (they have {', '.join(others[:12]) or 'no other'})"
            )
        return cls(objective, theirs | {objective: told})

    def params(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters by our names where one is given; what is null was not there."""
        ours = {
            theirs: own.removeprefix(PARAMS)
            for own, theirs in self.theirs.items()
            if own.startswith(PARAMS)
        }
        return {ours.get(k, k): v for k, v in values.items() if not is_null(v)}

    def epoch(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return self._take(row, EPOCH)

    def trial(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return self._take(row, TRIAL)

    def _take(self, row: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
        found = {name: row.get(self.theirs[name]) for name in names if name in self.theirs}
        fitted = {name: _fit(value, _TYPES[name]) for name, value in found.items()}
        return {name: value for name, value in fitted.items() if value is not None}


def is_null(value: Any) -> bool:
    """NaN is how pandas writes it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _fit(value: Any, kind: pa.DataType) -> Any:
    """A value of theirs as its column has it, where it is the same: 3.0 is 3, and 3 is '3'."""
    if pa.types.is_floating(kind) or value is None:
        return value
    if is_null(value):
        return None
    if pa.types.is_integer(kind) and isinstance(value, float) and value.is_integer():
        return int(value)
    return str(value) if pa.types.is_string(kind) else value
