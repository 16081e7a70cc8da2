"""Spaces for the tests of `SearchStudy`."""

from __future__ import annotations

from itertools import islice
from typing import Any

from optuna.trial import BaseTrial

from results.storage import SweepFolder
from rts_search.search.trunks import TRUNKS, Effects
from rts_search.spec.model import SweepSpec
from rts_search.stopping.stopper import make_stopper
from search_spaces.registry import get_space
from search_spaces.space import Space
from tests.contracts.sampler_contract import Search
from trainables.config import TrialConfig
from trainables.effect import trunk_of
from trainables.loop import train
from trainables.state import TrainingState
from trainables.trunk import Trunk, trunk_prefix

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


T = 12
BASE = TrialConfig.model_validate(
    {
        "data": {"name": "digits", "train_size": 200, "validation_fraction": 0.2},
        "model": {"name": "mlp"},
        "train": {"epochs": T, "batch_size": 40, "lr": 0.1, "device": "cpu"},
    }
)


def effects_in(folder: SweepFolder) -> Effects:
    spec = SweepSpec.model_validate({"train": BASE.train.model_dump(), "stop": {"policy": "none"}})
    return Effects(folder, make_stopper(spec), 1, {})


def train_trunk(folder: SweepFolder, epochs: int = T) -> None:
    """The SGD of `BASE`, as far as it is known to the sweep in this folder."""
    sgd = trunk_of(BASE)
    trunk = Trunk(folder.uri_of(TRUNKS), f"{trunk_prefix(sgd, 1, {})}cpu-fp32", 1e9)
    for _ in islice(train(sgd, TrainingState(sgd, watch_all=True), trunk=trunk), epochs):
        pass
