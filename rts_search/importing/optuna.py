"""Optuna's studies, in a journal or a database: JSON and SQL, nothing that runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from results.meanings import MINIMISED, Outcome, direction
from results.names import unknown
from results.storage import refuse_secret
from rts_search.importing.asked import Asked, Found, Record, as_runs, together
from rts_search.importing.columns import VALUE, Columns

SQLITE = b"SQLite format 3\0"
_OUTCOMES = {
    TrialState.COMPLETE: Outcome.COMPLETED,
    TrialState.PRUNED: Outcome.STOPPED,
    TrialState.FAIL: Outcome.FAILED,
}


def read(paths: Sequence[Path | str], asked: Asked) -> Found:
    """Raises ValueError, in one line, for a study that is not there or has several objectives."""
    return together([_study(path, asked) for path in paths])


def _study(path: Path | str, asked: Asked) -> Found:
    try:
        storage = _open(path)
        names = optuna.get_all_study_names(storage)
    except Exception as error:  # another's file may be wrong in any way
        if isinstance(path, str):
            refuse_secret(path)
        why = " ".join(str(error).split())[:200]
        return Found([], "", problems=[f"{path}: no storage of Optuna's that can be read: {why}"])
    if not names:
        return Found([], "", problems=[f"{path}: no study is in it"])
    name = asked.study or (names[0] if len(names) == 1 else None)
    if name is None:
        raise ValueError(f"{path} has {len(names)} studies: give --study ({', '.join(names[:20])})")
    if name not in names:
        raise unknown("study", name, names)
    study = optuna.load_study(study_name=name, storage=storage)
    if len(study.directions) > 1:
        raise ValueError(f"study {name!r} has {len(study.directions)} objectives: import needs one")
    way = study.direction.name.lower()
    objective = asked.objective or ("val_loss" if way == "minimize" else "val_accuracy")
    if direction(objective) != way:
        raise ValueError(
            f"study {name!r} is to {way}, and {objective} is not: say what its values are with "
            f"--objective ({', '.join(MINIMISED) if way == 'minimize' else 'val_accuracy'})"
        )
    return _runs(str(path), name, study.get_trials(deepcopy=False), objective, asked)


def _open(path: Path | str) -> BaseStorage:
    """To be read: neither a file nor a table is made."""
    if isinstance(path, str):
        return RDBStorage(refuse_secret(path), skip_table_creation=True)
    with path.open("rb") as file:
        is_database = file.read(len(SQLITE)) == SQLITE
    if not is_database:
        return JournalStorage(JournalFileBackend(str(path)))
    url = f"sqlite:///file:{quote(str(path.absolute()))}?mode=ro&uri=true"
    return RDBStorage(url, skip_table_creation=True)


def _runs(
    source: str, study: str, trials: Sequence[FrozenTrial], objective: str, asked: Asked
) -> Found:
    ended = [trial for trial in trials if trial.state in _OUTCOMES]
    steps = [step for trial in ended for step in trial.intermediate_values]
    shift = 1 if min(steps, default=1) == 0 else 0  # steps are counted from 0, or from 1
    has = {name: None for trial in ended for name in (*trial.params, *trial.user_attrs)}
    names = [*has, VALUE, "step"]
    given = {VALUE: VALUE, "epoch": "step"} | dict(asked.columns)
    columns = Columns.of(given, names, objective, source)
    columns = Columns(objective, {**columns.theirs, objective: VALUE})
    total = max(steps, default=-shift) + shift or None
    records = [_record(source, study, trial, shift, total) for trial in ended]
    left = len(trials) - len(ended)
    lines = [f"{left} trials of study {study!r} have not ended: left out"] if left else []
    return as_runs(records, columns, asked, lines)


def _record(source: str, study: str, trial: FrozenTrial, shift: int, total: int | None) -> Record:
    reports = sorted(trial.intermediate_values.items())
    outcome = _OUTCOMES[trial.state]
    value = trial.value if outcome is Outcome.COMPLETED else None
    message = f"trial {trial.number} of study {study!r}"
    if reports and value is not None and not math.isclose(reports[-1][1], value):
        message += f", whose value is {value:g}"
    times = {"started": _utc(trial.datetime_start), "ended": _utc(trial.datetime_complete)}
    return Record(
        f"trial{trial.number:04d}",
        source,
        [{"step": step + shift, VALUE: reported} for step, reported in reports],
        trial.params,
        {**trial.params, **trial.user_attrs},
        value,
        outcome=outcome,
        message=message,
        total_epochs=total,
        columns={name: time for name, time in times.items() if time},
    )


def _utc(time: datetime | None) -> datetime | None:
    """Optuna's times are local ones."""
    with suppress(OSError, OverflowError, ValueError):
        return None if time is None else time.astimezone(UTC)
    return None
