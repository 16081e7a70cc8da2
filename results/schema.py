"""The Arrow schemas of the ledger's two tables, and the check that every row passes.

Losses are means over images, accuracies fractions in [0, 1], times seconds. A change of a schema
is a change of `VERSION`; columns of later versions read as null in files of earlier ones.
"""

from __future__ import annotations

import json
import numbers
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from results.meanings import Outcome
from results.names import unknown

VERSION = 7
TABLE_KEY, VERSION_KEY = b"rts_table", b"rts_version"

_STR, _BOOL, _FLOAT = pa.string(), pa.bool_(), pa.float64()
_INT, _LONG, TIME = pa.int32(), pa.int64(), pa.timestamp("us", tz="UTC")


def _fields(kind: pa.DataType, names: str) -> list[pa.Field]:
    """Columns of one type; a name that ends in `!` may not be null."""
    return [pa.field(n.rstrip("!"), kind, nullable=not n.endswith("!")) for n in names.split()]


def _schema(table: str, *groups: list[pa.Field]) -> pa.Schema:
    metadata = {TABLE_KEY: table.encode(), VERSION_KEY: str(VERSION).encode()}
    return pa.schema([field for group in groups for field in group], metadata=metadata)


def _schedule(name: str) -> list[pa.Field]:
    return [
        *_fields(_STR, f"config_{name}_strategy config_{name}_shape"),
        *_fields(_FLOAT, f"config_{name}_beta_min config_{name}_beta_max"),
        *_fields(_FLOAT, f"config_{name}_alpha_start config_{name}_alpha_end"),
    ]


EPOCHS = _schema(
    "epochs",
    _fields(_STR, "sweep! trial_id!"),
    _fields(_INT, "rung! epoch! total_epochs"),
    _fields(_FLOAT, "lr train_loss train_accuracy perturbed_loss loss_rise val_loss val_accuracy"),
    _fields(_FLOAT, "generalization_gap radius scale"),
    _fields(_BOOL, "perturbing"),
    _fields(_FLOAT, "trigger_statistic trigger_threshold"),
    _fields(_INT, "trigger_epoch"),
    _fields(_LONG, "gradient_evaluations"),
    _fields(_FLOAT, "train_seconds eval_seconds epoch_seconds images_per_second"),
    _fields(_LONG, "peak_memory_bytes"),
    _fields(_BOOL, "shared"),  # taken from the trunk, which another trial has trained
    # of a task of one's own: its objective, and JSON of what else it yields
    _fields(_FLOAT, "value"),
    _fields(_STR, "metrics"),
    _fields(TIME, "time"),
)

TRIALS = _schema(
    "trials",
    _fields(_STR, "sweep! trial_id!"),
    _fields(_INT, "number"),  # Optuna's; null for controls
    _fields(_STR, "control family outcome!"),
    # of a run that the search did not ask for: what for (tune, confirm, verify, curve), of which
    # arm, and the hash of the claim that it belongs to
    _fields(_STR, "stage arm claim"),
    _fields(_STR, "source"),  # the file of others that it was imported from
    _fields(_STR, "selected_on"),  # test: its figures are the best of all epochs on the test set
    _fields(_INT, "rung rungs"),  # the rung reached (0 without rungs), of how many
    _fields(_INT, "stopped_rung stopped_epoch"),
    _fields(_BOOL, "audited"),  # went on whatever the stopper said,
    _fields(_INT, "lost_rung"),  # which would have ended it at this rung
    _fields(_STR, "message traceback"),
    _fields(_LONG, "seed"),
    _fields(_INT, "total_epochs epochs"),  # T, and how many were trained at all rungs
    _fields(_LONG, "gradient_evaluations"),
    # what was trained for it; the rest was shared (null in earlier versions: all was)
    _fields(_INT, "spent_epochs"),
    _fields(_LONG, "spent_gradient_evaluations"),
    _fields(_FLOAT, "spent_seconds"),  # of epoch_seconds
    # final: the mean of the last max(1, T // 20) epochs
    _fields(_FLOAT, "final_val_accuracy best_val_accuracy"),
    _fields(_INT, "best_epoch"),
    _fields(_STR, "objective"),  # null in files of earlier versions: val_accuracy, as far as known
    _fields(_FLOAT, "final_objective"),
    _fields(_INT, "classes validation_images"),  # as the trial's worker loaded them
    _fields(_FLOAT, "test_loss test_accuracy best_test_loss best_test_accuracy"),
    _fields(_FLOAT, "test_value"),  # the objective of a task of one's own, on its test set
    _fields(_STR, "test_hits"),  # of a staged run: a bit a test image, in order, in base64
    _fields(_INT, "trigger_epoch"),
    _fields(_FLOAT, "train_seconds eval_seconds epoch_seconds images_per_second"),
    _fields(_LONG, "peak_memory_bytes"),
    _fields(TIME, "started ended updated!"),
    _fields(_INT, "retries"),
    # JSON of the searcher's parameters, and of what it must find again beside them
    _fields(_STR, "params searcher config_data"),
    _fields(_LONG, "config_train_size"),
    _fields(_STR, "config_model"),
    _fields(_INT, "config_epochs config_batch_size"),
    _fields(_FLOAT, "config_lr config_momentum config_dampening"),
    _fields(_BOOL, "config_nesterov"),
    _fields(_FLOAT, "config_weight_decay"),
    _fields(_LONG, "config_seed"),
    _fields(_STR, "config_schedule_by config_batch_norm config_precision"),
    _schedule("radius"),
    _schedule("scale"),
    _fields(_STR, "config_trigger"),
    _fields(_INT, "config_trigger_k"),
    _fields(_FLOAT, "config_trigger_gamma config_trigger_kappa config_trigger_mu"),
    _fields(_INT, "config_trigger_period"),
    _fields(_STR, "config_trigger_baseline"),
    _fields(_INT, "config_trigger_epoch"),
    _fields(_FLOAT, "config_trigger_fraction config_after_lr_factor"),
    _fields(_STR, "config_after_anneal"),
    _fields(_FLOAT, "config_rho config_eta"),
    _fields(_STR, "config_json git_commit"),
    _fields(_BOOL, "git_dirty"),
    _fields(_STR, "versions hardware host device"),
    _fields(_INT, "threads"),  # of the CPU in its process; with device and
    _fields(_STR, "precision"),  # precision as used it decides the bits of a result
)

SCHEMAS = {"epochs": EPOCHS, "trials": TRIALS}


def _is_int(value: Any, bits: int) -> bool:
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return whole and -(2 ** (bits - 1)) <= int(value) < 2 ** (bits - 1)


def _is_real(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


_FITS: dict[pa.DataType, Callable[[Any], bool]] = {
    _STR: lambda value: isinstance(value, str),
    _BOOL: lambda value: isinstance(value, bool),
    _FLOAT: _is_real,
    _INT: lambda value: _is_int(value, 32),
    _LONG: lambda value: _is_int(value, 64),
    TIME: lambda value: isinstance(value, datetime) and value.tzinfo is not None,
}
# taken from the schemas once: pyarrow makes new objects at every look
_COLUMNS = {
    table: {field.name: (field, field.nullable, _FITS[field.type]) for field in schema}
    for table, schema in SCHEMAS.items()
}


def check_row(row: Mapping[str, Any], schema: pa.Schema) -> dict[str, Any]:
    """The row with every column of `schema`, in its order, None where `row` has none.

    Raises ValueError for an unknown column, a missing key, or a value unfit for its column.
    """
    table = schema.metadata[TABLE_KEY].decode()
    columns, full = _COLUMNS[table], {}
    if not row.keys() <= columns.keys():
        name = next(name for name in row if name not in columns)
        raise unknown(f"column of {table}", name, schema.names)
    for name, (field, nullable, fits) in columns.items():
        value = full[name] = row.get(name)
        if value is None and not nullable:
            raise ValueError(f"a row of {table} needs {name}")
        if value is not None and not fits(value):
            raise ValueError(
                f"{name} of {table} must be {field.type}, not {value!r} ({type(value).__name__})"
            )
    if table == "trials" and full["outcome"] not in set(Outcome):
        raise unknown("outcome", str(full["outcome"]), [str(o) for o in Outcome])
    return full


def json_object(text: Any) -> dict[str, Any]:
    """The object in a column of JSON; empty where another has left something else there."""
    with suppress(ValueError, TypeError, RecursionError):
        found = json.loads(text, parse_int=_whole)
        return found if isinstance(found, dict) else {}
    return {}


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) < 20 else float(digits)  # none of ours has more


def to_table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Checked rows, one or more, as an Arrow table."""
    columns = zip(*(row.values() for row in rows), strict=True)  # each row is in the schema's order
    arrays = [pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def mismatch(found: pa.Schema, schema: pa.Schema) -> str | None:
    """Why a file with the schema `found` is no part of the table of `schema`; None if it is."""
    metadata = found.metadata or {}
    if metadata.get(TABLE_KEY) != schema.metadata[TABLE_KEY]:
        return f"not a part of {schema.metadata[TABLE_KEY].decode()}"
    version = metadata.get(VERSION_KEY, b"").decode(errors="replace")
    if is_newer(found):
        return f"schema version {version}, newer than {VERSION}: upgrade rts-search to read it"
    if not version.isdigit():
        return f"schema version {version[:20]!r} is no number"
    if found.equals(schema):  # at once, as most are
        return None
    for field in schema:
        index = found.get_field_index(field.name)
        if index < 0 and not field.nullable:
            return f"no column {field.name}"
        if index >= 0 and found.field(index).type != field.type:
            return f"{field.name} is {found.field(index).type}, not {field.type}"
        if index >= 0 and found.field(index).nullable and not field.nullable:
            return f"{field.name} may be null"
    return None


def is_newer(found: pa.Schema) -> bool:
    """Whether a later version wrote a file with this schema."""
    version = (found.metadata or {}).get(VERSION_KEY, b"")
    return version.isdigit() and len(version) < 10 and int(version) > VERSION


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of `schema`, in its order; those that `table` lacks are null."""
    if table.schema.equals(schema):
        return table.replace_schema_metadata(schema.metadata)
    held = {name: index for index, name in enumerate(table.column_names)}
    columns = [
        table.column(held[field.name])
        if field.name in held
        else pa.chunked_array([pa.nulls(table.num_rows, field.type)])
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def records(table: pa.Table) -> list[dict[str, Any]]:
    """A table's rows, like `to_pylist`, which loads pandas (0.25 s) for times with a zone; and
    times that Python has no date for are texts."""
    columns = [_cells(table.column(i)) for i in range(table.num_columns)]
    names = table.column_names
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _cells(column: pa.ChunkedArray) -> list[Any]:
    zone = getattr(column.type, "tz", None)
    plain = column.cast(pa.timestamp(column.type.unit)) if zone == "UTC" else column
    try:
        cells = plain.to_pylist()
    except (OverflowError, ValueError):
        cells = [_cell(value) for value in plain]
    return (
        [v.replace(tzinfo=UTC) if isinstance(v, datetime) else v for v in cells] if zone else cells
    )


def _cell(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except (OverflowError, ValueError):
        text = str(value.cast(pa.string()).as_py())
        if "out of range" not in text:
            return text
        return "infinity" if text.rstrip(">").rpartition(": ")[2][0] != "-" else "-infinity"
