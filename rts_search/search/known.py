"""What a search knows of trials that have begun: from its own ledger, or from earlier sweeps."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from results.meanings import Outcome
from results.trials import StoredTrial
from rts_search.search.suits import COMPLETED_ONLY
from rts_search.spec.model import SweepSpec
from rts_search.trials.rows import last_run, step_values, stored_final
from search_spaces.space import ChoosingTrial, Params, Space, ask, check_point
from trainables.config import TrialConfig

# user attributes of Optuna's trials; the second is a parameter, too, once all trials have it
CONFIG, FIRING = "config", "firing epoch"
STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "fail": TrialState.FAIL,
}
# A loss that no trained network has, and none that guesses among up to 20,000 classes.
BAD_LOSS = 10.0
# columns of `epochs` that `told` needs, beside the objective
COLUMNS = (
    *("rung", "epoch", "total_epochs", "gradient_evaluations", "train_seconds"),
    *("trigger_epoch", "shared"),
)


@dataclass(frozen=True)
class Told:
    """A trial's end as a searcher hears it.

    `values` are the objective, and the cost if there are two objectives; None unless complete.
    A pruned trial is ranked by its `steps`: the objective by epochs trained; without any it is the
    worst. A configuration that does not `repeat` its end (a crash) may be proposed again.
    """

    state: Literal["complete", "pruned", "fail"]
    values: list[float] | None = None
    steps: Mapping[int, float] = field(default_factory=dict)
    repeats: bool = True


@dataclass(frozen=True)
class Effect:
    """What a configuration is in effect: the same `key`, the same run. `fires`: it is perturbed."""

    key: str
    fires: bool


def told(
    spec: SweepSpec, outcome: Outcome, epochs: Sequence[Mapping[str, Any]], by_step: bool = True
) -> Told:
    """What the spec's searcher hears of a trial that ended so after these epochs.

    What diverged, collapsed, or completed without a finite value is `worst`. With two objectives a
    stopped trial has failed: half a pair ranks nothing. Without `by_step` there are no steps, for a
    sweep with other rungs.
    """
    search = spec.search
    steps = step_values(epochs, search.objective, spec.stop.by_schedule) if by_step else {}
    steps = {step: value for step, value in steps.items() if math.isfinite(value)}
    if outcome.told == "complete" and epochs:
        run = last_run(epochs)
        final = step_values(run, search.objective, True).get(run[-1]["total_epochs"], math.nan)
        values = [float(final)]
        if search.against:
            if (cost := _cost(run, search.against)) is None:
                return Told("fail")
            values.append(cost)
        if all(map(math.isfinite, values)):
            return Told("complete", values, steps)
    if outcome.told == "pruned" and steps and not search.against:
        return Told("pruned", steps=steps)
    if outcome.whole and (epochs or outcome is not Outcome.COMPLETED):
        return worst(spec)
    return Told("fail", repeats=outcome.repeats)


def told_of(spec: SweepSpec, trial: StoredTrial, by_step: bool = True) -> Told:
    """As `told`, of a trial in the ledger; a completed one some of whose epochs are lost counts by
    its row."""
    if trial.outcome is not Outcome.COMPLETED or trial.has_all_epochs:
        return told(spec, trial.outcome, trial.epochs, by_step)
    final = stored_final(trial, spec.search.objective)
    if final is None or spec.search.against:
        return Told("fail")
    return Told("complete", [final]) if math.isfinite(final) else worst(spec)


def worst(spec: SweepSpec) -> Told:
    """What the spec's sampler hears of a configuration that comes to nothing.

    A failed trial teaches no sampler anything: it would propose the like again and again. TPE ranks
    a pruned trial without a step below all others; GP and CMA-ES hear of completed trials only.
    """
    if spec.search.sampler in COMPLETED_ONLY and not spec.search.against:
        return Told("complete", [0.0 if spec.direction == "maximize" else BAD_LOSS])
    return Told("pruned")


def _cost(run: Sequence[Mapping[str, Any]], against: str) -> float | None:
    """What the run itself cost, without the rungs before it; None where that was not recorded."""
    costs = [row[against] for row in run]
    if None in costs:  # as of runs from elsewhere
        return None
    return float(costs[-1]) if against == "gradient_evaluations" else math.fsum(costs)


@dataclass(frozen=True)
class Known:
    """A trial that has begun; `name` as in `t0003`, or `sweep/t0003` of another sweep.

    `told` is None while it has not ended. `memory` is its column `searcher`: JSON of what the
    sampler must find again, and of the proposals before it that were known already. `firing` is
    its first perturbed epoch, T + 1 for none, where another sweep's rows tell that.
    """

    name: str
    params: Params
    config: TrialConfig
    told: Told | None
    number: int = -1
    memory: str | None = None
    firing: int | None = None

    def as_optuna(self, space: Space, sampler_attrs: Mapping[str, Any]) -> FrozenTrial:
        """Raises ValueError if it lies outside of the space."""
        trial = optuna_trial(space, self.params, self.told)
        trial.user_attrs = {CONFIG: identity(self.config)}
        if self.firing is not None:
            trial.user_attrs[FIRING] = self.firing
        trial.system_attrs = dict(sampler_attrs)
        return trial


def optuna_trial(space: Space, params: Params, told: Told | None) -> FrozenTrial:
    """A trial for a study; running while nothing is `told`. Raises ValueError outside of the
    space."""
    values = None if told is None else told.values
    if told is not None and told.state == "pruned" and told.steps:
        values = [told.steps[max(told.steps)]]  # as Optuna has it
    return create_trial(
        state=TrialState.RUNNING if told is None else STATES[told.state],
        values=values,
        params=params,
        distributions=distributions_at(space, params),
        intermediate_values={} if told is None else dict(told.steps),
    )


def distributions_at(space: Space, point: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    """What the space asks for at a point. Raises ValueError if that lies outside of it."""
    params = check_point(space, point)
    trial = ChoosingTrial(lambda name, _: params[name])
    ask(space, trial)
    return trial.distributions


def from_ledger(spec: SweepSpec, stored: Iterable[StoredTrial]) -> list[Known]:
    """The searched trials of a sweep's own ledger. Raises ValueError, in one line, for a row that
    does not tell what its trial was."""
    return [_known(spec, trial) for trial in stored if trial.number is not None]


def _known(spec: SweepSpec, trial: StoredTrial) -> Known:
    memory = trial.row["searcher"]
    try:
        config = TrialConfig.model_validate_json(trial.row["config_json"])
        read_memory(memory)
        params = trial.params
    except (ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"trial {trial.trial_id} of the ledger is not as rts-search wrote it ({reason}): begin "
            "a new sweep, with search.warm_start naming this one"
        ) from None
    end = told_of(spec, trial) if trial.outcome.finished else None
    return Known(trial.trial_id, params, config, end, trial.number or 0, memory)


def fired(last: Mapping[str, Any]) -> int | None:
    """The first perturbed epoch of a run, T + 1 for none, from its last row so far; None where that
    does not tell."""
    if last["trigger_epoch"] is not None:
        return int(last["trigger_epoch"])
    total = int(last["total_epochs"])
    return total + 1 if last["epoch"] == total else None


def identity(config: TrialConfig) -> str:
    """What tells a config from others, the same on every device."""
    content = config.placed().model_dump_json()
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


def read_memory(memory: str | None) -> dict[str, Any]:
    """The column `searcher`: `known`, `trial` and `study`, each a mapping, empty by default."""
    found: dict[str, Any] = json.loads(memory or "{}")
    return {"known": {}, "trial": {}, "study": {}} | found
