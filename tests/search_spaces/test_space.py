from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import TrialPruned
from optuna.trial import BaseTrial, FixedTrial

from search_spaces.space import (
    Space,
    SpaceError,
    apply,
    bounds,
    check_draws,
    check_point,
    contains,
    describe,
    overrides,
)
from tests.contracts.space_contract import BASE, SpaceContract
from trainables.config import OptimizerConfig, TrialConfig
from trainables.schedules import Schedule
from trainables.triggers import VarianceTrigger


def branching(trial: BaseTrial) -> dict[str, Any]:
    """A user's space: a branch on a number, an integer with a step, and fixed values."""
    momentum = trial.suggest_float("momentum", 0.0, 0.98)
    train: dict[str, Any] = {"momentum": momentum, "nesterov": False}
    if momentum > 0.5:
        train["nesterov"] = trial.suggest_categorical("nesterov", [True, False])
    train["batch_size"] = trial.suggest_int("batch", 20, 100, step=20)
    return {
        "train": train,
        "model": {"args": {"width": trial.suggest_int("width", 4, 64, log=True)}},
    }


class TestUsersSpace(SpaceContract):
    @pytest.fixture
    def space(self) -> Space:
        return Space("branching", "", branching)


def user(found: Any) -> Space:
    return Space("mine", "", lambda trial: found)


def trial() -> FixedTrial:
    return FixedTrial({})


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (None, "space 'mine' returned NoneType: it must return a dict of config overrides"),
        ({"optimiser": {}}, "section in space 'mine' 'optimiser': did you mean 'optimizer'"),
        ({"train": 3}, "space 'mine': train = 3 must be a dict"),
        ({"train": {"lr": -1.0}}, r"space 'mine': train\.lr = -1\.0: Input should be greater than"),
        ({"train": {"lrr": 1.0}}, "unknown train setting in space 'mine' 'lrr': did you mean 'lr'"),
        (
            {"optimizer": {"family": "sgd", "trigger": {"name": "always"}}},
            "space 'mine': optimizer = .*family sgd has the trigger never",
        ),
        (
            {"optimizer": {"family": "rts", "trigger": {"name": "variance", "k": 1}}},
            r"space 'mine': optimizer\.trigger\.k = 1: ",
        ),
    ],
)
def test_errors_name_space_key_and_value_in_one_line(found: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        apply(user(found), trial(), BASE)
    assert "\n" not in str(error.value)


def test_a_space_that_raises_is_named() -> None:
    with pytest.raises(ValueError, match="space 'mine' failed with ZeroDivisionError: "):
        overrides(Space("mine", "", lambda trial: {"train": {"lr": 1 / 0}}), trial())


def test_a_schedule_is_replaced_whole_and_other_settings_stay() -> None:
    base = TrialConfig(
        optimizer=OptimizerConfig(
            radius=Schedule.from_alpha(2.0, 0.1), scale=Schedule.from_alpha(0.5, 1.0),
            trigger=VarianceTrigger(gamma=0.1),
        )
    )  # fmt: skip
    found = {"family": "rts", "radius": {"alpha_start": 1.0, "alpha_end": 3.0}}
    config = apply(user({"optimizer": found}), trial(), base)
    assert config.optimizer.radius == Schedule.from_alpha(1.0, 3.0)
    assert config.optimizer.scale == base.optimizer.scale
    assert config.optimizer.trigger == base.optimizer.trigger
    assert config.train == base.train


def test_another_family_starts_from_its_own_defaults() -> None:
    base = TrialConfig(optimizer=OptimizerConfig(radius=Schedule.from_alpha(2.0, 0.1)))
    config = apply(user({"optimizer": {"family": "sgd"}}), trial(), base)
    assert config.optimizer == OptimizerConfig(family="sgd", trigger={"name": "never"})


def test_a_parameter_with_changing_bounds_is_conditional() -> None:
    def suggest(trial: BaseTrial) -> dict[str, Any]:
        low = trial.suggest_float("low", 0.1, 0.5)
        return {"train": {"lr": trial.suggest_float("lr", low, 1.0)}}

    assert [p.conditional for p in describe(Space("mine", "", suggest))] == [False, True]


def test_a_point_must_be_complete_and_known() -> None:
    space = Space("mine", "", branching)
    point = {"momentum": 0.2, "batch": 40, "width": 8}
    assert check_point(space, point) == point
    with pytest.raises(ValueError, match=r"lacks nesterov \(one of True, False\)"):
        check_point(space, {**point, "momentum": 0.9})
    with pytest.raises(ValueError, match=r"start point of 'mine' 'widht': did you mean 'width'"):
        check_point(space, {**point, "widht": 8})
    with pytest.raises(ValueError, match=r"batch = 50 is outside .* 20 to 100 in steps of 20"):
        check_point(space, {**point, "batch": 50})


FLOATS = st.floats(0.001, 100)


@st.composite
def distributions(draw: st.DrawFn) -> BaseDistribution:
    low, high = sorted((draw(FLOATS), draw(FLOATS)))
    first, steps = draw(st.integers(1, 50)), draw(st.integers(0, 20))
    return draw(
        st.sampled_from(
            [
                FloatDistribution(low, high),
                FloatDistribution(low, high, log=True),
                FloatDistribution(first / 8, (first + steps) / 8, step=0.125),
                IntDistribution(first, first + steps, log=True),
                IntDistribution(first, first + 3 * steps, step=3),
                CategoricalDistribution([1, 2, "a", True, None]),
            ]
        )
    )


@given(distributions(), FLOATS | st.integers(-5, 120))
def test_contains_agrees_with_optuna(distribution: BaseDistribution, value: float) -> None:
    if isinstance(distribution, IntDistribution):
        value = int(value)  # Optuna rounds where ours refuses
    if isinstance(distribution, CategoricalDistribution):
        assert contains(distribution, value) == (value in (1, 2) and isinstance(value, int))
    else:
        assert contains(distribution, value) == distribution._contains(value)


@given(distributions(), st.sampled_from(["b", float("nan"), float("inf"), False, 1.5j, [1]]))
def test_contains_refuses_other_things(distribution: BaseDistribution, value: Any) -> None:
    assert not contains(distribution, value)


@given(distributions())
def test_bounds_hold_the_numbers(distribution: BaseDistribution) -> None:
    text = bounds(distribution)
    if isinstance(distribution, CategoricalDistribution):
        assert text == "one of 1, 2, a, True, None"
    else:
        assert text.startswith(f"{distribution.low:g} to {distribution.high:g}")
        assert text.endswith("(log)") == distribution.log


# What is refused when a space is checked


def branches(trial: BaseTrial, one: Any, other: Any) -> dict[str, Any]:
    """`one` or `other` of (method, arguments) under a choice, for the same name."""
    method, *arguments = one if trial.suggest_categorical("where", ["a", "b"]) == "a" else other
    log = {"log": True} if method.endswith("_log") else {}
    return {"train": {"lr": getattr(trial, method.removesuffix("_log"))("x", *arguments, **log)}}


@pytest.mark.parametrize(
    ("one", "other", "sets"),
    [
        (
            ("suggest_categorical", [0.1, 0.2]), ("suggest_categorical", [0.01, 0.02]),
            ["one of 0.1, 0.2", "one of 0.01, 0.02"],
        ),
        (("suggest_float_log", 0.1, 1), ("suggest_float", 0.1, 1), ["0.1 to 1 (log)", "0.1 to 1"]),
        (("suggest_float", 1, 8), ("suggest_int", 1, 8), ["float 1 to 8", "int 1 to 8"]),
        (("suggest_float", 1, 8), ("suggest_categorical", [1, 2]), ["1 to 8", "one of 1, 2"]),
    ],
)  # fmt: skip
def test_one_name_asked_for_in_two_ways_is_refused(one: Any, other: Any, sets: list[str]) -> None:
    with pytest.raises(ValueError, match="space 'mine' asks for x as ") as error:
        describe(Space("mine", "", lambda trial: branches(trial, one, other)))
    first, second = str(error.value).removeprefix("space 'mine' asks for x as ").split(", and ")
    assert sorted([first, second.removeprefix("elsewhere as ").split(": give ")[0]]) == sorted(sets)
    assert str(error.value).endswith(": give each a name of its own")


def test_one_name_asked_for_twice_with_other_bounds_is_refused() -> None:
    def suggest(trial: BaseTrial) -> dict[str, Any]:
        trial.suggest_float("x", 0.1, 1.0)
        trial.suggest_float("x", 0.1, 1.0)  # the same again is no mistake
        return {"train": {"lr": trial.suggest_float("x", 0.2, 2.0)}}

    message = "space 'mine' asks for x as 0.1 to 1, and in the same trial as 0.2 to 2: give each"
    with pytest.raises(ValueError, match=message):
        describe(Space("mine", "", suggest))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"train": {"batch_size": "x"}}, r"train\.batch_size = \d+\.\d+: .* use suggest_int"),
        ({"train": {"lrr": "x"}}, "unknown train setting in space 'mine' 'lrr'"),
        ({"train": {"nesterov": [], "lr": "x"}}, r"train\.nesterov = \[\]: Input should be a val"),
    ],
)
def test_what_no_value_would_cure_is_refused_in_whatever_branch(
    section: dict[str, Any], message: str
) -> None:
    def suggest(trial: BaseTrial) -> dict[str, Any]:
        x = trial.suggest_float("x", 1.0, 10.0)
        if x < 9.5:
            return {}
        return {
            s: {k: x if v == "x" else v for k, v in each.items()} for s, each in section.items()
        }

    with pytest.raises(SpaceError, match=message):
        check_draws(Space("mine", "", suggest), BASE)


def test_a_space_that_rejects_much_is_described_whole() -> None:
    def suggest(trial: BaseTrial) -> dict[str, Any]:
        x = trial.suggest_float("x", 0.0, 1.0)
        if x > limit:
            raise TrialPruned
        return {"train": {"lr": 0.1 + x, "momentum": trial.suggest_float("m", 0.0, 0.9)}}

    limit = 0.02
    described = describe(Space("mine", "", suggest))
    assert [(p.name, p.conditional) for p in described] == [("x", False), ("m", False)]
    limit = -1.0
    with pytest.raises(ValueError, match=r"space 'mine' rejects the values \(TrialPruned\): so it"):
        describe(Space("mine", "", suggest))
