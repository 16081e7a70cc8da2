"""Ray's folder on a machine with several users, and what is left in it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest

from rts_search.cluster.package import staged
from rts_search.cluster.scratch import LOCK, LONGEST, held, own_folder, remove_leftovers
from rts_search.spec.model import SweepSpec


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("rts_search.cluster.scratch.LONGEST", 500)
    return tmp_path


def test_the_folder_is_ours_alone(temporary: Path) -> None:
    before = os.umask(0)
    try:
        folder = own_folder()
    finally:
        os.umask(before)
    assert folder == temporary / f"rts-search-{os.geteuid()}"
    folder.chmod(0o777)
    assert own_folder() == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_that_another_made_is_refused(temporary: Path) -> None:
    folder = temporary / f"rts-search-{os.geteuid()}"
    (temporary / "elsewhere").mkdir()
    folder.symlink_to(temporary / "elsewhere")
    with pytest.raises(ValueError, match=r"is not a folder of yours, and Ray .* set RAY_TMPDIR"):
        own_folder()
    folder.unlink()
    if os.geteuid() == 0:
        folder.mkdir()
        os.chown(folder, 12345, 12345)
        with pytest.raises(ValueError, match="is not a folder of yours"):
            own_folder()


def test_a_name_too_long_for_sockets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    long = tmp_path / ("x" * LONGEST)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    assert own_folder() == Path("/tmp", f"rts-search-{os.geteuid()}")
    assert LONGEST >= 35


def session(folder: Path, number: int, ours: bool = True) -> Path:
    path = folder / f"session_2026-01-0{number}_00-00-00_000000_{number}"
    (path / "logs").mkdir(parents=True)
    if ours:
        (path / LOCK).touch()
    return path


def test_a_session_is_removed_when_it_ends_in_order(tmp_path: Path) -> None:
    ended, kept, failed = (session(tmp_path, number, ours=False) for number in (1, 2, 3))
    with held(ended, keep=False), held(kept, keep=True):
        assert ended.exists()
    with pytest.raises(KeyError), held(failed, keep=False):
        raise KeyError
    assert [path.exists() for path in (ended, kept, failed)] == [False, True, True]


def test_leftovers_are_removed_when_nothing_of_theirs_lives(tmp_path: Path) -> None:
    foreign, dead, running, driven, newest = (
        session(tmp_path, number, ours=number > 1) for number in range(1, 6)
    )
    command = [sys.executable, "-c", "input()", f"--session={running.name}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process, held(driven, keep=True):
        remove_leftovers(tmp_path)
        assert process.stdin is not None
        process.stdin.close()
    assert [path for path in (foreign, running, driven, newest) if not path.exists()] == []
    assert not dead.exists()
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == [foreign, newest]


def test_a_job_follows_no_link_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    (here / "package").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "folder").mkdir()
    (here / "mine.py").write_text("x = 1\n")
    (here / "other.py").symlink_to("mine.py")
    (here / "package" / "out.py").symlink_to("../../secret")
    (here / "absolute.py").symlink_to(tmp_path / "secret")
    (here / "folder").symlink_to("../folder")
    (here / "loop").symlink_to(".")
    (here / "nowhere").symlink_to("missing")
    os.mkfifo(here / "pipe")
    monkeypatch.chdir(here)
    with warnings.catch_warnings(record=True) as said, staged(SweepSpec(space="mine:x")) as work:
        packed = sorted(str(path.relative_to(work)) for path in work.rglob("*"))
        assert (work / "other.py").read_text() == "x = 1\n"
    assert f"not packed, a link: {here}/package/out.py" in [str(each.message) for each in said]
    assert packed == ["mine.py", "other.py", "package", "sweep.yaml"]
