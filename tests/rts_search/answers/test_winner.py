"""`best --as`: the YAML is the configuration itself, and the Python trains as it was trained."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from results.query import find_trial
from rts_search.answers.winner import snippet
from rts_search.spec.reading import parse, read_yaml
from rts_search.spec.written import dump
from tests.rts_search.answers.recorded import PUGD, record, trial
from tests.rts_search.cli.calling import cli
from trainables.config import TrialConfig
from trainables.data import epoch_batches
from trainables.loop import evaluate
from trainables.loop import train as train_here
from trainables.state import TrainingState
from trainables.triggers import GapTrigger, TriggerConfig

ISIN = {"alpha_start": 10.0, "alpha_end": 0.5, "shape": "inverse"}
LATE = {"lr_factor": 0.3, "anneal": "own"}
OPTIMIZERS: dict[str, Any] = {
    "sgd": {"family": "sgd"},
    "never": {"radius": 2.0, "trigger": {"name": "epoch", "fraction": 1.0}},
    "pugd": PUGD,
    "sam": {"family": "sam"},
    "asam": {"family": "asam", "rho": 0.3},
    "schedules": {"radius": ISIN, "scale": {"strategy": "sin", "beta_min": 0.1, "beta_max": 1.0}},
    "from the start, lr": {"radius": 0.5, "after": LATE},
    "epoch": {"radius": ISIN, "scale": 0.0, "trigger": {"name": "epoch", "fraction": 0.5}},
    "epoch, own anneal": {"trigger": {"name": "epoch", "epoch": 3}, "after": LATE},
    "variance": {"trigger": {"name": "variance", "gamma": 100.0, "k": 2}, "after": LATE},
    "cosine": {"trigger": {"name": "cosine", "kappa": -1.0, "k": 2}},
    "gap": {"trigger": {"name": "gap", "mu": 0.01, "period": 1, "baseline": "dynamic"}},
}


class Batches:
    """A run's own, as a loader with a length."""

    def __init__(self, run: TrainingState) -> None:
        self.run = run

    def __len__(self) -> int:
        return self.run.steps_per_epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        run, train = self.run, self.run.config.train
        return epoch_batches(
            run.data, train.batch_size, run.generator, train.drop_last, run.memory_format
        )


@pytest.mark.parametrize("train", [{}, {"batch_norm": "freeze", "schedule_by": "epoch"}])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_snippet_trains_to_the_same_weights(name: str, train: dict[str, Any]) -> None:
    content = {
        "data": {"name": "digits", "train_size": 120, "test_size": 50},
        "model": {"name": "cnn", "args": {"width": 4}},
        "train": {"epochs": 6, "batch_size": 40, "device": "cpu", "nesterov": True, **train},
        "optimizer": OPTIMIZERS[name],
    }
    config = parse(TrialConfig, content)
    here, there = TrainingState(config), TrainingState(config)
    epochs = list(train_here(config, here))
    names: dict[str, Any] = {}
    code = "\n".join(snippet(config))
    exec(compile(code, name, "exec"), names)

    def validation_loss(model: torch.nn.Module) -> float:
        return evaluate(there, there.data.validation_images, there.data.validation_labels)[0]

    more = [validation_loss] if "validation_loss" in code else []
    torch.manual_seed(config.train.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        names["train"](there.model, functional.cross_entropy, Batches(there), *more)
    if config.optimizer.trigger.watches:
        assert epochs[-1].trigger_epoch in range(2, 7)  # it did fire
    assert ("perturbed()" in code) == any(epoch.perturbing for epoch in epochs)
    theirs = there.model.state_dict()
    for key, weights in here.model.state_dict().items():
        assert torch.equal(weights, theirs[key]), key


def test_a_trigger_of_ones_own_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TriggerConfig, "kinds", dict(TriggerConfig.kinds))

    class OwnTrigger(GapTrigger):
        name: Literal["own"] = "own"  # type: ignore[assignment]

    config = TrialConfig.model_validate({"optimizer": {"trigger": {"name": "own", "mu": 3.0}}})
    lines = snippet(config)
    assert f"from {__name__} import OwnTrigger" in lines
    assert "    trigger = OwnTrigger(mu=3.0).make(EPOCHS, steps)" in lines


@settings(max_examples=30, deadline=None)
@given(
    st.floats(1e-9, 1e9),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from(list(OPTIMIZERS)),
    st.text(max_size=20).map(lambda text: {"x": text}),
)
def test_the_yaml_is_the_configuration(
    lr: float, momentum: float, name: str, args: dict[str, str]
) -> None:
    content = {
        "model": {"args": args},
        "train": {"lr": lr, "momentum": momentum},
        "optimizer": OPTIMIZERS[name],
    }
    config = TrialConfig.model_validate(content)
    assert parse(TrialConfig, read_yaml(dump(config.model_dump(mode="json")))) == config


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    data = {"data": {"name": "digits", "train_size": 200, "test_size": 50}}
    best = {"train": {"epochs": 2, "batch_size": 60, "lr": 0.0123}, "precision": "fp32"}
    rows = [trial("t0", PUGD, 0.5, **data), trial("t1", PUGD, 0.9, seed=7, **data, **best)]
    record(tmp_path, "demo", rows)
    return tmp_path


def test_what_is_printed_can_be_trained_and_is_the_same(storage: Path) -> None:
    done = cli("best", "demo", "--as", "yaml", "--storage", storage)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("# demo/t1, the best of 2 by final_val_accuracy, 0.9000: pugd\n")
    file = storage / "winner.yaml"
    file.write_text(done.out)
    assert cli("train", file, "--storage", storage, "--name", "again").code == 0
    first, second = find_trial(str(storage), "t1", "demo"), find_trial(str(storage), "run0000")
    assert json.loads(first["config_json"]) == json.loads(second["config_json"])


def test_what_is_printed_is_python_alone(storage: Path) -> None:
    done = cli("best", "demo", "--as", "python", "--storage", storage)
    assert (done.code, done.err) == (0, "")
    names: dict[str, Any] = {}
    exec(compile(done.out, "snippet", "exec"), names)
    model = torch.nn.Linear(3, 2)
    before = model.weight.detach().clone()
    names["train"](model, functional.cross_entropy, [(torch.randn(5, 3), torch.arange(5) % 2)] * 3)
    assert not torch.equal(before, model.weight)
    assert "lr=0.0123" in done.out
    assert "batches of 60, seed 7, precision fp32" in done.out


def test_nothing_of_anothers_ledger_gets_into_the_code(storage: Path) -> None:
    words = "t9\nraise SystemExit('theirs')\r\x0c\u2028import os #"
    data = {"name": "a\nraise SystemExit('theirs'):b"}
    record(storage, "theirs", [trial("t0", PUGD, 0.9, data=data)])
    (part,) = (storage / "theirs/trials").glob("*.parquet")
    table = pq.read_table(part)
    for name in ("trial_id", "family", "precision"):
        index = table.column_names.index(name)
        table = table.set_column(index, table.schema.field(name), [[words]])
    pq.write_table(table, part)
    for form in ("python", "yaml"):
        done = cli("best", "theirs", "--as", form, "--storage", storage)
        assert (done.code, done.err) == (0, "")
        if form == "python":
            exec(compile(done.out, "snippet", "exec"), {})
            assert "raise" in done.out  # in a comment
        else:
            assert parse(TrialConfig, read_yaml(done.out)).data.name == data["name"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--as", "toml"], "unknown form of --as 'toml'"),
        (["--as", "yaml", "--json"], "--as prints one configuration: leave out --json"),
        (["--as", "yaml", "--where", "1=2"], "no trial has completed its whole schedule yet"),
        (["other", "--as", "yaml"], "not here: demo: data digits (200 images)"),
    ],
)
def test_mistakes_are_one_line(storage: Path, options: list[str], said: str) -> None:
    record(storage, "other", [trial("t0", PUGD, 0.9)])
    record(storage, "bare", [trial("t0", PUGD, 0.9) | {"config_json": None}])
    done = cli("best", "demo", *options, "--storage", storage)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert done.err.count("\n") == 1
    assert (
        "has no configuration in the ledger"
        in cli("best", "bare", "--as", "python", "--storage", storage).err
    )
