"""What every search space keeps to. Subclasses give a `space` fixture."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import FixedTrial

from rts_search.search.grid import grid_of
from search_spaces.registry import start_points
from search_spaces.space import Space, apply, check_point, contains, describe, overrides
from trainables.config import TrialConfig

BASE = TrialConfig()
TRIALS = 150


def random_trials(space: Space, seed: int) -> Iterator[tuple[optuna.Trial, dict[str, Any]]]:
    """Real Optuna trials with random values, and the overrides that they make."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(TRIALS):
        trial = study.ask()
        yield trial, overrides(space, trial)


class SpaceContract:
    def test_every_random_trial_makes_a_valid_config(self, space: Space) -> None:
        for trial, _ in random_trials(space, seed=1):
            assert isinstance(apply(space, trial, BASE), TrialConfig)

    def test_the_same_parameters_make_the_same_config(self, space: Space) -> None:
        for trial, _ in random_trials(space, seed=2):
            again = apply(space, FixedTrial(trial.params), BASE)
            assert again == apply(space, trial, BASE)

    def test_overrides_are_plain_data(self, space: Space) -> None:
        for _, found in random_trials(space, seed=3):
            assert json.loads(json.dumps(found)) == found

    def test_a_config_survives_json(self, space: Space) -> None:
        for trial, _ in random_trials(space, seed=4):
            config = apply(space, trial, BASE)
            assert TrialConfig.model_validate_json(config.model_dump_json()) == config

    def test_describe_agrees_with_other_trials(self, space: Space) -> None:
        described = {parameter.name: parameter for parameter in describe(space)}
        always = {name for name, parameter in described.items() if not parameter.conditional}
        seen: set[str] = set()
        for trial, _ in random_trials(space, seed=5):
            assert always <= trial.params.keys()
            for name in always:
                assert trial.distributions[name] == described[name].distribution
            seen |= trial.params.keys()
        assert seen == described.keys()

    def test_describe_is_deterministic(self, space: Space) -> None:
        assert describe(space) == describe(space)

    def test_every_bound_is_reachable_and_valid(self, space: Space) -> None:
        reached: dict[str, set[Any]] = {}
        for point in grid_of(space, 2):
            apply(space, FixedTrial(point), BASE)
            for name, value in point.items():
                reached.setdefault(name, set()).add(value)
        for parameter in describe(space):
            distribution = parameter.distribution
            if isinstance(distribution, CategoricalDistribution):
                assert reached[parameter.name] == set(distribution.choices)
            else:
                assert {distribution.low, distribution.high} <= reached[parameter.name]

    def test_random_points_are_inside_and_moved_ones_are_refused(self, space: Space) -> None:
        for trial, _ in random_trials(space, seed=6):
            assert check_point(space, trial.params) == trial.params
            for name, distribution in trial.distributions.items():
                outside = (
                    "no such choice"
                    if isinstance(distribution, CategoricalDistribution)
                    else distribution.high * 1.01 + 1
                )
                assert not contains(distribution, outside)
                with pytest.raises(ValueError, match=rf"{name} = .* is outside of it"):
                    check_point(space, {**trial.params, name: outside})

    def test_start_points_are_inside(self, space: Space) -> None:
        if not space.start:
            pytest.skip("no known good points")
        for point in start_points(space):
            assert isinstance(apply(space, FixedTrial(point), BASE), TrialConfig)
