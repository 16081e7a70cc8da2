"""Our rules against Ray Tune's own schedulers."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st
from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule, TrialScheduler

from rts_search.stopping.rules import Asha, Median, Rule

LONGEST = 32
# trials, how many epochs ahead their next report is (as for a NaN), and values in 64ths: sums of
# those are exact in any order, and many are equal
REPORTS = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 3), st.integers(0, 64)), max_size=80)
MODES = st.sampled_from(["max", "min"])


class Entrant(NamedTuple):
    trial_id: int


def same_verdicts(
    reports: list[tuple[int, int, int]], mode: str, rays: TrialScheduler, ours: Rule
) -> None:
    times: dict[int, int] = {}
    stopped: set[int] = set()
    for number, ahead, value in reports:
        if number in stopped or times.get(number, 0) + ahead > LONGEST:
            continue
        times[number] = times.get(number, 0) + ahead
        rays.on_trial_add(None, Entrant(number))
        result = {"time": times[number], "value": value / 64}
        theirs = rays.on_trial_result(None, Entrant(number), result) == TrialScheduler.STOP
        shown = result["value"] if mode == "max" else -result["value"]
        assert ours.judge(number, times[number], shown) == theirs
        if theirs:
            stopped.add(number)


def settings(mode: str) -> dict[str, Any]:
    return {"time_attr": "time", "metric": "value", "mode": mode}


@given(REPORTS, st.sampled_from([1, 2, 4]), st.sampled_from([2, 2.5, 3, 4]), MODES)
def test_asha_gives_the_verdicts_of_rays(
    reports: list[tuple[int, int, int]], first: int, eta: float, mode: str
) -> None:
    rays = AsyncHyperBandScheduler(
        max_t=LONGEST,
        grace_period=first,
        reduction_factor=eta,
        stop_last_trials=False,
        **settings(mode),
    )
    # Ray counts its milestones up from the first; an epoch is at or after 6.25 from 7 on
    milestones = [math.ceil(first * eta**k) for k in range(6) if first * eta**k <= LONGEST]
    same_verdicts(reports, mode, rays, Asha(milestones, eta))


@given(REPORTS, st.integers(1, 4), MODES)
def test_median_gives_the_verdicts_of_rays(
    reports: list[tuple[int, int, int]], first: int, mode: str
) -> None:
    rays = MedianStoppingRule(grace_period=first, min_time_slice=math.inf, **settings(mode))
    same_verdicts(reports, mode, rays, Median(range(first, LONGEST + 1)))
