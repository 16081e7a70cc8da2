"""Tables as CSV, JSON or Parquet, to a file or to standard output."""

from __future__ import annotations

import json
import math
import os
import sys
import uuid
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from results.database import Storage, Sweeps, ask
from results.names import unknown
from results.parts.files import encode
from results.schema import SCHEMAS, records
from results.storage import write_aside

FORMATS = ("csv", "json", "parquet")
PLOTS = (".png", ".svg")
_ORDER = {"epochs": "sweep, trial_id, rung, epoch", "trials": "sweep, number, trial_id"}


def export(
    storage: Storage,
    table: str,
    file_format: str,
    path: str | os.PathLike[str] | None = None,
    sweeps: Sweeps = None,
) -> int:
    """Write `epochs` or `trials` of the sweeps, as `write_table` does; returns the rows.

    Raises ValueError for an unknown table, format or sweep.
    """
    if table not in SCHEMAS:
        raise unknown("table", table, SCHEMAS)
    if file_format not in FORMATS:
        raise unknown("format", file_format, FORMATS)
    sql = f"SELECT * FROM {table} ORDER BY {_ORDER[table]}"
    rows = ask(storage, sql, sweeps=sweeps, tables=[table])
    write_table(rows, file_format, path)
    return int(rows.num_rows)


def write_table(
    table: pa.Table, file_format: str, path: str | os.PathLike[str] | None = None
) -> None:
    """Write a table as csv, json (an array of objects) or parquet; to standard output if no path.

    In JSON, which has neither, NaN and infinities are null. A file is written whole or not at all.
    """
    if file_format not in FORMATS:
        raise unknown("format", file_format, FORMATS)
    content = {"csv": _csv, "json": _json, "parquet": encode}[file_format](table)
    if path is None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    target = Path(path)
    write_aside(target, content, target.with_name(f".{target.name}.{uuid.uuid4().hex}"))


def _csv(table: pa.Table) -> bytes:
    import pyarrow.csv

    sink = pa.BufferOutputStream()
    pyarrow.csv.write_csv(table, sink)
    return bytes(sink.getvalue())


def _json(table: pa.Table) -> bytes:
    lines = (
        json.dumps({name: plain(_flat(value)) for name, value in row.items()}, allow_nan=False)
        for batch in table.to_batches(max_chunksize=10_000)
        for row in records(pa.Table.from_batches([batch]))
    )
    return ("[\n" + ",\n".join(lines) + "\n]\n").encode()


def _flat(value: Any) -> Any:
    """Nested values of a table as text, as in CSV."""
    return str(value) if isinstance(value, list | dict) else value


def print_json(document: Any) -> None:
    """One JSON document on standard output, as `plain` makes it."""
    print(json.dumps(plain(document), allow_nan=False, ensure_ascii=False))


def plain(value: Any) -> Any:
    """What JSON can hold: dataclasses are objects, times are in ISO 8601, and what is not finite
    is null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def check_plot(path: Path) -> None:
    """Raises ValueError for a kind of file that is not drawn."""
    if path.suffix not in PLOTS:
        raise ValueError(f"plot {path.name!r}: plots are drawn as {' or '.join(PLOTS)}")
