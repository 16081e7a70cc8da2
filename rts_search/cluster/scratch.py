"""Where a local Ray keeps its sessions: in a folder of this user's own, and not for ever."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK = "rts-search.lock"  # in the sessions that sweeps began; held by the driver
# of a path to a socket are 107 bytes; below the folder Ray's are as long as this one
LONGEST = 107 - len("/ray/session_2026-11-26_17-54-06_123456_4194304/sockets/plasma_store")
SETTLE_SECONDS = 5.0  # until Ray's last processes have written their last


def own_folder() -> Path:
    """A folder that nobody else may enter, in the temporary one, or in /tmp where that has too long
    a name for sockets. Raises ValueError where another user was there first."""
    base = Path(tempfile.gettempdir())
    name = f"rts-search-{os.geteuid()}"
    folder = base / name if len(os.fsencode(base / name)) <= LONGEST else Path("/tmp", name)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise ValueError(
            f"{folder} is not a folder of yours, and Ray would keep its files there: set "
            f"RAY_TMPDIR to one that is, of a name of at most {LONGEST} bytes"
        )
    if stat.S_IMODE(found.st_mode) != 0o700:
        folder.chmod(0o700)
    return folder


@contextmanager
def held(session: Path, keep: bool) -> Iterator[None]:
    """A session of ours while it runs: marked as such for `remove_leftovers`. Left in order, it is
    removed after Ray has ended, which the caller sees to, unless it is to `keep`."""
    descriptor = os.open(session / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    try:
        yield
    except BaseException:
        keep = True
        raise
    finally:
        os.close(descriptor)
        if not keep:
            _remove(session)


def remove_leftovers(folder: Path) -> None:
    """Remove sessions that sweeps began in Ray's folder, and left behind when they failed or were
    killed, once none of their processes lives. The newest one stays, to be looked at."""
    for session in sorted(folder.glob(f"session_*/{LOCK}"))[:-1]:
        with suppress(OSError):  # another user's
            if not _is_held(session) and not _has_processes(session.parent.name):
                _remove(session.parent)


def _is_held(lock: Path) -> bool:
    descriptor = os.open(lock, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _has_processes(session: str) -> bool:
    """Ray's have the session's name among their arguments."""
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if session.encode() in process.read_bytes():
                return True
    return False


def _remove(session: Path) -> None:
    deadline = time.monotonic() + SETTLE_SECONDS
    while session.exists() and time.monotonic() < deadline:
        shutil.rmtree(session, ignore_errors=True)
        time.sleep(0.05 * session.exists())
