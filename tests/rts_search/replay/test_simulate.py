"""One replayed search: costs, exactness, and a slow reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rts_search.replay.curves import RecordedCurves, Runs, from_rows
from rts_search.replay.policies import Policy, parse_policy
from rts_search.replay.simulate import Draw, Outcome, Simulation
from rts_search.stopping.stopper import Look, Stopper

T, RUNGS = 27, (3, 9, 27)
POLICIES = [
    f"{policy}:{fidelity}:3:3"
    for policy in ("asha", "hyperband", "median")
    for fidelity in ("schedule", "epoch")
]


def table(
    levels: list[float],
    seeds: tuple[int, ...] = (1, 2),
    noise: float = 0.0,
    lost: tuple[int, ...] = (),
    totals: tuple[int, ...] = RUNGS,
    **columns: Any,
) -> RecordedCurves:
    """Curves that rise to a configuration's level; those of `lost` end after 60 % of T."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "config": f"c{i}",
            "seed": seed,
            "total_epochs": total,
            "epoch": epoch,
            "value": level * epoch / total + noise * rng.random(),
            "gradient_evaluations": 10 * epoch,
            "epoch_seconds": 1.0 + 0.25 * (i % 3),
            **{name: values[i] for name, values in columns.items()},
        }
        for i, level in enumerate(levels)
        for seed in seeds
        for total in totals
        for epoch in range(1, (math.ceil(0.6 * total) if i in lost else total) + 1)
    ]
    made = pa.Table.from_pylist(rows)
    return from_rows(dict(zip(made.column_names, made.columns, strict=True)))


def draw(curves: RecordedCurves, seed: int = 0) -> Draw:
    rng = np.random.default_rng(seed)
    return Draw(rng.permutation(len(curves.configs)).tolist(), curves.seeds(), seed)


def one_by_one(curves: RecordedCurves, policy: Policy, drawn: Draw) -> Outcome:
    """The obvious search with one worker: each trial trains its rungs, epoch by epoch."""
    stopper = policy.stopper(curves.epochs, drawn.stopper_seed)
    finals: dict[int, float] = {}
    epochs, gradients, seconds = 0, 0.0, 0.0
    for number, config in enumerate(drawn.order):
        stopped = False
        for _, total in stopper.climb(number):
            runs = curves.runs[total, drawn.seeds[0]]
            values = runs.values[config, : runs.length[config]].tolist()
            for epoch, value in enumerate(values, 1):
                epochs += 1
                stopped = stopper.judge(number, Look(total, epoch, value))
                if stopped:
                    break
            gradients += runs.gradients[config, epoch - 1]
            seconds += runs.clock[config, epoch - 1]
            if epoch < total:  # stopped, or lost
                break
            if total == curves.epochs:
                finals[config] = values[-1]
            if stopped:
                break
    pick = max(finals, key=lambda c: (finals[c], -drawn.order.index(c))) if finals else None
    return Outcome(pick, epochs, gradients, gradients, seconds, len(finals))


class EveryEpoch(Simulation):
    """Shows the stopper every epoch, also those that cannot matter to it."""

    def shown(self, stopper: Stopper, runs: Runs, config: int) -> range:
        return range(1, int(runs.length[config]) + 1)


levels = st.lists(st.integers(1, 40).map(lambda n: n / 64), min_size=2, max_size=14)


@settings(max_examples=40, deadline=None)
@given(levels, st.sampled_from([*POLICIES, "none"]), st.integers(0, 99), st.booleans())
def test_equals_the_slow_reference(found: list[float], policy: str, seed: int, noisy: bool) -> None:
    curves = table(found, noise=0.2 if noisy else 0, lost=(1,))
    drawn = draw(curves, seed)
    fast = Simulation(curves, parse_policy(policy)).run(drawn)
    slow = one_by_one(curves, parse_policy(policy), drawn)
    assert (fast.pick, fast.epochs, fast.gradients) == (slow.pick, slow.epochs, slow.gradients)
    assert fast.completed == slow.completed
    assert fast.makespan == pytest.approx(slow.makespan)


@settings(max_examples=40, deadline=None)
@given(levels, st.sampled_from(POLICIES), st.integers(1, 5), st.integers(0, 99), st.booleans())
def test_showing_only_what_matters_changes_nothing(
    found: list[float], policy: str, workers: int, seed: int, gap: bool
) -> None:
    curves = table(found, noise=0.3, lost=(0,))
    if gap:  # a milestone's value is not finite: the next one counts
        for runs in curves.runs.values():
            runs.values[1, 2] = math.nan
    drawn, parsed = draw(curves, seed), parse_policy(policy)
    every = EveryEpoch(curves, parsed, workers).run(drawn)
    assert Simulation(curves, parsed, workers).run(drawn) == every


def test_no_stopper_trains_everything() -> None:
    curves = table([0.1, 0.5, 0.3, 0.2])
    found = Simulation(curves, parse_policy("none"), workers=2).run(draw(curves))
    assert (found.pick, found.epochs, found.gradients, found.completed) == (1, 4 * T, 1080, 4)


def test_schedule_rungs_cost_whole_runs_from_the_start() -> None:
    curves = table([0.9, 0.1, 0.8, 0.2])
    in_order = Draw([0, 1, 2, 3], curves.seeds(), 0)
    found = Simulation(curves, parse_policy("asha:schedule:3:3")).run(in_order)
    # the first is alone at each rung; the third passes what two have reached, and fails at 9
    assert found.epochs == (3 + 9 + 27) + 3 + (3 + 9) + 3
    assert (found.pick, found.completed) == (0, 1)
    truncating = Simulation(curves, parse_policy("asha:epoch:3:3")).run(in_order)
    assert truncating.epochs == 27 + 3 + 9 + 3


def test_workers_share_the_time_and_not_the_cost() -> None:
    curves = table([0.5] * 6)
    runs = [Simulation(curves, parse_policy("none"), w).run(draw(curves)) for w in (1, 3, 6)]
    assert len({run.epochs for run in runs}) == 1
    assert runs[0].makespan > runs[1].makespan > runs[2].makespan
    assert runs[2].makespan == pytest.approx(T * 1.5)


def test_a_lost_run_costs_its_epochs_and_is_never_picked() -> None:
    curves = table([0.2, 0.9], lost=(1,))
    found = Simulation(curves, parse_policy("none")).run(draw(curves))
    assert (found.pick, found.completed) == (0, 1)
    assert found.epochs == T + math.ceil(0.6 * T)
    lost = table([0.2, 0.9], lost=(0, 1))
    assert Simulation(lost, parse_policy("none")).run(draw(lost)).pick is None


def test_a_rung_is_judged_by_the_mean_over_its_tail() -> None:
    """Of 40 epochs that is the last two: one lucky epoch at the rung does not carry a trial on."""
    lucky = {19: 0.1, 20: 0.9}
    rows = [
        {
            "config": f"c{i}",
            "seed": 1,
            "total_epochs": total,
            "epoch": epoch,
            "value": lucky.get(epoch, 0.6) if i == 3 else 0.6,
        }
        for i in range(4)
        for total in (20, 40)
        for epoch in range(1, total + 1)
    ]
    made = pa.Table.from_pylist(rows)
    curves = from_rows(dict(zip(made.column_names, made.columns, strict=True)))
    in_order = Draw([0, 1, 2, 3], [1], 0)
    long = curves.runs[40, 1].values[3]
    assert long[18:22] == pytest.approx([0.35, 0.5, 0.75, 0.6])
    truncating = Simulation(curves, parse_policy("asha:epoch:2:20"))
    with_it, without = truncating.run(in_order), truncating.run(Draw([0, 1, 2], [1], 0))
    assert with_it.epochs == without.epochs + 20
    # a complete run of 20 has a tail of one epoch
    assert curves.runs[20, 1].values[3, 19] == pytest.approx(0.9)
    climbing = Simulation(curves, parse_policy("asha:schedule:2:20"))
    with_it, without = climbing.run(in_order), climbing.run(Draw([0, 1, 2], [1], 0))
    assert with_it.epochs == without.epochs + 20 + 40
