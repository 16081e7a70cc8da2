"""Ledgers with all that a report shows, as a search and its claims leave them, without training."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from results.ledger import Ledger
from results.storage import SweepFolder
from rts_search.search.edges import plain_ranges
from rts_search.spec.claim import Arm, Claim, Seeds, write_claim
from rts_search.spec.folder import write_spec
from rts_search.spec.model import SweepSpec
from rts_search.sweep import Sweep
from tests.results.builders import epoch_row
from tests.rts_search.answers.recorded import trial
from trainables.config import TrialConfig

T = 9
SPEC = {
    "data": {"name": "digits", "train_size": 300},
    "model": {"name": "mlp"},
    "train": {"epochs": T},
    "space": "switch",
    "search": {"trials": 30},
    "stop": {"policy": "asha", "eta": 3, "first_rung": 3},
}
ENDS = {3: "stopped", 7: "stopped", 11: "stopped", 15: "diverged", 19: "failed", 23: "running"}
WORDS = "no memory is left"


def reported(storage: Path, name: str = "r", text: str = WORDS, trials: int = 30) -> Sweep:
    """A sweep that has not ended. The later a trial fires, the better it is; nothing else matters.
    `text` is what failed trials say, and stands wherever a ledger may hold words of others."""
    spec = SweepSpec.model_validate({**SPEC, "name": name, "storage": str(storage)})
    write_spec(spec.folder, spec, ranges=plain_ranges(spec))
    with Ledger(spec.folder) as ledger:
        for number in range(trials):
            put(ledger, f"t{number:04d}", number, text)
        for control, value in (("sgd", 0.7), ("pugd", 0.72)):
            own = {"control": control, "epochs": T, "spent_epochs": T, "host": text}
            ledger.put_trial(trial(control, {"family": control}, value, train={"epochs": T}, **own))
            add_epochs(ledger, control, value, T, 1 if control == "pugd" else None)
    return Sweep(spec.folder)


def put(ledger: Ledger, name: str, number: int, text: str) -> None:
    """A trial that fires at 1 to T, or never."""
    firing = 1 + number * 7 % (T + 1)
    first = firing if firing <= T else None
    outcome = ENDS.get(number, "completed")
    epochs = T if outcome == "completed" else 3
    radius = 10 ** (number * 11 % 30 / 10 - 1)
    value = 0.6 + 0.02 * firing + 0.001 * (number * 13 % 5) if outcome == "completed" else 0.2
    rule = {
        "radius": radius,
        "trigger": {"name": "epoch", "epoch": firing} if first else {"name": "variance"},
    }
    params: dict[str, Any] = {"radius_alpha_start": radius, "trigger_fraction": firing / 10}
    params |= {"radius_shape": ["plain", "inverse"][number % 2]}
    params |= {text: text} if number % 3 == 0 and text != WORDS else {}
    more = {
        "params": json.dumps(params),
        "epochs": epochs,
        "trigger_epoch": first,
        "message": text if outcome == "failed" else None,
        "stopped_rung": 0 if outcome == "stopped" else None,
        "audited": number % 10 == 0,
        "outcome": outcome,
        "validation_images": 60,
        "classes": 10,
        "hardware": text,
        "versions": json.dumps({text: text}),
    }
    if text != WORDS and number % 5 == 0:
        more |= {"config_trigger": text, "family": text, "source": text}
    ledger.put_trial(trial(name, rule, value, train={"epochs": T}, **more))
    add_epochs(ledger, name, value, epochs, first, radius)


def add_epochs(
    ledger: Ledger, name: str, end: float, epochs: int, first: int | None, radius: float = 1
) -> None:
    for epoch in range(1, epochs + 1):
        on = first is not None and epoch >= first
        told = {
            "val_accuracy": end * epoch / epochs,
            "val_loss": 1 - end * epoch / epochs,
            "train_loss": 0.5,
            "generalization_gap": 0.5 - end * epoch / epochs,
            "lr": 0.1 * math.cos(math.pi * epoch / 20),
            "radius": radius / epoch,
            "scale": 1.0,
            "perturbing": on,
            "trigger_epoch": first,
            "loss_rise": 0.01 * radius if on else None,
            "gradient_evaluations": epoch * 3 + 3 * on,
        }
        ledger.add_epoch(epoch_row(name, epoch, **{**told, "total_epochs": T}))


def claim_in(folder: SweepFolder, text: str = "t0008 beats every baseline") -> Claim:
    """A claim that has come to its end."""
    claim = Claim(
        sweep=folder.name,
        candidates={"t0008": Arm(chosen="the best", tried=30, config=TrialConfig())},
        baselines={"sgd": Arm(chosen="the best of 3", tried=3, config=TrialConfig())},
        seeds=Seeds(pick=[], blocks=[[1, 2, 3, 4, 5]]),
        written="2026-01-01T00:00:00+00:00",
    )
    found = {"candidate": "t0008", "baseline": "sgd", "n": 5, "verdict": "established"}
    found |= {"difference": 0.0062, "low": 0.0031, "high": 0.0093}
    verdicts = {
        "headline": text,
        "sentences": [f"established: {text}"],
        "comparisons": [found],
        "runs": 10,
        "gradient_evaluations": 12345,
        "spent_gradient_evaluations": 12000,
    }
    write_claim(folder, claim, verdicts)
    return claim
