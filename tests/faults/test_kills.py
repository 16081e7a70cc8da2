"""The driver, and all of Ray with it, killed at random moments: the sweep is as if nothing was."""

from __future__ import annotations

import os
import random
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.sweeps.harness import Sweep, check_equal, kill_session

pytestmark = pytest.mark.slow

SPEC: dict[str, Any] = {
    "model": {"name": "cnn", "args": {"width": 8}},
    "train": {"epochs": 18},
    "search": {"trials": 12, "start_from": "paper"},
    "stop": {"policy": "asha", "first_rung": 2, "eta": 3, "audit": 0.2},
    "resources": {"concurrent": 1},
    "checkpoint": {"every_seconds": 0.2, "keep_top": 2},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """The sweep that nobody kills."""
    sweep = Sweep(tmp_path_factory.mktemp("whole"), **SPEC)
    sweep.run("sweep", "spec.yaml")
    return sweep


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.very_slow)])
def test_a_sweep_that_is_killed_equals_one_that_is_not(
    tmp_path: Path, whole: Sweep, kills: int
) -> None:
    """One sweep, or if it ends before it was killed so often, another one after it."""
    seed = int(os.environ.get("RTS_KILL_SEED", time.time_ns() % 10**6))
    rng, moments = random.Random(seed), list[float]()
    while len(moments) < kills:
        home = tmp_path / f"after-{len(moments)}"
        home.mkdir()
        sweep = Sweep(home, **SPEC)
        killed = kill_and_finish(sweep, rng, kills - len(moments))
        moments += killed
        print(f"seed {seed}: killed after {', '.join(f'{m:.1f}' for m in killed)} s")
        check_equal(sweep, whole, SPEC["search"]["trials"])


def kill_and_finish(sweep: Sweep, rng: random.Random, most: int) -> list[float]:
    """Run the sweep to its end, killed at random moments; the seconds from each start."""
    moments: list[float] = []
    while True:
        began = (sweep.folder / "spec.yaml").exists()
        command = ["resume", sweep.name] if began else ["sweep", "spec.yaml"]
        if len(moments) == most:
            sweep.run(*command)
            return moments
        process = sweep.start(*command)
        delay = rng.uniform(2, 14)
        with suppress(subprocess.TimeoutExpired):
            output, _ = process.communicate(timeout=delay)
            assert process.returncode == 0, output
            return moments
        kill_session(process)
        moments.append(delay)
