"""Who a sweep's one driver is."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from results.storage import SweepFolder

CONTROL, DRIVER = "control", "control/driver.json"
LOST_SECONDS = 60.0  # a driver that was not heard of for so long is taken for dead
LOCK_SECONDS = 0.5  # `is_locked` holds the lock for a moment
MOST_BYTES = 4096  # of a driver's file; ours are a tenth of it


class TakenError(ValueError):
    """Another driver has the sweep, or has begun it."""


class LostError(ValueError):
    """The sweep is no longer this driver's: it must write nothing more."""


@dataclass(frozen=True)
class Driver:
    """A driver as it describes itself in `control/driver.json`.

    `heard` is when it last did, in seconds of Unix time; `seconds` the wall clock of all the
    sweep's drivers until then; `ended` that it has left in order. A process is known by its id
    within one `boot` of a machine and one `namespace` of ids: containers may share a host's name.
    """

    host: str
    pid: int
    key: str
    boot: str = ""  # unknown: of an earlier version, or on a system without /proc
    namespace: str = ""
    heard: float = field(default_factory=time.time)
    seconds: float = 0.0
    ended: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for what no driver writes."""
        texts = (self.host, self.key, self.boot, self.namespace)
        numbers = (self.heard, self.seconds)
        if not (
            all(isinstance(text, str) and text.isprintable() for text in texts)
            and type(self.pid) is int
            and 0 < self.pid < 2**31
            and all(type(n) in (int, float) and math.isfinite(n) and n >= 0 for n in numbers)
            and isinstance(self.ended, bool)
        ):
            raise ValueError("not a driver's file")

    @property
    def is_here(self) -> bool:
        """Whether it ran where this process does: only then its lock and its id can be looked at.
        One that is elsewhere, or of whom that is not known, is judged by when it was heard of."""
        here = this_driver()
        return (self.host, self.boot, self.namespace) == (here.host, here.boot, here.namespace)

    @property
    def is_heard(self) -> bool:
        """Whether it seems to run: it was heard of lately, and is not known to be dead."""
        fresh = abs(time.time() - self.heard) < LOST_SECONDS
        return fresh and not self.ended and not (self.is_here and not _exists(self.pid))

    def content(self, seconds: float, ended: bool) -> bytes:
        """What it writes now."""
        row = asdict(self) | {"heard": time.time(), "seconds": seconds, "ended": ended}
        return json.dumps(row).encode()


def this_driver() -> Driver:
    return Driver(socket.gethostname(), os.getpid(), uuid.uuid4().hex, *_boot_and_namespace())


def _boot_and_namespace() -> tuple[str, str]:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return boot, os.readlink("/proc/self/ns/pid")
    except (OSError, ValueError):  # macOS
        return "", ""


def read_driver(folder: SweepFolder) -> Driver | None:
    """The driver that last wrote its file; None if there is none, or what is there is foreign."""
    try:
        return _parse(folder.read(DRIVER, MOST_BYTES))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def _parse(content: bytes) -> Driver:
    """Raises ValueError. What a later version may write besides is ignored."""
    try:
        row: Any = json.loads(content)
        told = {name.name: row[name.name] for name in fields(Driver) if name.name in row}
        return Driver(**{"heard": 0.0} | told)  # one that does not say when is not heard of
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None


@contextmanager
def hold_lock(folder: SweepFolder, say: Callable[[str], None] | None = None) -> Iterator[None]:
    """Refuse a second driver. Raises TakenError while another one runs, here or elsewhere.

    With `say`, a driver elsewhere that may have died just now is watched until it is heard of
    again, or has been silent long enough. Raises ValueError for a folder with links that lead out.
    """
    folder.refuse_links()
    home = _home(folder)
    home.mkdir(parents=True, exist_ok=True)
    lock = FileLock(home / ".driver.lock")
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise taken(folder, "has a driver already") from None
    try:
        other = read_driver(folder)
        # in a folder on this machine's disk the lock knows; else the driver's own word has to do
        elsewhere = other is not None and not (folder.local_path is not None and other.is_here)
        if other is not None and elsewhere and say is not None:
            other = _watch(folder, other, say)
        if other is not None and elsewhere and other.is_heard:
            ago = max(0.0, time.time() - other.heard)
            raise taken(
                folder,
                f"has a driver already, on {other.host} (pid {other.pid}), heard of {ago:.0f} s "
                f"ago (if that one has crashed: try again in {LOST_SECONDS - ago:.0f} s)",
            )
        yield
    finally:
        lock.release()


def _watch(folder: SweepFolder, driver: Driver, say: Callable[[str], None]) -> Driver:
    """The driver as it stands once it was heard of again, or is lost."""
    if driver.is_heard:
        say(f"a driver on {driver.host} was heard of lately: waiting to see whether it still runs")
    now: Driver | None = driver
    while now is not None and now.is_heard and now.heard == driver.heard:
        time.sleep(1.0)
        now = read_driver(folder)
    return now or driver


def is_locked(folder: SweepFolder) -> bool:
    """Whether a driver on this machine holds the sweep. Asks for no right to write there.

    Raises PermissionError where not even that can be told.
    """
    try:
        descriptor = os.open(_home(folder) / ".driver.lock", os.O_RDONLY | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)  # with the lock
    return False


def taken(folder: SweepFolder, why: str) -> TakenError:
    return TakenError(
        f"sweep {folder.name!r} {why}; follow it with: rts-search status "
        f"{folder.argument()}, or end it: rts-search stop {folder.argument()}"
    )


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _home(folder: SweepFolder) -> Path:
    """Where the lock is: the sweep's folder, if that is on a local disk."""
    if folder.local_path is not None:
        return Path(folder.local_path)
    base = Path(os.environ.get("RTS_SEARCH_CACHE", Path.home() / ".cache" / "rts-search"))
    return base / "drivers" / hashlib.sha256(folder.uri.encode()).hexdigest()[:16]
