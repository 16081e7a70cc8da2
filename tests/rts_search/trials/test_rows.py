"""Trials and epochs as rows: they fit the ledger's schema whatever the configuration."""

from __future__ import annotations

import math
import types
from dataclasses import asdict, fields
from typing import Any, Union, get_args, get_origin, get_type_hints

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from results.schema import EPOCHS, TRIALS, check_row, to_table
from rts_search.trials.rows import (
    config_columns,
    epoch_row,
    progress_columns,
    provenance_columns,
    step_values,
)
from trainables import metrics as reported
from trainables.config import FAMILIES, TrialConfig
from trainables.metrics import EpochMetrics, tail_mean

TEST = reported.TestMetrics(0.3, 0.9, 0.4, 0.8)
TRIGGERS = {
    "variance": {"name": "variance", "k": 20, "gamma": 0.1},
    "cosine": {"name": "cosine", "k": 5, "kappa": 0.3},
    "gap": {"name": "gap", "mu": 3.0, "period": 2, "baseline": "dynamic"},
    "epoch": {"name": "epoch", "epoch": 4},
    "fraction": {"name": "epoch", "fraction": 0.25},
    "always": {"name": "always"},
    "never": {"name": "never"},
}
RULES: dict[str, dict[str, Any]] = {
    **{family: {"family": family} for family in FAMILIES},
    "asam with rho": {"family": "asam", "rho": 0.7, "eta": 0.02},
    "moving": {
        "family": "rts",
        "radius": {"alpha_start": 100, "alpha_end": 0.5, "shape": "inverse"},
        "scale": {"strategy": "sin", "beta_min": 0, "beta_max": 1},
    },
    "after": {"family": "rts", "after": {"lr_factor": 0.3, "anneal": "own"}},
    **{name: {"family": "rts", "trigger": trigger} for name, trigger in TRIGGERS.items()},
}


def config(rule: dict[str, Any], **sections: Any) -> TrialConfig:
    return TrialConfig.model_validate({"optimizer": rule, **sections})


def metrics(epoch: int, **values: Any) -> EpochMetrics:
    plain: dict[str, Any] = {
        "epoch": epoch,
        "total_epochs": 40,
        "rung": 0,
        "lr": 0.1,
        "train_loss": 1.5,
        "train_accuracy": 0.5,
        "perturbed_loss": None,
        "loss_rise": None,
        "val_loss": 1.6,
        "val_accuracy": 0.4,
        "generalization_gap": 0.1,
        "radius": 1.0,
        "scale": 1.0,
        "perturbing": False,
        "trigger_statistic": None,
        "trigger_threshold": None,
        "trigger_epoch": None,
        "gradient_evaluations": 10 * epoch,
        "train_seconds": 2.0,
        "eval_seconds": 0.5,
        "epoch_seconds": 2.5,
        "images_per_second": 100.0,
        "peak_memory_bytes": None,
    }
    return EpochMetrics(**plain | values)


def columns(rule: dict[str, Any], **sections: Any) -> dict[str, Any]:
    """The config columns, once they have passed the schema."""
    found = config_columns(config(rule, **sections))
    row = {"sweep": "s", "trial_id": "t", "outcome": "running", "updated": None}
    assert set(found) <= set(TRIALS.names)
    stored = to_table([check_row(row | {"updated": _now()} | found, TRIALS)], TRIALS).to_pylist()[0]
    assert {key: stored[key] for key in found} == found
    return stored


def _now() -> Any:
    return epoch_row("t", asdict(metrics(1)))["time"]


@pytest.mark.parametrize("name", RULES)
def test_every_family_and_trigger_fits_the_schema(name: str) -> None:
    row = columns(RULES[name])
    assert TrialConfig.model_validate_json(row["config_json"]) == config(RULES[name])
    rule = config(RULES[name]).optimizer
    assert row["config_trigger"] == rule.trigger.name
    assert (row["config_radius_strategy"] is None) == (rule.family not in ("rts", "pugd"))
    assert (row["config_rho"] is None) == (rule.family not in ("sam", "asam"))
    assert (row["config_eta"] is None) == (rule.family != "asam")


def test_the_training_protocol_is_in_its_columns() -> None:
    row = columns(
        {"family": "sgd"},
        data={"name": "cifar10", "train_size": 500},
        model={"name": "resnet18", "args": {"stem": "imagenet"}, "pretrained": True},
        train={
            "epochs": 9,
            "batch_size": 64,
            "lr": 0.2,
            "momentum": 0.8,
            "weight_decay": 0.01,
            "nesterov": True,
            "seed": 7,
            "schedule_by": "epoch",
            "batch_norm": "freeze",
            "precision": "bf16",
        },
    )
    wanted = {
        "data": "cifar10",
        "train_size": 500,
        "model": "resnet18",
        "epochs": 9,
        "batch_size": 64,
        "lr": 0.2,
        "momentum": 0.8,
        "dampening": 0.0,
        "nesterov": True,
        "weight_decay": 0.01,
        "seed": 7,
        "schedule_by": "epoch",
        "batch_norm": "freeze",
        "precision": "bf16",
    }
    assert {key: row[f"config_{key}"] for key in wanted} == wanted


def test_schedules_are_told_in_beta_and_in_alpha() -> None:
    row = columns(RULES["moving"])
    assert (row["config_radius_strategy"], row["config_radius_shape"]) == ("isin", "inverse")
    assert (row["config_radius_beta_min"], row["config_radius_beta_max"]) == (0.01, 2.0)
    assert (row["config_radius_alpha_start"], row["config_radius_alpha_end"]) == (100.0, 0.5)
    assert (row["config_scale_strategy"], row["config_scale_shape"]) == ("sin", "plain")
    assert (row["config_scale_alpha_start"], row["config_scale_alpha_end"]) == (0.0, 1.0)


@pytest.mark.parametrize("name", TRIGGERS)
def test_a_trigger_has_its_own_columns_only(name: str) -> None:
    row, settings = columns(RULES[name]), dict(TRIGGERS[name])
    assert row["config_trigger"] == settings.pop("name")
    keys = [key for key in row if key.startswith("config_trigger_") and row[key] is not None]
    assert {key.removeprefix("config_trigger_"): row[key] for key in keys} == settings


def test_what_becomes_of_lr_at_the_firing_has_its_columns() -> None:
    keys = ("config_after_lr_factor", "config_after_anneal")
    told = {name: tuple(columns(RULES[name])[key] for key in keys) for name in RULES}
    assert told["after"] == (0.3, "own")
    assert told["rts"] == told["pugd"] == (1.0, "keep")
    assert told["sgd"] == told["sam"] == (None, None)


def test_sam_and_asam_tell_the_rho_in_effect() -> None:
    assert (columns(RULES["sam"])["config_rho"], columns(RULES["asam"])["config_rho"]) == (
        0.05,
        0.5,
    )
    row = columns(RULES["asam with rho"])
    assert (row["config_rho"], row["config_eta"]) == (0.7, 0.02)


ARROW = {
    bool: {pa.bool_()},
    int: {pa.int32(), pa.int64()},
    float: {pa.float64()},
    str: {pa.string()},
}
METRIC_TYPES = get_type_hints(EpochMetrics)


@pytest.mark.parametrize("name", [f.name for f in fields(EpochMetrics) if f.name != "test"])
def test_each_metric_has_its_column(name: str) -> None:
    hint = METRIC_TYPES[name]
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    kinds = [kind for kind in options if kind is not types.NoneType]
    assert len(kinds) == 1
    assert EPOCHS.field(name).type in ARROW[kinds[0]]
    assert EPOCHS.field(name).nullable or types.NoneType not in options


def test_epochs_has_no_column_that_no_metric_fills() -> None:
    filled = {f.name for f in fields(EpochMetrics)} - {"test"}
    assert set(EPOCHS.names) - filled == {"sweep", "trial_id", "time"}


def test_test_metrics_have_their_columns() -> None:
    for name in (f.name for f in fields(TEST)):
        kind = pa.string() if name == "test_hits" else pa.float64()
        assert TRIALS.field(name).type == kind
        assert name not in EPOCHS.names


@pytest.mark.parametrize("test", [None, TEST])
def test_an_epoch_is_a_row_of_epochs(test: Any) -> None:
    values = metrics(3, perturbed_loss=1.9, loss_rise=0.4, trigger_epoch=2, test=test)
    row = check_row({"sweep": "s"} | epoch_row("t0001", asdict(values)), EPOCHS)
    stored = to_table([row], EPOCHS).to_pylist()[0]
    assert stored["trial_id"] == "t0001"
    for field in fields(EpochMetrics):
        if field.name != "test":
            assert stored[field.name] == getattr(values, field.name)


def test_progress_is_what_the_epochs_say() -> None:
    accuracies = [0.1 + 0.02 * epoch for epoch in range(1, 37)] + [0.9, 0.5, 0.7, 0.9]
    history = [
        asdict(
            metrics(
                epoch,
                val_accuracy=accuracy,
                images_per_second=50.0 if epoch <= 20 else 100.0,
                train_seconds=2.0 if epoch <= 20 else 1.0,
                peak_memory_bytes=epoch if epoch != 40 else 7,
                shared=epoch < 5,
                trigger_epoch=5 if epoch > 4 else None,
            )
        )
        for epoch, accuracy in enumerate(accuracies, start=1)
    ]
    history[-1]["test"] = asdict(TEST)
    row = {"sweep": "s", "trial_id": "t", "outcome": "completed", "updated": _now()}
    found = progress_columns(history)
    check_row(row | found, TRIALS)
    assert found == {
        "epochs": 40,
        "gradient_evaluations": 400,
        "spent_epochs": 36,
        "spent_gradient_evaluations": 360,
        "spent_seconds": 90.0,
        "rung": 0,
        "final_val_accuracy": pytest.approx(0.8),  # of the last two epochs
        "best_val_accuracy": 0.9,
        "best_epoch": 37,  # the first of two
        "trigger_epoch": 5,
        "train_seconds": 60.0,
        "eval_seconds": 20.0,
        "epoch_seconds": 100.0,
        "images_per_second": pytest.approx(4000 / 60),
        "peak_memory_bytes": 39,
        "test_loss": 0.3,
        "test_accuracy": 0.9,
        "best_test_loss": 0.4,
        "best_test_accuracy": 0.8,
        "test_value": None,
    }


def test_progress_of_a_trial_that_has_not_begun_or_has_just() -> None:
    assert progress_columns([]) == {"epochs": 0}
    found = progress_columns([asdict(metrics(1, images_per_second=10.0))])
    assert (found["epochs"], found["final_val_accuracy"], found["best_epoch"]) == (1, 0.4, 1)
    assert found["peak_memory_bytes"] is None
    assert "test_accuracy" not in found


def test_provenance_fits_the_schema() -> None:
    row = {"sweep": "s", "trial_id": "t", "outcome": "running", "updated": _now()}
    found = provenance_columns()
    check_row(row | found, TRIALS)
    assert '"torch"' in found["versions"]
    assert "cores" in found["hardware"]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.integers(1, 500))
def test_tail_mean_is_that_of_the_last_twentieth(values: list[float], total: int) -> None:
    count = 1
    while (count + 1) * 20 <= total:
        count += 1
    tail = list(reversed(list(reversed(values))[:count]))
    assert tail_mean(values, total) == pytest.approx(sum(tail) / len(tail))
    assert min(tail) - 1e-12 <= tail_mean(values, total) <= max(tail) + 1e-12


def test_the_steps_of_a_trial_are_means_over_their_tails() -> None:
    short = [{"total_epochs": 3, "epoch": e, "val_loss": float(e)} for e in (1, 2, 3)]
    long = [{"total_epochs": 40, "epoch": e, "val_loss": float(e)} for e in range(1, 41)]
    assert step_values([*short, *long], "val_loss", True) == {3: 3.0, 40: 39.5}
    assert step_values([*short, *long[:-1]], "val_loss", True) == {3: 3.0}
    assert step_values(long[:3], "val_loss", False) == {1: 1.0, 2: 1.5, 3: 2.5}
    assert step_values([], "val_loss", False) == {}


def test_tail_mean_of_nan_is_nan() -> None:
    assert math.isnan(tail_mean([0.5, math.nan], 40))
    assert tail_mean([math.nan, 0.5], 20) == 0.5
