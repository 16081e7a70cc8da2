"""A run of others as one reads it, and a ledger made of such runs: all of them, or none."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from results.meanings import Outcome
from results.parts.files import encode
from results.parts.names import PART, epoch_part_of_import
from results.schema import EPOCHS, TRIALS, check_row, to_table
from results.storage import SweepFolder, is_name
from rts_search.driver.lock import hold_lock
from rts_search.trials.rows import config_columns, final_value, progress_columns
from trainables.config import TrialConfig

UNKNOWN = "unknown"  # the stage of runs of which it is not known what they are: no part of a search
TEST = "test"  # selected_on
TRIALS_PART = "part-000001.parquet"
_ACCURACIES = [name for name in (*EPOCHS.names, *TRIALS.names) if name.endswith("accuracy")]
_PERCENT = 100.0
# what a row of `trials` has at least
_NEEDED = {"sweep": "", "trial_id": "", "outcome": "completed", "updated": datetime.now(UTC)}


@dataclass(frozen=True)
class Run:
    """A run: what it was called and where it is from, its epochs as rows of `epochs` (from 1,
    without its name) and what else is known as `columns` of `trials`.

    `stage` is UNKNOWN where nobody knows what was run.
    """

    name: str
    source: str
    epochs: Sequence[Mapping[str, Any]] = ()
    total_epochs: int | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    config: TrialConfig | None = None
    outcome: Outcome = Outcome.COMPLETED
    message: str | None = None
    stage: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError for a value unfit for its column, for what is no accuracy, or where an
        epoch is there twice, or none of 1 to T."""
        for row in self.epochs:
            check_row({"sweep": "", "trial_id": "", "rung": 0, **row}, EPOCHS)
        check_row({**_NEEDED, **self.columns}, TRIALS)
        for name in _ACCURACIES:
            for value in self.told(name):
                if not 0 <= value <= _PERCENT:
                    raise ValueError(
                        f"{name} of {self.name!r} is {value:g}, and an accuracy is a fraction, or "
                        f"in percent: name the column that is one (--column {name}=THEIRS), or say "
                        "what theirs is (--objective val_loss)"
                    )
        numbers = [row["epoch"] for row in self.epochs]
        total = max(numbers, default=1) if self.total_epochs is None else self.total_epochs
        if not 1 <= min(numbers, default=1) <= max(numbers, default=1) <= total:
            raise ValueError(
                f"run {self.name!r} of T = {total} has the epochs {min(numbers, default=1)} to "
                f"{max(numbers, default=1)}: they are 1 to T"
            )
        epoch, times = Counter(numbers).most_common(1)[0] if numbers else (1, 1)
        if times > 1:
            raise ValueError(
                f"run {self.name!r} has epoch {epoch} {times} times: name what tells runs apart, "
                "with --column run=THEIRS"
            )

    def told(self, name: str) -> list[float]:
        """All finite values of a column, of its epochs and its own."""
        values = [row.get(name) for row in (*self.epochs, self.columns)]
        return [value for value in values if value is not None and math.isfinite(value)]


def write(folder: SweepFolder, runs: Sequence[Run], objective: str) -> list[str]:
    """The runs as a sweep of their own; lines that say what was made of their numbers.

    What a process that is killed leaves is no trial: the one part of `trials` is written last.
    Raises ValueError where there is a sweep already, or a run is none that the ledger can hold.
    """
    runs, lines = as_fractions(runs)
    epochs, trials = rows(folder.name, runs, objective)
    refuse_taken(folder)
    with hold_lock(folder):
        refuse_taken(folder)
        if epochs:
            part = epoch_part_of_import()
            folder.write(f"epochs/{part}", encode(to_table(epochs, EPOCHS)))
        folder.write(f"trials/{TRIALS_PART}", encode(to_table(trials, TRIALS)))
    return lines


def refuse_taken(folder: SweepFolder) -> None:
    """Raises ValueError for a name that a sweep has; what an import that was killed has left is
    none."""
    left = {epoch_part_of_import()}
    begun = folder.exists("spec.yaml") or any(map(PART.match, folder.files("trials")))
    if begun or any(PART.match(name) for name in folder.files("epochs") if name not in left):
        raise ValueError(
            f"{folder.name!r} is a sweep in {folder.storage} already, and nothing is added to it: "
            f"look at it with rts-search status {folder.argument()}, or give --name another"
        )


def as_fractions(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Accuracies in percent as fractions. Raises ValueError where they are fractions in most runs,
    and not in others."""
    percent = []
    for name in _ACCURACIES:
        highest = [max(run.told(name), default=None) for run in runs]
        known = [value for value in highest if value is not None]
        above = [value for value in known if value > 1 + 1e-6]
        if above and len(above) <= len(known) / 2:
            odd = next(run for run, value in zip(runs, highest, strict=True) if value in above)
            raise ValueError(
                f"{name} is a fraction in most runs, and {above[0]:g} in {odd.name!r} of "
                f"{odd.source}: put it right, or import them apart"
            )
        percent += [name] if above else []
    if not percent:
        return list(runs), []

    def fractions(row: Mapping[str, Any]) -> dict[str, Any]:
        return {**row, **{n: row[n] / _PERCENT for n in percent if row.get(n) is not None}}

    changed = [
        replace(run, epochs=[*map(fractions, run.epochs)], columns=fractions(run.columns))
        for run in runs
    ]
    return changed, [f"{', '.join(percent)} in percent: divided by 100"]


def rows(
    sweep: str, runs: Iterable[Run], objective: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of `epochs` and of `trials`. Raises ValueError for a value unfit for its column."""
    now, taken = datetime.now(UTC), set[str]()
    epochs: list[dict[str, Any]] = []
    trials: list[dict[str, Any]] = []
    searched = 0
    for run in runs:
        trial_id = _trial_id(run.name, taken)
        total = {"total_epochs": run.total_epochs}
        keys = {"sweep": sweep, "trial_id": trial_id, "rung": 0}
        try:
            history = [
                check_row({**keys, **total, **row}, EPOCHS)
                for row in sorted(run.epochs, key=lambda row: int(row["epoch"]))
            ]
            row = _trial_row(run, history, objective)
            number = None if run.stage else searched
            keys = {"sweep": sweep, "trial_id": trial_id, "number": number, "updated": now}
            named = None if trial_id == run.name else f"named {run.name!r}"
            message = {"message": "; ".join(filter(None, (named, run.message))) or None}
            trials.append(check_row(row | keys | message, TRIALS))
        except ValueError as error:
            raise ValueError(f"run {run.name!r} of {run.source}: {error}") from None
        epochs += history
        searched += run.stage is None
    return epochs, trials


def _trial_row(run: Run, history: Sequence[dict[str, Any]], objective: str) -> dict[str, Any]:
    """Its numbers are the ledger's: of a run with all its epochs, final ones are means over the
    tail, as of any trial."""
    last = history[-1]["epoch"] if history else run.total_epochs or 0
    whole = bool(history) and len(history) == last
    final = history[-1][objective] if history else None
    if whole:
        final = final_value(history, objective)
    columns = progress_columns(history) if history else {}
    columns = {name: value for name, value in columns.items() if not name.startswith("spent_")}
    if not whole:  # so that it counts by its row
        columns |= {"epochs": max(last, 1), "final_val_accuracy": None}
    if columns.get("final_val_accuracy") is None and objective == "val_accuracy":
        columns["final_val_accuracy"] = final
    config = _params_as_columns(run.params)
    if run.config is not None:
        config = config_columns(run.config)
        config |= {"family": run.config.optimizer.family, "seed": run.config.train.seed}
    stopped = {"stopped_epoch": last} if run.outcome is Outcome.STOPPED else {}
    return {
        "outcome": str(run.outcome),
        "total_epochs": run.total_epochs,
        "params": json.dumps(run.params, default=str),
        "objective": objective,
        "final_objective": final,
        "source": run.source,
        "stage": run.stage,
        **stopped,
        **columns,
        **config,
        **run.columns,
    }


def _params_as_columns(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters that are settings of ours by their names (`lr`) as columns too."""
    found = {}
    for name, value in params.items():
        column = f"config_{name}"
        if column in TRIALS.names and name != "json":
            try:
                check_row({**_NEEDED, column: value}, TRIALS)
            except ValueError:  # theirs is something else
                continue
            found[column] = value
    return found


def _trial_id(name: str, taken: set[str]) -> str:
    """The run's own name, as far as it can be one in a ledger; never one that is taken."""
    plain = name if is_name(name) else re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("._-")[:120]
    trial_id, again = plain or "run", 1
    while trial_id in taken:
        again += 1
        trial_id = f"{plain or 'run'}-{again}"[-128:]
    taken.add(trial_id)
    return trial_id
