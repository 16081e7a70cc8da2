"""How a running sweep is reached from elsewhere, through small files in its folder's `control/`.

The driver keeps `driver.json`: who it is, when it was last heard of, and the wall clock that all
drivers so far have run. `rts-search stop` leaves a request, which the driver takes away.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress

from results.storage import SweepFolder
from rts_search.driver.lock import (
    CONTROL,
    DRIVER,
    LOST_SECONDS,
    Driver,
    is_locked,
    read_driver,
    this_driver,
)
from rts_search.spec.folder import SPEC, read_spec

POLL_SECONDS = 2.0
BEAT_SECONDS = 10.0  # what a driver that is killed may lose of its hours
STOP, SUFFIX = "stop", ".json"


class Control:
    """The driver's side. Entering it claims the sweep, whose lock must be held.

    `stop` says that the sweep was asked to end, `trials` which of its trials were.
    """

    def __init__(self, folder: SweepFolder) -> None:
        self.folder = folder
        self.stop = False
        self.trials: set[str] = set()
        self._me = this_driver()
        self._earlier = 0.0  # seconds, of the drivers before
        self._started = time.monotonic()
        # the clock on the wall, which goes on while a machine sleeps: others may then take over
        self._polled = self._beaten = time.time()

    def __enter__(self) -> Control:
        before = read_driver(self.folder)
        if before is not None and self.folder.exists(SPEC):  # else of a sweep that is gone
            self._earlier = before.seconds
        for name in self.folder.files(CONTROL):
            if name.startswith(STOP):  # meant for a driver that is gone
                self.folder.delete(f"{CONTROL}/{name}")
        self._write()
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(OSError):
            now = read_driver(self.folder)
            if now is None or now.key == self._me.key:
                self._write(ended=True)
                self._take_requests()

    def seconds(self) -> float:
        """The wall clock that the sweep's drivers have run, this one until now included."""
        return self._earlier + time.monotonic() - self._started

    def poll(self) -> None:
        """Called often: looks for requests, and shows that this driver lives.

        A storage that fails for a while is asked again the next time. Raises ValueError if
        another driver has taken the sweep over, which this one must then leave alone.
        """
        now = time.time()
        if abs(now - self._polled) < POLL_SECONDS:
            return
        self._polled = now
        with suppress(OSError):
            if abs(now - self._beaten) >= BEAT_SECONDS:
                self._beat()
                self._beaten = now
            self._take_requests()

    def _take_requests(self) -> None:
        for name in self.folder.files(CONTROL):
            if name == STOP + SUFFIX:
                self.stop = True
            elif name.startswith(f"{STOP}-"):
                self.trials.add(name.removeprefix(f"{STOP}-").removesuffix(SUFFIX))
            else:
                continue
            self.folder.delete(f"{CONTROL}/{name}")

    def _beat(self) -> None:
        other = read_driver(self.folder)
        if other is not None and other.key != self._me.key:
            raise ValueError(
                f"sweep {self.folder.name!r} was taken over by a driver on {other.host} "
                f"(pid {other.pid}), since this one was not heard of for {LOST_SECONDS:g} s; "
                f"follow it with: rts-search status {self.folder.argument()}"
            )
        self._write()

    def _write(self, ended: bool = False) -> None:
        self.folder.write(DRIVER, self._me.content(self.seconds(), ended))


def driver_of(folder: SweepFolder) -> Driver | None:
    """The sweep's running driver, wherever it runs, as far as its files tell."""
    driver = read_driver(folder)
    if driver is None or driver.ended:
        return None
    if folder.local_path is not None and driver.is_here:
        with suppress(PermissionError):  # another user's
            return driver if is_locked(folder) else None
    return driver if driver.is_heard else None


def is_left(folder: SweepFolder, running: bool) -> bool:
    """Whether the sweep's driver is gone without a last word, as after `kill -9`.

    `running` says whether its ledger has trials that run.
    """
    driver = read_driver(folder)
    if driver is None:  # a single run, which has a lock only
        return running and folder.local_path is not None and not is_locked(folder)
    return (running or not driver.ended) and driver_of(folder) is None


def stop(
    folder: SweepFolder, trial: str | None, timeout: float, say: Callable[[str], None]
) -> bool:
    """Ask the sweep's driver to end it, or one trial, and wait until it has, or `timeout` s.

    False if it has not ended yet. Raises ValueError, in one line, if there is nothing to end.
    """
    if not folder.exists(SPEC):
        raise ValueError(f"no sweep at {folder.uri}: it has no {SPEC}")
    if trial is not None and (outcome := _outcome(folder, trial)) is not None:
        raise ValueError(f"trial {trial!r} of {folder.name!r} has ended already: {outcome}")
    driver = driver_of(folder)
    if driver is None:
        raise ValueError(f"no driver runs sweep {folder.name!r}: there is nothing to stop")
    with suppress(ValueError):  # which may follow links
        folder = read_spec(folder).folder
    request = f"{CONTROL}/{STOP}{f'-{trial}' if trial is not None else ''}{SUFFIX}"
    folder.write(request, json.dumps({"time": time.time()}).encode())
    what = f"trial {trial}, after its epoch" if trial is not None else "the sweep"
    say(f"asked the driver on {driver.host} (pid {driver.pid}) to end {what}")
    deadline = time.monotonic() + timeout
    while True:
        if trial is not None and (outcome := _outcome(folder, trial)) is not None:
            say(f"trial {trial} has ended: {outcome}")
            return True
        if driver_of(folder) is None:
            folder.delete(request)
            say(f"sweep {folder.name} has ended; its trials are kept")
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(1.0)


def _outcome(folder: SweepFolder, trial: str) -> str | None:
    """How a trial has ended, None before. Raises ValueError if there is no such trial."""
    from results.query import find_trial

    row = find_trial(folder.storage, trial, [folder.name])
    return None if row["ended"] is None else str(row["outcome"])
