"""What Tune makes of lost workers, with our corrections: real Ray, a Trainable of a few lines."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import tune
from ray.exceptions import ActorDiedError, ActorUnavailableError

from rts_search.cluster.session import prepare_environment, ray_session
from rts_search.trials.failures import explain_failure, failures_as_they_are, node_is_lost

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _session() -> Iterator[None]:
    prepare_environment(None, verbose=False)
    with ray_session(None):
        yield


class DiesWhenReused(tune.Trainable):  # type: ignore[misc]
    """Is killed while it is handed its second trial, once."""

    def setup(self, config: dict[str, Any]) -> None:
        self.marker = Path(config["marker"])

    def step(self) -> dict[str, Any]:
        return {"done": True}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        if not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return True


def test_a_worker_that_dies_between_two_trials_fails_neither(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    with failures_as_they_are():
        results = tune.Tuner(
            tune.with_resources(DiesWhenReused, {"cpu": os.cpu_count()}),  # one at a time
            param_space={"marker": str(marker), "x": tune.grid_search([1, 2, 3])},
            tune_config=tune.TuneConfig(reuse_actors=True),
            run_config=tune.RunConfig(
                storage_path=str(tmp_path / "tune"),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=1),
                verbose=0,
            ),
        ).fit()
    assert marker.exists()
    assert results.num_errors == 0
    assert results.num_terminated == 3


@ray.remote  # type: ignore[misc]
class Killed:
    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_is_no_lost_node() -> None:
    with pytest.raises(ActorDiedError) as caught:
        ray.get(Killed.remote().die.remote())
    assert not node_is_lost(caught.value)
    assert explain_failure(caught.value)[0] == "failed"
    assert explain_failure(caught.value)[1].startswith("ActorDiedError: ")
    hung = explain_failure(caught.value, silent=61, patience=60)
    assert hung[1].startswith("hung: no epoch within resources.patience_minutes 1;")


def test_a_worker_that_cannot_be_reached_went_with_its_node() -> None:
    assert node_is_lost(ActorUnavailableError("socket closed", None))
    assert not node_is_lost(RuntimeError("the user's"))
    assert not node_is_lost(None)
