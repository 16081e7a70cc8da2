"""Sweeps that were never trained: their ledgers, written as a driver writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from results.ledger import Ledger
from results.storage import SweepFolder
from rts_search.trials.rows import config_columns
from tests.results.builders import trial_row
from trainables.config import TrialConfig

PUGD = {"family": "pugd"}
SGD = {"family": "sgd"}


def trial(name: str, optimizer: Any, value: float, seed: int = 42, **more: Any) -> dict[str, Any]:
    """A row of `trials`: by its name a searched trial (`t3`) or a run; `train` and `data` are
    settings of its configuration, the rest are columns."""
    settings = {"epochs": 10, "seed": seed, **more.pop("train", {})}
    asked = {"optimizer": optimizer, "train": settings, "data": more.pop("data", {})}
    config = TrialConfig.model_validate(asked)
    number = int(name[1:]) if name[0] == "t" and name[1:].isdigit() else None
    columns = {
        "number": number,
        "family": config.optimizer.family,
        "total_epochs": config.train.epochs,
        "objective": "val_accuracy",
        "final_objective": value,
        "final_val_accuracy": value,
        "gradient_evaluations": 100,
        "trigger_epoch": 1 if config.optimizer.trigger.name == "always" else None,
        **config_columns(config),
    }
    return trial_row(name, **{**columns, **more})


def record(storage: Path | str, sweep: str, rows: Sequence[dict[str, Any]]) -> SweepFolder:
    folder = SweepFolder(storage, sweep)
    with Ledger(folder) as ledger:
        for row in rows:
            ledger.put_trial(row)
    return folder
