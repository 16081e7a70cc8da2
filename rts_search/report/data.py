"""What a report shows of a sweep: its ledger, read once for all figures. No torch, no ray."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from results.meanings import Outcome, column, merit, metric_of, minimised
from results.pareto import Front, pareto
from results.query import SweepSummary
from results.ranking import Ranking, condition_of, rankings
from results.schema import json_object
from results.soundness import Soundness
from results.trials import Row, read_trials
from rts_search.answers.audit import audit_of, edges_of
from rts_search.answers.standing import driver_gone
from rts_search.notebook import Sweep
from rts_search.report.runs import Runs, last_run, runs_over_seeds
from rts_search.search.edges import Range, known_ranges
from rts_search.search.firing_parameter import of_trigger
from rts_search.search.known import FIRING
from rts_search.spec.claim import StoredClaim, claims_in
from rts_search.spec.model import SweepSpec
from rts_search.stopping.rungs import rungs

MOST = 1_000  # trials as points of a figure
CURVES = 300  # trials whose epochs are read and drawn
TOP = 10  # configurations in the table of the best
COLUMNS = (
    *("total_epochs", "lr", "radius", "scale", "perturbing", "trigger_epoch"),
    *("loss_rise", "generalization_gap"),
)
PERTURBATION = ("radius", "scale", "after")  # how its parameters' names begin
# of runs that nobody searched, as of those that were imported
SETTINGS = (
    *("lr", "weight_decay", "batch_size", "trigger", "trigger_gamma", "trigger_kappa"),
    *("trigger_mu", "rho"),
    *(f"{what}_{which}" for what in ("radius", "scale") for which in ("alpha_start", "alpha_end")),
)


@dataclass(frozen=True)
class Shown:
    """A trial as figures have it. `value` is the objective at its end, or so far, None if none is
    known; `firing` its first perturbed epoch, T + 1 for none, None while that is open; `run` its
    epochs at the rung that it reached, where they were read."""

    row: Row
    value: float | None
    params: Mapping[str, Any]
    run: Sequence[Row] = ()

    @property
    def name(self) -> str:
        return str(self.row["trial_id"])

    @property
    def outcome(self) -> str:
        """One of `Outcome`, if we wrote it."""
        return str(self.row["outcome"])

    @property
    def completed(self) -> bool:
        return self.outcome == Outcome.COMPLETED

    @property
    def total(self) -> int:
        """T, 0 if that is not known."""
        return int(self.row["total_epochs"] or 0)

    @property
    def firing(self) -> int | None:
        if self.row["trigger_epoch"] is not None:
            return int(self.row["trigger_epoch"])
        return self.total + 1 if self.completed and self.total else None

    def tail(self, column: str) -> float | None:
        """An epoch's figure at the end: the mean over the last max(1, T/20) epochs."""
        values = [row[column] for row in self.run[-max(1, self.total // 20) :]]
        known = [value for value in values if finite(value)]
        return math.fsum(known) / len(known) if known else None


@dataclass(frozen=True)
class Told:
    """A sweep as it stands. `trials` are those that were searched, `shown` at most `MOST` of them,
    of which at most `CURVES` have their epochs; `rungs` are what trials can stop at, T last."""

    sweep: Sweep
    where: str | None  # a condition that the trials were chosen by
    spec: SweepSpec | None
    summary: SweepSummary
    objective: str
    trials: Sequence[Shown]
    shown: Sequence[Shown]
    controls: Sequence[Shown]
    ranked: Sequence[Ranking]
    front: Front | None
    audit: Soundness | None
    claims: Sequence[StoredClaim]
    arms: Sequence[Runs]  # that were chosen, or the best trial and each control
    ranges: Mapping[str, Range]
    notes: Sequence[str]  # the edges of the space; how to go on; what could not be read

    @property
    def lower_is_better(self) -> bool:
        return minimised(self.objective)

    @property
    def on_test(self) -> bool:
        """Whether what is called validation is, of some at least, the test set."""
        return any(trial.row["selected_on"] == "test" for trial in (*self.trials, *self.controls))

    @property
    def axis(self) -> str:
        """What the objective is called on an axis."""
        name = metric_of(self.objective).replace("_", " ")
        return f"{name} (on the test set)" if self.on_test else name

    @cached_property
    def best(self) -> list[Shown]:
        """Those of the ranking whose epochs are there, the best first."""
        by_name = {trial.name: trial for trial in self.shown}
        names = [row["trial_id"] for each in self.ranked for row in each.trials]
        return [by_name[name] for name in names if name in by_name]

    @property
    def rungs(self) -> list[int]:
        if self.spec is None or self.spec.stop.policy == "none":
            return []
        try:
            return rungs(self.spec.stop, self.spec.train.epochs)
        except ValueError:  # of a spec that was edited
            return []


def finite(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and bool(math.isfinite(value))
    )


def read(sweep: Sweep, where: str | None = None, names: Sequence[str] = ()) -> Told:
    """All that a report says, of all trials or of those for which a condition in SQL holds, which
    spares controls; `names` are of the arms and trials whose runs it has. Raises ValueError, in one
    line, for a ledger that cannot be read; of what is said beside it, a note says why it is not
    there."""
    notes: list[str] = []

    def unless(error: str, work: Any, otherwise: Any) -> Any:
        try:
            return work()
        except ValueError as reason:
            notes.append(f"{error}: {reason}")
            return otherwise

    folder, summary = sweep.folder, sweep.summary()
    objective = summary.listing.objective
    spec = unless("the spec cannot be read", lambda: sweep.spec, None) if sweep.has_spec else None
    found = [_shown(trial.row, objective) for trial in read_trials(folder, [])]
    controls = [trial for trial in found if trial.row["control"] is not None]
    chosen = _chosen(sweep, where)
    trials = [t for t in found if t.row["control"] is None and (where is None or t.name in chosen)]
    shown = some_of(trials, objective, MOST)
    curves = {trial.name for trial in (*some_of(shown, objective, CURVES), *controls)}
    columns = list(dict.fromkeys([*COLUMNS, column(objective)]))
    of_curves = read_trials(folder, columns, lambda row: row["trial_id"] in curves)
    runs = {trial.trial_id: last_run(trial.epochs) for trial in of_curves}
    ranked = rankings(folder.storage, folder, top=TOP, where=where)
    front = None
    if len(ranked) == 1:
        front = pareto(folder.storage, folder, where=where)
    else:
        notes.append(
            f"Its trials have {len(ranked)} settings of data, model, T and objective. Figures show "
            "all of them together, though they cannot be compared; choose some with --where."
        )
    audit = unless("no audit", lambda: audit_of(sweep), None) if spec else None
    claims = unless("the claims cannot be read", lambda: [*claims_in(folder)], [])
    ranges: Mapping[str, Range] = {}
    if spec:
        notes += edges_of(sweep)
        with suppress(ValueError):  # as that has said
            ranges = known_ranges(folder, spec)
    if gone := driver_gone(folder, Outcome.RUNNING in summary.listing.outcomes):
        notes.append(gone)
    return Told(
        sweep,
        where,
        spec,
        summary,
        objective,
        trials,
        [_with_run(trial, runs) for trial in shown],
        [_with_run(trial, runs) for trial in controls],
        ranked,
        front,
        audit,
        claims,
        runs_over_seeds(sweep, names or _usual(ranked, controls)),
        ranges,
        notes,
    )


def _chosen(sweep: Sweep, where: str | None) -> set[str]:
    """The trials for which the condition holds; none without one."""
    if where is None:
        return set()
    sql = f"SELECT trial_id FROM trials WHERE {condition_of(where)}"
    return set(sweep.query(sql)["trial_id"].to_pylist())


def _shown(row: Row, objective: str) -> Shown:
    # rows of earlier versions have no objective: nothing but the accuracy is known
    value = row["final_val_accuracy" if row["objective"] is None else "final_objective"]
    own = row["objective"] in (None, objective) and finite(value)
    params = json_object(row["params"]) or {name: row[f"config_{name}"] for name in SETTINGS}
    plain = {
        name: _rounded(v) for name, v in params.items() if isinstance(v, str | bool) or finite(v)
    }
    return Shown(row, value if own else None, plain)


def _rounded(value: Any) -> Any:
    """Without the rest that a cosine of π/2 leaves."""
    return 0.0 if isinstance(value, float) and abs(value) < 1e-12 else value


def _usual(ranked: Sequence[Ranking], controls: Sequence[Shown]) -> list[str]:
    """The best trial, and each arm of controls."""
    best = [row["trial_id"] for ranking in ranked[:1] for row in ranking.trials[:1]]
    return [*best, *dict.fromkeys(str(trial.row["control"]) for trial in controls)]


def _with_run(trial: Shown, runs: Mapping[str, Sequence[Row]]) -> Shown:
    return Shown(trial.row, trial.value, trial.params, runs.get(trial.name, ()))


def some_of(trials: Sequence[Shown], objective: str, most: int) -> list[Shown]:
    """At most so many, in their order: of more the best half, and others evenly."""
    if len(trials) <= most:
        return list(trials)
    by_merit = sorted(
        range(len(trials)), key=lambda at: standing(trials[at], objective), reverse=True
    )
    best, rest = by_merit[: most // 2], sorted(by_merit[most // 2 :])
    others = [rest[place * len(rest) // (most - len(best))] for place in range(most - len(best))]
    return [trials[at] for at in sorted({*best, *others})]


def standing(trial: Shown, objective: str) -> tuple[int, float]:
    """By which trials of all ends are put in one order, higher is better: the completed ones by the
    objective, below them those that were stopped, later ones first, and those that came to nothing.
    """
    value = -math.inf if trial.value is None else merit(trial.value, objective)
    if trial.completed and trial.value is not None:
        return 1_000_000_000, value
    if trial.outcome in (Outcome.DIVERGED, Outcome.COLLAPSED):
        return 0, value
    return int(trial.row["epochs"] or 0), value


def in_effect(trial: Shown) -> dict[str, Any]:
    """Its parameters as they matter: the firing epoch, as far as it is known, instead of the
    trigger's thresholds; without those of the perturbation where there was none. Names are those of
    the built-in spaces."""
    asked = {name: v for name, v in trial.params.items() if not of_trigger(name)}
    if trial.firing is None or len(asked) == len(trial.params):
        return asked
    if trial.firing > trial.total:
        asked = {n: v for n, v in asked.items() if not n.startswith(PERTURBATION)}
    return {FIRING: trial.firing, **asked}


def names_of(points: Iterable[Mapping[str, Any]]) -> list[str]:
    """Parameters with more than one value, in the order in which they first come."""
    values: dict[str, set[Any]] = {}
    for point in points:
        for name, value in point.items():
            values.setdefault(name, set()).add(value)
    return [name for name, held in values.items() if len(held) > 1]
