"""Replays with a shared trunk, and with the clock that starts at firing: slow references."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rts_search.replay.curves import RecordedCurves, from_rows
from rts_search.replay.measure import Settings, measure, random_curve
from rts_search.replay.policies import check_recorded, default_policies, parse_policy
from rts_search.replay.simulate import Draw, Simulation
from trainables.metrics import tail_mean

T, STEPS = 27, 10
Fires = Sequence[int | None]


def value_at(config: int, fired: int | None, epoch: int, total: int, seed: int) -> float:
    """SGD's value, and after firing what the configuration gains on it."""
    rng = random.Random(f"{seed} {total} {epoch}")
    sgd = epoch / (epoch + 5) + 0.01 * rng.random()
    if fired is None or epoch < fired:
        return sgd
    level = random.Random(f"level {config}").uniform(-0.3, 0.3)
    return sgd + level * (epoch - fired + 1) / total + 0.02 * random.Random(config + 1).random()


def run_of(config: int, fired: int | None, total: int, seed: int) -> list[float]:
    return [value_at(config, fired, epoch, total, seed) for epoch in range(1, total + 1)]


def rows_of(name: str, config: int, fired: int | None, total: int, seed: int, told: bool) -> Any:
    gradients = 0
    for epoch, value in enumerate(run_of(config, fired, total, seed), 1):
        gradients += STEPS * (2 if fired is not None and epoch >= fired else 1)
        row = {"config": name, "seed": seed, "total_epochs": total, "epoch": epoch, "value": value}
        row |= {"gradient_evaluations": gradients, "epoch_seconds": 1.0}
        yield row | ({"trigger_epoch": fired} if told else {})


def table(
    fires: Fires, told: bool = False, sgd: bool = True, seeds: tuple[int, ...] = (1, 2)
) -> RecordedCurves:
    rows = [
        row
        for i, fired in enumerate(fires)
        for seed in seeds
        for row in rows_of(f"c{i}", i, fired, T, seed, told)
    ]
    if sgd:
        rows += [row for seed in seeds for row in rows_of("sgd", -1, None, T, seed, told)]
    made = pa.Table.from_pylist(rows)
    return from_rows(dict(zip(made.column_names, made.columns, strict=True)))


def one_by_one(fires: Fires, order: Sequence[int], seed: int, policy: str) -> tuple[float, Any]:
    """ASHA by its definition: (gradients spent with a shared trunk, the pick)."""
    parsed = parse_policy(policy).stop
    share = 1 - 1 / parsed.eta
    values: dict[int, list[float]] = {}
    spent, finals = float(T * STEPS), dict[int, float]()
    sgd = run_of(-1, None, T, seed)
    if parsed.policy == "none":
        rungs = []
    elif parsed.clock == "firing":
        rungs = [2, 6, 18]
    else:
        rungs = parse_policy(policy).stopper(T, 0).rungs[:-1]
    for config in order:
        fired, run = fires[config], run_of(config, fires[config], T, seed)
        for epoch in range(1, T + 1):
            perturbed = 0 if fired is None else max(0, epoch - fired + 1)
            spent += 2 * STEPS if perturbed else 0
            value = tail_mean(run[:epoch], T)
            if parsed.clock == "firing":
                at, value = perturbed, value - tail_mean(sgd[:epoch], T)
                waits = epoch >= 0.9 * T
            else:
                at, waits = epoch, perturbed == 0 and not parsed.judge_unfired
            if at not in rungs or waits:
                continue
            before = values.setdefault(at, [])
            stop = bool(before) and value < np.quantile(before, share)
            before.append(value)
            if stop:
                break
        else:
            finals[config] = tail_mean(run, T)
    pick = max(finals, key=lambda c: (finals[c], -list(order).index(c))) if finals else None
    return spent, pick


fires = st.lists(st.none() | st.integers(1, T), min_size=2, max_size=12)
POLICIES = ["none", "asha", "asha:epoch:3:3", "asha:clock=firing", "asha:epoch:3:3:judge_unfired=1"]


@settings(max_examples=80, deadline=None)
@given(fires, st.sampled_from(POLICIES), st.integers(0, 99), st.booleans())
def test_equals_the_slow_reference(found: Fires, policy: str, seed: int, told: bool) -> None:
    if all(fired in (None, 1) for fired in found):
        found = [*found, 14]  # else there is nothing to share, or to see it by
    curves = table(found, told)
    order = np.random.default_rng(seed).permutation(len(found)).tolist()
    if policy.endswith("judge_unfired=1"):  # those that have not fired tie: drawn by lot
        order = order[:1]
    outcome = Simulation(curves, parse_policy(policy)).run(Draw(order, [1, 2], 0))
    spent, pick = one_by_one(found, order, 1, policy)
    assert outcome.spent == pytest.approx(spent)
    assert outcome.pick == pick


@settings(max_examples=40, deadline=None)
@given(fires)
def test_the_firing_epoch_is_told_by_the_gradients(found: Fires) -> None:
    curves, told = table(found, told=False), table(found, told=True)
    if all(fired is None for fired in found):  # all steps cost the same: one gradient, or two
        assert not curves.trunks
        return
    expected = [T + 1 if fired is None else fired for fired in found]
    if any(fired not in (1, None) for fired in found):
        assert curves.runs[T, 1].fired.tolist() == told.runs[T, 1].fired.tolist() == expected


def test_random_search_shares_the_trunk() -> None:
    """Equal cost is equal gradients spent: SGD's 270 once, and twenty a perturbed epoch."""
    found = [None, 10, 19, 1, 25, 14, None, 22]
    curves = table(found)
    each = [0 if f is None else 2 * STEPS * (T - f + 1) for f in found]
    (full, stopped) = measure(
        curves, [parse_policy("none"), parse_policy("asha:clock=firing")], Settings(replays=8)
    )
    assert full.stats["spent"] == T * STEPS + sum(each)
    assert full.stats["gradients"] == sum(STEPS * T + cost / 2 for cost in each)
    assert full.stats["share"] == 1
    assert full.stats["random_regret"] == full.stats["full_regret"]
    share = stopped.stats["spent"] / full.stats["spent"]
    assert share < 1
    assert stopped.stats["share"] == pytest.approx(share)
    curve = random_curve(curves, [parse_policy("none")], Settings())
    first = (T * STEPS + sum(each) / 8) / full.stats["spent"]
    assert curve[0][0] == pytest.approx(first)
    assert curve[-1][0] == 1


def test_a_trial_that_has_not_fired_is_free_and_takes_no_time() -> None:
    curves = table([None, None, 20])
    found = Simulation(curves, parse_policy("none")).run(Draw([0, 1], [1], 0))
    assert (found.epochs, found.gradients, found.spent) == (2 * T, 2 * T * STEPS, T * STEPS)
    assert found.makespan == T  # the trunk's


def test_where_learning_rates_differ_nothing_is_shared() -> None:
    made = [list(rows_of(f"c{i}", i, fired, T, 1, True)) for i, fired in enumerate([9, 20, None])]
    for row in made[1]:
        row["value"] += 0.01
    rows = pa.Table.from_pylist([row for run in made for row in run])
    curves = from_rows(dict(zip(rows.column_names, rows.columns, strict=True)))
    assert not curves.trunks
    (full,) = measure(curves, [parse_policy("none")], Settings(replays=1))
    assert full.stats["spent"] == full.stats["gradients"]
    with pytest.raises(ValueError, match="cannot be replayed on these curves: their SGD runs diff"):
        check_recorded(curves, [parse_policy("asha:clock=firing")])
    assert "asha:clock=firing" not in [policy.name for policy in default_policies(curves)]


def test_the_clock_needs_sgd_to_the_end() -> None:
    firing = parse_policy("asha:clock=firing")
    check_recorded(table([9, None], sgd=False), [firing])
    check_recorded(table([9, 20]), [firing])
    with pytest.raises(ValueError, match=f"none of them is SGD until T = {T}, and none is named"):
        check_recorded(table([9, 20], sgd=False), [firing])
    rows = [row for i in range(2) for row in rows_of(f"c{i}", i, 5, T, 1, False)]
    for row in rows:
        del row["gradient_evaluations"]
    made = pa.Table.from_pylist(rows)
    plain = from_rows(dict(zip(made.column_names, made.columns, strict=True)))
    with pytest.raises(ValueError, match="no gradient evaluations are recorded"):
        check_recorded(plain, [firing])
    (full,) = measure(plain, [parse_policy("none")], Settings(replays=1))
    assert math.isnan(full.stats["spent"])
    assert full.stats["share"] == 1


def test_a_prefix_is_the_trunk_where_sgd_is_not_recorded() -> None:
    curves = table([9, 20], sgd=False)
    trunk = curves.trunks[T, 1]
    assert np.isfinite(trunk.values).sum() == 19
    assert (trunk.gradients, trunk.seconds) == (T * STEPS, T)
    whole = table([9, 20]).trunks[T, 1]
    assert np.isfinite(whole.values).all()
    assert whole.gradients == T * STEPS
