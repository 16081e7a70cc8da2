"""Runs in CSV or Parquet: a row an epoch, or a row a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from results.schema import json_object, records
from rts_search.importing.asked import Asked, Found, Record, as_runs, together
from rts_search.importing.columns import OURS, PARAMS, RUN, Columns, is_null, read_table

Row = Mapping[str, Any]
SETTINGS = ("lr", "radius", "scale")
_PLAIN = (str, int, float, bool)


def read(paths: Sequence[Path], asked: Asked) -> Found:
    """Raises ValueError for a column that is not there."""
    found = []
    for path in paths:
        try:
            table = read_table(path)
        except ValueError as error:
            found.append(Found([], asked.objective or "", problems=[str(error)]))
            continue
        columns = Columns.of(asked.columns, table.column_names, asked.objective, str(path))
        found.append(_of_file(path, records(table), columns, asked))
    return together(found)


def _of_file(path: Path, rows: Sequence[Row], columns: Columns, asked: Asked) -> Found:
    runs = _grouped(path, rows, columns)
    # an lr that stays is a parameter, whatever it is called
    mine = {own for own in OURS if own not in SETTINGS or own in asked.columns}
    taken = {theirs for own, theirs in columns.theirs.items() if own in mine}
    named = [theirs for own, theirs in columns.theirs.items() if own.startswith(PARAMS)]
    lines = []
    if not named:
        names = [name for name in (rows[0] if rows else ()) if name not in taken]
        named = [name for name in names if all(_constant(run, name) for run in runs.values())]
        named = [name for name in named if any(not is_null(row[name]) for row in rows)]
        if named:
            lines.append(
                f"parameters: {', '.join(named)} (all columns that stay the same over a run; to "
                f"choose them: --column {PARAMS}NAME=THEIRS)"
            )
    found = [
        _record(path, name, run, columns, named, "epoch" in columns.theirs)
        for name, run in runs.items()
    ]
    return as_runs(found, columns, asked, lines)


def _grouped(path: Path, rows: Sequence[Row], columns: Columns) -> dict[str, list[Row]]:
    """The rows of each run, by its name. Raises ValueError where nothing tells runs apart."""
    told_by = ("run",) if "run" in columns.theirs else RUN
    keys = [columns.theirs[key] for key in told_by if key in columns.theirs]
    if "epoch" not in columns.theirs:
        name = columns.theirs.get("run")
        names = [str(row[name]) if name else f"row{n:04d}" for n, row in enumerate(rows, 1)]
        if len(set(names)) < len(names):
            raise ValueError(
                f"{path}: run {Counter(names).most_common(1)[0][0]!r} has several rows, and no "
                "column tells the epoch: name it with --column epoch=THEIRS"
            )
        return {each: [row] for each, row in zip(names, rows, strict=True)}
    if not keys:
        raise ValueError(
            f"{path}: a row is an epoch, and nothing tells of which run: name the column with "
            "--column run=THEIRS"
        )
    short = [key for key in keys if key != columns.theirs.get("params")] or keys
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    by_name = {"-".join(str(run[0][key]) for key in short): run for run in found.values()}
    if len(by_name) == len(found):
        return by_name
    return {f"run{n:04d}": run for n, run in enumerate(found.values(), 1)}


def _constant(run: Sequence[Row], name: str) -> bool:
    first = run[0][name]
    return isinstance(first, (*_PLAIN, type(None))) and all(
        row[name] == first or (is_null(row[name]) and is_null(first)) for row in run
    )


def _record(
    path: Path,
    name: str,
    run: Sequence[Row],
    columns: Columns,
    named: Sequence[str],
    by_epoch: bool,
) -> Record:
    told = {key: next((r[key] for r in run if not is_null(r[key])), None) for key in run[0]}
    params = json_object(told.get(columns.theirs.get("params", "")))
    params |= {key: told[key] for key in named}
    if not params and (config := told.get(columns.theirs.get("config", ""))) is not None:
        params = {"config": config}
    value = None if by_epoch else told[columns.theirs[columns.objective]]
    return Record(name, str(path), run if by_epoch else (), params, told, value)
