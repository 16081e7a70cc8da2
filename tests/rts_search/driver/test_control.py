"""Who drives a sweep, and how it is reached from elsewhere: real files, a real S3 server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from results.ledger import Ledger
from results.storage import SweepFolder
from rts_search.driver import control
from rts_search.driver.budget import Budget
from rts_search.driver.control import Control, driver_of, is_left
from rts_search.driver.interrupt import SIGNALS, Interrupt, raise_on_signals, signals_raise
from rts_search.driver.lock import DRIVER, hold_lock, is_locked, read_driver, this_driver
from rts_search.spec.folder import write_spec
from rts_search.spec.model import SweepSpec
from rts_search.spec.reading import parse
from tests.results.builders import trial_row


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    """A sweep with a trial that runs and one that has ended."""
    return begin(SweepFolder(tmp_path, "s"))


def begin(folder: SweepFolder) -> SweepFolder:
    write_spec(folder, SweepSpec(name=folder.name, storage=folder.storage))
    with Ledger(folder) as ledger:
        ledger.put_trial(trial_row("t0000", "completed", ended=datetime.now(UTC)))
        ledger.put_trial(trial_row("t0001", "running"))
    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(control, "BEAT_SECONDS", 0.1)


@pytest.fixture
def driving(folder: SweepFolder, quick: None) -> Iterator[Control]:
    with hold_lock(folder), Control(folder) as driver:
        yield driver


def write_driver(folder: SweepFolder, **changes: Any) -> None:
    row = {"host": "elsewhere", "pid": 7, "key": "other", "heard": time.time(), "seconds": 5.0}
    folder.write(DRIVER, json.dumps(row | {"ended": False} | changes).encode())


# Hours


def test_hours_add_up_over_drivers(folder: SweepFolder, quick: None) -> None:
    with hold_lock(folder), Control(folder) as first:
        assert 0 <= first.seconds() < 5
    write_driver(folder, seconds=100.0, ended=True)
    with hold_lock(folder), Control(folder) as second:
        assert 100 <= second.seconds() < 105
        second.poll()
        killed = read_driver(folder)  # what is left if it is killed now
        assert killed is not None
        assert 100 < killed.seconds < 105
        assert (killed.pid, killed.ended) == (os.getpid(), False)
    last = read_driver(folder)
    assert last is not None
    assert last.ended
    assert last.seconds >= killed.seconds


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"host": "x"}', b"\xff\x00", b"3"])
def test_a_foreign_or_truncated_driver_file_is_none(folder: SweepFolder, content: bytes) -> None:
    folder.write(DRIVER, content)
    assert read_driver(folder) is None
    assert driver_of(folder) is None
    with hold_lock(folder), Control(folder) as driver:
        assert driver.seconds() < 5
        found = read_driver(folder)
        assert found is not None
        assert found.key != ""


# One driver


def test_the_lock_refuses_a_second_driver_here(folder: SweepFolder) -> None:
    assert not is_locked(folder)
    with hold_lock(folder):
        assert is_locked(folder)
        with pytest.raises(ValueError, match="'s' has a driver already; follow it with"):
            hold_lock(folder).__enter__()
    assert not is_locked(folder)
    with hold_lock(folder):
        pass


def test_a_driver_elsewhere_is_refused_until_it_is_lost(folder: SweepFolder) -> None:
    write_driver(folder, heard=time.time() - 20)
    with pytest.raises(ValueError, match=r"on elsewhere \(pid 7\), heard of 20 s ago .*in 40 s"):
        hold_lock(folder).__enter__()
    for gone in ({"heard": time.time() - 61}, {"ended": True}):
        write_driver(folder, **gone)
        with hold_lock(folder):
            pass


def test_a_driver_elsewhere_is_waited_for_until_it_is_lost(folder: SweepFolder) -> None:
    write_driver(folder, heard=time.time() - 58)
    said: list[str] = []
    with hold_lock(folder, said.append):
        assert said == ["a driver on elsewhere was heard of lately: waiting to see whether it "
                        "still runs"]  # fmt: skip


def test_a_driver_elsewhere_that_is_heard_again_is_refused(folder: SweepFolder) -> None:
    write_driver(folder, heard=time.time() - 20)
    beat = threading.Timer(1.5, lambda: write_driver(folder, heard=time.time()))
    beat.start()
    with pytest.raises(ValueError, match=r"has a driver already, on elsewhere"):
        hold_lock(folder, lambda line: None).__enter__()


def test_a_killed_driver_here_is_followed_at_once(folder: SweepFolder) -> None:
    """Its process is gone, though it was heard of a moment ago."""
    code = (
        "import os, signal, sys\n"
        "from results.storage import SweepFolder\n"
        "from rts_search.driver.control import Control\n"
        "from rts_search.driver.lock import hold_lock\n"
        "folder = SweepFolder(sys.argv[1], 's')\n"
        "with hold_lock(folder), Control(folder):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", code, folder.storage]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    left = read_driver(folder)
    assert left is not None
    assert not left.ended
    assert not left.is_heard
    assert driver_of(folder) is None
    with hold_lock(folder), Control(folder) as driver:
        assert driver.seconds() >= left.seconds


def test_a_sweep_is_left_where_its_driver_had_no_last_word(folder: SweepFolder) -> None:
    assert is_left(folder, running=True)  # nobody drives it, whatever became of the driver's file
    assert not is_left(folder, running=False)
    with hold_lock(folder):  # a single run
        assert not is_left(folder, running=True)
        with Control(folder):
            assert not is_left(folder, running=True)
    assert not is_left(folder, running=False)
    here = {key: getattr(this_driver(), key) for key in ("host", "boot", "namespace")}
    for dead in (here | {"pid": 2**22 + 1}, {"heard": time.time() - 61}):
        write_driver(folder, **dead)
        assert is_left(folder, running=False)
    write_driver(folder)  # elsewhere, and heard of just now
    assert not is_left(folder, running=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_another_user_sees_whether_a_sweep_runs() -> None:
    with tempfile.TemporaryDirectory() as storage:
        os.chmod(storage, 0o755)
        folder = begin(SweepFolder(storage, "s"))
        with hold_lock(folder), Control(folder):
            os.seteuid(65534)
            try:
                with pytest.raises(PermissionError):
                    folder.write("x", b"")
                assert is_locked(folder)
                assert driver_of(folder) is not None
                assert not is_left(folder, running=True)
                os.seteuid(0)
                os.chmod(f"{storage}/s/.driver.lock", 0o600)
                os.seteuid(65534)
                assert driver_of(folder) is not None  # by its own word
            finally:
                os.seteuid(0)
        assert not is_locked(folder)


def test_a_driver_that_was_taken_for_dead_leaves_the_sweep_alone(
    folder: SweepFolder, quick: None
) -> None:
    with Control(folder) as first:
        first.poll()
        write_driver(folder, key="the next one")
        with pytest.raises(ValueError, match=r"taken over by a driver on elsewhere \(pid 7\)"):
            first.poll()
    now = read_driver(folder)
    assert now is not None
    assert (now.key, now.ended) == ("the next one", False)


# Requests


def test_requests_are_taken_away(folder: SweepFolder, driving: Control) -> None:
    folder.write("control/notes.txt", b"a user's own")
    folder.write("control/stop-t0001.json", b"{}")
    driving.poll()
    assert (driving.stop, driving.trials) == (False, {"t0001"})
    folder.write("control/stop.json", b"")
    driving.poll()
    assert driving.stop
    assert folder.files("control") == ["driver.json", "notes.txt"]


def test_requests_to_an_earlier_driver_are_dropped(folder: SweepFolder, quick: None) -> None:
    folder.write("control/stop.json", b"{}")
    folder.write("control/stop-t0001.json", b"{}")
    with Control(folder) as driver:
        driver.poll()
        assert (driver.stop, driver.trials) == (False, set())


def test_polls_are_seldom(folder: SweepFolder) -> None:
    with Control(folder) as driver:
        folder.write("control/stop.json", b"{}")
        driver.poll()
        assert not driver.stop  # within two seconds of the start nothing is read


def test_a_storage_that_fails_for_a_while_ends_nothing(
    folder: SweepFolder, driving: Control
) -> None:
    assert folder.local_path is not None
    path = folder.local_path / "control"
    path.rename(path.with_name("away"))
    path.write_text("neither a folder nor writable")
    driving.poll()
    path.unlink()
    path.with_name("away").rename(path)
    folder.write("control/stop.json", b"{}")
    driving.poll()
    assert driving.stop


# Interrupt


def interrupt(driver: Control, **limits: Any) -> Interrupt:
    spec = parse(SweepSpec, {"budget": limits})
    return Interrupt(Budget(spec, driver.seconds), driver, lambda: None)


def test_a_request_ends_the_sweep(folder: SweepFolder, driving: Control) -> None:
    ends = interrupt(driving)
    assert not ends.stop_all()
    folder.write("control/stop.json", b"{}")
    assert ends.stop_all()
    assert ends.stop_all()
    assert (ends.reason, ends.used_up) == ("stopped by rts-search stop", None)


def test_a_budget_ends_the_sweep(driving: Control) -> None:
    ends = interrupt(driving, epochs=1)
    assert not ends.stop_all()
    ends.budget.add("t0000", [{"rung": 0, "epoch": 1, "gradient_evaluations": 1}])
    assert ends.stop_all()
    assert ends.used_up is not None
    assert ends.reason == str(ends.used_up) == "budget.epochs 1 is used up: 1 were trained"


def test_a_signal_ends_the_sweep_and_the_next_one_has_its_usual_effect(
    driving: Control, request: pytest.FixtureRequest
) -> None:
    # what a shell starts in the background ignores it
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with interrupt(driving) as ends:
        signal.raise_signal(signal.SIGINT)
        assert ends.stop_all()
        assert ends.reason == "interrupted by SIGINT"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_outside_of_the_loop_a_signal_ends_what_is_waited_for() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with signals_raise():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as Ray puts its own there
        raise_on_signals()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            with pytest.raises(KeyboardInterrupt, match=f"interrupted by {number.name}"):
                signal.raise_signal(number)
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_terminal_that_closes_ends_the_sweep_unless_nohup_was_asked_for(
    driving: Control, request: pytest.FixtureRequest
) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    request.addfinalizer(lambda: signal.signal(signal.SIGHUP, before))
    with interrupt(driving) as ends:
        signal.raise_signal(signal.SIGHUP)
        assert not ends.stop_all()
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "from rts_search.driver.interrupt import Interrupt\n"
        "with Interrupt(None, None, lambda: None) as ends:\n"
        "    os.close(int(sys.argv[1]))\n"  # the terminal
        "    signal.raise_signal(signal.SIGHUP)\n"
        "    print('to nobody', flush=True)\n"
        "assert ends.reason == 'interrupted by SIGHUP'\n"
    )
    ours, theirs = os.openpty()
    command = [sys.executable, "-c", code, str(ours)]
    done = subprocess.run(
        command, check=False, stdout=theirs, stderr=subprocess.PIPE, pass_fds=[ours]
    )
    os.close(ours)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_request_ends_a_trial_with_its_next_epoch(folder: SweepFolder, driving: Control) -> None:
    ends = interrupt(driving)
    folder.write("control/stop-t0001.json", b"{}")
    assert not ends.stop_all()
    tunes_own = "a1b2c_00000"
    assert not ends(tunes_own, {"trial": "t0002", "outcome": "running"})
    assert not ends(tunes_own, {"trial": "t0001", "outcome": "diverged"})  # by itself
    assert ends.user_stopped == set()
    assert ends(tunes_own, {"trial": "t0001", "outcome": "running"})
    assert ends.user_stopped == {"t0001"}
    assert not ends(tunes_own, {})


# The command


def drive(folder: SweepFolder, serve: Callable[[Control], bool]) -> threading.Thread:
    """A driver that polls until `serve` says that it is at its end."""
    ready = threading.Event()

    def work() -> None:
        with hold_lock(folder), Control(folder) as driver:
            ready.set()
            deadline = time.monotonic() + 20
            while not serve(driver) and time.monotonic() < deadline:
                time.sleep(0.02)
                driver.poll()

    thread = threading.Thread(target=work)
    thread.start()
    assert ready.wait(10)
    return thread


def test_stop_waits_for_the_end(folder: SweepFolder, quick: None) -> None:
    thread, said = drive(folder, lambda driver: driver.stop), list[str]()
    assert control.stop(folder, None, 20, said.append)
    thread.join()
    assert said[0].startswith("asked the driver on ")
    assert said[1] == "sweep s has ended; its trials are kept"
    assert not folder.exists("control/stop.json")


def test_stop_can_leave_without_waiting(folder: SweepFolder, driving: Control) -> None:
    said: list[str] = []
    assert not control.stop(folder, None, 0, said.append)
    assert folder.exists("control/stop.json")
    assert len(said) == 1


def test_stop_ends_one_trial(folder: SweepFolder, quick: None) -> None:
    finished = threading.Event()

    def serve(driver: Control) -> bool:
        if "t0001" in driver.trials:
            with Ledger(folder) as ledger:
                ledger.put_trial(trial_row("t0001", "user_stopped", ended=datetime.now(UTC)))
            driver.trials.clear()
        return finished.is_set()

    thread, said = drive(folder, serve), list[str]()
    try:
        assert control.stop(folder, "t0001", 20, said.append)
        assert said[-1] == "trial t0001 has ended: user_stopped"
        with pytest.raises(ValueError, match="'t0001' of 's' has ended already: user_stopped"):
            control.stop(folder, "t0001", 0, said.append)
    finally:
        finished.set()
        thread.join()


@pytest.mark.parametrize(
    ("trial", "line"),
    [
        (None, "no driver runs sweep 's': there is nothing to stop"),
        ("t0001", "no driver runs sweep 's': there is nothing to stop"),
        ("t0000", "trial 't0000' of 's' has ended already: completed"),
        ("t0009", "unknown trial 't0009'"),
    ],
)
def test_there_may_be_nothing_to_stop(folder: SweepFolder, trial: str | None, line: str) -> None:
    with pytest.raises(ValueError, match=line) as caught:
        control.stop(folder, trial, 0, print)
    assert "\n" not in str(caught.value)
    assert not folder.exists("control")


def test_stop_needs_a_sweep(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no sweep at .*/nix: it has no spec\.yaml"):
        control.stop(SweepFolder(tmp_path, "nix"), None, 0, print)


# On an object store


def test_one_driver_and_its_end_on_an_object_store(
    s3_storage: str, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTS_SEARCH_CACHE", str(tmp_path / "cache"))
    folder = begin(SweepFolder(s3_storage, "s"))
    with pytest.raises(ValueError, match="no driver runs"):
        control.stop(folder, None, 0, print)
    thread, said = drive(folder, lambda driver: driver.stop), list[str]()
    with monkeypatch.context() as another:  # whose lock is another one
        another.setenv("RTS_SEARCH_CACHE", str(tmp_path / "another"))
        with pytest.raises(ValueError, match=r"has a driver already, on .* heard of"):
            hold_lock(folder).__enter__()
        assert control.stop(folder, None, 20, said.append)
    thread.join()
    assert said[-1] == "sweep s has ended; its trials are kept"
    assert folder.files("control") == ["driver.json"]
    with hold_lock(folder), Control(folder) as driver:
        assert driver.seconds() > 0


def test_what_runs_beside_the_search_is_none_of_its_hours(folder: SweepFolder, quick: None) -> None:
    with hold_lock(folder), Control(folder):
        time.sleep(0.3)
    searched = read_driver(folder)
    assert searched is not None
    assert searched.seconds >= 0.3
    with hold_lock(folder), Control(folder, counted=False) as beside:
        time.sleep(0.3)
        assert beside.seconds() == searched.seconds
    after = read_driver(folder)
    assert after is not None
    assert after.seconds == searched.seconds
