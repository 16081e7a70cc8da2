"""How many trials run at once, and what each gets."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rts_search.cluster.layout import Layout, Node, explain, make_layout
from rts_search.spec.model import ResourcesConfig


def layout(cpus: float, gpus: float, **resources: Any) -> Layout:
    return make_layout(ResourcesConfig.model_validate(resources), [Node(cpus, gpus)])


@pytest.mark.parametrize(
    ("cpus", "gpus", "resources", "expected"),
    [
        (2, 0, {}, Layout(1, 0, 2, 1)),
        (16, 0, {"cpu": 4}, Layout(4, 0, 4, 4)),
        (16, 0, {"cpu": 3}, Layout(3, 0, 5, 3)),
        (2, 0, {"cpu": 0.5}, Layout(0.5, 0, 4, 1)),
        (8, 0, {"cpu": 2.5}, Layout(2.5, 0, 3, 2)),
        (16, 0, {"concurrent": 3}, Layout(1, 0, 3, 1)),
        (2, 0, {"concurrent": 9}, Layout(1, 0, 2, 1)),
        (16, 2, {}, Layout(1, 1, 2, 1)),  # a GPU each where there are any
        (16, 2, {"gpu": "auto", "cpu": 8}, Layout(8, 1, 2, 8)),
        (16, 2, {"gpu": 0}, Layout(1, 0, 16, 1)),
        (16, 2, {"gpu": 0.25}, Layout(1, 0.25, 8, 1)),
        (2, 1, {"gpu": 0.25}, Layout(1, 0.25, 2, 1)),  # CPUs cap as well
        (16, 2, {"gpu": 0.4}, Layout(1, 0.4, 4, 1)),  # a trial has its share of one GPU
        (16, 3, {"gpu": 0.6}, Layout(1, 0.6, 3, 1)),
        (30, 3, {"gpu": 0.1}, Layout(1, 0.1, 30, 1)),
        (16, 5, {"gpu": 2}, Layout(1, 2, 2, 1)),
    ],
)
def test_layouts(cpus: float, gpus: float, resources: dict[str, Any], expected: Layout) -> None:
    assert layout(cpus, gpus, **resources) == expected


@pytest.mark.parametrize(
    ("resources", "asked"),
    [({"cpu": 3}, "3 CPU and 1 GPU"), ({"gpu": 2}, "1 CPU and 2 GPU")],
)
def test_a_trial_that_does_not_fit_is_refused(resources: dict[str, Any], asked: str) -> None:
    message = (
        f"^a trial asks for {asked}, but Ray has 2 CPU and 1 GPU; lower resources.cpu or "
        "resources.gpu$"
    )
    with pytest.raises(ValueError, match=message):
        layout(2, 1, **resources)


def test_a_fraction_of_no_gpu_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1 CPU and 0.5 GPU, but Ray has 2 CPU and 0 GPU"):
        layout(2, 0, gpu=0.5)


def test_a_layout_reads_as_a_sentence() -> None:
    assert str(layout(2, 0)) == "2 trials at once, each 1 CPU with 1 thread"
    gpu = layout(16, 1, cpu=4, gpu=0.5)
    assert str(gpu) == "2 trials at once, each 4 CPU, 0.5 GPU with 4 threads"


@given(
    st.integers(1, 128),
    st.integers(0, 8),
    st.sampled_from([0.25, 0.5, 1, 1.5, 2, 3, 7, 16]),
    st.sampled_from(["auto", 0, 0.1, 0.2, 0.3, 1 / 3, 0.5, 0.7, 1, 2, 3]),
    st.none() | st.integers(1, 200),
)
def test_the_trials_fit_and_no_more_would(
    cpus: int, gpus: int, cpu: float, gpu: float | str, concurrent: int | None
) -> None:
    try:
        found = layout(cpus, gpus, cpu=cpu, gpu=gpu, concurrent=concurrent)
    except ValueError:
        assert cpu > cpus or (gpu != "auto" and float(gpu) > gpus)
        return
    assert 1 <= found.threads <= max(1, found.cpu)
    assert fits(found, found.concurrent, cpus, gpus)
    if found.concurrent != concurrent:
        assert not fits(found, found.concurrent + 1, cpus, gpus)
    assert concurrent is None or found.concurrent <= concurrent


def fits(found: Layout, trials: int, cpus: int, gpus: int) -> bool:
    """Whether so many trials find a place, a fraction of a GPU on one GPU each."""
    if trials * found.cpu > cpus + 1e-9:
        return False
    if found.gpu == 0:
        return True
    if found.gpu >= 1:
        return trials * found.gpu <= gpus
    free, placed = [1.0] * gpus, 0
    for i in range(gpus):
        while free[i] >= found.gpu - 1e-9:
            free[i] -= found.gpu
            placed += 1
    return placed >= trials


def many(nodes: list[Node], can_grow: bool = False, **resources: Any) -> Layout:
    return make_layout(ResourcesConfig.model_validate(resources), nodes, can_grow=can_grow)


def test_a_trial_never_spans_two_nodes() -> None:
    nodes = [Node(3), Node(3), Node(1)]
    assert many(nodes, cpu=2).concurrent == 2  # not the 3 of 7 CPUs in all
    with pytest.raises(ValueError, match=r"has 3 CPU and 0 GPU on its largest of 3 nodes"):
        many(nodes, cpu=4)


def test_a_cluster_that_grows_is_asked_for_all_of_them() -> None:
    nodes = [Node(2)]
    assert many(nodes, can_grow=True) == Layout(1, 0, 2, 1, grows=True)
    assert many(nodes, can_grow=True, concurrent=6) == Layout(1, 0, 6, 1, pending=4)
    assert many(nodes, can_grow=True, concurrent=3, gpu=1) == Layout(1, 1, 3, 1, pending=3)
    with pytest.raises(ValueError, match=r"or set resources.concurrent, and trials wait"):
        many(nodes, can_grow=True, gpu=1)


@pytest.mark.parametrize(
    ("nodes", "resources", "told"),
    [
        ([Node(4), Node(2)], {}, "4 + 2 fit on 2 nodes; more as nodes join"),
        ([Node(2, 2)], {"gpu": 0.25}, "the CPUs are the limit, the GPUs would take 8"),
        ([Node(4, 2)], {"gpu": 0}, "2 GPU stay idle"),
        ([Node(2)], {"concurrent": 5}, "3 of them wait for nodes that an autoscaler may add"),
    ],
)
def test_what_limits_the_sweep_is_told(
    nodes: list[Node], resources: dict[str, Any], told: str
) -> None:
    assert told in explain(many(nodes, can_grow=True, **resources), nodes)
