"""A trial in its worker: it climbs complete schedules, and goes on wherever it was cut off."""

from __future__ import annotations

import itertools
import json
import os
import resource
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from ray import cloudpickle

from rts_search.trials.failures import explain_failure
from trainables.checkpoint import STATE, WEIGHTS, unpack
from trainables.config import DataConfig, ModelConfig, OptimizerConfig, TrainConfig, TrialConfig
from trainables.loop import train
from trainables.tune import Assignment, TrialRunner, package_fingerprints

CLIMB = [[0, 1], [1, 2], [2, 4]]
TIMES = ("train_seconds", "eval_seconds", "epoch_seconds", "images_per_second")


def config(**optimizer: Any) -> TrialConfig:
    return TrialConfig.model_validate(
        {
            "data": {"name": "digits", "train_size": 200},
            "model": {"name": "mlp", "args": {"width": 8}},
            "train": {"epochs": 4, "batch_size": 50},
            "optimizer": {"family": "rts", **optimizer},
        }
    )


def claim(tmp_path: Path, key: str = "ours") -> tuple[str, str]:
    """What the driver of a sweep has written there."""
    tmp_path.mkdir(parents=True, exist_ok=True)
    (tmp_path / "driver.json").write_text(json.dumps({"key": key}))
    return str(tmp_path / "driver.json"), "ours"


def runner(tmp_path: Path, config: TrialConfig, **changes: Any) -> TrialRunner:
    assignment = Assignment(
        sweep="s",
        trial_id="t0000",
        number=0,
        words="rts",
        config=config.model_dump_json(),
        climb=CLIMB,
        checkpoints=str(tmp_path / "t0000"),
        claim=claim(tmp_path),
        checkpoint_seconds=0,
        patience_seconds=60,
        objective="val_accuracy",
        threads=1,
        gpus=0,
        row="{}",
        packages=package_fingerprints(),
    )
    return TrialRunner({"assignment": asdict(assignment) | changes})


def results(found: TrialRunner) -> Iterator[dict[str, Any]]:
    done = False
    while not done:
        result = found.step()
        done = result["done"]
        yield result


def timeless(metrics: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metrics.items() if key not in TIMES}


def test_each_rung_is_a_complete_schedule_trained_afresh(tmp_path: Path) -> None:
    trial = config(trigger={"name": "epoch", "epoch": 3}, radius={"alpha_start": 2, "alpha_end": 1})
    found = [result["epochs"][-1] for result in results(runner(tmp_path, trial))]
    alone = [
        asdict(metrics)
        for rung, epochs in CLIMB
        for metrics in train(trial.at_length(epochs), rung=rung, final=epochs == 4)
    ]
    assert list(map(timeless, found)) == list(map(timeless, alone))
    assert [(row["rung"], row["epoch"]) for row in found] == [
        *((0, 1), (1, 1), (1, 2)),
        *((2, 1), (2, 2), (2, 3), (2, 4)),
    ]
    # the fixed epoch 3 of 4, half of the way, is the second of 2 and the first of 1
    assert [row["perturbing"] for row in found] == [True, False, True, False, False, True, True]
    assert [row["test"] is not None for row in found] == [False] * 6 + [True]


def test_the_objective_is_the_mean_over_the_tail_until_each_epoch(tmp_path: Path) -> None:
    trial, climb = config(), [[0, 2], [1, 40]]
    found = list(results(runner(tmp_path, trial, climb=climb, objective="val_loss")))
    values = [result["epochs"][-1]["val_loss"] for result in found]
    assert [result["objective"] for result in found[:3]] == values[:3]  # of 2 epochs a tail of 1
    pairs = [(a + b) / 2 for a, b in itertools.pairwise(values[2:])]
    assert [result["objective"] for result in found[3:]] == pytest.approx(pairs)


@pytest.mark.parametrize("died_after", range(1, 7))
def test_a_lost_worker_is_replaced_without_a_trace(tmp_path: Path, died_after: int) -> None:
    whole = list(results(runner(tmp_path / "whole", config())))
    first = results(runner(tmp_path / "cut", config()))
    before = [next(first) for _ in range(died_after)]
    after = list(results(runner(tmp_path / "cut", config())))
    # the newest epoch is reported again: the driver may not have said whether to go on
    assert after[0]["epochs"][-1] == before[-1]["epochs"][-1]
    assert after[0]["epochs"][:-1] == [result["epochs"][-1] for result in before[:-1]]
    assert not any(result["epochs"][:-1] for result in after[1:])
    assert [timeless(r["epochs"][-1]) for r in (*before[:-1], *after)] == [
        timeless(r["epochs"][-1]) for r in whole
    ]
    assert [r["objective"] for r in after] == [r["objective"] for r in whole[died_after - 1 :]]


def test_the_end_of_a_completed_run_is_reported_again(tmp_path: Path) -> None:
    last = list(results(runner(tmp_path, config())))[-1]
    (again,) = results(runner(tmp_path, config()))
    assert again["epochs"][-1] == last["epochs"][-1]
    assert (again["outcome"], again["done"]) == ("completed", True)
    assert len(again["epochs"]) == 7


def damaged(state: Path) -> Iterator[None]:
    """A checkpoint in each of the ways in which it may be no checkpoint of the trial."""
    whole = state.read_bytes()
    saved = unpack(whole)

    def save(**changes: Any) -> None:
        torch.save(saved | changes, state)

    for content in (b"", whole[: len(whole) // 2], b"noise" * 99, bytes(len(whole))):
        yield state.write_bytes(content) and None
    for run in ({}, saved["run"] | {"config": "{}"}, saved["run"] | {"model": {}}):
        yield save(run=run)
    for place in (-1, 0, 3, 10**30, None, "1"):
        yield save(place=place)
    row = saved["climbed"][0]
    for climbed in ([], [row, row], [row | {"val_loss": "x"}], [{}], None):
        yield save(climbed=climbed)
    yield torch.save([1], state)
    state.unlink()
    yield state.mkdir()
    state.rmdir()
    yield os.mkfifo(state)


def test_a_damaged_checkpoint_is_left_aside_and_the_trial_begins_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = list(results(runner(tmp_path / "whole", config())))
    first = results(runner(tmp_path / "cut", config()))
    for _ in range(3):
        next(first)
    for _ in damaged(tmp_path / "cut" / "t0000" / "state.pt"):
        caplog.clear()
        again = runner(tmp_path / "cut", config(), checkpoint_seconds=1000).step()
        assert timeless(again["epochs"][-1]) == timeless(whole[0]["epochs"][-1])
        assert len(again["epochs"]) == 1
        (line,) = caplog.messages
        assert "state.pt is left aside: " in line
        assert "\n" not in line


@pytest.mark.parametrize("number", [0, None])
def test_a_control_never_collapses(tmp_path: Path, number: int | None) -> None:
    stuck = config().model_copy(update={"train": TrainConfig(epochs=8, batch_size=50, lr=1e-9)})
    stuck = stuck.model_copy(update={"optimizer": OptimizerConfig(family="pugd")})
    data = DataConfig(name="digits", train_size=1000)
    stuck = stuck.model_copy(update={"data": data})
    found = list(results(runner(tmp_path, stuck, climb=[[0, 8]], number=number)))
    assert found[-1]["outcome"] == ("completed" if number is None else "collapsed")
    assert len(found) == (8 if number is None else 5)


THEIRS = """
from torch import nn
class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.head = nn.Linear(64, classes)
    def forward(self, x):
        if self.training:
            raise KeyError("bug")
        return self.head(x.flatten(1))
def net(num_classes, image_shape):
    return Net(num_classes)
"""


def test_an_error_in_a_users_model_names_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_net.py").write_text(THEIRS)
    monkeypatch.syspath_prepend(tmp_path)
    theirs = config().model_copy(update={"model": ModelConfig(name="their_net:net")})
    with pytest.raises(KeyError) as caught:
        runner(tmp_path, theirs).step()
    as_the_driver_has_it = cloudpickle.loads(cloudpickle.dumps(caught.value))
    line = f"KeyError: 'bug' ({tmp_path}/their_net.py, line 9)"
    assert explain_failure(as_the_driver_has_it) == ("failed", line)


@contextmanager
def full_disk() -> Iterator[Callable[[], None]]:
    """No file may be larger than a kilobyte, until what is given is called."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_takes_nothing_costs_the_checkpoint_and_not_the_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.tune.STORAGE_SECONDS", 0.0)
    with full_disk():
        found = list(results(runner(tmp_path, config())))
    assert [result["outcome"] for result in found] == ["running"] * 6 + ["completed"]
    assert not (tmp_path / "t0000" / "state.pt").exists()
    assert list((tmp_path / "t0000").iterdir()) == []  # nor half a file that takes room


def test_weights_wait_until_there_is_room(tmp_path: Path) -> None:
    found = runner(tmp_path, config(), patience_seconds=1)  # for an epoch, and not for the disk
    epochs = results(found)
    for _ in range(6):
        next(epochs)
    with full_disk() as room_again:
        threading.Timer(3.0, room_again).start()
        began = time.monotonic()
        last = next(epochs)
    assert last["outcome"] == "completed"
    assert time.monotonic() - began > 2.9
    assert found.folder.load(WEIGHTS) is not None


def test_weights_are_written_by_a_worker_that_finds_them_missing(tmp_path: Path) -> None:
    """The one before died between the last checkpoint and the weights."""
    list(results(first := runner(tmp_path, config())))
    kept = first.folder.load(WEIGHTS)
    first.folder.delete(WEIGHTS)
    list(results(runner(tmp_path, config())))
    again = first.folder.load(WEIGHTS)
    assert kept is not None
    assert again is not None
    assert kept["history"] == again["history"]
    assert all(torch.equal(kept["final"][name], again["final"][name]) for name in kept["final"])


@pytest.mark.parametrize("how", ["another driver's", "deleted", "foreign"])
def test_a_worker_writes_nothing_into_a_sweep_that_is_not_its_drivers(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.tune.STORAGE_SECONDS", 0.0)
    found = runner(tmp_path / "s", config())
    if how == "deleted":
        shutil.rmtree(tmp_path / "s")
    else:
        content = json.dumps({"key": "theirs"}) if how != "foreign" else "[]"
        (tmp_path / "s" / "driver.json").write_text(content)
    assert [r["outcome"] for r in results(found)][-1] == "completed"  # its driver ends it sooner
    assert not (tmp_path / "s" / "t0000").exists()
    assert (tmp_path / "s").exists() is (how != "deleted")


def test_other_code_in_a_worker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="install the same rts-search"):
        runner(tmp_path, config(), packages={"torch": "0.0", "trainables": "none"})


@pytest.mark.parametrize("keep", [True, False])
def test_a_trial_that_the_sweep_ends_leaves_a_checkpoint_of_where_it_stood(
    tmp_path: Path, keep: bool
) -> None:
    """Whose last one would be older; then it goes on as if nobody had stopped it."""
    whole = list(results(runner(tmp_path / "whole", config())))
    changes = {"checkpoint_seconds": 3600, "keep_stopped": keep}
    first = runner(tmp_path / "stopped", config(), **changes)
    for _ in range(5):
        first.step()
    other = {"trial_id": "t0001", "checkpoints": str(tmp_path / "other")}
    first.reset_config({"assignment": asdict(first.assignment) | other})
    assert (tmp_path / "stopped" / "t0000" / STATE).exists() == keep
    if keep:
        again = list(results(runner(tmp_path / "stopped", config(), **changes)))
        assert len(again) == 3  # all five in the first report
        assert [timeless(row["epochs"][-1]) for row in again[1:]] == [
            timeless(row["epochs"][-1]) for row in whole[5:]
        ]
