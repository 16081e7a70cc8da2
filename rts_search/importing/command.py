"""`rts-search import`: from files of others to a sweep of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from results.storage import SweepFolder, is_uri
from rts_search.importing.asked import Asked, Found
from rts_search.importing.runs import TEST, refuse_taken, write

HEAD = 4096  # bytes that tell what a file is


@dataclass(frozen=True)
class Imported:
    """What was said to the user: `lines`, and the `problems` with what was left out."""

    lines: Sequence[str]
    problems: Sequence[str]


def _author(paths: Sequence[Any], asked: Asked) -> Found:
    from rts_search.importing.author import read

    return read(paths, asked)


def _tune(paths: Sequence[Any], asked: Asked) -> Found:
    from rts_search.importing.tune import read

    return read(paths, asked)


def _optuna(paths: Sequence[Any], asked: Asked) -> Found:
    from rts_search.importing.optuna import read

    return read(paths, asked)


def _table(paths: Sequence[Any], asked: Asked) -> Found:
    from rts_search.importing.table import read

    return read(paths, asked)


KINDS: dict[str, Callable[[Sequence[Any], Asked], Found]] = {
    "author": _author,
    "tune": _tune,
    "optuna": _optuna,
    "table": _table,
}


def import_runs(given: Sequence[str], folder: SweepFolder, asked: Asked) -> Imported:
    """All runs in the files, as a sweep in this folder; `given` may begin with their kind. Raises
    ValueError, in one line, where there is none, or a sweep has the name."""
    refuse_taken(folder)  # before minutes of reading
    kind, texts = (given[0], given[1:]) if given[0] in KINDS else (None, given)
    if not texts:
        raise ValueError(f"import {kind} of what? give a file or a folder")
    paths: list[Path | str] = [text if is_uri(text) else Path(text) for text in texts]
    for path in paths:
        if isinstance(path, Path) and not path.exists():
            kinds = "" if kind or len(paths) == 1 else f" (nor a kind: {', '.join(KINDS)})"
            raise ValueError(f"no file or folder {str(path)!r}{kinds}")
    kind = kind or _kind_of(paths)
    if kind != "optuna" and (remote := [path for path in paths if isinstance(path, str)]):
        raise ValueError(f"{remote[0]}: of kind {kind} are files of this machine: copy it first")
    found = KINDS[kind](paths, asked)
    if not found.runs:
        why = "; ".join(found.problems[:3]) or "it holds no run"
        more = f"; and {len(found.problems) - 3} more" if len(found.problems) > 3 else ""
        raise ValueError(f"nothing to import: {why}{more}")
    lines = [*write(folder, found.runs, found.objective), *found.lines]
    return Imported([*_summary(folder, found), *lines], found.problems)


def _summary(folder: SweepFolder, found: Found) -> list[str]:
    epochs = sum(len(run.epochs) for run in found.runs)
    tested = sum(run.columns.get("selected_on") == TEST for run in found.runs)
    lines = [f"imported {len(found.runs):,} runs ({epochs:,} epochs) as {folder.name}"]
    if tested:
        lines.append(
            f"{tested} were validated on the test set: their figures are too good, and are marked "
            "so wherever they are shown"
        )
    return [*lines, f"next: rts-search best {folder.argument()}"]


def _kind_of(paths: Sequence[Path | str]) -> str:
    """Raises ValueError where it cannot be told, or they are of several kinds."""
    kinds = dict.fromkeys(kind for path in paths if (kind := _kind(path)))
    unsure = [str(path) for path in paths if _kind(path) is None]
    if unsure or len(kinds) != 1:
        what = f"what {unsure[0]!r} is cannot be told" if unsure else "they are of several kinds"
        raise ValueError(
            f"{what}: say what it is, as in rts-search import KIND PATH ({', '.join(KINDS)})"
        )
    return next(iter(kinds))


def _kind(path: Path | str) -> str | None:
    if isinstance(path, str):  # a database
        return "optuna"
    if path.is_dir():
        if any(path.glob("*/result.json")) or any(path.glob("result.json")):
            return "tune"
        return "author" if any(map(_is_author, path.rglob("*.json"))) else None
    with path.open("rb") as file:
        head = file.read(HEAD)
    if head.startswith(b"SQLite format 3\0") or b'"op_code"' in head.partition(b"\n")[0]:
        return "optuna"
    if path.name == "result.json":
        return "tune"
    if path.suffix.lower() == ".csv":
        return "table"
    if head.startswith(b"PAR1"):
        return "author" if _is_author_table(path) else "table"
    return "author" if path.suffix == ".json" and _is_author(path) else None


def _is_author_table(path: Path) -> bool:
    from rts_search.importing.author import CURVES, RUNS

    try:
        columns = set(pq.read_schema(path).names)
    except (OSError, ValueError):
        return False
    return columns >= RUNS or columns >= CURVES | {"radius_strategy_eff"}


def _is_author(path: Path) -> bool:
    from rts_search.importing.asked import read_json

    try:
        content = read_json(path)
    except ValueError:
        return False
    return isinstance(content, dict) and {"train", "valid"} <= content.keys()
