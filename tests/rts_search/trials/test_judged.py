"""What the seam to Tune shows to the stopper, and that resumed and replayed ones are judged so."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rts_search.spec.model import SweepSpec
from rts_search.spec.reading import parse
from rts_search.stopping.stopper import Look, make_stopper
from rts_search.trials.rows import looks
from rts_search.trials.trial import SGD, LiveTrial
from rts_search.trials.tune import TuneStopper
from tests.rts_search.trials.drivers import RUNGS, Driver, climb, result
from trainables.config import TrialConfig

T = 9


def spec(**stop: Any) -> SweepSpec:
    stop = {"eta": 3, "first_rung": 3, "audit": 0} | stop
    return parse(SweepSpec, {"train": {"epochs": T}, "stop": stop})


def row(epoch: int, value: float, fired: int | None, shared: bool = False) -> dict[str, Any]:
    key = {"rung": 0, "epoch": epoch, "total_epochs": T, "trigger_epoch": fired}
    return key | {"val_accuracy": value, "shared": shared}


class Tune:
    """The scheduler, told of trials that stand at 0.9 and then of others."""

    def __init__(self, **stop: Any) -> None:
        self.live: dict[str, LiveTrial] = {}
        self.stopper = make_stopper(spec(**stop))
        self.scheduler = TuneStopper(self.stopper, self.live, "val_accuracy", 2)
        self.stopper.judge(0, Look(T, 3, 0.9, None))

    def begin(self, name: str = "t0001", number: int | None = 1, **optimizer: Any) -> None:
        config = TrialConfig.model_validate({"optimizer": {"family": "rts"} | optimizer})
        self.live[name] = LiveTrial(name, config, number)

    def report(self, *rows: dict[str, Any], name: str = "t0001") -> str:
        result = {"epochs": [*rows], "objective": rows[-1]["val_accuracy"]}
        trial = SimpleNamespace(config={"assignment": {"trial_id": name}})
        return self.scheduler.on_trial_result(None, trial, result)


@pytest.mark.parametrize(
    ("fired", "verdict"), [(1, "STOP"), (3, "STOP"), (4, "CONTINUE"), (None, "CONTINUE")]
)
def test_a_trial_is_judged_once_it_has_fired(fired: int | None, verdict: str) -> None:
    tune = Tune()
    tune.begin()
    assert tune.report(row(3, 0.1, fired)) == verdict


def test_plain_sgd_is_judged_a_control_and_an_ended_trial_never() -> None:
    tune = Tune()
    tune.begin(family="sgd")
    tune.begin("pugd", None, family="pugd")
    assert tune.report(row(3, 0.1, None)) == "STOP"
    assert tune.report(row(3, 0.1, 1), name="pugd") == "CONTINUE"
    del tune.live["t0001"]
    assert tune.report(row(4, 0.1, None)) == "CONTINUE"


def test_of_epochs_that_a_checkpoint_held_verdicts_are_past_but_not_of_shared_ones() -> None:
    tune = Tune(judge_unfired=True)
    for name, number, shared in (("t0001", 1, False), ("t0002", 2, True)):
        tune.begin(name, number)
        held = [row(epoch, 0.1, 5, shared) for epoch in range(1, 4)]
        told = tune.report(*held, row(4, 0.1, 5, shared), name=name)
        assert told == ("STOP" if shared else "CONTINUE")
    waiting = Tune()
    waiting.begin()
    assert waiting.report(*[row(e, 0.1, 5, shared=True) for e in range(1, 5)]) == "CONTINUE"
    assert waiting.stopper.rules[0].values[0] == pytest.approx([0.9])  # type: ignore[attr-defined]


@pytest.mark.parametrize("policy", ["asha", "median"])
@pytest.mark.parametrize("clock", ["epoch", "firing"])
def test_live_and_resumed_are_judged_alike(policy: str, clock: str) -> None:
    """Trials one after the other, with epochs that the trunk has; the ledger's rows afterwards."""
    stop = {"policy": policy, "clock": clock} | ({"first_rung": None} if clock == "firing" else {})
    tune, resumed = Tune(**stop), make_stopper(spec(**stop))
    resumed.judge(0, Look(T, 3, 0.9, None))
    sgd = dict.fromkeys(range(1, T + 1), 0.5)
    tune.stopper.hear_control(sgd)
    resumed.hear_control(sgd)
    stopped = 0
    for number, (fired, level) in enumerate([(2, 0.9), (5, 0.8), (3, 0.7), (4, 0.6), (6, 0.5)], 1):
        name = f"t{number:04d}"
        tune.begin(name, number)
        rows = [row(e, 0.5 if e < fired else level, fired, e < fired) for e in range(1, T + 1)]
        seen = rows[: fired - 1]
        tune.report(*seen, name=name)
        for each in rows[fired - 1 :]:
            seen.append(each)
            if tune.report(each, name=name) == "STOP":
                stopped += 1
                break
        resumed.refill(number, looks(seen, "val_accuracy", by_schedule=False, sgd=False))
    assert stopped or policy == "median"
    assert vars(resumed.rules[0]) | {"miss": None} == vars(tune.stopper.rules[0]) | {"miss": None}
    assert (resumed.seen, resumed.misses) == (tune.stopper.seen, tune.stopper.misses)


def test_the_control_is_heard_live_and_after_a_resume(tmp_path: Path) -> None:
    content = {
        "name": "s",
        "storage": str(tmp_path),
        "train": {"epochs": RUNGS[-1]},
        "search": {"trials": 1, "controls": {"families": ["sgd"]}},
        "stop": {"clock": "firing"},
    }
    driver = Driver(parse(SweepSpec, content))
    for name, level in ((SGD, 0.25), ("sgd-2x", 0.5)):
        control = driver.begin()
        assert control.trial_id == name
        driver.result(control, result([row | {"rung": 0} for row in climb(level)[2:4]], held=1))
    assert driver.stopper.control == {1: pytest.approx(0.36), 2: pytest.approx(0.37)}
    driver.recorder.settle()
    assert Driver(parse(SweepSpec, content)).stopper.control == driver.stopper.control
