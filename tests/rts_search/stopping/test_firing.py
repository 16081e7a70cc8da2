"""No trial is judged before it has fired; and the clock that starts there."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rts_search.search.checks import check_clock, check_spec
from rts_search.spec.model import SweepSpec
from rts_search.spec.reading import parse
from rts_search.stopping.stopper import Look, Stopper, describe_stop, make_stopper
from rts_search.trials.rows import looks

T = 27
POLICIES = ("asha", "hyperband", "median")
SGD = {epoch: epoch / (epoch + 4) for epoch in range(1, T + 1)}


def spec(**stop: Any) -> SweepSpec:
    stop = {"audit": 0, "eta": 3, "first_rung": 3} | stop
    return parse(SweepSpec, {"train": {"epochs": T}, "stop": stop})


def stopper(**stop: Any) -> Stopper:
    return make_stopper(spec(**stop))


def firing(**stop: Any) -> Stopper:
    found = stopper(clock="firing", first_rung=None, **stop)
    found.hear_control(SGD)
    return found


def run(found: Stopper, number: int, fired: int | None, gain: float) -> int | None:
    """Where a trial is stopped that gains so much an epoch from firing on."""
    for epoch in range(1, T + 1):
        perturbed = 0 if fired is None else max(0, epoch - fired + 1)
        if found.judge(number, Look(T, epoch, SGD[epoch] + gain * perturbed, perturbed)):
            return epoch
    return None


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("fidelity", ["epoch", "schedule"])
def test_trials_that_wait_are_not_known_to_the_rule(policy: str, fidelity: str) -> None:
    """The others are judged as if they were not there, though they are worse, or better."""
    stop = {"policy": policy, "fidelity": fidelity}
    alone, among = stopper(**stop), stopper(**stop)
    rng = random.Random(0)
    verdicts: dict[int, list[bool]] = {0: [], 1: []}
    for number in range(12):
        waiting = number % 3 == 0
        for _, total in among.climb(number):
            for epoch in range(1, total + 1):
                level = (10 if waiting else 5) * (number % 2)
                look = Look(total, epoch, level + rng.random(), None)
                if waiting:
                    assert not among.judge(number, look._replace(perturbed=0))
                    continue
                verdicts[0].append(alone.judge(number, look))
                verdicts[1].append(among.judge(number, look._replace(perturbed=epoch)))
    assert verdicts[0] == verdicts[1]
    assert any(verdicts[0])


def test_a_trial_that_fires_between_rungs_is_judged_at_the_next_one() -> None:
    """And at a rung if its epoch is the first perturbed one."""
    for fired, judged in [(3, [3, 9]), (4, [9]), (9, [9]), (10, []), (None, [])]:
        found = stopper()
        found.rules[0].values[0].append(0.5)  # type: ignore[attr-defined]
        found.rules[0].values[1].append(0.5)  # type: ignore[attr-defined]
        for epoch in range(1, T + 1):
            perturbed = 0 if fired is None else max(0, epoch - fired + 1)
            found.judge(7, Look(T, epoch, 0.9, perturbed))
        entered = [
            rung
            for rung, values in zip([3, 9], found.rules[0].values, strict=True)  # type: ignore[attr-defined]
            if len(values) == 2
        ]
        assert entered == judged


def test_with_complete_schedules_each_has_its_own_firing() -> None:
    found = stopper(fidelity="schedule")
    assert not found.judge(0, Look(3, 3, 0.9, 2))
    assert not found.judge(1, Look(3, 3, 0.1, 0))  # did not fire in the short one
    assert not found.judge(0, Look(9, 9, 0.9, 5))
    assert found.judge(1, Look(9, 9, 0.1, 1))
    assert str(found.why(1)).startswith("rank 2 of 2 at rung 1 (T = 9): 0.1000, cutoff 0.9000")


def test_plain_sgd_is_judged_and_so_is_all_with_judge_unfired() -> None:
    for found, perturbed in [(stopper(), None), (stopper(judge_unfired=True), 0)]:
        assert not found.judge(0, Look(T, 3, 0.9, perturbed))
        assert found.judge(1, Look(T, 3, 0.1, perturbed))


def test_looks_count_perturbed_epochs() -> None:
    rows = [
        {"epoch": e, "total_epochs": 4, "trigger_epoch": 3 if e > 1 else None, "val_accuracy": e}
        for e in range(1, 5)
    ]
    found = looks(rows, "val_accuracy", by_schedule=False, sgd=False)
    assert [(look.epoch, look.perturbed) for look in found] == [(1, 0), (2, 0), (3, 1), (4, 2)]
    known = [row | {"trigger_epoch": 3} for row in rows]  # before it is trained
    assert looks(known, "val_accuracy", by_schedule=False, sgd=False) == found
    assert looks(rows, "val_accuracy", by_schedule=True, sgd=True) == [Look(4, 4, 4.0, None)]


def test_the_clock_starts_at_firing() -> None:
    found = firing()
    assert found.rungs == [2, 6, 18, T]
    assert describe_stop(spec(clock="firing", first_rung=None)) == (
        "asha at 2, 6, 18 epochs after firing, by the difference to sgd"
    )
    assert make_stopper(parse(SweepSpec, {"stop": {"clock": "firing"}})).config.eta == 3
    assert run(found, 0, 2, 0.02) is None
    assert run(found, 1, 5, 0.03) is None
    assert run(found, 2, 12, 0.01) == 13  # its second perturbed epoch
    assert str(found.why(2)) == (
        "rank 3 of 3 at rung 0 (2 epochs after firing): +0.0200 to sgd, cutoff +0.0533"
    )
    assert run(found, 3, None, 0.0) is None
    assert run(found, 4, 25, -0.5) is None  # beyond 0.9 of T


def test_a_rungs_value_is_a_gain_and_never_raw() -> None:
    """A trial that fires late has more accuracy at its second perturbed epoch, and gains less."""
    found = firing()
    assert run(found, 0, 2, 0.02) is None
    assert SGD[16] > SGD[3] + 0.04
    assert run(found, 1, 15, 0.01) == 16


def test_of_losses_less_is_a_gain() -> None:
    content = {"train": {"epochs": T}, "search": {"objective": "val_loss"}}
    found = make_stopper(parse(SweepSpec, content | {"stop": {"clock": "firing", "audit": 0}}))
    found.hear_control(SGD)
    assert run(found, 0, 2, -0.02) is None
    assert run(found, 1, 12, -0.01) == 13
    assert ": -0.0200 to sgd, cutoff -0.0400" in str(found.why(1))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 9999), policy=st.sampled_from(POLICIES))
def test_trials_ahead_of_the_control_go_on_and_are_known_later(seed: int, policy: str) -> None:
    """Afterwards the rule knows what a resume would tell it: the ledger has no order in time."""
    rng = random.Random(seed)
    trials = [(number, rng.randint(1, T), rng.uniform(-0.01, 0.01)) for number in range(8)]
    late = stopper(clock="firing", policy=policy, first_rung=None)
    for number, fired, gain in trials:
        assert run(late, number, fired, gain) is None
    for epoch in range(1, T + 1):
        late.hear_control({e: SGD[e] for e in range(1, epoch + 1)})
    refilled = stopper(clock="firing", policy=policy, first_rung=None)
    refilled.hear_control(SGD)
    for number, fired, gain in trials:
        found = [
            Look(T, e, SGD[e] + gain * max(0, e - fired + 1), max(0, e - fired + 1))
            for e in range(1, T + 1)
        ]
        refilled.refill(number, found)
    for ours, theirs in zip(late.rules, refilled.rules, strict=True):
        kept = "means" if policy == "median" else "values"
        for one, other in zip(getattr(ours, kept), getattr(theirs, kept), strict=True):
            assert one == pytest.approx(other)
    assert late.seen == refilled.seen
    assert not late.ahead


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"stop": {"policy": "none"}}, "with policy none none is: use policy asha"),
        ({"stop": {"fidelity": "schedule"}}, "with fidelity schedule a trial has several"),
        ({"stop": {"judge_unfired": True}}, "judge_unfired goes with clock epoch"),
        ({"search": {"controls": False}}, "search.controls leaves that out"),
        ({"search": {"controls": {"families": ["pugd"]}}}, "search.controls leaves that out"),
        ({"search": {"also": ["lr"]}}, "rts searches train.lr too, which that keeps"),
        ({"space": "baselines"}, "baselines searches train.lr, train.weight_decay too"),
        ({"train": {"epochs": 2}}, "leaves none below train.epochs 2"),
    ],
)
def test_where_the_clock_makes_no_sense_it_is_refused(content: dict[str, Any], why: str) -> None:
    content = content | {"stop": {"clock": "firing"} | content.get("stop", {})}
    with pytest.raises(ValueError, match=why) as error:
        check_spec(parse(SweepSpec, content), download=False)
    assert "\n" not in str(error.value)


def test_what_trials_search_of_the_optimizer_is_no_hindrance() -> None:
    check_clock(parse(SweepSpec, {"stop": {"clock": "firing"}}), [SweepSpec().base])
