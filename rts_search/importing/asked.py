"""What an import is told beside the files, and what it finds in them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from results.meanings import OBJECTIVES, Outcome
from results.names import unknown
from results.storage import read_file
from rts_search.importing.columns import EPOCH, Columns, pairs
from rts_search.importing.runs import TEST, Run
from rts_search.search.checks import search_space
from rts_search.spec.model import SweepSpec
from rts_search.spec.reading import load_spec
from search_spaces.space import ChoosingTrial, Params, Space, apply, check_point
from trainables.config import TrialConfig

LARGEST = 256 << 20  # bytes of a file of JSON


@dataclass(frozen=True)
class Asked:
    """What users say of the runs: their `columns` by our names, what they are ranked by, the `spec`
    (with its `space`) that says what their parameters make, the Optuna study, and whether what was
    validated on is the test set."""

    columns: Mapping[str, str] = field(default_factory=dict)
    objective: str | None = None
    spec: SweepSpec | None = None
    space: Space | None = None
    study: str | None = None
    on_test: bool = False

    def config(self, params: Params, total_epochs: int | None) -> TrialConfig | None:
        """What the spec would train with these parameters; None without one, or outside of its
        space."""
        if self.spec is None or self.space is None:
            return None
        try:
            point = check_point(self.space, params)
            config = apply(self.space, ChoosingTrial(lambda name, _: point[name]), self.spec.base)
        except ValueError:
            return None
        train = config.train.model_copy(update={"epochs": total_epochs or config.train.epochs})
        return config.model_copy(update={"train": train})


def asked(
    columns: Iterable[str],
    objective: str | None,
    spec: Path | None,
    study: str | None,
    on_test: bool,
) -> Asked:
    """What a user has written. Raises ValueError."""
    if objective is not None and objective not in OBJECTIVES:
        raise unknown("objective", objective, OBJECTIVES)
    given = load_spec(spec) if spec else None
    space = search_space(given) if given else None
    return Asked(pairs(columns), objective, given, space, study, on_test)


@dataclass(frozen=True)
class Found:
    """The runs in the files of a kind, what they are ranked by, `lines` on what was made of them,
    and the `problems`: files or runs that are none, by name."""

    runs: Sequence[Run]
    objective: str
    lines: Sequence[str] = ()
    problems: Sequence[str] = ()


@dataclass(frozen=True)
class Record:
    """A run in the words of others: a row an epoch, its `parameters`, and what else is `told` of
    all of it."""

    name: str
    source: str
    rows: Sequence[Mapping[str, Any]]
    parameters: Mapping[str, Any]
    told: Mapping[str, Any]
    value: float | None = None  # where no epoch tells it
    outcome: Outcome = Outcome.COMPLETED
    message: str | None = None
    total_epochs: int | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)

    def as_run(self, columns: Columns, asked: Asked) -> Run:
        """Raises ValueError for what no run is."""
        epochs = [columns.epoch(row) for row in self.rows]
        for row in epochs:
            if type(row.get("epoch")) is not int:
                raise ValueError(f"run {self.name!r} has an epoch {row.get('epoch')!r}")
        if min((row["epoch"] for row in epochs), default=1) == 0:  # counted from 0
            epochs = [row | {"epoch": row["epoch"] + 1} for row in epochs]
        known = columns.trial(self.told)
        if epochs:  # which tell it
            known = {k: v for k, v in known.items() if k not in (*EPOCH, "final_val_accuracy")}
        params = columns.params(self.parameters)
        last = max((row["epoch"] for row in epochs), default=None)
        total = known.pop("total_epochs", None) or self.total_epochs
        config = asked.config(params, total or last)
        total = total or (config.train.epochs if config else last or 1)
        if not epochs and self.value is not None:  # of its epochs the last one alone is told
            epochs = [{"epoch": total, columns.objective: self.value}]
        outcome, message = self.outcome, self.message
        if not epochs and outcome is Outcome.COMPLETED:
            outcome, message = Outcome.FAILED, f"it has no {columns.objective}"
        if config is not None and "seed" in known:
            train = config.train.model_copy(update={"seed": known["seed"]})
            config = config.model_copy(update={"train": train})
        tested = {"selected_on": TEST} if asked.on_test else {}
        message = "; ".join(filter(None, (known.pop("message", None), message))) or None
        return Run(
            self.name,
            self.source,
            epochs=epochs,
            total_epochs=total,
            params=params,
            config=config,
            outcome=outcome,
            message=message,
            columns={**self.columns, **known, **tested},
        )


def as_runs(
    records: Sequence[Record], columns: Columns, asked: Asked, lines: Sequence[str] = ()
) -> Found:
    """The records that are runs; the others by name."""
    runs, problems = [], []
    for record in records:
        try:
            runs.append(record.as_run(columns, asked))
        except ValueError as error:
            problems.append(f"{record.source}: {error}")
    outside = sum(run.config is None for run in runs) if asked.spec else 0
    told = [*lines]
    if outside:
        told.append(f"{outside} runs have parameters outside of the spec's space: no configuration")
    return Found(runs, columns.objective, told, problems)


def together(found: Sequence[Found]) -> Found:
    """Of several files. Raises ValueError where their runs are not ranked by the same."""
    objectives = dict.fromkeys(each.objective for each in found if each.runs)
    if len(objectives) > 1:
        raise ValueError(
            f"some files tell {' and others '.join(objectives)}: say which with --objective"
        )
    return Found(
        [run for each in found for run in each.runs],
        next(iter(objectives), "val_accuracy"),
        list(dict.fromkeys(line for each in found for line in each.lines)),
        [problem for each in found for problem in each.problems],
    )


def read_json(path: Path) -> Any:
    """Raises ValueError, in one line that does not name the file."""
    return parse_json(_content(path))


def parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {str(error)[:100]}") from None


def read_lines(path: Path) -> list[str]:
    return _content(path).splitlines()


def _content(path: Path) -> str:
    try:
        return read_file(path, LARGEST).decode()
    except OSError as error:
        raise ValueError(str(error.strerror or error)) from None
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None
