from __future__ import annotations

import itertools
import json
import statistics
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import BaseTrial

from rts_search.search.grid import grid_of
from rts_search.search.known import Told
from rts_search.search.samplers import POPULATION, make_sampler, recalled, remembered
from rts_search.search.suits import SAMPLERS, check_sampler
from search_spaces.builtin import SPACES
from search_spaces.registry import get_space
from search_spaces.space import Space, describe
from tests.contracts.sampler_contract import SamplerContract, Search, cost, objective, run

CONDITIONAL = [n for n in SPACES if any(p.conditional for p in describe(get_space(n)))]
FIXED = [n for n in SPACES if n not in CONDITIONAL]


def numbers(trial: BaseTrial) -> dict[str, Any]:
    lr = trial.suggest_float("lr", 0.01, 1.0, log=True)
    return {
        "train": {
            "lr": lr,
            "momentum": trial.suggest_float("momentum", 0.0, 0.9),
            "batch_size": trial.suggest_int("batch", 20, 100, step=20),
            "epochs": trial.suggest_int("epochs", 4, 4),
        }
    }


NUMBERS = Space("numbers", "", numbers)


class TestOnSpacesWithBranches(SamplerContract):
    @pytest.fixture(params=["tpe", "random"])
    def sampler(self, request: pytest.FixtureRequest) -> str:
        return request.param

    @pytest.fixture(params=["baselines", "paper"])
    def space(self, request: pytest.FixtureRequest) -> Space:
        return get_space(request.param)


class TestGrid(SamplerContract):
    @pytest.fixture
    def sampler(self) -> str:
        return "grid"

    @pytest.fixture(params=["baselines", "radius_scale"])
    def space(self, request: pytest.FixtureRequest) -> Space:
        return get_space(request.param)


class TestOnFixedSpaces(SamplerContract):
    @pytest.fixture(params=["tpe", "random", "qmc", "cmaes"])
    def sampler(self, request: pytest.FixtureRequest) -> str:
        return request.param

    @pytest.fixture(params=["radius", "switch", "late", "numbers"])
    def space(self, request: pytest.FixtureRequest) -> Space:
        return NUMBERS if request.param == "numbers" else get_space(request.param)


class TestGaussianProcess(SamplerContract):
    @pytest.fixture
    def sampler(self) -> str:
        return "gp"

    @pytest.fixture(params=["radius", "late"])
    def space(self, request: pytest.FixtureRequest) -> Space:
        return get_space(request.param)


class TestTwoObjectives(SamplerContract):
    objectives = 2

    @pytest.fixture(params=["tpe", "random", "qmc", "grid"])
    def sampler(self, request: pytest.FixtureRequest) -> str:
        return request.param

    @pytest.fixture
    def space(self) -> Space:
        return NUMBERS


class TestTwoObjectivesWithBranches(TestTwoObjectives):
    @pytest.fixture(params=["tpe", "random"])
    def sampler(self, request: pytest.FixtureRequest) -> str:
        return request.param

    @pytest.fixture
    def space(self) -> Space:
        return get_space("rts")


class TestGaussianProcessOfTwoObjectives(TestTwoObjectives):
    trials = 24

    @pytest.fixture
    def sampler(self) -> str:
        return "gp"

    @pytest.fixture
    def space(self) -> Space:
        return get_space("radius")


class TestGenerations(SamplerContract):
    trials = 3 * POPULATION  # every other one completes: into the second generation
    objectives = 2

    @pytest.fixture
    def sampler(self) -> str:
        return "nsga2"

    @pytest.fixture(params=["radius", "rts"])
    def space(self, request: pytest.FixtureRequest) -> Space:
        return get_space(request.param)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", list(SPACES))
def test_unsuitable_spaces_are_refused_with_the_reason(sampler: str, name: str) -> None:
    space = get_space(name)
    if sampler in ("qmc", "gp", "cmaes") and name in CONDITIONAL:
        with pytest.raises(ValueError, match=rf"{sampler} .*'{name}' has conditional ones \("):
            check_sampler(sampler, space)
        with pytest.raises(ValueError, match="conditional"):
            make_sampler(sampler, space, seed=0)
    else:
        note = check_sampler(sampler, space)
        reserved = sampler == "cmaes" or (sampler == "nsga2" and name in CONDITIONAL)
        assert ("at random" in (note or "")) == reserved
        make_sampler(sampler, space, seed=0)


@pytest.mark.parametrize("sampler", ["gp", "cmaes"])
def test_samplers_that_ignore_stopped_trials_want_no_stopper(sampler: str) -> None:
    with pytest.raises(ValueError, match=f"{sampler} learns from completed .*stopper asha leaves"):
        check_sampler(sampler, get_space("radius"), "asha")
    assert check_sampler("tpe", get_space("radius"), "asha") is None


def test_cmaes_needs_numbers() -> None:
    choices = Space(
        "choices", "", lambda t: {"train": {"nesterov": t.suggest_categorical("n", [True, False])}}
    )
    with pytest.raises(ValueError, match="cmaes needs numbers"):
        check_sampler("cmaes", choices)
    assert check_sampler("cmaes", NUMBERS) is None


def test_the_number_of_objectives_must_suit() -> None:
    with pytest.raises(
        ValueError, match=r"nsga2 weighs several .*: set search\.against, or use tpe"
    ):
        check_sampler("nsga2", NUMBERS, objectives=1)
    with pytest.raises(ValueError, match=r"cmaes has one objective: use tpe or nsga2"):
        check_sampler("cmaes", NUMBERS, objectives=2)
    for sampler in ("tpe", "nsga2", "random", "qmc", "grid", "gp"):
        assert check_sampler(sampler, NUMBERS, objectives=2) is None


def test_unknown_sampler() -> None:
    with pytest.raises(ValueError, match=r"unknown sampler 'tep': did you mean 'tpe'"):
        check_sampler("tep", NUMBERS)


def test_another_seed_is_another_search() -> None:
    for sampler in ("tpe", "random", "qmc", "cmaes", "grid"):
        firsts = []
        for seed in (1, 2):
            search = Search(sampler, NUMBERS, seed)
            firsts.append([search.ask().params for _ in range(6)])
        assert firsts[0] != firsts[1], sampler


def test_qmc_fills_the_space_evenly() -> None:
    """Of 16 scrambled Sobol points, each of 16 equal intervals of each number holds one."""
    proposals = run(Search("qmc", get_space("radius")), 16)
    for name in ("radius_alpha_start", "radius_alpha_end"):
        unit = [(np.log10(p.params[name]) + 2) / 4 for p in proposals]
        assert sorted(int(u * 16) for u in unit) == list(range(16))


def test_tpe_learns() -> None:
    def best(sampler: str, seed: int) -> float:
        search = Search(sampler, get_space("radius"), seed)
        values = []
        for _ in range(50):
            proposal = search.ask()
            values.append(objective(proposal.params))
            search.complete(proposal.number, values[-1])
        return max(values)

    seeds = range(5)
    tpe, random = ([best(sampler, seed) for seed in seeds] for sampler in ("tpe", "random"))
    assert statistics.median(tpe) > statistics.median(random)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_two_objectives_are_learnt(sampler: str) -> None:
    def volume(sampler: str, seed: int) -> float:
        """What the front dominates, below cost 30 and above objective -8."""
        search = Search(sampler, SPACE, seed, objectives=2)
        pairs = []
        for _ in range(60):
            proposal = search.ask()
            params = proposal.params
            search.complete(proposal.number, objective(params), cost(params))
            pairs.append((cost(params), objective(params)))
        area, best = 0.0, -8.0
        for paid, value in sorted(pairs):
            if value > best and paid < 30:
                area += (30 - paid) * (value - best)
                best = value
        return area

    SPACE = get_space("radius")
    learnt, drawn = ([volume(s, seed) for seed in range(3)] for s in (sampler, "random"))
    assert statistics.median(learnt) > statistics.median(drawn)


def test_a_grid_has_every_combination_once() -> None:
    grid = grid_of(NUMBERS, 3)
    found = {(round(p["lr"], 9), p["momentum"], p["batch"], p["epochs"]) for p in grid}
    expected = set(itertools.product((0.01, 0.1, 1.0), (0.0, 0.45, 0.9), (20, 60, 100), (4,)))
    assert found == expected
    assert len(grid) == len(expected)


def test_a_grid_follows_the_branches() -> None:
    grid = grid_of(get_space("timing"), 3)
    assert len({str(point) for point in grid}) == len(grid) == 3 * 2 + 3 + 3 + 3
    assert all(("trigger_gamma" in p) == (p["trigger"] == "variance") for p in grid)


def test_a_grid_that_is_too_large_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'rts' with 5 values .*more than 20000 trials"):
        check_sampler("grid", get_space("rts"), grid_points=5)
    with pytest.raises(ValueError, match="grid_points 1 must be at least 2"):
        grid_of(NUMBERS, 1)


@given(st.integers(1, 50), st.integers(0, 60), st.integers(1, 7), st.integers(2, 6))
def test_grid_values_of_integers_are_theirs(low: int, width: int, step: int, points: int) -> None:
    high = low + width // step * step
    space = Space(
        "n", "", lambda t: {"train": {"batch_size": t.suggest_int("n", low, high, step=step)}}
    )
    values = [point["n"] for point in grid_of(space, points)]
    assert len(values) == len(set(values)) <= points
    assert set(values) <= set(range(low, high + 1, step))
    assert {low, high} <= set(values)


def test_a_grid_is_tried_once_and_then_ends() -> None:
    space = get_space("timing")
    start = {"trigger": "gap", "trigger_mu": 1.5}  # not on the grid
    search = Search("grid", space, points=[start])
    grid = grid_of(space)
    assert search.study.remaining == len(grid) + 1
    proposals = []
    while (proposal := search.ask_or_none()) is not None:
        proposals.append(proposal.params)
        search.end(proposal.number, Told("fail", repeats=False))
    assert proposals[0] == start
    assert sorted(map(str, proposals[1:])) == sorted(map(str, grid))
    assert proposals[1:] != grid  # shuffled, so that a part of it is no corner


def test_nobody_unpickles_what_a_ledger_holds() -> None:
    """CMA-ES's state goes into the ledger as JSON, and comes back as it was."""
    search = Search("cmaes", NUMBERS)
    proposals = run(search, 40)
    memories = [p.memory for p in proposals if p.memory]
    states = [m for m in memories if "cma:optimizer" in m]
    assert len(states) > 1
    for memory in states:
        kept = json.loads(memory)["trial"]
        assert isinstance(kept["cma:optimizer"]["_mean"], list)
        assert remembered(recalled(kept)) == kept
