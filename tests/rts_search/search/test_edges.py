"""The warning that the best lie on the edge of the space."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import BaseTrial

from rts_search.search.edges import MARGIN, edges, ranges_of, top_of
from search_spaces.registry import also, get_space
from search_spaces.space import Space
from trainables.config import TrialConfig

BASE = TrialConfig.model_validate({"optimizer": {"family": "rts"}})
RADIUS, TIMING, SWITCH, LATE = (
    ranges_of(get_space(name), BASE) for name in ("radius", "timing", "switch", "late")
)


def row(**params: Any) -> dict[str, Any]:
    return {"params": json.dumps(params)}


def trial(start: float, end: float) -> dict[str, Any]:
    return row(radius_alpha_start=start, radius_alpha_end=end, radius_shape="plain")


def test_an_edge_where_two_of_the_best_five_lie_is_named() -> None:
    best = [trial(100, 1), trial(95, 0.5), trial(60, 2), trial(1, 3), trial(2, 5)]
    assert edges(RADIUS, best) == [
        "2 of the best 5 with radius_alpha_start lie at its upper bound, 100 (at 95 to 100): the "
        "optimum may lie beyond; search a space of your own with a wider range, in a new sweep "
        "with search.warm_start naming this one"
    ]


def test_lower_edges_are_judged_in_log() -> None:
    best = [trial(1, 0.0105), trial(2, 0.011), trial(3, 0.0101), trial(4, 0.013)]
    (warning,) = edges(RADIUS, best)
    assert warning.startswith("3 of the best 4 with radius_alpha_end lie at its lower bound, 0.01")


def test_inside_there_is_nothing_to_say() -> None:
    inside = [trial(1, 1), trial(50, 0.05), trial(100, 1), trial(3, 3)]
    assert edges(RADIUS, inside) == []
    assert edges(RADIUS, []) == []


def test_of_many_two_are_no_sign() -> None:
    assert edges(RADIUS, [trial(100, 1)] * 2 + [trial(1, 1)] * 18) == []
    assert edges(RADIUS, [trial(100, 1)] * 7 + [trial(1, 1)] * 13) != []


def test_two_trials_say_nothing() -> None:
    assert edges(RADIUS, [trial(100, 1)] * 2) == []
    assert edges(RADIUS, [trial(100, 1)] * 3) != []


def test_a_parameter_counts_for_those_that_have_it() -> None:
    gap = [row(trigger="gap", trigger_mu=0.01)] * 2
    (warning,) = edges(TIMING, gap + [row(trigger="cosine", trigger_kappa=0.5)] * 6)
    assert warning.startswith("2 of the best 2 with trigger_mu lie at its lower bound, 0.01")


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_where_nothing_can_lie_beyond_is_no_edge(fraction: float) -> None:
    assert edges(TIMING, [row(trigger="epoch", trigger_fraction=fraction)] * 4) == []
    assert edges(SWITCH, [row(trigger_fraction=min(fraction, 0.999))] * 4) == []


def test_more_than_half_of_a_run_can_be_left() -> None:
    (warning,) = edges(LATE, [row(trigger_left=0.5, after_lr_factor=1.0)] * 4)
    assert warning.startswith("4 of the best 4 with trigger_left lie at its upper bound, 0.5")


def test_a_training_parameter_is_widened_in_the_spec() -> None:
    best = [row(trigger="cosine", trigger_kappa=0.5, rts_lr=rate) for rate in (1.0, 0.99, 0.97)]
    (warning,) = edges(ranges_of(also(get_space("timing"), ["lr"]), BASE), best, ["lr"])
    assert "rts_lr lie at its upper bound, 1 (at 0.97 to 1)" in warning
    assert "; widen search.also.lr, in a new sweep" in warning


def test_whole_numbers_have_edges_too() -> None:
    def suggest(of: BaseTrial) -> dict[str, Any]:
        low = of.suggest_int("batch", 32, 512, log=True)
        of.suggest_int("fixed", 3, 3)  # no range, no edge
        return {"train": {"batch_size": low}}

    (warning,) = edges(ranges_of(Space("own", "", suggest), BASE), [row(batch=32, fixed=3)] * 3)
    assert "batch lie at its lower bound, 32 (at 32)" in warning


@given(st.lists(st.floats(0.01, 100), min_size=3, max_size=8))
def test_a_warning_is_never_about_values_inside(starts: list[float]) -> None:
    margin = MARGIN * math.log(100 / 0.01) + 1e-6
    near = [s for s in starts if min(math.log(100 / s), math.log(s / 0.01)) <= margin]
    if len(near) < 2:
        assert edges(RADIUS, [trial(start, 1) for start in starts]) == []


def test_the_best_tenth_counts_but_five_at_least() -> None:
    assert len(top_of([{}] * 30, 30)) == 5
    assert len(top_of([{}] * 200, 200)) == 20
