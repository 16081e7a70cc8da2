from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from search_spaces.builtin import SPACES
from search_spaces.registry import also, get_space, start_points
from search_spaces.space import describe

MODULE = '''
from search_spaces.space import Space

def lr_only(trial):
    """Learning rate alone.

    More about it.
    """
    return {"train": {"lr": trial.suggest_float("lr", 0.01, 1.0, log=True)}}

packed = Space("packed", "a Space", lr_only, ({"lr": 0.1},))
number = 3
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_spaces_for_test.py").write_text(MODULE)
    (tmp_path / "my_broken_for_test.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    return "my_spaces_for_test"


@pytest.mark.parametrize("name", list(SPACES))
def test_built_in_spaces_have_their_names_and_one_line(name: str) -> None:
    space = get_space(name)
    assert space.name == name
    assert space.description
    assert "\n" not in space.description


def test_a_users_function_and_a_users_space(module: str) -> None:
    function = get_space(f"{module}:lr_only")
    assert (function.name, function.description) == (f"{module}:lr_only", "Learning rate alone.")
    assert [p.name for p in describe(function)] == ["lr"]
    packed = get_space(f"{module}:packed")
    assert packed.name == "packed"
    assert start_points(packed) == [{"lr": 0.1}]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raduis", "unknown space 'raduis': did you mean 'radius'\\? known: .*, radius, "),
        ("no_such_module_at_all:f", "cannot import 'no_such_module_at_all'"),
        (
            "my_broken_for_test:f",
            r"cannot import 'my_broken_for_test' .*division by zero\) \(\S*\.py, line \d+\)$",
        ),
        (
            "my_spaces_for_test:lr_onyl",
            "unknown name in my_spaces_for_test 'lr_onyl': did you mean 'lr_only'",
        ),
        ("my_spaces_for_test:number", "is a int, not a function"),
    ],
)
def test_wrong_names_are_explained(module: str, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        get_space(name)
    assert "\n" not in str(error.value)


def test_also_adds_ranges_named_after_the_family() -> None:
    space = also(get_space("radius"), {"lr": [0.05, 0.5], "batch_size": [50, 100]})
    described = {p.name: p.distribution for p in describe(space)}
    assert described["rts_lr"] == FloatDistribution(0.05, 0.5, log=True)
    assert described["rts_batch_size"] == CategoricalDistribution([50, 100])
    written = also(get_space("radius"), {"batch_size": [5e1, 100.0]})
    choices = {p.name: p.distribution for p in describe(written)}["rts_batch_size"].choices
    assert [type(choice) for choice in choices] == [int, int]
    assert set(described) == {p.name for p in describe(get_space("radius"))} | {
        "rts_lr",
        "rts_batch_size",
    }


def test_also_takes_names_with_default_ranges() -> None:
    space = also(get_space("radius"), ["lr", "weight_decay", "momentum", "batch_size"])
    assert (
        start_points(space)[0].items()
        >= {
            "rts_lr": 0.1,
            "rts_weight_decay": 5e-4,
            "rts_momentum": 0.9,
            "rts_batch_size": 500,
        }.items()
    )


def test_also_nothing_is_the_space_itself() -> None:
    assert also(get_space("radius"), []) is get_space("radius")


def test_a_space_without_a_family_gets_plain_names(module: str) -> None:
    space = also(get_space(f"{module}:lr_only"), ["momentum"])
    assert [p.name for p in describe(space)] == ["lr", "momentum"]


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        (
            ["learning_rate"],
            "training parameter in `also` 'learning_rate': known: lr, weight_decay",
        ),
        (["weightdecay"], "did you mean 'weight_decay'"),
        ({"lr": [1.0, 0.1]}, r"lr = \[1.0, 0.1\] must be \[low, high\] with 0 < low < high"),
        ({"lr": [0.1]}, "lr = "),
        ({"lr": 0.1}, "lr = 0.1 must be"),
        ({"weight_decay": [0.0, 0.1]}, "weight_decay = "),
        ({"momentum": [0.9, 1.0]}, "momentum = "),
        ({"momentum": ["a", "b"]}, "momentum = "),
        ({"batch_size": [50, 50]}, "batch_size = "),
        ({"batch_size": [0.5]}, "batch_size = "),
        ({"batch_size": []}, "batch_size = "),
        ({"lr": [True, 2]}, "lr = "),
    ],
)
def test_also_refuses_other_ranges(ranges: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        also(get_space("radius"), ranges)


def test_also_refuses_what_the_space_searches_itself() -> None:
    with pytest.raises(ValueError, match=r"'baselines'.* train\.lr itself; leave lr out of `also`"):
        also(get_space("baselines"), ["lr"])


def test_a_point_outside_is_refused_not_clipped() -> None:
    space = also(get_space("radius"), {"batch_size": [50, 100]})
    with pytest.raises(ValueError, match=r"rts_batch_size = 500 is outside of it, .*50, 100"):
        start_points(space)
    point = {"radius_alpha_start": 0.0, "radius_alpha_end": 1.0, "radius_shape": "plain"}
    with pytest.raises(ValueError, match=r"radius_alpha_start = 0.0 is outside .*0.01 to 100"):
        start_points(get_space("radius"), [point])


def test_start_from_something_else(module: str) -> None:
    with pytest.raises(ValueError, match="start_from 'papr' is neither"):
        start_points(get_space("radius"), "papr")
    with pytest.raises(ValueError, match="has no known good points"):
        start_points(get_space(f"{module}:lr_only"))
