"""`rts-search studio`: a sweep as a study of Optuna's, in optuna-dashboard or as a journal."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from results.storage import SweepFolder
from results.trials import StoredTrial, read_trials
from rts_search.notebook import Sweep
from rts_search.search.edges import Range, known_ranges
from rts_search.search.known import COLUMNS, STATES, told_of
from rts_search.spec.model import SweepSpec

HOST = "127.0.0.1"  # the dashboard asks for no token
# of a trial's row, shown beside its parameters
SHOWN = (
    *("trial_id", "outcome", "message", "trigger_epoch", "epochs", "gradient_evaluations"),
    *("final_val_accuracy", "test_accuracy", "test_value", "seed"),
)


def write_journal(folder: SweepFolder, path: Path) -> int:
    """Writes the sweep as a study into a journal of Optuna's; how many trials it has. Raises
    ValueError if the file is there."""
    if path.exists():
        raise ValueError(f"{path} is there already: give another --journal, or remove it")
    study = as_study(folder, lambda: JournalStorage(JournalFileBackend(str(path))))
    return len(study.trials)


@contextmanager
def dashboard(folder: SweepFolder, port: int) -> Iterator[WSGIServer]:
    """optuna-dashboard on the sweep as it is now, at this port (0: any free one) of this machine
    only. What is changed there changes nothing in the sweep."""
    try:
        from optuna_dashboard import wsgi
    except ImportError:
        raise ValueError(
            "optuna-dashboard is not installed: pip install optuna-dashboard, or write the study "
            "into a file with --journal FILE"
        ) from None
    storage = InMemoryStorage()
    as_study(folder, lambda: storage)
    try:
        server = make_server(HOST, port, wsgi(storage), _Threads, _Quiet)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise ValueError(f"port {port} is taken: give another one with --port") from None
    with server:
        yield server


class _Threads(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """A line a request tells a user nothing."""


def as_study(folder: SweepFolder, make_storage: Callable[[], BaseStorage]) -> optuna.Study:
    """The trials of the search as its sampler knows them, numbered in their order, with the row's
    words beside them. Runs no code of the sweep. Raises ValueError where no trial is there."""
    sweep = Sweep(folder)
    values = ("val_accuracy", "val_loss", "value")
    stored = [trial for trial in read_trials(folder, (*COLUMNS, *values)) if trial.params]
    if not stored:
        raise ValueError(f"{folder.name} has no searched trials: there is nothing to show")
    ranges: Mapping[str, Range] = {}
    if sweep.has_spec:
        spec = sweep.spec
        with suppress(ValueError):  # of a space that is code: then what was tried is the range
            ranges = known_ranges(folder, spec)
    else:  # as of what was imported
        objective = stored[0].row["objective"] or "val_accuracy"
        spec = SweepSpec.model_validate({"search": {"objective": objective}})
    search = spec.search
    names = [search.objective, *([search.against] if search.against else [])]
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        storage=make_storage(),
        study_name=folder.name,
        directions=[spec.direction, "minimize"][: len(names)],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(names)
    known = _distributions([trial.params for trial in stored], ranges)
    study.add_trials([_trial(spec, trial, known) for trial in stored])
    return study


def _trial(
    spec: SweepSpec, stored: StoredTrial, known: Mapping[str, BaseDistribution]
) -> FrozenTrial:
    told = told_of(spec, stored) if stored.outcome.finished else None
    values = told.values if told is not None else None
    if told is not None and told.state == "pruned" and told.steps:
        values = [told.steps[max(told.steps)]]
    trial = create_trial(
        state=TrialState.RUNNING if told is None else STATES[told.state],
        values=values,
        params=stored.params,
        distributions={name: known[name] for name in stored.params},
        intermediate_values=dict(told.steps) if told is not None else {},
        user_attrs={n: stored.row[n] for n in SHOWN if stored.row[n] is not None},
    )
    started, ended = stored.row["started"], stored.row["ended"] or stored.row["updated"]
    if started is not None:
        trial.datetime_start = _local(started)
    if told is not None and ended is not None:
        trial.datetime_complete = _local(ended)
    return trial


def _local(time: datetime) -> datetime:
    """As Optuna has times: those of the clock on the wall."""
    return time.astimezone().replace(tzinfo=None)


def _distributions(
    points: Sequence[Mapping[str, Any]], ranges: Mapping[str, Range]
) -> dict[str, BaseDistribution]:
    """The range of each parameter where it is known; else, or beyond it, what was tried."""
    found: dict[str, BaseDistribution] = {}
    for name in dict.fromkeys(name for point in points for name in point):
        values = [point[name] for point in points if name in point]
        numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
        known = ranges.get(name)
        if len(numbers) < len(values) or (known is None and ranges):
            found[name] = CategoricalDistribution(sorted({*values}, key=str))
        else:
            low, high, log = min(numbers), max(numbers), False
            if known is not None:
                low, high, log = min(low, known.low), max(high, known.high), known.log
            if known is not None and known.whole:
                found[name] = IntDistribution(int(low), int(high), log=log)
            else:
                found[name] = FloatDistribution(low, high, log=log)
    return found
