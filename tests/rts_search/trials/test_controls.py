"""The controls of a sweep: whatever is searched beside the optimizer's parameters, for them too."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rts_search.search.checks import search_space, untuned_controls
from rts_search.search.plan import open_study, plan
from rts_search.spec.model import SweepSpec
from rts_search.spec.reading import parse
from rts_search.trials.trial import controls, trials_in
from search_spaces.registry import training_points
from search_spaces.space import check_draws


def spec(also: Any = (), **asked: Any) -> SweepSpec:
    search = {"trials": 4, "also": also, **asked}
    return parse(SweepSpec, {"train": {"epochs": 6, "lr": 0.3}, "search": search})


def test_the_three_of_every_sweep() -> None:
    for asked in (spec(), spec(controls=True), spec(controls={}), spec(also=["lr"])):
        found = controls(asked)
        assert [(c.trial_id, c.control, c.total_epochs) for c in found] == [
            ("sgd", "sgd", 6), ("pugd", "pugd", 6), ("sgd-2x", "sgd-2x", 12),
        ]  # fmt: skip
        assert [c.config.optimizer.family for c in found] == ["sgd", "pugd", "sgd"]
        assert {c.config.train.lr for c in found} == {0.3}
        assert trials_in(asked) == 7
    assert controls(spec(controls=False)) == []
    assert trials_in(spec(controls=False)) == 4


def test_each_arm_gets_the_same_points() -> None:
    asked = spec(
        {"lr": [0.01, 1.0], "batch_size": [30, 60]},
        controls={"families": ["sgd", "asam"], "trials": 8},
    )
    found = controls(asked)
    assert trials_in(asked) == 4 + len(found) == 4 + 3 * 8
    arms = ["sgd", "asam", "sgd-2x"]
    assert [c.trial_id for c in found[:6]] == [*arms, *(f"{arm}.1" for arm in arms)]
    points: dict[str, list[tuple[float, int]]] = {}
    for control in found:
        train = control.config.train
        assert control.number is None
        assert control.params == {"lr": train.lr, "batch_size": train.batch_size}
        points.setdefault(str(control.control), []).append((train.lr, train.batch_size))
    assert points["sgd"] == points["asam"] == points["sgd-2x"]
    assert points["sgd"][0] == (0.3, 128)  # the spec's own
    assert len({lr for lr, _ in points["sgd"]}) == 8
    assert {batch for _, batch in points["sgd"][1:]} == {30, 60}
    # a resume makes them again, and goes on with those that have not ended
    again = plan(asked, open_study(asked)[0], set(arms))
    assert [next(again).config for _ in found[3:]] == [c.config for c in found[3:]]


@pytest.mark.parametrize("count", [7, 16, 50])
@pytest.mark.parametrize("seed", [0, 1])
def test_points_cover_their_ranges_evenly(count: int, seed: int) -> None:
    ranges = {"lr": [0.01, 1.0], "momentum": [0.5, 0.9], "weight_decay": [1e-5, 1e-2]}
    points = training_points(ranges, count, seed)
    assert points[:5] == training_points(ranges, 5, seed)
    assert points != training_points(ranges, count, seed + 1)
    for key, (low, high) in ranges.items():
        scale = float if key == "momentum" else math.log
        places = sorted(
            (scale(point[key]) - scale(low)) / (scale(high) - scale(low)) for point in points
        )
        gaps = [b - a for a, b in zip([0.0, *places], [*places, 1.0], strict=True)]
        assert max(gaps) < 3 / count


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"controls": {"trials": 8}}, "search: controls.trials 8: nothing is searched beside"),
        (
            {"controls": {"families": ["sgdd"]}},
            r"search.controls.families.0 'sgdd': did you mean 'sgd'\?",
        ),
        ({"controls": {"trails": 8}}, r"setting in search.controls 'trails': did you mean 'trials"),
        ({"controls": 3}, r"^search\.controls"),
        ({"controls": {"families": []}}, "search.controls.families"),
    ],
)
def test_mistakes_are_one_line(search: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        parse(SweepSpec, {"search": search})
    assert "\n" not in str(error.value)


def test_the_user_hears_that_controls_are_untuned() -> None:
    def note(asked: SweepSpec) -> str | None:
        return untuned_controls(asked, check_draws(search_space(asked), asked.base)[0])

    said = note(spec(["lr", "momentum"]))
    assert said is not None
    assert said.startswith("the controls keep the spec's lr, momentum, which the trials search: ")
    assert said.endswith("untuned; search.controls={trials: 8} gives each control as many tries")
    assert note(spec(["lr"], controls={"trials": 2})) is None
    assert note(spec(["lr"], controls=False)) is None
    assert note(spec()) is None
    own = note(spec().model_copy(update={"space": "baselines"}))
    assert own is not None
    assert own.startswith("the controls keep the spec's lr, weight_decay, which")
    assert "search them by search.also, with search.controls={trials: 8}, which gives" in own
