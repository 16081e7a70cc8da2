"""How a sweep stands: also where its driver is gone, and beside sweeps that are damaged."""

from __future__ import annotations

import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from results.database import query
from results.ledger import Ledger
from results.parts.reading import LedgerWarning
from results.query import list_sweeps
from results.ranking import best
from results.storage import SweepFolder
from rts_search.answers.standing import as_it_stands, newest_sweep, print_standing
from rts_search.cli.ledger import list_sweeps as print_list
from rts_search.driver.control import Control
from rts_search.driver.lock import hold_lock
from rts_search.spec.folder import write_spec
from rts_search.spec.model import SweepSpec
from rts_search.sweep import Sweep
from tests.results.builders import trial_row


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


def begin(storage: Path, name: str) -> SweepFolder:
    """A sweep with a trial that has ended and two that run."""
    folder = SweepFolder(storage, name)
    write_spec(folder, SweepSpec(name=name, storage=str(storage)))
    with Ledger(folder) as ledger:
        ledger.put_trial(trial_row("t0000", "completed", ended=datetime.now(UTC)))
        ledger.put_trial(trial_row("t0001", "running"))
        ledger.put_trial(trial_row("t0002", "running"))
    return folder


def test_a_sweep_whose_driver_is_gone_is_not_said_to_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = begin(tmp_path, "left")
    line = f"left: driver gone; go on with: rts-search resume {folder.uri}"
    print_list(str(tmp_path))
    said = capsys.readouterr().out
    assert "2 interrupted, 1 completed" in said
    assert "running" not in said
    assert said.splitlines()[-1] == line
    print_standing(Sweep(folder))
    said = capsys.readouterr().out
    assert said.startswith("left: 3 trials (2 interrupted, 1 completed)")
    assert line in said
    assert "running" not in said
    with hold_lock(folder), Control(folder):
        print_list(str(tmp_path))
        print_standing(Sweep(folder))
        said = capsys.readouterr().out
        assert said.count("2 running, 1 completed") == 2
        assert "gone" not in said


def test_a_single_run_that_is_gone(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path, "train")
    with Ledger(folder) as ledger:
        ledger.put_trial(trial_row("run0000", "running", sweep="train"))
    (listing,) = list_sweeps(tmp_path)
    assert as_it_stands(folder, listing)[1] == (
        "train: driver gone; a single run does not go on: train it again"
    )
    with hold_lock(folder):
        assert as_it_stands(folder, listing) == (listing, None)


def test_a_damaged_or_linked_sweep_does_not_hide_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = tmp_path / "sweeps"
    for name in ("good", "cut", "odd", "away"):
        begin(storage, name)
    (part,) = (storage / "cut" / "trials").iterdir()
    part.write_bytes(part.read_bytes()[:300])
    shutil.rmtree(storage / "odd" / "trials")
    (storage / "odd" / "trials").write_text("no folder")
    (storage / "odd" / "control").write_text("nor is this")
    (storage / "away").rename(tmp_path / "away")
    (storage / "away").symlink_to(tmp_path / "away")
    (storage / "nowhere").symlink_to("/nowhere")
    (storage / "empty").mkdir()
    (storage / "empty" / "spec.yaml").write_text("{")
    with pytest.warns(LedgerWarning) as warned:
        print_list(str(storage))
    said = capsys.readouterr().out
    listed = {line.split()[0] for line in said.splitlines() if line.strip()}
    assert listed >= {"cut", "empty", "good"}
    assert not listed & {"odd", "away", "nowhere"}
    told = {str(each.message).split(" is left aside")[0] for each in warned}
    assert told == {
        f"ledger: {storage}/{path}" for path in ("odd", "away", f"cut/trials/{part.name}")
    }
    with pytest.warns(LedgerWarning):
        assert newest_sweep(str(storage)) == "good"
    with pytest.warns(LedgerWarning):
        asked = query(storage, "SELECT DISTINCT sweep FROM trials").to_pylist()
    assert asked == [{"sweep": "good"}]
    with pytest.raises(ValueError, match="a link that leads out of the storage"):
        best(storage, "away")  # asked for by name, it is refused


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_another_users_sweep_that_cannot_be_read(tmp_path_factory: pytest.TempPathFactory) -> None:
    storage = Path(f"/tmp/rts-search-test-{time.time_ns()}")
    try:
        begin(storage, "ours")
        begin(storage, "theirs")
        os.chmod(storage, 0o755)
        os.chmod(storage / "theirs", 0o700)
        os.seteuid(65534)
        try:
            with pytest.warns(LedgerWarning, match="theirs is left aside"):
                found = list_sweeps(storage)
            assert [each.name for each in found] == ["ours"]
            print_standing(Sweep(SweepFolder(storage, "ours")))
        finally:
            os.seteuid(0)
    finally:
        shutil.rmtree(storage)
