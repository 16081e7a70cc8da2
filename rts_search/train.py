"""`rts-search train`: one configuration in this process, with a sweep's loop and ledger."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results.ledger import Ledger, history
from results.meanings import Outcome
from results.schema import json_object
from results.storage import SweepFolder
from rts_search.driver.control import Control
from rts_search.driver.interrupt import signals_raise
from rts_search.driver.lock import LostError, hold_lock
from rts_search.spec.folder import SPEC
from rts_search.spec.model import objective_of
from rts_search.spec.reading import apply_overrides, parse, read_yaml
from rts_search.spec.trust import check_trust
from rts_search.sweep import Sweep, split_trial
from rts_search.trials.rows import epoch_row, final_value, progress_columns, trial_row
from rts_search.trials.trial import LiveTrial
from trainables.config import TrialConfig
from trainables.names import own_error, place

if TYPE_CHECKING:
    from trainables.state import RunState


def train_one(
    config: Path | None,
    trial: str | None,
    overrides: list[str],
    storage: str,
    name: str,
    threads: int | None = None,
    trust: bool = False,
) -> None:
    """Train to the end and keep the weights. Raises ValueError for a configuration that cannot."""
    asked, row = resolve(config, trial, overrides, storage, trust)
    folder = SweepFolder(storage, name)
    if folder.exists(SPEC):
        raise ValueError(
            f"{name!r} is a sweep in {storage}, whose trials are its own: give --name another"
        )
    from trainables.own.start import check_run

    for note in check_run(asked):
        print(note)
    with (
        signals_raise(),
        hold_lock(folder, print),
        Control(folder) as control,
        Ledger(control.confirmed()) as ledger,
    ):
        taken = {row["trial_id"] for row in ledger.trials()} | ledger.epoch_counts().keys()
        taken |= set(folder.list("checkpoints"))  # also of runs that the ledger has lost
        trial_id = next(i for n in range(10_000) if (i := f"run{n:04d}") not in taken)
        bury(ledger)
        set_threads(threads or row.get("threads"))
        guarded = row.get("control") is None and row.get("stage") is None
        objective = row.get("objective") or objective_of(asked.task)
        run_trial(asked, control, ledger, trial_id, guarded, objective)
    if row:
        print(f"next: rts-search best {shlex.quote(row['sweep'])} {shlex.quote(name)}")


def bury(ledger: Ledger) -> None:
    """The end of runs whose process left no last word: a single run does not go on."""
    for row in ledger.trials():
        if row["outcome"] != Outcome.RUNNING:
            continue
        epochs, objective = history(ledger.folder, row["trial_id"]), row["objective"]
        message = f"its process was lost after {len(epochs)} epochs, and its weights with it"
        kept = {key: value for key, value in row.items() if key not in ("sweep", "updated")}
        end = {"outcome": str(Outcome.FAILED), "message": message, "ended": row["updated"]}
        value = {"final_objective": final_value(epochs, objective)}
        ledger.put_trial(kept | progress_columns(epochs) | value | end)
        print(f"{row['trial_id']}: {message}; what it trained stays in the ledger")


def resolve(
    config: Path | None, trial: str | None, overrides: list[str], storage: str, trust: bool
) -> tuple[TrialConfig, dict[str, Any]]:
    """The configuration from a YAML file, or of SWEEP/TRIAL in the storage, with overrides; and the
    trial's row, empty for a file. Raises ValueError for a trial of another user without `trust`."""
    if (config is None) == (trial is None):
        raise ValueError("give either a CONFIG.yaml or --trial SWEEP/TRIAL")
    if config is not None:
        return parse(TrialConfig, apply_overrides(read_yaml(config), overrides)), {}
    sweep, trial_id = split_trial(str(trial))
    opened = Sweep.open(sweep, storage)
    row = opened.trial(trial_id)
    content = json_object(row["config_json"])
    if not content:
        raise ValueError(f"{trial} has no configuration in the ledger that could be trained")
    asked = parse(TrialConfig, apply_overrides(content, overrides))
    check_trust(opened.folder, asked, trust)
    return as_trained(asked, row), row


def as_trained(config: TrialConfig, row: Mapping[str, Any]) -> TrialConfig:
    """With the kind of device and the precision that the trial of this row had, where `auto` means
    others here. Raises ValueError if that kind of device is not here."""
    from trainables.state import precision_name, resolve_device, resolve_precision

    train, kind = config.train, str(row["device"] or "auto").partition(":")[0]
    if train.device == "auto" and resolve_device("auto").type != kind:
        try:
            resolve_device(kind)
        except ValueError:
            raise ValueError(
                f"{row['trial_id']} was trained on {kind}, which torch does not see here: add "
                "--set train.device=cpu (its results will differ a little)"
            ) from None
        train = train.model_copy(update={"device": kind})
    device = resolve_device(train.device)
    precision = row["precision"] if device.type == kind else None
    auto = precision_name(resolve_precision("auto", device))
    if train.precision == "auto" and precision not in (None, auto):
        train = train.model_copy(update={"precision": precision})
    return config.model_copy(update={"train": train})


def set_threads(threads: int | None) -> None:
    """So many, or as many as there are cores; sums are rounded in another order with others."""
    import torch

    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))


def run_trial(
    config: TrialConfig,
    control: Control,
    ledger: Ledger,
    trial_id: str,
    guarded: bool,
    objective: str,
) -> None:
    """Train it, an epoch a line, and record how it ended; keep the weights of a completed run."""
    import torch

    from trainables.checkpoint import WEIGHTS, CheckpointFolder, weights_of
    from trainables.own.start import new_run
    from trainables.state import precision_name

    state = new_run(config)
    trial = LiveTrial(
        trial_id,
        config,
        device=str(state.device),
        threads=torch.get_num_threads(),
        precision=precision_name(state.precision),
        classes=state.classes,
        validation_images=state.validation_images,
    )

    def put(outcome: Outcome, message: str | None = None) -> None:
        trial.outcome, trial.message = outcome, message
        ledger.put_trial(trial_row(trial, objective))
        ledger.flush()

    put(Outcome.RUNNING)
    try:
        outcome, message = run_epochs(state, trial, ledger, control, guarded)
    except KeyboardInterrupt as signal:
        put(Outcome.USER_STOPPED, str(signal))
        raise SystemExit(130) from None
    except LostError:
        raise
    except Exception as error:
        put(Outcome.FAILED, f"{type(error).__name__}: {error}")
        if place(config.code, error):
            what = "task" if config.task else "model"
            raise own_error(what, config.code, error) from error
        raise
    put(outcome, message)
    if outcome is not Outcome.COMPLETED:
        raise SystemExit(f"rts-search: {outcome}: {message}")
    checkpoints = control.folder.uri_of(f"checkpoints/{trial_id}")
    CheckpointFolder(checkpoints, control.claim).save(WEIGHTS, weights_of(state.state_dict()))
    test = trial.history[-1]["test"]
    told = [
        f"{name.replace('_', ' ')} {test[name]:.4f}; "
        for name in ("test_accuracy", "test_value")
        if test[name] is not None
    ]
    print(f"{''.join(told)}weights in {checkpoints}/{WEIGHTS}")


def run_epochs(
    state: RunState, trial: LiveTrial, ledger: Ledger, control: Control, guarded: bool
) -> tuple[Outcome, str | None]:
    """Train to the end, or until the guard ends it; returns the outcome and the reason. A control
    or a staged run that is repeated never counts as collapsed (`guarded`), as in its sweep."""
    from trainables.guard import verdict
    from trainables.own.start import train_run

    for metrics in train_run(state):
        trial.history.append(asdict(metrics))
        ledger.add_epoch(epoch_row(trial.trial_id, trial.history[-1]))
        control.poll()
        ledger.flush(max_age_seconds=5)
        print(
            f"epoch {metrics.epoch}/{metrics.total_epochs}  train loss {metrics.train_loss:.4f}"
            f"  {metrics.in_words}  lr {metrics.lr:.4g}"
            f"{'  perturbing' if metrics.perturbing else ''}"
        )
        if ended := verdict(state.history, state.chance if guarded else None):
            return Outcome(ended[0]), ended[1]
    return Outcome.COMPLETED, None
