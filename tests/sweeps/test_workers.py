"""Workers that take longer to start than trials to run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sweeps.harness import ROOT

TRIALS = 100
SWEEP = f"""
import os
import pathlib
import sys
import time

from benchmarks import driver_cost
from ray import cloudpickle

HERE = pathlib.Path(sys.argv[1])
cloudpickle.register_pickle_by_value(driver_cost)


class SecondIsSlow(driver_cost.Trivial):
    # one line a trial in a file for each worker
    def __init__(self, *arguments, **options):
        own = len(list(HERE.iterdir()))
        (HERE / str(os.getpid())).touch()
        time.sleep(2.0 if own else 0.0)
        super().__init__(*arguments, **options)

    def setup(self, config, shared=None):
        super().setup(config, shared)
        with (HERE / str(os.getpid())).open("a") as file:
            file.write(self.name + "\\n")


driver_cost.Trivial = SecondIsSlow
driver_cost.ours({TRIALS}, "random")
"""


@pytest.mark.slow
@pytest.mark.very_slow
def test_a_worker_that_starts_comes_to_train(tmp_path: Path) -> None:
    script, trained = tmp_path / "sweep.py", tmp_path / "trained"
    script.write_text(SWEEP, "utf-8")
    trained.mkdir()
    command = [sys.executable, str(script), str(trained)]
    subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, timeout=240
    )
    trials = {worker.name: worker.read_text("utf-8").split() for worker in trained.iterdir()}
    assert len(trials) == 2, trials
    assert sum(map(len, trials.values())) == TRIALS
    assert min(map(len, trials.values())) > 5
