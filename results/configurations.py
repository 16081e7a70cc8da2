"""The configurations of a sweep with their runs: what one of them gives over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from results.database import ask, tables_in
from results.meanings import Outcome, merit
from results.names import unknown
from results.ranking import (
    METRICS,
    SETTING,
    TOLD,
    WITHOUT_SEED,
    condition_of,
    is_own,
    of_last_run,
)
from results.schema import TRIALS, records
from results.storage import SweepFolder
from results.views import literal

# what may be reported, and is never chosen by
OF_TEST = ("test_accuracy", "test_loss", "test_value", "best_test_accuracy", "best_test_loss")
FRESH = ("confirm", "verify")  # stages on new seeds, after a choice
COST = "run_gradient_evaluations"
_READ = """sweep, trial_id, number, control, arm, stage, outcome, selected_on, config_seed AS seed,
    gradient_evaluations"""
_READABLE = "CASE WHEN json_valid(config_json) THEN config_json END AS config_json"
_WHOLE = ", ".join(literal(str(outcome)) for outcome in Outcome if outcome.whole)

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Configuration:
    """Runs that differ in the seed only, those that completed; `failed` are those that diverged or
    collapsed. Each has a `value` of the metric, and `chosen_by`, the final objective, which are
    None where they are not known."""

    runs: list[Row] = field(default_factory=list)
    failed: list[Row] = field(default_factory=list)

    @property
    def searched(self) -> list[Row]:
        """The runs by which it may have been chosen: those of the search or, without any, those
        that do not confirm it; all if there are no others."""
        own = [run for run in self.runs if run["stage"] is None]
        return own or [run for run in self.runs if run["stage"] not in FRESH] or self.runs

    @property
    def told(self) -> list[Row]:
        """The runs that its figures are of: those after the choice where there are any; none if no
        value is known."""
        known = [run for run in self.runs if run["value"] is not None]
        return [run for run in known if run["stage"] in FRESH] or known

    @property
    def cost(self) -> float:
        evaluations = self.first["gradient_evaluations"]
        return math.inf if evaluations is None else float(evaluations)

    @property
    def confirmed(self) -> bool:
        return any(run["stage"] in FRESH for run in self.runs)

    @property
    def shows_its_choice(self) -> bool:
        """Whether its figures are of the runs by which it may have been chosen."""
        return any(run in self.searched for run in self.told)

    @property
    def first(self) -> Row:
        return self.searched[0]

    @property
    def values(self) -> list[float]:
        """One a seed: runs on the same seed are no more than one."""
        return list(by_seed(self.told).values())

    @property
    def seeds(self) -> list[int | None]:
        """None for one that is not known."""
        return [seed if isinstance(seed, int) else None for seed in by_seed(self.told)]

    @property
    def merit(self) -> float:
        """By which it is chosen: higher is better; -∞ if it has no objective."""
        known = [run for run in self.searched if run["chosen_by"] is not None]
        merits = [merit(run["chosen_by"], run["objective"]) for run in known]
        return fmean(merits) if merits else -math.inf


def by_seed(runs: Iterable[Row]) -> dict[int | str, float]:
    """The mean value of each seed; a run whose seed is not known has one of its own."""
    found: dict[int | str, list[float]] = {}
    for run in runs:
        seed = run["trial_id"] if run["seed"] is None else run["seed"]
        found.setdefault(seed, []).append(run["value"])
    return {seed: fmean(values) for seed, values in found.items()}


def is_of_test(metric: str) -> bool:
    """Whether the test set says it. Raises ValueError for what is no metric."""
    if metric not in METRICS and metric not in OF_TEST and not is_own(metric):
        raise unknown("metric", metric, [*METRICS, *OF_TEST])
    return metric in OF_TEST


def objective_of(folders: Iterable[SweepFolder]) -> str:
    """The metric by which sweeps are told: the final objective of all of them. Raises ValueError
    where they have several."""
    sql = f"SELECT DISTINCT objective FROM (SELECT {TOLD} FROM trials) WHERE objective IS NOT NULL"
    asked = {folder.uri: folder for folder in folders}.values()
    found = [ask(each.storage, sql, sweeps=each, tables=["trials"]).to_pylist() for each in asked]
    names = sorted({row["objective"] for rows in found for row in rows}) or ["val_accuracy"]
    if len(names) > 1:
        raise ValueError(
            f"the sweeps have different objectives, {', '.join(names)}: say by what they are told, "
            "as in --metric final_val_accuracy"
        )
    return f"final_{names[0]}"


def runs_of(folder: SweepFolder, metric: str, where: str | None = None) -> list[dict[str, Any]]:
    """The runs of a sweep that nobody cut short, of every stage, those of the search first, with
    their configuration and setting. Raises ValueError for an unknown metric or condition."""
    is_of_test(metric)
    own = metric in TRIALS.names or is_own(metric)
    value = "final_objective" if is_own(metric) else metric
    rows = records(
        ask(
            folder.storage,
            f"""SELECT {_READ}, objective, final_objective AS chosen_by,
                coalesce({value}::DOUBLE,
                    CASE WHEN '{metric}' = 'final_' || objective THEN final_objective END
                ) AS value,
                CASE WHEN config_json IS NOT NULL THEN {WITHOUT_SEED} END AS configuration,
                [{", ".join(SETTING.values())}] AS setting
            FROM (SELECT * REPLACE ({TOLD}, {_READABLE}) FROM trials)
            {"" if own else of_last_run(metric)}
            WHERE outcome IN ({_WHOLE}) AND {condition_of(where)}
            ORDER BY stage IS NOT NULL, number IS NULL, number, trial_id""",
            sweeps=folder,
            tables={"trials", *([] if own else ["epochs"]), *tables_in(where or "")},
        )
    )
    for row in rows:
        row["setting"] = dict(zip(SETTING, row["setting"], strict=True))
        for name in ("value", "chosen_by"):
            row[name] = row[name] if row[name] is not None and math.isfinite(row[name]) else None
    return rows


def configurations(runs: Iterable[Row]) -> list[Configuration]:
    """The runs by configuration, the best first by the mean objective of those of the search; then,
    as `best` has them, the cheaper, and in the order in which they come. Those without a completed
    run are left out."""
    found: dict[Any, Configuration] = {}
    for run in runs:
        key = run["configuration"] or (run["sweep"], run["trial_id"])
        group = found.setdefault(key, Configuration())
        completed = run["outcome"] == Outcome.COMPLETED
        (group.runs if completed else group.failed).append(run)
    return sorted((g for g in found.values() if g.runs), key=lambda g: (-g.merit, g.cost))


def cost_of(rows: Iterable[Row]) -> float | None:
    """The mean gradient evaluations of runs, as `rows_of` has them; None where none are known."""
    known = [row[COST] for row in rows if row[COST] is not None]
    return fmean(known) if known else None


def rows_of(folder: SweepFolder, trial_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """By name: the rows of trials, with what the run at the rung reached cost, as `COST`."""
    names = ", ".join(map(literal, trial_ids)) or "NULL"
    rows = records(
        ask(
            folder.storage,
            f"""SELECT * REPLACE ({TOLD}, coalesce({COST}, gradient_evaluations) AS {COST})
            FROM (FROM trials WHERE trial_id IN ({names})) {of_last_run(COST)}""",
            sweeps=folder,
        )
    )
    return {row["trial_id"]: row for row in rows}
