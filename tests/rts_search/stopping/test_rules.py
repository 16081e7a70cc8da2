"""QuickMedian against Ray's own rule."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from ray.tune.schedulers import MedianStoppingRule, TrialScheduler

from rts_search.stopping.rules import QuickMedian
from rts_search.stopping.stopper import Entrant

SETTINGS: dict[str, Any] = {"time_attr": "time", "metric": "value", "min_time_slice": math.inf}


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(1, 3), st.integers(0, 64)), max_size=60),
    st.integers(1, 4),
    st.sampled_from(["max", "min"]),
)
def test_same_verdicts_as_rays_own_rule(
    reports: list[tuple[int, int, int]], grace: int, mode: str
) -> None:
    # values in 64ths: their sums are exact in any order; times may skip, as for a NaN
    rays = MedianStoppingRule(grace_period=grace, mode=mode, **SETTINGS)
    ours = QuickMedian(grace_period=grace, mode=mode, **SETTINGS)
    times: dict[int, int] = {}
    stopped: set[int] = set()
    for number, ahead, value in reports:
        if number in stopped:
            continue
        times[number] = times.get(number, 0) + ahead
        result = {"time": times[number], "value": value / 64}
        verdicts = []
        for rule in (rays, ours):
            rule.on_trial_add(None, Entrant(number))
            verdicts.append(rule.on_trial_result(None, Entrant(number), result))
        assert verdicts[0] == verdicts[1]
        if verdicts[0] == TrialScheduler.STOP:
            stopped.add(number)
