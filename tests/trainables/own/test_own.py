"""Training functions of one's own: trained as the built-in loop does, resumed to the bit, and
refused in one line where they do not keep to their part."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from rts_search import searchable
from tests.trainables.own import tasks
from tests.trainables.test_tune import results, runner, timeless
from trainables.checkpoint import WEIGHTS, pack, unpack
from trainables.config import TaskConfig, TrialConfig
from trainables.guard import verdict
from trainables.loop import train
from trainables.metrics import EpochMetrics
from trainables.own.run import OwnRun, train_own
from trainables.own.start import check_run, new_run, train_run
from trainables.own.task import load_task
from trainables.state import TrainingState
from trainables.weights import image_model

RULES: list[dict[str, Any]] = [
    {"family": "sgd"},
    {"family": "pugd"},
    {"family": "sam"},
    {"family": "asam"},
    {"radius": {"alpha_start": 2, "alpha_end": 0.1}},
    {"trigger": {"name": "epoch", "epoch": 3}, "after": {"lr_factor": 2.0, "anneal": "own"}},
    {"trigger": {"name": "cosine", "kappa": 0.9}},
]
SAME = ("lr", "radius", "scale", "perturbing", "trigger_epoch", "trigger_statistic")


def config(function: str, **changes: Any) -> TrialConfig:
    content = {
        "task": {"name": f"{tasks.__name__}:{function}", "objective": "mse"},
        "train": {"epochs": 4, "batch_size": 50, "drop_last": True, "device": "cpu"},
    }
    return TrialConfig.model_validate(content | changes)


def trained(config: TrialConfig) -> tuple[OwnRun, list[EpochMetrics]]:
    run = OwnRun(config)
    return run, list(train_own(run))


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_it_is_trained_as_the_built_in_loop_trains(rule: dict[str, Any]) -> None:
    task = {"name": f"{tasks.__name__}:digits"}
    run, found = trained(config("digits", task=task, optimizer=rule))
    built_in = run.config.model_copy(
        update={"task": None, "data": tasks.DATA, "model": tasks.MODEL}
    )
    state = TrainingState(built_in)
    wanted = list(train(built_in, state))
    for name, tensor in state.model.state_dict().items():
        assert torch.equal(run.model.state_dict()[name], tensor), name
    for ours, theirs in zip(found, wanted, strict=True):
        assert [getattr(ours, name) for name in SAME] == [getattr(theirs, name) for name in SAME]
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-6)
        assert (ours.perturbed_loss is None) == (theirs.perturbed_loss is None)
        assert ours.gradient_evaluations == theirs.gradient_evaluations


@pytest.mark.parametrize("cut", [1, 2, 3])
@pytest.mark.parametrize("rule", [RULES[1], RULES[5]], ids=str)
def test_a_run_that_was_cut_off_goes_on_to_the_bit(cut: int, rule: dict[str, Any]) -> None:
    asked = config("line", optimizer=rule)
    whole, wanted = trained(asked)
    first = OwnRun(asked)
    begun = train_own(first)
    before = [next(begun) for _ in range(cut)]
    saved = unpack(pack(first.state_dict()))
    begun.close()
    torch.rand(7)  # the worker did something else
    second = OwnRun(asked)
    second.load_state_dict(saved)
    assert second.epochs_done == cut
    after = list(train_own(second))
    told = [timeless(asdict(metrics)) for metrics in (*before, *after)]
    assert told == [timeless(asdict(metrics)) for metrics in wanted]
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], tensor), name
    assert torch.equal(second.kept["scale"].bias, whole.kept["scale"].bias)


def test_a_function_that_keeps_other_things_by_now_is_refused() -> None:
    run = OwnRun(config("line"))
    next(train_own(run))
    saved = run.state_dict() | {"kept": {}}
    again = OwnRun(config("line"))
    again.load_state_dict(saved)
    with pytest.raises(ValueError, match=r"holds \[\] beside the model, and the function keeps"):
        next(train_own(again))


def test_what_it_yields_is_told(tmp_path: Path) -> None:
    _, found = trained(config("line"))
    first, last = found[0], found[-1]
    others = json.loads(first.metrics or "")
    assert others.keys() == {"mse", "bias", "epoch_seen"}
    assert others["epoch_seen"] == 1
    assert first.value == others["mse"] == first.val_loss
    assert first.generalization_gap == pytest.approx((first.val_loss or 0) - first.train_loss)
    assert first.val_accuracy is None
    assert first.images_per_second is None
    assert first.test is None
    assert last.test is not None
    assert last.test.test_value == pytest.approx(2 * (last.value or 0))
    lower = list(train_own(OwnRun(config("line")), final=False))  # a rung below T
    assert lower[-1].test is None
    assert "test_mse" not in (lower[-1].metrics or "")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("unprepared", "rts.prepare(model, steps_per_epoch=…) comes before rts.epochs()"),
        ("no steps", "steps_per_epoch 0 must be at least 1"),
        ("twice", "rts.prepare is called once"),
        ("outside", "rts.step belongs into the loop"),
        ("early", "yielded outside of the loop"),
        ("short", "ended after 1 of 4 epochs"),
        ("silent", "nothing was yielded after epoch 1"),
        ("few", "epoch 1 had 1 steps, not the 2"),
        ("many", "epoch 1 has more than the 2 steps"),
        ("no dict", "0.5 was yielded: a dict of metrics is needed"),
        ("text", "metric 'mse' is '0.5': names are words, and values numbers"),
        ("name", "metric 'val mse' is 1.0"),
        ("several", "metric 'mse' is tensor([1., 1.])"),
        ("taken", "metric 'lr' has a meaning already"),
        ("test", "'test_mse' was yielded after epoch 1: the test set is looked at once"),
        ("other", "objective 'mse' was not yielded, but rmse"),
    ],
)
def test_a_function_that_does_not_keep_to_its_part(how: str, said: str) -> None:
    task = {"name": f"{tasks.__name__}:faulty", "objective": "mse", "args": {"how": how}}
    asked = config("faulty", task=task)
    with pytest.raises(ValueError, match=r".") as found:
        trained(asked)
    assert said in str(found.value)
    assert "\n" not in str(found.value)


def test_a_trigger_that_watches_the_gap_needs_it() -> None:
    rule = {"trigger": {"name": "gap", "mu": 1}}
    task = {"name": f"{tasks.__name__}:faulty", "objective": "mse", "args": {"how": "well"}}
    with pytest.raises(ValueError, match="trigger gap watches val_loss, which was not yielded"):
        trained(config("faulty", task=task, optimizer=rule))


def test_what_is_no_number_has_diverged() -> None:
    task = {"name": f"{tasks.__name__}:faulty", "objective": "mse", "args": {"how": "nan"}}
    run = OwnRun(config("faulty", task=task))
    next(train_own(run))
    assert verdict(run.history, run.chance) == ("diverged", "value is nan at epoch 1")


def test_only_generators_are_searchable() -> None:
    with pytest.raises(TypeError, match="is no generator: it must yield"):
        searchable(lambda rts: iter([{}]))
    with pytest.raises(TypeError, match="takes nothing"):

        @searchable
        def alone() -> Any:
            yield {}


@pytest.mark.parametrize(
    ("name", "args", "said"),
    [
        (f"{tasks.__name__}:lines", {}, "did you mean 'line'?"),
        (f"{tasks.__name__}:prepare", {}, "is not searchable: put @rts_search.searchable"),
        (f"{tasks.__name__}:line", {"slop": 1}, "unexpected keyword argument 'slop'"),
        (f"{tasks.__name__}:faulty", {}, "missing a required argument: 'how'"),
        ("no_such_module:line", {}, "cannot import 'no_such_module'"),
    ],
)
def test_a_task_is_checked_before_it_runs(name: str, args: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=r".") as found:
        load_task(TaskConfig(name=name, args=args))
    assert said in str(found.value)
    with pytest.raises(ValueError, match=r"."):
        check_run(config("line", task={"name": name, "args": args}))


def test_it_is_tried_without_a_sweep() -> None:
    settings = {"train": {"epochs": 2, "device": "cpu"}, "optimizer": {"family": "pugd"}}
    asked = {"objective": "mse", "args": {"slope": 3.0}}
    told = list(tasks.line.train(task=asked, **settings))
    assert [metrics.epoch for metrics in told] == [1, 2]
    assert all(metrics.perturbing for metrics in told)
    with pytest.raises(ValueError, match="unexpected keyword argument"):
        tasks.line.train(task={"args": {"slop": 3.0}}, **settings)


def test_a_worker_trains_it_at_every_rung_and_after_its_loss(tmp_path: Path) -> None:
    asked = config("line", optimizer=RULES[5])
    told = {"objective": "value"}
    whole = [r["epochs"][-1] for r in results(runner(tmp_path / "whole", asked, **told))]
    alone = [
        asdict(metrics)
        for rung, epochs in ([0, 1], [1, 2], [2, 4])
        for metrics in train_run(new_run(asked.at_length(epochs)), rung, epochs == 4)
    ]
    assert list(map(timeless, whole)) == list(map(timeless, alone))
    cut = results(runner(tmp_path / "cut", asked, **told))
    before = [next(cut)["epochs"][-1] for _ in range(5)]
    after = [r["epochs"][-1] for r in results(runner(tmp_path / "cut", asked, **told))]
    assert list(map(timeless, (*before[:-1], *after))) == list(map(timeless, whole))
    content = (tmp_path / "cut" / "t0000" / WEIGHTS).read_bytes()
    assert unpack(content)["final"].keys() == {"0.weight", "0.bias", "3.weight", "3.bias"}
    with pytest.raises(ValueError, match="whose model is its own: build it"):
        image_model(content, "weights.pt")
