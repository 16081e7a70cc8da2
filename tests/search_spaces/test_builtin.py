from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from optuna.trial import FixedTrial

from rts_search.search.grid import grid_of
from search_spaces.builtin import SPACES
from search_spaces.registry import also, get_space, start_points
from search_spaces.space import Space, apply, describe, overrides
from tests.contracts.space_contract import BASE, SpaceContract
from trainables.config import TrialConfig
from trainables.schedules import AfterConfig, Schedule
from trainables.triggers import AlwaysTrigger, EpochTrigger, VarianceTrigger


class TestBuiltIn(SpaceContract):
    @pytest.fixture(params=list(SPACES))
    def space(self, request: pytest.FixtureRequest) -> Space:
        return get_space(request.param)


class TestWithTrainingParameters(SpaceContract):
    @pytest.fixture(params=["radius", "timing"])
    def space(self, request: pytest.FixtureRequest) -> Space:
        ranges = {"lr": [0.01, 1.0], "weight_decay": [1e-5, 1e-2], "batch_size": [100, 500]}
        return also(get_space(request.param), ranges)


def configs_at_start(name: str) -> list[TrialConfig]:
    space = get_space(name)
    return [apply(space, FixedTrial(point), BASE) for point in start_points(space)]


@pytest.mark.parametrize(("name", "low", "high"), [("radius", 0.01, 100.0), ("scale", 0.01, 10.0)])
def test_schedules_search_alpha_in_log(name: str, low: float, high: float) -> None:
    described = {p.name: p.distribution for p in describe(get_space(name))}
    assert list(described) == [f"{name}_alpha_start", f"{name}_alpha_end", f"{name}_shape"]
    for end in ("start", "end"):
        distribution = described[f"{name}_alpha_{end}"]
        assert (distribution.low, distribution.high, distribution.log) == (low, high, True)


def test_alpha_reaches_the_schedule() -> None:
    point = {"radius_alpha_start": 100.0, "radius_alpha_end": 0.5, "radius_shape": "inverse"}
    config = apply(get_space("radius"), FixedTrial(point), BASE)
    assert config.optimizer.radius.strategy == "isin"  # the CIFAR-100 winner: β 2, 0.01
    assert config.optimizer.radius.beta_min == pytest.approx(0.01)
    assert config.optimizer.radius.beta_max == pytest.approx(2.0)
    assert config.optimizer.scale == Schedule()
    assert config.optimizer.trigger == AlwaysTrigger()


def test_only_spaces_without_branches_are_unconditional() -> None:
    unconditional = {
        name for name in SPACES if not any(p.conditional for p in describe(get_space(name)))
    }
    assert unconditional == {"radius", "scale", "radius_scale", "switch", "late"}


@pytest.mark.parametrize("epochs", [1, 2, 9, 27, 100, 400, 1000])
def test_every_configuration_of_switch_and_late_fires(epochs: int) -> None:
    for name in ("switch", "late"):
        space = get_space(name)
        for point in grid_of(space, 2):
            trigger = apply(space, FixedTrial(point), BASE).optimizer.trigger
            assert 1 <= trigger.first_epoch(epochs, 10) <= epochs


@pytest.mark.parametrize(
    ("left", "epochs", "first"), [(0.5, 100, 51), (0.5, 27, 14), (0.02, 100, 99), (0.02, 27, 27)]
)
def test_late_fires_when_so_much_is_left(left: float, epochs: int, first: int) -> None:
    point = {
        "trigger_left": left, "after_lr_factor": 0.3, "after_anneal": "own", "radius_alpha": 2.0,
        "scale_alpha": 0.5,
    }  # fmt: skip
    rule = apply(get_space("late"), FixedTrial(point), BASE).optimizer
    assert rule.trigger.first_epoch(epochs, 10) == first
    assert rule.after == AfterConfig(lr_factor=0.3, anneal="own")
    assert (rule.radius, rule.scale) == (
        Schedule.model_validate(2.0), Schedule.model_validate(0.5)
    )  # fmt: skip


@pytest.mark.parametrize("name", SPACES)
def test_at_most_half_of_the_known_good_points_fire_at_the_start(name: str) -> None:
    space = get_space(name)
    rules = [
        overrides(space, FixedTrial(point)).get("optimizer", {}) for point in start_points(space)
    ]
    if not any("trigger" in rule for rule in rules):
        pytest.skip("the trigger is the spec's")
    triggers = [config.optimizer.trigger for config in configs_at_start(name)]
    first = [trigger.first_epoch(100, 100) for trigger in triggers]
    for count in range(2, len(first) + 1):  # of any first few, too
        assert first[:count].count(1) <= (count + 1) // 2
    assert first.count(1) <= len(first) // 2
    assert max(first) > 50 or name == "paper"  # whose triggers say nothing beforehand


def test_no_parameter_is_shared_by_two_families() -> None:
    families = {
        parameter.name.split("_")[0]
        for parameter in describe(also(get_space("baselines"), ["momentum"]))
    }
    assert families == {"family", "sgd", "pugd", "sam", "asam"}


def test_the_papers_best_as_they_really_ran() -> None:
    radius = configs_at_start("radius")[0].optimizer.radius
    assert radius == Schedule(strategy="cos", beta_min=0.01, beta_max=2.0)  # not icos, as named
    timing = configs_at_start("timing")
    assert timing[0].optimizer.trigger == VarianceTrigger(k=10, gamma=0.2)
    assert timing[0].optimizer.radius == timing[0].optimizer.scale == Schedule()
    assert configs_at_start("rts")[0].optimizer.trigger == EpochTrigger(fraction=0.0)


def test_the_two_parametrisations_start_from_the_same_radius() -> None:
    ours, papers = configs_at_start("radius"), configs_at_start("paper")
    for mine in (ours[0], ours[2]):
        assert any(
            theirs.optimizer.radius.strategy == mine.optimizer.radius.strategy
            and theirs.optimizer.radius.alpha_start == pytest.approx(mine.optimizer.radius(0))
            and theirs.optimizer.radius.alpha_end == pytest.approx(mine.optimizer.radius(1))
            for theirs in papers
        )


def papers_point(radius: tuple[str, float, float], scale: tuple[str, float, float]) -> dict:
    """A point of the paper's space from (strategy, β_min, β_max)."""
    point: dict[str, object] = {"trigger": "always"}
    for name, (strategy, low, high) in {"radius": radius, "scale": scale}.items():
        kind = "inverse_beta" if strategy in ("isin", "icos") else "beta"
        point[f"{name}_strategy"] = strategy
        if strategy == "constant":
            point[f"{name}_beta"] = high
        else:
            point |= {f"{name}_{kind}_min": low, f"{name}_{kind}_max": high}
    return point


def held(radius: tuple[str, float, float], scale: tuple[str, float, float]) -> None:
    """Raises ValueError unless the paper's space has them, and trains just them."""
    space, point = get_space("paper"), papers_point(radius, scale)
    start_points(space, [point])
    rule = apply(space, FixedTrial(point), BASE).optimizer
    for schedule, wanted in ((rule.radius, radius), (rule.scale, scale)):
        assert (schedule.strategy, schedule.beta_min, schedule.beta_max) == wanted


ONE = ("constant", 1.0, 1.0)


@pytest.mark.parametrize("strategy", ["cos", "sin", "isin", "icos"])
@pytest.mark.parametrize("betas", [(1.5, 3.0), (2.0, 100.0), (0.01, 0.5), (1.0, 1.0), (4.0, 5.0)])
def test_the_papers_space_holds_both_betas_above_and_below_one(
    strategy: str, betas: tuple[float, float]
) -> None:
    held((strategy, *betas), ONE)
    held(ONE, (strategy, *betas))


def test_the_papers_space_holds_one_over_a_thousandth() -> None:
    held(("isin", 0.001, 2.0), ("icos", 0.001, 5.0))


def test_the_smaller_beta_is_the_minimum() -> None:
    point = papers_point(("cos", 3.0, 0.5), ONE)
    radius = apply(get_space("paper"), FixedTrial(point), BASE).optimizer.radius
    assert (radius.beta_min, radius.beta_max) == (0.5, 3.0)


RUNS = Path("/work/shared/data/author_runs_cifar10.parquet")


@pytest.mark.skipif(not RUNS.exists(), reason="the author's runs are not here")
def test_the_papers_space_holds_the_authors_runs() -> None:
    count = 0
    for run in pq.read_table(RUNS).to_pylist():
        if run["family"] not in ("pugd", "radius", "scale", "radius_scale"):
            continue
        found = [
            (run[f"{name}_strategy"], run[f"{name}_min"], run[f"{name}_max"])
            if run[f"{name}_strategy"]
            else ONE
            for name in ("radius", "scale")
        ]
        held(found[0], found[1])
        count += 1
    assert count > 70


def test_the_papers_space_holds_alpha_zero() -> None:
    space = get_space("paper")
    point = {
        "radius_strategy": "sin", "radius_beta_min": 0.0, "radius_beta_max": 2.0,
        "scale_strategy": "constant", "scale_beta": 1.0, "trigger": "always",
    }  # fmt: skip
    assert start_points(space, [point]) == [point]
    assert apply(space, FixedTrial(point), BASE).optimizer.radius(0.0) == 0.0
