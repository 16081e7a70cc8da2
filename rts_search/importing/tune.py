"""Ray Tune's experiments: `result.json` and `params.json` of each trial. Their pickles are never
opened."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from results.meanings import Outcome
from rts_search.importing.asked import (
    Asked,
    Found,
    Record,
    as_runs,
    parse_json,
    read_json,
    read_lines,
    together,
)
from rts_search.importing.columns import Columns

RESULTS = "result.json"
# what Tune calls what is ours, unless the user says otherwise
_NAMES = {"epoch": "training_iteration", "epoch_seconds": "time_this_iter_s"}
_PLAIN = (str, int, float, bool, type(None))


def read(paths: Sequence[Path], asked: Asked) -> Found:
    """Raises ValueError where no trial tells the objective."""
    return together([_experiment(path, asked) for path in paths])


def _experiment(path: Path, asked: Asked) -> Found:
    files = sorted(path.rglob(RESULTS)) if path.is_dir() else [path]
    trials, problems = [], []
    for file in files:
        try:
            trials.append((file, *_trial(file)))
        except ValueError as error:
            problems.append(f"{file}: {error}")
    metrics = {name: None for _, rows, params in trials for row in (*rows, params) for name in row}
    if not any(rows for _, rows, _ in trials):
        return Found([], asked.objective or "", problems=[*problems, f"{path}: no trial reported"])
    defaults = {own: name for own, name in _NAMES.items() if name in metrics}
    columns = Columns.of(defaults | dict(asked.columns), metrics, asked.objective, str(path))
    numbered = columns.theirs.get("epoch", "")
    longest = max(_last(rows, numbered) for _, rows, _ in trials)
    records = [_record(file, rows, params, longest, numbered) for file, rows, params in trials]
    found = as_runs(records, columns, asked)
    return Found(found.runs, found.objective, found.lines, [*problems, *found.problems])


def _trial(file: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Its reports and its parameters. Raises ValueError for what Tune did not write."""
    rows = []
    lines = read_lines(file)
    for number, line in enumerate(lines, 1):
        try:
            row = parse_json(line)
        except ValueError:
            if number == len(lines):  # it was killed while it wrote
                break
            raise
        if not isinstance(row, dict) or "training_iteration" not in row:
            raise ValueError("no result of Ray Tune")
        rows.append(row)
    try:
        params = read_json(file.with_name("params.json"))
    except ValueError:
        params = rows[-1].get("config") if rows else None
    if not isinstance(params, dict):
        raise ValueError("no params.json beside it, and no config in it")
    reports = [_flat({k: v for k, v in row.items() if k != "config"}) for row in rows]
    return reports, _flat(params)


def _flat(content: Mapping[str, Any], within: str = "") -> dict[str, Any]:
    """As Tune names what is nested: `optimizer/lr`; lists are texts."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, dict) and value:
            found |= _flat(value, f"{within}{name}/")
        else:
            found[within + name] = value if isinstance(value, _PLAIN) else json.dumps(value)
    return found


def _record(
    file: Path, rows: list[dict[str, Any]], params: dict[str, Any], longest: int, epoch: str
) -> Record:
    last, reports = rows[-1] if rows else {}, _last(rows, epoch)
    outcome, message = Outcome.COMPLETED, None
    if file.with_name("error.txt").exists():
        outcome, message = Outcome.FAILED, _last_line(file.with_name("error.txt"))
    elif reports < longest:
        outcome = Outcome.STOPPED
        message = f"ended after {reports} of the {longest} reports that others made"
    ended = {}
    with suppress(KeyError, TypeError, ValueError, OverflowError, OSError):
        ended["ended"] = datetime.fromtimestamp(last["timestamp"], UTC)
    name = str(last.get("trial_id") or file.parent.name)
    told = {**params, **last}
    return Record(
        name,
        str(file),
        rows,
        params,
        told,
        outcome=outcome,
        message=message,
        total_epochs=longest or None,
        columns=ended,
    )


def _last(rows: Sequence[Mapping[str, Any]], epoch: str) -> int:
    """The last one that was reported."""
    numbers = [row.get(epoch) for row in rows]
    return max((number for number in numbers if type(number) is int), default=0)


def _last_line(file: Path) -> str | None:
    try:
        lines = [line.strip() for line in read_lines(file) if line.strip()]
    except ValueError:
        return None
    return lines[-1][:200] if lines else None
