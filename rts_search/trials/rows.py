"""Trials and epochs as rows of the ledger."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from results.meanings import column
from results.schema import TRIALS
from results.trials import StoredTrial
from rts_search.spec.provenance import provenance
from rts_search.stopping.stopper import Look
from rts_search.trials.trial import LiveTrial
from trainables.config import TrialConfig
from trainables.metrics import tail_mean, tail_means
from trainables.schedules import Schedule

LOOKED = ("total_epochs", "epoch", "trigger_epoch", "time")
_COLUMNS = frozenset(TRIALS.names)  # pyarrow makes the list anew at every look


def epoch_row(trial_id: str, metrics: dict[str, Any]) -> dict[str, Any]:
    """An EpochMetrics (as a dict) as a row of `epochs`."""
    row = {key: value for key, value in metrics.items() if key != "test"}
    now = datetime.now(UTC)
    time = now.replace(microsecond=now.microsecond // 1000 * 1000)  # digits take room on disk
    return {"trial_id": trial_id, **row, "time": time}


def config_columns(config: TrialConfig) -> dict[str, Any]:
    """A trial's configuration as the typed `config_*` columns of `trials`."""
    train, rule = config.train, config.optimizer
    columns: dict[str, Any] = {
        "data": config.task.name if config.task else config.data.name,
        "train_size": config.data.train_size,
        "model": config.code,
        "epochs": train.epochs,
        "batch_size": train.batch_size,
        "lr": train.lr,
        "momentum": train.momentum,
        "dampening": train.dampening,
        "nesterov": train.nesterov,
        "weight_decay": train.weight_decay,
        "seed": train.seed,
        "schedule_by": train.schedule_by,
        "batch_norm": train.batch_norm,
        "precision": train.precision,
        "json": config.model_dump_json(),
    }
    if rule.family in ("rts", "pugd"):
        columns |= _schedule("radius", rule.radius) | _schedule("scale", rule.scale)
        columns |= {f"after_{key}": value for key, value in rule.after.model_dump().items()}
    if rule.family in ("sam", "asam"):
        columns["rho"] = rule.effective_rho
        columns["eta"] = rule.eta if rule.family == "asam" else None
    trigger = rule.trigger.model_dump()
    columns["trigger"] = trigger.pop("name")
    columns |= {f"trigger_{key}": value for key, value in trigger.items()}
    named = {f"config_{key}": value for key, value in columns.items()}
    return {key: value for key, value in named.items() if key in _COLUMNS}  # json has all


def _schedule(name: str, schedule: Schedule) -> dict[str, Any]:
    return {
        f"{name}_strategy": schedule.strategy,
        f"{name}_shape": schedule.shape,
        f"{name}_beta_min": schedule.beta_min,
        f"{name}_beta_max": schedule.beta_max,
        f"{name}_alpha_start": schedule.alpha_start,
        f"{name}_alpha_end": schedule.alpha_end,
    }


def step_values(
    history: Sequence[Mapping[str, Any]], objective: str, by_schedule: bool
) -> dict[int, float]:
    """What the searcher and the stopper know of a trial, by step.

    The objective's mean over the tail until then: by schedule for each complete one, by its T,
    else for every epoch. `history` begins with a run's first epoch.
    """
    name = column(objective)
    if not by_schedule:
        total = history[-1]["total_epochs"] if history else 0
        means = tail_means([row[name] for row in history], total)
        return {row["epoch"]: mean for row, mean in zip(history, means, strict=True)}
    runs: dict[int, list[float]] = {}
    for row in history:
        runs.setdefault(row["total_epochs"], []).append(row[name])
    return {
        total: tail_mean(values, total) for total, values in runs.items() if len(values) == total
    }


def looks(
    history: Sequence[Mapping[str, Any]], objective: str, by_schedule: bool, sgd: bool
) -> list[Look]:
    """What the stopper sees of a trial, as `step_values`; `sgd` if it has no trigger to fire."""
    values = step_values(history, objective, by_schedule)
    ends = {row["total_epochs" if by_schedule else "epoch"]: row for row in history}
    return [look_at(row, values[step], sgd) for step, row in ends.items() if step in values]


def look_at(row: Mapping[str, Any], value: float, sgd: bool) -> Look:
    """An epoch (its columns `LOOKED`), of which the stopper is shown this value."""
    epoch, first = row["epoch"], row["trigger_epoch"]  # the first perturbed one, known before it
    perturbed = 0 if first is None else max(0, epoch - first + 1)
    return Look(row["total_epochs"], epoch, value, None if sgd else perturbed)


def last_run(history: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The epochs of the rung that a trial has reached."""
    return [row for row in history if row["rung"] == history[-1]["rung"]]


def final_value(history: Sequence[Mapping[str, Any]], objective: str) -> float | None:
    """An epoch's value at the end of the rung reached, or so far: a mean over its tail."""
    if not history:
        return None
    name, total = column(objective), history[-1]["total_epochs"]
    values = [row[name] for row in last_run(history)]
    if total is None or None in values:  # as only others write
        return None
    return tail_mean(values, total)


def stored_final(trial: StoredTrial, objective: str) -> float | None:
    """As `final_value`, of a trial in the ledger; of its row where some of its epochs are lost."""
    if trial.has_all_epochs:
        return final_value(trial.epochs, objective)
    known: float | None = trial.row["final_objective"]
    return known if trial.row["objective"] == objective else None


def progress_columns(history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a trial's epochs so far say: accuracy at the rung reached, cost of all its rungs, test
    results at the end."""
    if not history:
        return {"epochs": 0}
    last, run = history[-1], last_run(history)
    told = [row for row in run if row["val_accuracy"] is not None]
    best = max(told, key=lambda row: (row["val_accuracy"], -row["epoch"]), default={})
    seconds = _total(history, "train_seconds")
    paced = [row for row in history if row["images_per_second"] is not None] if seconds else []
    images = math.fsum(row["images_per_second"] * row["train_seconds"] for row in paced)
    memory = [row["peak_memory_bytes"] for row in history if row["peak_memory_bytes"] is not None]
    spent = {row["rung"]: row["gradient_evaluations"] for row in history}  # each rung's last
    gradients = None if None in spent.values() else sum(spent.values())
    return {
        "epochs": len(history),
        "gradient_evaluations": gradients,
        **spent_columns(history),
        "rung": last["rung"],
        "final_val_accuracy": final_value(history, "val_accuracy"),
        "best_val_accuracy": best.get("val_accuracy"),
        "best_epoch": best.get("epoch"),
        "trigger_epoch": last["trigger_epoch"],
        "train_seconds": seconds,
        "eval_seconds": _total(history, "eval_seconds"),
        "epoch_seconds": _total(history, "epoch_seconds"),
        "images_per_second": images / seconds if seconds and paced else None,
        "peak_memory_bytes": max(memory) if memory else None,
        **{name: value for name, value in (last.get("test") or {}).items() if name != "test_hits"},
    }


def _total(history: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Over all epochs; None where one does not tell, as of runs from elsewhere."""
    values = [row[name] for row in history]
    return None if None in values else math.fsum(values)


def spent_columns(history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What was trained for a trial: without what it has from trunks."""
    own = [row for row in history if not row.get("shared")]
    gradients, before = 0, 0
    for row in history:
        before = before if row["epoch"] > 1 else 0
        if not row.get("shared"):
            gradients += (row["gradient_evaluations"] or 0) - before
        before = row["gradient_evaluations"] or 0
    return {
        "spent_epochs": len(own),
        "spent_gradient_evaluations": gradients,
        "spent_seconds": math.fsum(row["epoch_seconds"] or 0.0 for row in own),
    }


def trial_row(trial: LiveTrial, objective: str = "val_accuracy") -> dict[str, Any]:
    """A trial as it stands, as a row of `trials`; its host is this one until a worker names its."""
    row = trial_columns(trial, objective) | provenance_columns()
    return row | ({"host": trial.host} if trial.host else {})


def trial_columns(trial: LiveTrial, objective: str = "val_accuracy") -> dict[str, Any]:
    """Its columns but for those of this machine and this process."""
    now = datetime.now(UTC)
    return {
        "trial_id": trial.trial_id,
        "number": trial.number,
        "control": trial.control,
        "stage": trial.stage,
        "arm": trial.arm,
        "claim": trial.claim,
        "family": trial.config.optimizer.family,
        "outcome": str(trial.outcome),
        "message": trial.message,
        "traceback": trial.traceback,
        "seed": trial.config.train.seed,
        "total_epochs": trial.total_epochs,
        "started": trial.started,
        "ended": now if trial.outcome.finished else None,
        "updated": now,
        "retries": trial.retries,
        "params": json.dumps(trial.params),
        "searcher": trial.memory,
        "device": trial.device,
        "threads": trial.threads,
        "precision": trial.precision,
        "classes": trial.classes,
        "validation_images": trial.validation_images,
        "objective": objective,
        "final_objective": final_value(trial.history, objective),
        **progress_columns(trial.history),
        **config_columns(trial.config),
        "test_hits": _hits(trial) if trial.stage else None,
    }


def _hits(trial: LiveTrial) -> str | None:
    test = trial.history[-1].get("test") if trial.history else None
    return test["test_hits"] if test else None


def provenance_columns() -> dict[str, Any]:
    return asdict(provenance())
