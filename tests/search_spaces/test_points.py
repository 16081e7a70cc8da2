"""A configuration's place in a space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from search_spaces.builtin import SPACES
from search_spaces.points import point_of
from search_spaces.registry import also
from search_spaces.space import ChoosingTrial, Space, apply
from trainables.config import TrialConfig

BASE = TrialConfig()


def at(space: Space, point: Mapping[str, Any]) -> TrialConfig:
    return apply(space, ChoosingTrial(lambda name, _: point[name]), BASE)


@pytest.mark.parametrize("name", SPACES)
def test_a_configuration_finds_its_way_back(name: str) -> None:
    space = SPACES[name] if name == "baselines" else also(SPACES[name], ["lr", "batch_size"])
    assert space.start
    for start in space.start:
        assert point_of(space, at(space, start), BASE) == pytest.approx(dict(start))


def test_a_configuration_is_not_bent_to_fit() -> None:
    radius = {"strategy": "cos", "beta_min": 0.5, "beta_max": 2}
    config = TrialConfig.model_validate({"optimizer": {"radius": radius}})
    assert point_of(SPACES["radius"], config, BASE) is not None
    for name in ("scale", "timing", "late", "baselines"):  # which have no such radius
        assert point_of(SPACES[name], config, BASE) is None
    rts = point_of(SPACES["rts"], config, BASE)
    assert rts is not None
    assert (rts["trigger"], rts["trigger_fraction"]) == ("epoch", 0.0)  # in effect: always
    from_zero = TrialConfig.model_validate({"optimizer": {"radius": radius | {"beta_min": 0}}})
    assert point_of(SPACES["radius"], from_zero, BASE) is None  # which is logarithmic in α
    assert point_of(SPACES["paper"], from_zero, BASE) is not None


def test_what_is_the_same_in_effect_has_one_place() -> None:
    pugd, sgd = (
        TrialConfig.model_validate({"optimizer": {"family": name}}) for name in ("pugd", "sgd")
    )
    found = point_of(SPACES["radius"], pugd, BASE)
    assert found == {"radius_alpha_start": 1.0, "radius_alpha_end": 1.0, "radius_shape": "plain"}
    never = point_of(SPACES["rts"], sgd, BASE)
    assert never is not None
    assert never["trigger_fraction"] == 1.0
    assert point_of(SPACES["switch"], sgd, BASE) is None  # it always fires there
