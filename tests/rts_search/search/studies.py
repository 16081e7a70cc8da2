"""Spaces for the tests of `SearchStudy`."""

from __future__ import annotations

from typing import Any

from optuna.trial import BaseTrial

from search_spaces.registry import get_space
from search_spaces.space import Space
from tests.contracts.sampler_contract import Search

SPACE = get_space("rts")


def states(search: Search) -> list[str]:
    return [trial.state.name.lower() for trial in search.study.trials()]


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
