"""`rts-search train`: one configuration in this process, with a sweep's loop and ledger."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from results.ledger import Ledger
from results.meanings import Outcome
from results.storage import SweepFolder
from rts_search.driver.lock import hold_lock
from rts_search.notebook import open_sweep, split_trial
from rts_search.spec.reading import apply_overrides, parse, read_yaml
from rts_search.trials.rows import epoch_row, trial_row
from rts_search.trials.trial import LiveTrial
from trainables.config import TrialConfig

if TYPE_CHECKING:
    from trainables.state import TrainingState


def train_one(
    config: Path | None, trial: str | None, overrides: list[str], storage: str, name: str
) -> None:
    """Train to the end and keep the weights. Raises ValueError for a configuration that cannot."""
    asked = resolve(config, trial, overrides, storage)
    from trainables.state import check_trainable

    check_trainable(asked)
    folder = SweepFolder(storage, name)
    with hold_lock(folder), Ledger(folder) as ledger:
        taken = {row["trial_id"] for row in ledger.trials()}
        trial_id = next(i for n in range(10_000) if (i := f"run{n:04d}") not in taken)
        run_trial(asked, folder, ledger, trial_id)


def resolve(
    config: Path | None, trial: str | None, overrides: list[str], storage: str
) -> TrialConfig:
    """The configuration from a YAML file, or of SWEEP/TRIAL in the storage, with overrides."""
    if (config is None) == (trial is None):
        raise ValueError("give either a CONFIG.yaml or --trial SWEEP/TRIAL")
    if config is not None:
        content = read_yaml(config)
    else:
        sweep, trial_id = split_trial(str(trial))
        content = json.loads(open_sweep(sweep, storage).trial(trial_id)["config_json"])
    return parse(TrialConfig, apply_overrides(content, overrides))


def run_trial(config: TrialConfig, folder: SweepFolder, ledger: Ledger, trial_id: str) -> None:
    """Train it, an epoch a line, and record how it ended; keep the weights of a completed run."""
    import torch

    from trainables.checkpoint import WEIGHTS, CheckpointFolder
    from trainables.state import TrainingState

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    state = TrainingState(config)
    trial = LiveTrial(
        trial_id,
        config,
        device=str(state.device),
        classes=state.data.num_classes,
        validation_images=len(state.data.validation_labels),
    )

    def put(outcome: Outcome, message: str | None = None) -> None:
        trial.outcome, trial.message = outcome, message
        ledger.put_trial(trial_row(trial))
        ledger.flush()

    put(Outcome.RUNNING)
    try:
        outcome, message = run_epochs(state, trial, ledger)
    except KeyboardInterrupt:
        put(Outcome.USER_STOPPED, "interrupted from the keyboard")
        raise SystemExit(130) from None
    except Exception as error:
        put(Outcome.FAILED, f"{type(error).__name__}: {error}")
        raise
    put(outcome, message)
    if outcome is not Outcome.COMPLETED:
        raise SystemExit(f"rts-search: {outcome}: {message}")
    checkpoints = folder.uri_of(f"checkpoints/{trial_id}")
    CheckpointFolder(checkpoints).save(WEIGHTS, state.weights())
    test = trial.history[-1]["test"]
    print(f"test accuracy {test['test_accuracy']:.4f}; weights in {checkpoints}/{WEIGHTS}")


def run_epochs(
    state: TrainingState, trial: LiveTrial, ledger: Ledger
) -> tuple[Outcome, str | None]:
    """Train to the end, or until the guard ends it; returns the outcome and the reason."""
    from trainables.guard import verdict
    from trainables.loop import train

    for metrics in train(trial.config, state):
        trial.history.append(asdict(metrics))
        ledger.add_epoch(epoch_row(trial.trial_id, trial.history[-1]))
        ledger.flush(max_age_seconds=5)
        print(
            f"epoch {metrics.epoch}/{metrics.total_epochs}  train loss {metrics.train_loss:.4f}"
            f"  val accuracy {metrics.val_accuracy:.4f}  lr {metrics.lr:.4g}"
            f"{'  perturbing' if metrics.perturbing else ''}"
        )
        data = state.data
        if ended := verdict(state.history, data.num_classes, len(data.validation_labels)):
            return Outcome(ended[0]), ended[1]
    return Outcome.COMPLETED, None
