"""The sweep's folder beside its ledger: spec, journal, and who its one driver is."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from pydantic import BaseModel

from results.storage import SweepFolder
from rts_search.provenance import provenance
from rts_search.spec import SweepSpec, parse, read_yaml

SPEC, JOURNAL = "spec.yaml", "optuna.journal"
CONTROL, DRIVER = "control", "control/driver.json"
LOST_SECONDS = 60.0  # a driver that was not heard of for so long is taken for dead
LOCK_SECONDS = 0.5  # `is_locked` holds the lock for a moment


def spec_hash(spec: SweepSpec) -> str:
    """A short hash of all settings but the name and where results go."""
    content = spec.model_dump_json(exclude={"name", "storage"})
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def write_spec(folder: SweepFolder, spec: SweepSpec) -> None:
    """What was asked, and with what code and hardware.

    Written when the sweep begins. Where a resume asked for changes, they are written too, each
    with its time, as `history`; the provenance stays that of the beginning.
    """
    if not folder.exists(SPEC):
        origin = asdict(provenance())
        origin["versions"] = json.loads(origin["versions"])
        _write(folder, spec, [], origin | {"spec_hash": spec_hash(spec)})
        return
    content = _read(folder)
    if changes := changed(_parse(folder, content), spec):
        time_now = datetime.now(UTC).isoformat(timespec="seconds")
        plain = {key: {"from": old, "to": new} for key, (old, new) in changes.items()}
        history = [*content.get("history", []), {"time": time_now, "changes": plain}]
        _write(folder, spec, history, content["provenance"])


@contextmanager
def begun_or_not_there(folder: SweepFolder) -> Iterator[None]:
    """A new sweep that fails before its first trial leaves no spec: it has not begun."""
    new = not folder.exists(SPEC)
    try:
        yield
    except Exception:
        if new and not folder.exists("trials"):
            folder.delete(SPEC)
        raise


def read_spec(folder: SweepFolder) -> SweepSpec:
    """The spec of a sweep, with what resumes have changed.

    Raises ValueError if there is none, or if the file is not whole.
    """
    return _parse(folder, _read(folder))


def changed(old: SweepSpec, new: SweepSpec) -> dict[str, tuple[Any, Any]]:
    """The settings that differ, as `group.setting: (old, new)`, but for where the sweep lies."""
    before, after = _settings(old), _settings(new)
    return {key: (before[key], after[key]) for key in before if before[key] != after[key]}


def _settings(spec: SweepSpec) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in spec.model_dump(mode="json", exclude={"name", "storage"}).items():
        group = isinstance(getattr(spec, name), BaseModel)
        found |= {f"{name}.{key}": each for key, each in value.items()} if group else {name: value}
    return found


def _write(
    folder: SweepFolder, spec: SweepSpec, history: list[Any], origin: dict[str, Any]
) -> None:
    # provenance is last, so that a file without it is known to be truncated
    past = {"history": history} if history else {}
    content = spec.model_dump(mode="json") | past | {"provenance": origin}
    folder.write(SPEC, yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode())


def _read(folder: SweepFolder) -> dict[str, Any]:
    try:
        content = read_yaml(folder.read(SPEC).decode())
    except FileNotFoundError:
        raise ValueError(f"no sweep at {folder.uri}: it has no {SPEC}") from None
    except ValueError as error:  # not UTF-8, not YAML
        raise _damaged(folder, str(error)) from None
    origin = content.get("provenance")
    if not isinstance(origin, dict) or "spec_hash" not in origin:
        raise _damaged(folder, "its end, the provenance, is missing")
    return content


def _parse(folder: SweepFolder, content: dict[str, Any]) -> SweepSpec:
    asked = {key: value for key, value in content.items() if key not in ("history", "provenance")}
    try:  # the folder may have been moved since
        return parse(SweepSpec, asked | {"name": folder.name, "storage": folder.storage})
    except ValueError as error:
        raise _damaged(folder, str(error)) from None


def _damaged(folder: SweepFolder, why: str) -> ValueError:
    return ValueError(
        f"{folder.uri_of(SPEC)} is not as rts-search wrote it: {why}; put the file right, or begin "
        "a new sweep (the ledger can still be read)"
    )


def journal_path(folder: SweepFolder) -> Path:
    """Optuna's journal: in the sweep's folder, or for an object store on the driver's disk.

    There it is taken from the store, unless this machine's continues what is stored: its driver
    was then killed before it stored the rest, and no other machine has gone on since.
    """
    path = _journal_file(folder)
    if folder.local_path is None and folder.exists(JOURNAL):
        stored = folder.read(JOURNAL)
        if not (path.exists() and path.read_bytes().startswith(stored)):
            path.write_bytes(stored)
    return path


def save_journal(folder: SweepFolder) -> None:
    """On an object store, put the driver's journal beside the ledger; elsewhere it is there."""
    if folder.local_path is None:
        folder.write(JOURNAL, _journal_file(folder).read_bytes())


def _journal_file(folder: SweepFolder) -> Path:
    return _home(folder) / JOURNAL


@dataclass(frozen=True)
class Driver:
    """A driver as it describes itself in `control/driver.json`.

    `heard` is when it last did, in seconds of Unix time; `seconds` the wall clock of all the
    sweep's drivers until then; `ended` that it has left in order.
    """

    host: str
    pid: int
    key: str
    heard: float = field(default_factory=time.time)
    seconds: float = 0.0
    ended: bool = False

    @property
    def is_here(self) -> bool:
        return self.host == socket.gethostname()

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
    return Driver(socket.gethostname(), os.getpid(), uuid.uuid4().hex)


def read_driver(folder: SweepFolder) -> Driver | None:
    """The driver that last wrote its file; None if there is none, or what is there is foreign."""
    try:
        return Driver(**json.loads(folder.read(DRIVER)))
    except (FileNotFoundError, ValueError, TypeError):
        return None


@contextmanager
def hold_lock(folder: SweepFolder, say: Callable[[str], None] | None = None) -> Iterator[None]:
    """Refuse a second driver. Raises ValueError while another one runs, here or elsewhere.

    With `say`, a driver elsewhere that may have died just now is watched until it is heard of
    again, or has been silent long enough.
    """
    home = _home(folder)
    home.mkdir(parents=True, exist_ok=True)
    lock = FileLock(home / ".driver.lock")
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise _taken(folder, "has a driver already") from None
    try:
        other = read_driver(folder)
        # in a folder on this machine's disk the lock knows; else the driver's own word has to do
        elsewhere = other is not None and not (folder.local_path is not None and other.is_here)
        if other is not None and elsewhere and say is not None:
            other = _watch(folder, other, say)
        if other is not None and elsewhere and other.is_heard:
            ago = max(0.0, time.time() - other.heard)
            raise _taken(
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
    """Whether a driver on this machine holds the sweep."""
    path = _home(folder) / ".driver.lock"
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def _taken(folder: SweepFolder, why: str) -> ValueError:
    return ValueError(
        f"sweep {folder.name!r} {why}; follow it with: rts-search status {folder.name}, or end it: "
        f"rts-search stop {folder.name}"
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
    """Where the lock and the journal are: the sweep's folder, if that is on a local disk."""
    if folder.local_path is not None:
        return Path(folder.local_path)
    base = Path(os.environ.get("RTS_SEARCH_CACHE", Path.home() / ".cache" / "rts-search"))
    path = base / "drivers" / hashlib.sha256(folder.uri.encode()).hexdigest()[:16]
    path.mkdir(parents=True, exist_ok=True)
    return path
