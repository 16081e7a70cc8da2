"""One driver a sweep, whoever else shares its host's name, its folder or its moment; and none once
the folder is gone: real processes, real namespaces, a real S3 server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from results.ledger import Ledger
from results.storage import SweepFolder
from rts_search.driver import control
from rts_search.driver.control import Control, driver_of, is_left
from rts_search.driver.lock import DRIVER, LostError, hold_lock, read_driver, this_driver
from rts_search.spec.folder import write_spec
from rts_search.spec.model import SweepSpec
from tests.results.builders import trial_row
from tests.rts_search.cli.calling import cli


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    return begin(SweepFolder(tmp_path, "s"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POLL_SECONDS", "AGAIN_SECONDS", "CHECK_SECONDS"):
        monkeypatch.setattr(control, name, 0.0)
    monkeypatch.setattr(control, "BEAT_SECONDS", 0.2)


def begin(folder: SweepFolder) -> SweepFolder:
    write_spec(folder, SweepSpec(name=folder.name, storage=folder.storage))
    with Ledger(folder) as ledger:
        ledger.put_trial(trial_row("t0001", "running"))
    return folder


def local(folder: SweepFolder) -> Path:
    assert folder.local_path is not None
    return folder.local_path


# What a driver's file may be


OURS = {"host": "h", "pid": 7, "key": "k", "heard": 1.0, "seconds": 5.0, "ended": False}
FOREIGN = [
    b"",
    b"PK\x03\x04",
    b"null",
    b"[1, 2]",
    b"[" * 4000,
    b'{"host": "h", "pid": 7, "key": "k", "heard": 1e999}',
    b"1" * 4000,
    b" " * 5_000_000,
    *(
        json.dumps(OURS | change).encode()
        for change in (
            {"host": 7},
            {"host": ["h"]},
            {"host": "\x1b[2J"},
            {"key": None},
            {"boot": 3},
            {"pid": "7"},
            {"pid": True},
            {"pid": -1},
            {"pid": 10**30},
            {"heard": "now"},
            {"heard": None},
            {"seconds": -1.0},
            {"seconds": {}},
            {"ended": "no"},
        )
    ),
]


@pytest.mark.parametrize("content", FOREIGN)
def test_what_no_driver_wrote_is_ignored(folder: SweepFolder, content: bytes) -> None:
    folder.write(DRIVER, content)
    assert read_driver(folder) is None
    assert is_left(folder, running=True)
    with hold_lock(folder), Control(folder) as driver:
        driver.check()
        assert driver.seconds() < 5
        assert read_driver(folder) is not None


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_a_folder_or_a_pipe_in_its_place_is_ignored_by_every_verb(
    folder: SweepFolder, kind: str
) -> None:
    path = local(folder) / DRIVER
    path.parent.mkdir(exist_ok=True)
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    for verb in (("list",), ("status", "s"), ("show", "s/t0001")):
        done = cli(*verb, "--storage", folder.storage)
        assert (done.code, done.err) == (0, "")
        assert "driver gone" in done.out
    assert cli("stop", "s", "--storage", folder.storage).code == 2


@pytest.mark.parametrize("put", [Path.mkdir, os.mkfifo])
def test_what_stands_for_its_lock_is_not_waited_for(
    tmp_path: Path, put: Callable[[Path], None]
) -> None:
    """All trials of the sweep have ended: `resume` has nothing left to do."""
    folder = SweepFolder(tmp_path, "s")
    ended = {"search": {"trials": 1, "controls": False}}
    write_spec(folder, SweepSpec.model_validate({"name": "s", "storage": folder.storage, **ended}))
    with Ledger(folder) as ledger:
        ledger.put_trial(trial_row("t0001", "completed", ended=datetime.now(UTC)))
    put(local(folder) / ".driver.lock")
    for verb in (("list",), ("status", "s"), ("show", "s/t0001"), ("resume", "s")):
        done = cli(*verb, "--storage", folder.storage)
        assert done.code in (0, 1, 2)
        assert "Traceback" not in done.err


def test_a_later_or_an_earlier_version_is_read(folder: SweepFolder) -> None:
    folder.write(DRIVER, json.dumps(OURS | {"mood": ["good"]}).encode())
    assert read_driver(folder) is not None  # a later one's
    earlier = OURS | {"host": this_driver().host, "pid": os.getpid(), "heard": time.time()}
    folder.write(DRIVER, json.dumps(earlier).encode())
    found = read_driver(folder)
    assert found is not None
    assert not found.is_here  # it cannot be told: what counts is when it was heard of
    assert driver_of(folder) == found
    with pytest.raises(ValueError, match="has a driver already"):
        hold_lock(folder).__enter__()


# Who is here


def test_here_is_a_host_a_boot_and_a_namespace() -> None:
    me = this_driver()
    assert me.is_here
    assert me.boot
    assert me.namespace.startswith("pid:[")
    for other in ({"host": "x"}, {"boot": "x"}, {"namespace": "pid:[1]"}):
        assert not replace(me, **other).is_here


CONTAINER = """
import sys, time
from results.storage import SweepFolder
from rts_search.driver.control import Control
from rts_search.driver.lock import hold_lock
folder = SweepFolder(sys.argv[1], "s")
with hold_lock(folder), Control(folder) as driver:
    print("drives", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs namespaces")
@pytest.mark.parametrize("where", ["local", "s3"])
def test_a_container_of_the_same_host_name_is_another_driver(
    where: str, folder: SweepFolder, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Its process ids mean nothing here, and its lock need not be seen."""
    if where == "s3":
        folder = begin(SweepFolder(request.getfixturevalue("s3_storage"), "s"))
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable]
    container = subprocess.Popen(
        [*command, "-c", CONTAINER, folder.storage],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"RTS_SEARCH_CACHE": str(tmp_path / "its own")},
    )
    try:
        assert container.stdout is not None
        assert container.stdout.readline() == "drives\n"
        if where == "local":
            (local(folder) / ".driver.lock").unlink()  # as where a lock is not shared
        found = read_driver(folder)
        assert found is not None
        assert (found.host, found.is_here) == (this_driver().host, False)
        assert driver_of(folder) is not None
        with pytest.raises(ValueError, match=rf"already, on {found.host} \(pid {found.pid}\)"):
            hold_lock(folder).__enter__()
    finally:
        container.kill()
        container.wait()


RACE = """
import sys, time
from results.storage import SweepFolder
from rts_search.driver.control import Control
from rts_search.driver.lock import TakenError, hold_lock
folder = SweepFolder(sys.argv[1], "s")
folder.exists()
time.sleep(max(0.0, float(sys.argv[2]) - time.time()))
try:
    with hold_lock(folder), Control(folder) as driver:
        driver.confirmed()
        print("drives", flush=True)
        time.sleep(3)
        driver.check()
except TakenError as error:
    print(error)
"""


def test_of_those_that_begin_at_the_same_moment_one_goes_on(
    s3_storage: str, tmp_path: Path
) -> None:
    """Each with a lock of its own, as on machines of their own."""
    when = str(time.time() + 6)
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, s3_storage, when],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"RTS_SEARCH_CACHE": str(tmp_path / str(number))},
        )
        for number in range(4)
    ]
    said = [racer.communicate(timeout=60)[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 4
    assert said.count("drives\n") == 1, said
    others = [line for line in said if line != "drives\n"]
    assert all("claimed by another driver at the" in s or "already, on" in s for s in others), said


# A sweep that is lost


def lose(folder: SweepFolder, how: str) -> str:
    """What the lost driver is to say."""
    path = local(folder)
    if how == "renamed":
        path.rename(path.with_name("elsewhere"))
    else:
        shutil.rmtree(path)
    if how == "replaced":
        begin(folder)
        folder.write(DRIVER, replace(this_driver(), pid=7, key="the next").content(0.0, False))
        return r"taken over by a driver on .* \(pid 7\)|is gone: "  # as it was for a moment
    return "is gone: the sweep was deleted or moved"


def everything(path: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("how", ["deleted", "renamed", "replaced"])
def test_a_driver_writes_nothing_where_its_sweep_is_gone(
    folder: SweepFolder, quick: None, how: str, tmp_path: Path
) -> None:
    with hold_lock(folder), Control(folder) as driver:
        ledger = Ledger(driver.held)
        ledger.put_trial(trial_row("t0002", "running"))
        ledger.flush()
        ledger.put_trial(trial_row("t0003", "running"))
        said = lose(folder, how)
        left = everything(tmp_path)
        writes: list[Any] = [
            ledger.flush,
            driver.poll,
            lambda: driver.held.delete("checkpoints"),
            lambda: driver.held.write("spec.yaml", b""),
        ]
        for write in writes:
            with pytest.raises(LostError, match=said):
                write()
        time.sleep(0.5)  # it would have said twice that it lives
        with pytest.raises(LostError, match=said):
            driver.poll()
    assert everything(tmp_path) == left
    assert folder.exists() is (how == "replaced")


def test_a_driver_writes_nothing_where_its_objects_are_gone(s3_storage: str, quick: None) -> None:
    folder = begin(SweepFolder(s3_storage, "s"))
    with Control(folder) as driver:
        driver.held.write("spec.yaml", b"mine")
        folder.filesystem.delete_dir(folder.root)
        with pytest.raises(LostError, match="is gone"):
            driver.held.write("spec.yaml", b"mine")
    assert not folder.is_sweep()


def test_a_sweep_is_gone_though_its_driver_just_said_that_it_lives(
    folder: SweepFolder, quick: None
) -> None:
    """Between the last look and the deletion."""
    with Control(folder) as driver:
        driver.check()
        shutil.rmtree(local(folder))
        driver._write()
        with pytest.raises(LostError, match=r"spec\.yaml is gone"):
            driver.held.write("epochs/part.parquet", b"")


def test_a_file_that_is_replaced_in_two_steps_is_not_gone(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Control(folder) as driver:
        path = local(folder) / DRIVER
        content = path.read_bytes()
        path.unlink()
        monkeypatch.setattr(time, "sleep", lambda seconds: path.write_bytes(content))
        driver.check()


def test_a_driver_that_waits_shows_that_it_lives(folder: SweepFolder, quick: None) -> None:
    with Control(folder):
        first = read_driver(folder)
        time.sleep(0.5)  # nobody polls
        second = read_driver(folder)
    assert first is not None
    assert second is not None
    assert second.heard > first.heard


def test_a_driver_that_does_not_say_when_it_lived_keeps_nobody_out(folder: SweepFolder) -> None:
    silent = {key: value for key, value in OURS.items() if key != "heard"}
    folder.write(DRIVER, json.dumps(silent).encode())
    found = read_driver(folder)
    assert found is not None
    assert not found.is_heard
    with hold_lock(folder, pytest.fail):
        pass
