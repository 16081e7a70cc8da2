"""A trial that an exception ended: its traceback, from the worker to `rts-search show`."""

from __future__ import annotations

import traceback
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray import cloudpickle
from ray.exceptions import ActorDiedError, RayTaskError

from results.storage import SweepFolder
from rts_search.answers.standing import nothing_came
from rts_search.spec.folder import write_spec
from rts_search.spec.model import SweepSpec
from rts_search.sweep import Sweep
from rts_search.trials.failures import MOST_TRACEBACK, traceback_of
from tests.rts_search.cli.calling import cli
from tests.rts_search.trials.test_recorder import Driver, climb, spec  # noqa: F401


def users_layer(width: int) -> None:
    raise KeyError(f"no layer of width {width}")


def from_worker(width: int = 3) -> RayTaskError:
    """As Ray hands a worker's exception to the driver."""
    try:
        users_layer(width)
    except KeyError as error:
        task = RayTaskError("TrialRunner.train", traceback.format_exc(), error)
        return task.as_instanceof_cause()
    raise AssertionError


def test_it_names_the_users_file_and_line() -> None:
    text = traceback_of(from_worker())
    assert text is not None
    assert f'File "{__file__}"' in text
    assert "    raise KeyError(f" in text
    assert text.endswith("KeyError: 'no layer of width 3'")
    assert "\x1b" not in text
    assert "^" not in text
    assert traceback_of(ActorDiedError()) is None
    long = traceback_of(from_worker(10 ** (2 * MOST_TRACEBACK // 10)))
    assert long is not None
    assert len(long) <= MOST_TRACEBACK


@pytest.mark.parametrize("ends", [["failed"], ["failed", "completed"], ["diverged", "failed"]])
def test_it_is_shown_and_a_sweep_of_nothing_else_came_to_nothing(
    spec: SweepSpec, tmp_path: Path, ends: list[str]  # noqa: F811
) -> None:  # fmt: skip
    driver, error = Driver(spec), tmp_path / "error.pkl"
    error.write_bytes(cloudpickle.dumps(from_worker()))
    folder = SweepFolder(spec.storage, spec.name)
    write_spec(folder, spec)
    assert nothing_came(Sweep(folder)) is None  # of a sweep that has no trial yet
    for outcome in ends:
        trial = driver.begin()
        if outcome != "failed":
            driver.run(trial, climb(0.1), outcome)
            continue
        name = trial.trial_id
        config = {"assignment": {"trial_id": name}}
        tune = SimpleNamespace(config=config, pickled_error_file=str(error))
        driver.seam.on_trial_error(0, [], tune)
        assert trial.message == "KeyError: 'no layer of width 3'"
    driver.recorder.settle()
    shown = cli("show", folder.argument(name)).out
    assert f'File "{__file__}"' in shown
    assert "in users_layer" in shown
    reason = nothing_came(Sweep(folder))
    if "completed" in ends:
        assert reason is None
    else:
        assert reason is not None
        counts = ", ".join(f"1 {outcome}" for outcome in sorted(ends))
        assert reason.startswith(f"no trial came to anything ({counts}); {name}: KeyError: ")
        assert reason.endswith(f"rts-search show {folder.argument(name)}")
