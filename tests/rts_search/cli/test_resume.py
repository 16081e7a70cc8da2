"""`resume` and `stop` on the command line, where no sweep has to run for the answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from results.ledger import Ledger
from results.storage import SweepFolder
from rts_search.driver.control import Control
from rts_search.driver.lock import hold_lock
from rts_search.spec.folder import write_spec
from rts_search.spec.reading import load_spec
from tests.rts_search.cli.calling import SPEC, cli


def begun(storage: Path) -> None:
    """A sweep on disk, with no driver, of which two trials have begun."""
    folder = SweepFolder(storage, "tiny")
    write_spec(folder, load_spec(SPEC.replace("STORAGE", str(storage))))
    with Ledger(folder) as ledger:
        for number in range(2):
            ledger.put_trial({"trial_id": f"t000{number}", "number": number, "outcome": "running"})


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("resume tiny --trials 1", "search.trials 1 is below the 2 trials that have begun; give"),
        ("resume tiny --trials 0", "search.trials: 0: input should be greater than or equal to 1"),
        ("resume tiny --hours 0", "budget.hours: 0.0: input should be greater than 0"),
        ("resume tiny --set data.name=mnist", "data.name cannot change: earlier trials were trai"),
        ("stop tiny", "no driver runs sweep 'tiny': there is nothing to stop"),
        ("stop tiny --trial t0001", "no driver runs sweep 'tiny': there is nothing to stop"),
        ("stop tiny --trial t0002", "unknown trial 't0002'"),
    ],
)
def test_a_sweep_that_has_begun(tmp_path: Path, arguments: str, line: str) -> None:
    begun(tmp_path)
    done = cli(*arguments.split(), "--storage", tmp_path)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"rts-search: {line}")
    assert done.err.count("\n") == 1


def test_other_data_under_the_same_name_are_refused(tmp_path: Path) -> None:
    spec = load_spec(SPEC.replace("STORAGE", str(tmp_path)))
    write_spec(SweepFolder(tmp_path, "tiny"), spec, {"data digits": "of other images"})
    done = cli("resume", "tiny", "--storage", tmp_path)
    assert done.code == 2
    assert done.err.startswith("rts-search: data digits changed since tiny began: earlier trials ")
    assert done.err.count("\n") == 1


def test_stop_waits_no_longer_than_it_was_told(tmp_path: Path) -> None:
    begun(tmp_path)
    folder = SweepFolder(tmp_path, "tiny")
    with hold_lock(folder), Control(folder) as driver:
        patient = cli("stop", "tiny", "--storage", tmp_path, "--timeout", "0.1")
        assert patient.code == "rts-search: not ended after 0.1 s; it will, unless it hangs"
        asked = cli("stop", "tiny", "--storage", tmp_path, "--no-wait")
        assert (asked.code, asked.err) == (0, "")
        assert asked.out.startswith("asked the driver on ")
        assert asked.out.endswith(" to end the sweep\n")
        assert not driver.stop
    assert driver.stop  # its last look
    assert not folder.exists("control/stop.json")
