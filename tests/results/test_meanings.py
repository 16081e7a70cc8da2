"""Objectives and their directions, of the built-in loop and of tasks of one's own."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from results.meanings import (
    OBJECTIVES,
    column,
    direction,
    is_objective,
    merit,
    metric_of,
    minimised,
    own_objective,
)
from results.schema import EPOCHS

METRICS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,63}", fullmatch=True)
VALUES = st.floats(-1e6, 1e6)


@given(METRICS, st.sampled_from(["minimize", "maximize"]), VALUES, VALUES)
def test_a_name_tells_its_direction(
    metric: str, way: Literal["minimize", "maximize"], one: float, other: float
) -> None:
    name = own_objective(metric, way)
    assert is_objective(name)
    assert metric_of(name) == metric
    assert direction(name) == way
    assert minimised(name) == (way == "minimize")
    assert column(name) in EPOCHS.names
    better = min if way == "minimize" else max
    assert merit(better(one, other), name) == max(merit(one, name), merit(other, name))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_built_in_ones_have_columns_of_their_own(name: str) -> None:
    assert column(name) == name
    assert own_objective(name, direction(name)) == name
    other: Literal["minimize", "maximize"] = (
        "minimize" if direction(name) == "maximize" else "maximize"
    )
    assert column(own_objective(name, other)) == "value"


@pytest.mark.parametrize(
    "name", ["val_acc", "val_mse", "val_mse:", "val mse:min", "a:mean", ":max"]
)
def test_other_names_are_none(name: str) -> None:
    assert not is_objective(name)
