"""Early stopping: what every policy keeps to, and that a resume decides as the live sweep did."""

from __future__ import annotations

import itertools
import math
import random
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from results.trials import LONG_AGO, StoredTrial
from rts_search.runner import refill
from rts_search.spec.model import SweepSpec
from rts_search.spec.reading import parse
from rts_search.stopping.rungs import rungs
from rts_search.stopping.stopper import Look, Stopper, make_stopper
from rts_search.trials.trial import PLAIN, trial_name

T = 27
POLICIES = ("asha", "hyperband", "median")
FIDELITIES = ("schedule", "epoch")
Event = tuple[int, int, int, float]  # number, total epochs, epoch, value

every_policy = pytest.mark.parametrize(
    ("policy", "fidelity"), [(p, f) for p in POLICIES for f in FIDELITIES]
)


def spec_of(policy: str, fidelity: str = "schedule", epochs: int = T, **changes: Any) -> SweepSpec:
    objective = changes.pop("objective", "val_accuracy")
    stop = {"policy": policy, "fidelity": fidelity, "audit": 0, "eta": 3, "first_rung": 3} | changes
    content = {"train": {"epochs": epochs}, "search": {"objective": objective}, "stop": stop}
    return parse(SweepSpec, content)


def stopper(*arguments: Any, **changes: Any) -> Stopper:
    return make_stopper(spec_of(*arguments, **changes))


def epochs_of(found: Stopper, number: int, level: float, seed: int) -> list[Event]:
    """All that a trial would report if nobody stopped it."""
    rng = random.Random(seed * 1000 + number)
    return [
        (number, total, epoch, level * epoch / (epoch + 3) + 0.02 * rng.random())
        for _, total in found.climb(number)
        for epoch in range(1, total + 1)
    ]


class Sweep:
    """A stopper among trials; `told` is what the ledger would hold."""

    def __init__(self, found: Stopper) -> None:
        self.stopper = found
        self.told: list[Event] = []
        self.stopped: dict[int, tuple[int, int]] = {}
        self.verdicts: list[tuple[int, int, int]] = []

    def run(self, events: list[Event]) -> None:
        for number, total, epoch, value in events:
            if number in self.stopped:
                continue
            stop = self.stopper.judge(number, Look(total, epoch, value))
            self.verdicts.append((number, epoch, stop))
            self.told.append((number, total, epoch, value))
            if stop:
                self.stopped[number] = (total, epoch)


def interleaved(found: Stopper, trials: int, seed: int) -> list[Event]:
    rng = random.Random(seed)
    queues = [epochs_of(found, n, rng.random(), seed)[::-1] for n in range(trials)]
    events = []
    while queues:
        queue = rng.choice(queues)
        events.append(queue.pop())
        queues = [q for q in queues if q]
    return events


def stored(events: list[Event]) -> list[StoredTrial]:
    """What the ledger has of trials whose ends it lacks, an epoch a second."""
    row = {"outcome": "running", "config_trigger": PLAIN, "lost_rung": None, "stopped_epoch": None}
    found: dict[int, list[dict[str, Any]]] = {}
    for second, (number, total, epoch, value) in enumerate(events):
        time = LONG_AGO + timedelta(seconds=second)
        columns = {"total_epochs": total, "epoch": epoch, "trigger_epoch": None, "time": time}
        found.setdefault(number, []).append(columns | {"val_accuracy": value})
    return [
        StoredTrial(row | {"trial_id": trial_name(number), "number": number}, found[number])
        for number in sorted(found)
    ]


@every_policy
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), cut=st.floats(0, 1), audit=st.sampled_from([0.0, 0.3]))
def test_a_resumed_stopper_decides_as_the_one_that_died(
    policy: str, fidelity: str, seed: int, cut: float, audit: float
) -> None:
    """Whatever the order across trials, and though no end was written."""
    if policy == "median" and audit:
        return
    whole, first, second = (Sweep(stopper(policy, fidelity, audit=audit)) for _ in range(3))
    events = interleaved(whole.stopper, 12, seed)
    whole.run(events)
    died = int(cut * len(events))
    first.run(events[:died])
    refill(second.stopper, spec_of(policy, fidelity, audit=audit), stored(first.told))
    again = {number: (number, *told) for number, *told in first.told}
    second.run(list(again.values()))  # each reports its last epoch again
    assert second.stopped == first.stopped
    second.run(events[max(0, died - 5) :])  # a retried trial repeats epochs
    assert second.stopped == whole.stopped
    assert second.stopper.lost == whole.stopper.lost
    assert second.stopper.misses == whole.stopper.misses


@every_policy
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_never_shown(
    policy: str, fidelity: str, value: float
) -> None:
    plain = Sweep(stopper(policy, fidelity))
    events = interleaved(plain.stopper, 20, 1)
    plain.run(events)
    sweep = Sweep(stopper(policy, fidelity))
    lost = [(n, total, e, value) for n in range(100, 105) for n, total, e, _ in
            epochs_of(sweep.stopper, n, 1.0, 0)]  # fmt: skip
    assert not any(sweep.stopper.judge(number, Look(*look)) for number, *look in lost)
    sweep.run(events)
    assert sweep.verdicts == plain.verdicts


@every_policy
@pytest.mark.parametrize("objective", ["val_accuracy", "val_loss"])
def test_clearly_worse_trials_are_stopped_and_the_best_never(
    policy: str, fidelity: str, objective: str
) -> None:
    sign = -1 if objective == "val_loss" else 1
    sweep = Sweep(stopper(policy, fidelity, objective=objective))
    levels = {n: 0.9 + n / 1000 for n in range(40)} | dict.fromkeys(range(40, 60), 0.1)
    for number, level in levels.items():
        sweep.run([(n, t, e, sign * level) for n, t, e, _ in
                   epochs_of(sweep.stopper, number, 1.0, 0)])  # fmt: skip
    assert not any(n < 40 for n in sweep.stopped)
    for number in range(40, 60):
        first = sweep.stopper.bracket(number)
        if first == sweep.stopper.top:
            continue  # Hyperband's last bracket is a full run
        expected = sweep.stopper.rungs[first]
        assert sweep.stopped[number][1] == expected


@every_policy
def test_nobody_is_stopped_before_the_first_rung(policy: str, fidelity: str) -> None:
    sweep = Sweep(stopper(policy, fidelity, first_rung=5))
    sweep.run(interleaved(sweep.stopper, 30, 2))
    assert sweep.stopped
    assert min(epoch for _, epoch in sweep.stopped.values()) >= 5


@pytest.mark.parametrize("fidelity", FIDELITIES)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), eta=st.sampled_from([2, 2.5, 3, 4]))
def test_asha_against_its_definition(fidelity: str, seed: int, eta: float) -> None:
    """At a rung a trial goes on if it is not below the (1 − 1/η) quantile of those before it."""
    sweep = Sweep(stopper("asha", fidelity, eta=eta))
    events = interleaved(sweep.stopper, 25, seed)
    sweep.run(events)
    stopped: dict[int, tuple[int, int]] = {}
    recorded: dict[int, list[float]] = {rung: [] for rung in sweep.stopper.rungs[:-1]}
    for number, total, epoch, value in events:
        rung = total if fidelity == "schedule" else epoch
        if number in stopped or rung not in recorded or epoch != rung:
            continue
        before = recorded[rung]
        if before and value < np.percentile(before, 100 * (1 - 1 / eta)):
            stopped[number] = (total, epoch)
        before.append(value)
    assert sweep.stopped == stopped


@pytest.mark.parametrize("fidelity", FIDELITIES)
@pytest.mark.parametrize("objective", ["val_accuracy", "val_loss"])
def test_of_equal_trials_a_share_goes_on(fidelity: str, objective: str) -> None:
    """As those are whose configurations are the same in effect."""
    sweep = Sweep(stopper("asha", fidelity, objective=objective))
    for number in range(90):
        sweep.run([(n, t, e, 0.5) for n, t, e, _ in epochs_of(sweep.stopper, number, 1.0, 0)])
    assert 48 <= sum(place[1] == 3 for place in sweep.stopped.values()) <= 72
    assert 0 not in sweep.stopped


def test_none_stops_nobody_and_climbs_nothing() -> None:
    found = stopper("none")
    assert found.climb(3) == [(0, T)]
    assert not found.audited(3)
    assert not any(found.judge(n, Look(*look)) for n, *look in interleaved(found, 10, 3))


@given(
    epochs=st.integers(1, 500),
    first=st.none() | st.integers(1, 50),
    eta=st.sampled_from([1.05, 1.5, 2, 2.5, 3, 4, 9]),
    fidelity=st.sampled_from(FIDELITIES),
)
def test_rungs_are_counted_down_from_t(
    epochs: int, first: int | None, eta: float, fidelity: str
) -> None:
    config = parse(
        SweepSpec, {"stop": {"first_rung": first, "eta": eta, "fidelity": fidelity}}
    ).stop
    try:
        *found, top = rungs(config, epochs)
    except ValueError:
        highest = max(1, round(epochs / eta))
        assert first is not None or highest >= 0.9 * epochs
        assert first is None or first > highest or highest >= 0.9 * epochs
        return
    assert top == epochs
    assert found == sorted(set(found))
    assert found[-1] < 0.9 * epochs
    assert found[0] >= (first or 1)
    counted = {max(1, round(epochs / eta**k)) for k in range(1, 200) if k == 1 or epochs > eta**k}
    assert set(found) <= counted | {1}
    lower = [rung for rung in counted - set(found) if rung < 0.9 * epochs]
    least = first or max(1, min(found[-1], round(epochs / 4.5)))
    assert found[0] >= least > max(lower, default=0)
    assert Stopper(config, epochs, "max").rungs == [*found, top]


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (2, [1, 2]),
        (9, [2, 9]),
        (27, [7, 27]),
        (100, [25, 100]),
        (400, [100, 400]),
    ],
)
def test_by_default_the_first_rung_is_a_quarter_of_t(epochs: int, expected: list[int]) -> None:
    for policy, fidelity in itertools.product(POLICIES, FIDELITIES):
        stop = {"policy": policy, "fidelity": fidelity}
        spec = parse(SweepSpec, {"train": {"epochs": epochs}, "stop": stop})
        assert make_stopper(spec).rungs == expected


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_rungs_by_hand(fidelity: str) -> None:
    def found(epochs: int, first: int | None, eta: float) -> list[int]:
        return stopper("asha", fidelity, epochs=epochs, first_rung=first, eta=eta).rungs

    assert found(27, 3, 3) == [3, 9, 27]
    assert found(27, None, 3) == [9, 27]
    assert found(100, None, 3) == [33, 100]
    assert found(100, None, 2) == [25, 50, 100]
    assert found(100, None, 9) == [11, 100]  # T/4.5 would leave none
    assert found(100, 4, 3) == [4, 11, 33, 100]
    assert found(400, 40, 2) == [50, 100, 200, 400]


def test_hyperband_begins_higher_for_fewer_trials() -> None:
    found = stopper("hyperband")
    begins = [found.climb(number)[0][0] for number in range(1300)]
    shares = np.bincount(begins) / 1300
    assert shares == pytest.approx([9 / 13, 3 / 13, 1 / 13], abs=0.05)


def test_audited_trials_go_on_and_what_would_have_been_is_kept() -> None:
    found = stopper("asha", audit=0.3)
    audited = [n for n in range(2000) if found.audited(n)]
    assert len(audited) / 2000 == pytest.approx(0.3, abs=0.04)
    assert audited != [n for n in range(2000) if stopper("asha", audit=0.3, eta=2).bracket(n)]
    sweep = Sweep(found)
    sweep.run(interleaved(found, 40, 5))
    lost = set(found.lost)
    assert lost
    assert lost <= set(audited)
    assert not lost & set(sweep.stopped)
    assert set(found.lost.values()) <= {0, 1}
    again = stopper("asha", audit=0.3)
    assert [again.audited(n) for n in range(99)] == [found.audited(n) for n in range(99)]


@pytest.mark.parametrize("first_rung", [T, T + 1, 14])
def test_a_first_rung_that_leaves_none_below_t_is_refused(first_rung: int) -> None:
    with pytest.raises(ValueError, match=f"stop.first_rung {first_rung} .*use a smaller one"):
        stopper("asha", first_rung=first_rung)


def test_one_epoch_has_no_rung() -> None:
    with pytest.raises(ValueError, match=r"train\.epochs 1 .* has no rung below T"):
        stopper("asha", epochs=1, first_rung=None)


@every_policy
def test_a_sweep_whose_lower_rung_is_gone_goes_on(policy: str, fidelity: str) -> None:
    """As after an upgrade that counts rungs otherwise: what its trials did there is no error."""
    found = stopper(policy, fidelity, first_rung=9)
    found.refill(0, [Look(3, 3, 0.5), Look(9, 9, 0.6)])
    assert found.rung_at(Look(3, 3, 0.5)) is None
    assert not found.judge(1, Look(9, 9, 0.7))


@pytest.mark.parametrize(
    ("policy", "fidelity", "objective", "why"),
    [
        ("asha", "epoch", "val_accuracy", "rank 4 of 5 at rung 0 (epoch 3): 0.2000, cutoff 0.5000"),
        ("asha", "schedule", "val_loss", "rank 3 of 5 at rung 0 (T = 3): 0.4000, cutoff 0.3000"),
        ("median", "schedule", "val_accuracy", "rank 4 of 5 at rung 0 (T = 3): 0.2000, cutoff 0.4"),
    ],
)
def test_a_stopped_trial_is_told_why(policy: str, fidelity: str, objective: str, why: str) -> None:
    found = stopper(policy, fidelity, objective=objective)
    total = 3 if fidelity == "schedule" else T
    for number, value in enumerate((0.1, 0.3, 0.5, 0.9)):
        found.judge(number, Look(total, 3, value))
    assert found.judge(4, Look(total, 3, 0.4 if objective == "val_loss" else 0.2))
    assert str(found.why(4)).startswith(why)
    assert found.why(99) is None
    assert all(found.why(number) is None for number in range(4) if number not in found.misses)


def test_a_tie_that_was_drawn_is_told_as_one() -> None:
    found = stopper("asha")
    stopped = [number for number in range(12) if found.judge(number, Look(3, 3, 0.5))]
    assert stopped
    assert all(str(found.why(number)).endswith("equal to it: drawn by lot") for number in stopped)
