"""Searches for the tests of `SearchStudy`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import BaseTrial

from rts_search.search.study import Proposal, SearchStudy
from search_spaces.registry import get_space
from search_spaces.space import Space

SPACE = get_space("rts")


def ask(study: SearchStudy) -> Proposal:
    proposal = study.ask()
    assert proposal is not None
    return proposal


def states(study: SearchStudy) -> list[str]:
    return [trial.state for trial in study.trials()]


def as_optuna_reads_it(folder: Path) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(folder / "optuna.journal")))
    return optuna.load_study(study_name=None, storage=storage)


def lr_space(
    low: float = 0.01, high: float = 1.0, batches: tuple[int, ...] = (50, 100, 200)
) -> Space:
    def suggest(trial: BaseTrial) -> dict[str, Any]:
        return {
            "train": {
                "lr": trial.suggest_float("lr", low, high, log=True),
                "momentum": trial.suggest_float("momentum", 0.0, 0.9),
                "batch_size": trial.suggest_categorical("batch", list(batches)),
            }
        }

    return Space("mine", "", suggest)


def branches(triggers: tuple[str, ...] = ("variance", "gap"), gamma: float = 1.0) -> Space:
    def suggest(trial: BaseTrial) -> dict[str, Any]:
        name = trial.suggest_categorical("trigger", list(triggers))
        if name == "variance":
            found = {"name": name, "gamma": trial.suggest_float("gamma", 0.01, gamma)}
        else:
            found = {"name": name, "mu": trial.suggest_float("mu", 1.0, 4.0)}
        lr = trial.suggest_float("lr", 0.01, 1.0, log=True)
        return {"train": {"lr": lr}, "optimizer": {"trigger": found}}

    return Space("mine", "", suggest)


def run(study: SearchStudy, trials: int) -> list[Proposal]:
    proposals = [ask(study) for _ in range(trials)]
    for proposal in proposals:
        study.complete(proposal.number, -abs(proposal.params["lr"] - 0.3))
    return proposals
