"""A small sweep's ledger, as a search leaves it, without training anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from results.ledger import Ledger
from results.storage import SweepFolder
from rts_search.spec.folder import write_spec
from rts_search.spec.model import SweepSpec
from rts_search.trials.rows import trial_columns
from rts_search.trials.trial import LiveTrial, controls
from trainables.config import OptimizerConfig, TrialConfig

T = 10
SPEC = {
    "data": {"name": "digits", "train_size": 300},
    "model": {"name": "mlp"},
    "train": {"epochs": T, "batch_size": 50},
    "search": {"trials": 6, "controls": {"families": ["sgd", "pugd"], "trials": 3}, "also": ["lr"]},
}


def rts(epoch: int, **rule: Any) -> OptimizerConfig:
    return OptimizerConfig.model_validate({"trigger": {"name": "epoch", "epoch": epoch}, **rule})


def row_of(trial: LiveTrial, value: float | None, first: int | None, **columns: Any) -> Any:
    """A completed run's row, perturbed from epoch `first` on."""
    row = trial_columns(trial) | {"outcome": "completed", "epochs": trial.total_epochs}
    ends = {"final_objective": value, "final_val_accuracy": value, "trigger_epoch": first}
    return row | ends | {"ended": row["updated"]} | columns


def searched(spec: SweepSpec, number: int, rule: OptimizerConfig) -> LiveTrial:
    config = spec.base.model_copy(update={"optimizer": rule})
    return LiveTrial(f"t{number:04d}", config, number)


def searched_ledger(folder: Path, **changes: Any) -> tuple[SweepSpec, SweepFolder]:
    """Seven trials (of which t0001 equals t0000 in effect, t0003 is PUGD and t0005 was never
    perturbed, and t0006 was stopped), and three controls an arm, of which number 2 is the best."""
    spec = SweepSpec.model_validate({**SPEC, "name": "s", "storage": str(folder), **changes})
    write_spec(spec.folder, spec)
    rules = [rts(5, radius=2), rts(5, radius=2), rts(8), rts(1), rts(3, scale=0.5), rts(9, scale=2)]
    gap = OptimizerConfig.model_validate({"radius": 2, "trigger": {"name": "gap", "mu": 2}})
    rules[1] = gap  # which fires at the same epoch
    firsts = [5, 5, 8, 1, 3, None]
    stopped = searched(spec, 6, rts(2)), 0.99  # early, and so no candidate
    with Ledger(spec.folder) as ledger:
        for number, (rule, first) in enumerate(zip(rules, firsts, strict=True)):
            trial = searched(spec, number, rule)
            ledger.put_trial(row_of(trial, 0.9 - 0.01 * number, first))
        ledger.put_trial(row_of(*stopped, 2, outcome="stopped"))
        for number, control in enumerate(controls(spec)):
            ledger.put_trial(row_of(control, 0.8 + 0.001 * number, None))
    return spec, spec.folder


def config_of(row: Any) -> TrialConfig:
    return TrialConfig.model_validate_json(row["config_json"])
