"""Early stopping: what every policy keeps to, and that a resume decides as the live sweep did."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from rts_search.spec import SweepSpec
from rts_search.stoppers import Stopper, asha_milestones, make_stopper

T = 27
POLICIES = ("asha", "median", "none")
CONTINUE, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP
Curves = dict[str, list[float]]  # by trial: the objective after each epoch


def stopper(policy: str, epochs: int = T, objective: str = "val_accuracy", **stop: Any) -> Stopper:
    return make_stopper(
        SweepSpec.model_validate(
            {
                "train": {"epochs": epochs},
                "search": {"objective": objective},
                "stop": {"policy": policy, **stop},
            }
        )
    )


def tune_trial(name: str, exempt: bool = False) -> Trial:
    assignment = {"trial_id": name, "exempt": exempt}
    return Trial("trainable", config={"assignment": assignment}, stub=True)


class Sweep:
    """A stopper among trials, called as Tune does; `told` is what the journal would hold."""

    def __init__(self, stopper: Stopper, exempt: tuple[str, ...] = ()) -> None:
        self.stopper, self.exempt = stopper, exempt
        self.trials: dict[str, Trial] = {}
        self.told: dict[str, dict[int, float]] = {}
        self.stopped_at: dict[str, int] = {}

    def result(self, name: str, epoch: int, value: float, last: bool = False) -> str:
        if name not in self.trials:
            self.trials[name] = tune_trial(name, name in self.exempt)
            self.stopper.on_trial_add(None, self.trials[name])
        trial, result = self.trials[name], {"epoch": epoch, "objective": value}
        if math.isfinite(value) and name not in self.exempt:
            self.told.setdefault(name, {})[epoch] = value
        decision = STOP if last else self.stopper.on_trial_result(None, trial, result)
        if decision == STOP:
            self.stopper.on_trial_complete(None, trial, result)
            self.stopped_at[name] = epoch
        return decision

    def run(self, curves: Curves, order: list[str]) -> list[tuple[str, int, str]]:
        """The verdicts, where `order` says whose next epoch comes; stopped trials are silent."""
        left = {name: enumerate(curve, start=1) for name, curve in curves.items()}
        verdicts = []
        for name in order:
            if name in self.stopped_at or (point := next(left[name], None)) is None:
                continue
            epoch, value = point
            last = epoch == len(curves[name])
            verdicts.append((name, epoch, self.result(name, epoch, value, last)))
        return verdicts


def random_curves(trials: int, epochs: int = T, seed: int = 0) -> Curves:
    rng = random.Random(seed)
    levels = {f"t{i:04d}": rng.random() for i in range(trials)}
    return {
        name: [level * e / (e + 3) + 0.02 * rng.random() for e in range(1, epochs + 1)]
        for name, level in levels.items()
    }


def shuffled(curves: Curves, seed: int = 0) -> list[str]:
    order = [name for name, curve in curves.items() for _ in curve]
    random.Random(seed).shuffle(order)
    return order


@pytest.mark.parametrize("policy", POLICIES)
def test_exempt_trials_are_never_stopped_nor_compared_with(policy: str) -> None:
    curves = random_curves(20)
    plain = Sweep(stopper(policy)).run(curves, shuffled(curves))
    worst = {f"control-{i}": [0.0] * T for i in range(5)}
    best = {f"champion-{i}": [1.0] * T for i in range(5)}
    among = {**curves, **worst, **best}
    sweep = Sweep(stopper(policy), exempt=(*worst, *best))
    order = [*shuffled({**worst, **best}), *shuffled(curves)]
    verdicts = sweep.run(among, order)
    for name, epoch, verdict in verdicts:
        assert name in curves or verdict == (STOP if epoch == T else CONTINUE)
    assert [v for v in verdicts if v[0] in curves] == plain


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("policy", POLICIES)
def test_values_that_are_not_finite_are_not_recorded(policy: str, value: float) -> None:
    curves = random_curves(20)
    plain = Sweep(stopper(policy)).run(curves, shuffled(curves))
    sweep = Sweep(stopper(policy))
    for i in range(5):
        for epoch in (1, 3, 9, 26):
            assert sweep.result(f"lost-{i}", epoch, value) == CONTINUE
        sweep.result(f"lost-{i}", T, value, last=True)
    assert sweep.run(curves, shuffled(curves)) == plain


@pytest.mark.parametrize("policy", ["asha", "median"])
def test_a_trial_that_dies_before_its_first_result_is_no_trouble(policy: str) -> None:
    found, trial = stopper(policy), tune_trial("t0000")
    found.on_trial_add(None, trial)
    found.on_trial_complete(None, trial, {})


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("objective", ["val_accuracy", "val_loss"])
def test_clearly_worse_trials_are_stopped_and_the_best_never(policy: str, objective: str) -> None:
    sign = -1 if objective == "val_loss" else 1
    sweep = Sweep(stopper(policy, objective=objective))
    best = {f"good-{i}": [sign * (0.9 + i / 100)] * T for i in range(4)}
    bad = {f"bad-{i}": [sign * 0.1] * T for i in range(4)}
    sweep.run(best, shuffled(best))
    sweep.run(bad, shuffled(bad))
    assert sweep.stopped_at["good-3"] == T
    for name in bad:
        assert sweep.stopped_at[name] == (T if policy == "none" else 3)


@pytest.mark.parametrize("policy", ["asha", "median"])
def test_nobody_is_stopped_before_the_first_rung(policy: str) -> None:
    curves = random_curves(30)
    sweep = Sweep(stopper(policy, first_rung=5))
    sweep.run(curves, shuffled(curves))
    assert min(sweep.stopped_at.values()) >= 5
    assert len({epoch for epoch in sweep.stopped_at.values() if epoch < T}) > 0


def test_asha_stops_at_its_milestones_only() -> None:
    curves = random_curves(60)
    sweep = Sweep(stopper("asha"))
    sweep.run(curves, shuffled(curves))
    assert set(sweep.stopped_at.values()) == {3, 9, T}


@pytest.mark.parametrize("eta", [2, 3, 4])
def test_asha_keeps_about_the_top_of_each_rung(eta: int) -> None:
    curves, milestones = random_curves(600), [3, 3 * eta]
    sweep = Sweep(stopper("asha", eta=eta))
    sweep.run(curves, [name for e in range(T) for name in curves])  # in step, in random order
    alive = set(curves)
    for milestone in milestones:
        passed = {name for name in alive if sweep.stopped_at[name] > milestone}
        # the first ones to arrive are compared with few, so that some more pass
        assert len(alive) / eta * 0.8 <= len(passed) <= len(alive) / eta * 1.4 + 3
        ranked = sorted(alive, key=lambda name: -curves[name][milestone - 1])
        assert set(ranked[: len(alive) // (2 * eta)]) <= passed
        alive = passed


@pytest.mark.parametrize(
    ("first", "eta", "epochs", "expected"),
    [
        (3, 3, 27, [3, 9]),
        (3, 3, 28, [3, 9, 27]),
        (1, 3, 9, [1, 3]),
        (44, 3, 400, [44, 132, 396]),
        (1, 2, 16, [1, 2, 4, 8]),
        (2, 1.5, 10, [2, 3, 5, 7]),  # 2, 3, 4.5, 6.75, 10.1
        (3, 3, 4, [3]),
    ],
)
def test_milestones(first: int, eta: float, epochs: int, expected: list[int]) -> None:
    assert asha_milestones(first, eta, epochs) == expected
    assert stopper("asha", epochs, first_rung=first, eta=eta).milestones == expected


@settings(deadline=None)
@given(st.integers(1, 20), st.sampled_from([1.5, 2, 2.5, 3, 4]), st.integers(2, 200))
def test_milestones_are_the_epochs_at_which_asha_decides(
    first: int, eta: float, epochs: int
) -> None:
    if first >= epochs:
        with pytest.raises(ValueError, match="must be below train"):
            stopper("asha", epochs, first_rung=first, eta=eta)
        return
    found = stopper("asha", epochs, first_rung=first, eta=eta)
    found.refill("good", dict.fromkeys(range(1, epochs + 1), 0.9))
    bad = tune_trial("bad")  # it goes on whatever the verdict, so that every rung shows
    found.on_trial_add(None, bad)
    verdicts = {
        epoch: found.on_trial_result(None, bad, {"epoch": epoch, "objective": 0.1})
        for epoch in range(1, epochs)
    }
    assert [epoch for epoch, verdict in verdicts.items() if verdict == STOP] == found.milestones


def test_the_rung_of_an_epoch() -> None:
    found = stopper("asha")
    assert [found.rung_at(epoch) for epoch in (1, 2, 3, 8, 9, 26)] == [None, None, 0, 0, 1, 1]
    assert stopper("none").rung_at(26) is None
    assert stopper("median", first_rung=4).rung_at(9) == 0


@pytest.mark.parametrize("policy", ["asha", "median"])
def test_a_first_rung_beyond_the_run_is_refused(policy: str) -> None:
    message = (
        "^stop.first_rung 27 must be below train.epochs 27, or no trial could stop early; use a "
        "smaller one, or stop.policy none$"
    )
    with pytest.raises(ValueError, match=message):
        stopper(policy, first_rung=27)
    assert stopper("none", first_rung=27).milestones == []


def split(order: list[str], at: int) -> Iterator[list[str]]:
    items = iter(order)
    yield list(islice(items, at))
    yield list(items)


@pytest.mark.parametrize("policy", POLICIES)
@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    trials=st.integers(2, 14),
    epochs=st.integers(5, 14),
    share=st.floats(0, 1),
    not_finite=st.booleans(),
)
def test_a_refilled_stopper_decides_as_the_live_one(
    policy: str, seed: int, trials: int, epochs: int, share: float, not_finite: bool
) -> None:
    curves = random_curves(trials, epochs, seed)
    if not_finite:
        for curve in curves.values():
            curve[seed % epochs] = math.nan
    order = shuffled(curves, seed)
    before, after = split(order, int(share * len(order)))
    live = Sweep(stopper(policy, epochs, first_rung=2))
    live.run(curves, before)

    resumed = Sweep(stopper(policy, epochs, first_rung=2))
    names = list(live.told)
    random.Random(seed).shuffle(names)  # the order in which trials are refilled is no matter
    for name in names:
        resumed.stopper.refill(name, live.told[name])
    resumed.stopped_at = dict(live.stopped_at)

    done = {name: before.count(name) for name in curves}
    ahead = {name: curve[done[name] :] for name, curve in curves.items()}
    for name in after:
        if name in live.stopped_at or not ahead[name]:
            continue
        epoch = epochs - len(ahead[name]) + 1
        value, last = ahead[name].pop(0), epoch == epochs
        wanted = live.result(name, epoch, value, last)
        assert resumed.result(name, epoch, value, last) == wanted, (name, epoch)
    assert resumed.stopped_at == live.stopped_at


@pytest.mark.parametrize("policy", POLICIES)
def test_epochs_that_a_resumed_trial_repeats_change_nothing(policy: str) -> None:
    curves = random_curves(12)
    order = shuffled(curves)
    live = Sweep(stopper(policy))
    live.run(curves, order[: len(order) // 2])
    wanted = {name: len(told) for name, told in live.told.items()}

    resumed = Sweep(stopper(policy))
    for name, told in live.told.items():
        resumed.stopper.refill(name, told)
    running = [name for name in live.told if name not in live.stopped_at]
    assert running
    for name in running:  # from an older checkpoint, or from none
        for epoch, value in live.told[name].items():
            assert resumed.result(name, epoch, value) == CONTINUE
    for name in running:
        for epoch in range(wanted[name] + 1, T):
            value = curves[name][epoch - 1]
            decision = live.result(name, epoch, value)
            assert resumed.result(name, epoch, value) == decision
            if decision == STOP:
                break


def test_a_completed_trial_is_refilled_among_better_ones() -> None:
    found = stopper("median", first_rung=1)
    for i in range(4):
        found.refill(f"good-{i}", dict.fromkeys(range(1, T), 0.9))
    found.refill("first", dict.fromkeys(range(1, T + 1), 0.1))  # it had completed before them
    assert Sweep(found).result("late", 1, 0.5) == STOP
