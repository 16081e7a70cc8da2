"""The warning that the best lie on the edge of the space."""

from __future__ import annotations

import json
from typing import Any

from rts_search.boundary import edges, top_of
from search_spaces.registry import get_space

SPACE = get_space("radius")


def trial(start: float, end: float) -> dict[str, Any]:
    params = {"radius_alpha_start": start, "radius_alpha_end": end, "radius_shape": "plain"}
    return {"params": json.dumps(params)}


def test_an_edge_where_half_of_the_best_lie_is_named() -> None:
    best = [trial(100, 1), trial(95, 0.5), trial(99, 2), trial(1, 3), trial(2, 5)]
    (warning,) = edges(SPACE, best)
    assert warning.startswith("3 of the best 5 with radius_alpha_start lie at its upper bound, 100")


def test_lower_edges_are_judged_in_log() -> None:
    best = [trial(1, 0.0105), trial(2, 0.011), trial(3, 0.0101), trial(4, 0.012)]
    (warning,) = edges(SPACE, best)
    assert "radius_alpha_end lie at its lower bound, 0.01" in warning


def test_inside_there_is_nothing_to_say() -> None:
    assert edges(SPACE, [trial(1, 1), trial(50, 0.05), trial(100, 1), trial(3, 3)]) == []
    assert edges(SPACE, []) == []


def test_the_best_tenth_counts_but_five_at_least() -> None:
    assert len(top_of([{}] * 30)) == 5
    assert len(top_of([{}] * 200)) == 20
