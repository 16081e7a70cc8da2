"""Configurations: what is consistent, what is refused, and that they survive JSON."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from trainables.config import FAMILIES, OptimizerConfig, TrainConfig, TrialConfig
from trainables.schedules import Schedule
from trainables.triggers import EpochTrigger


def optimizer(**values: Any) -> OptimizerConfig:
    return OptimizerConfig.model_validate(values)


def test_each_family_has_its_trigger() -> None:
    triggers = {family: optimizer(family=family).trigger.name for family in FAMILIES}
    assert triggers == {
        "sgd": "never",
        "pugd": "always",
        "rts": "always",
        "sam": "always",
        "asam": "always",
    }


@pytest.mark.parametrize(
    ("values", "rho"),
    [
        ({"family": "sam"}, 0.05),
        ({"family": "asam"}, 0.5),
        ({"family": "sam", "rho": 0.2}, 0.2),
        ({"family": "asam", "rho": 0.2}, 0.2),
    ],
)
def test_rho_is_the_papers_unless_given(values: dict[str, Any], rho: float) -> None:
    assert optimizer(**values).effective_rho == rho


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"family": "sgd", "trigger": {"name": "always"}}, "sgd has the trigger never"),
        ({"family": "pugd", "trigger": {"name": "never"}}, "pugd has the trigger always"),
        ({"family": "sam", "trigger": {"name": "variance"}}, "sam has the trigger always"),
        ({"family": "pugd", "radius": 2}, "pugd has radius 1 and scale 1; use family rts"),
        ({"family": "sgd", "scale": 2}, "sgd has radius 1 and scale 1"),
        (
            {"family": "pugd", "after": {"lr_factor": 2}},
            "after belongs to family rts, not to .*pugd",
        ),
        (
            {"family": "sgd", "after": {"anneal": "own"}},
            "after belongs to family rts, not to .*sgd",
        ),
        ({"family": "sam", "after": {"lr_factor": 2}}, "after belongs to family rts, not to .*sam"),
        ({"after": {"lr_factor": 0}}, "greater than 0"),
        ({"after": {"lr_factor": 1001}}, "less than or equal to 1000"),
        ({"after": {"lr_factor": float("inf")}}, "finite number"),
        ({"after": {"anneal": "restart"}}, "'keep' or 'own'"),
        ({"family": "rts", "rho": 0.1}, "rho belongs to sam and asam, not to family rts"),
        ({"family": "sam", "rho": 0}, "greater than 0"),
        ({"trigger": {"name": "epoch"}}, "needs either epoch or fraction"),
        ({"trigger": {"name": "epoch", "epoch": 2, "fraction": 0.1}}, "either epoch or fraction"),
        ({"trigger": {"name": "variance", "gamma": 0}}, "greater than 0"),
        ({"trigger": {"name": "cosine", "kappa": 1.1}}, "less than or equal to 1"),
        ({"trigger": {"name": "gap", "k": 3}}, "Extra inputs"),
    ],
)
def test_inconsistent_optimizers_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        optimizer(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"nesterov": True, "momentum": 0},
        {"nesterov": True, "dampening": 0.1},
        {"epochs": 0},
        {"batch_size": 0},
        {"lr": 0},
        {"lr": float("nan")},
        {"lr": float("inf")},
        {"momentum": 1},
        {"weight_decay": -1},
        {"weight_decay": float("inf")},
        {"seed": -1},
        {"precision": "fp8"},
        {"channels_last": "maybe"},
        {"learning_rate": 0.1},
    ],
)
def test_bad_training_settings_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TrainConfig.model_validate(values)


def test_the_defaults_are_the_papers_protocol() -> None:
    config = TrialConfig()
    train = config.train
    assert (train.lr, train.momentum, train.weight_decay, train.seed) == (0.1, 0.9, 5e-4, 42)
    assert (train.nesterov, train.dampening, train.schedule_by) == (False, 0.0, "step")
    assert config.optimizer == optimizer(family="rts", radius=1, scale=1)


@pytest.mark.parametrize("epochs", [1, 3, 81])
def test_a_shorter_schedule_keeps_what_becomes_of_lr(epochs: int) -> None:
    rule = {"trigger": {"name": "epoch", "epoch": 10}, "after": {"lr_factor": 3, "anneal": "own"}}
    config = TrialConfig.model_validate({"optimizer": rule, "train": {"epochs": 27}})
    short = config.at_length(epochs).optimizer
    assert short.after == config.optimizer.after
    assert short.trigger == EpochTrigger(fraction=1 / 3)


def test_a_configuration_is_frozen_hashable_where_plain_and_survives_json() -> None:
    config = TrialConfig.model_validate(
        {
            "data": {"name": "fashion_mnist", "train_size": 1000, "rotation": 0},
            "model": {"name": "cnn", "args": {"width": 8}, "pretrained": "weights.pt"},
            "train": {"epochs": 9, "channels_last": True, "precision": "bf16"},
            "optimizer": {
                "radius": {"alpha_start": 100, "alpha_end": 0.5, "shape": "inverse"},
                "trigger": {"name": "gap", "baseline": "dynamic"},
            },
        }
    )
    assert TrialConfig.model_validate_json(config.model_dump_json()) == config
    assert TrialConfig.model_validate(config.model_dump()) == config
    assert config.optimizer.radius == Schedule.from_alpha(100, 0.5, "inverse")
    assert hash(config.data) == hash(config.data.model_copy())
    with pytest.raises(ValidationError, match="frozen"):
        config.train.lr = 0.2  # type: ignore[misc]
