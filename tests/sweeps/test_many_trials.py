"""The driver with the benchmarks' trivial trainable: more trials than Tune remembers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import driver_cost
from results.schema import EPOCHS, check_row
from rts_search.trials.rows import epoch_row
from rts_search.trials.tune import KEPT
from tests.sweeps.harness import ROOT
from tests.trainables.test_tune import config, results, runner


def test_the_benchmarks_trainable_reports_what_ours_does(tmp_path: Path) -> None:
    trivial = driver_cost.Trivial.__new__(driver_cost.Trivial)
    trivial.setup({"assignment": {"trial_id": "t0000"}})
    (result, *_) = results(runner(tmp_path, config()))
    told = trivial.step()
    assert told.keys() == result.keys()
    check_row({"sweep": "s"} | epoch_row("t0000", told["epochs"][-1]), EPOCHS)


@pytest.mark.slow
@pytest.mark.very_slow
def test_tune_forgets_trials_that_have_ended() -> None:
    trials = 2 * KEPT
    command = [sys.executable, driver_cost.__file__, "--one", "ours", str(trials), "tpe"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    cost = json.loads(done.stdout.splitlines()[-1])
    assert cost["trials"] == trials - 1  # the first one's end begins the count
    assert cost["known"] <= KEPT + 8  # and those that run or wait
