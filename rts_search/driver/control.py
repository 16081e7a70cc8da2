"""How a running sweep is reached from elsewhere, through small files in its folder's `control/`.

The driver keeps `driver.json`: who it is, when it was last heard of, and the wall clock that all
drivers so far have run. `rts-search stop` leaves a request, which the driver takes away.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from results.storage import SweepFolder
from rts_search.driver.lock import (
    CONTROL,
    DRIVER,
    LOST_SECONDS,
    Driver,
    LostError,
    is_locked,
    read_driver,
    taken,
    this_driver,
)
from rts_search.spec.folder import SPEC, read_spec

POLL_SECONDS = 2.0
BEAT_SECONDS = 10.0  # what a driver that is killed may lose of its hours
CLAIM_SECONDS = 1.0  # from a look whether there is a driver to the claim, on a slow storage
AGAIN_SECONDS = 0.5
CHECK_SECONDS = 1.0
FAILED_SECONDS = 10.0
STOP, SUFFIX = "stop", ".json"


class HeldFolder(SweepFolder):
    """A sweep's folder for its driver's own writes: each asks first whether the sweep is still its
    own, so that no folder is made again that was deleted, and no other driver's sweep changed."""

    def __init__(self, folder: SweepFolder, check: Callable[[], None]) -> None:
        super().__init__(folder.storage, folder.name, folder.follow_links)
        self.check = check

    def _own_path(self, path: str) -> str:
        self.check()
        return super()._own_path(path)


class Control:
    """The driver's side. Entering it claims the sweep, whose lock must be held; until it is left, a
    thread shows that this driver lives, whatever the driver waits for.

    `stop` says that the sweep was asked to end, `trials` which of its trials were. `held` is the
    folder that all else of this driver writes to. What this driver runs is `counted` among the
    sweep's hours, unless it is beside the search.
    """

    def __init__(self, folder: SweepFolder, counted: bool = True) -> None:
        self.folder, self.held = folder, HeldFolder(folder, self.check)
        self.counted = counted
        self.stop = False
        self.trials: set[str] = set()
        self._me = this_driver()
        self._earlier = 0.0  # seconds, of the drivers before
        self._started = self._polled = time.monotonic()
        self._checked = self._failed = 0.0
        self._failure: OSError | None = None
        self._begun = False
        self._lost: LostError | None = None
        self._left = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Control:
        before = read_driver(self.folder)
        if before is not None and self.folder.exists(SPEC):  # else of a sweep that is gone
            self._earlier = before.seconds
        for name in self.folder.files(CONTROL):
            if name.startswith(STOP):  # meant for a driver that is gone
                self.folder.delete(f"{CONTROL}/{name}")
        self._write()
        self._heart.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._left.set()
        self._heart.join(LOST_SECONDS)
        with suppress(OSError):
            now = None if self._failure else read_driver(self.folder)
            if now is not None and now.key == self._me.key:
                self._write(ended=True)
                self._take_requests()

    @property
    def claim(self) -> tuple[str, str]:
        """Where it is written who drives the sweep, and this driver's key, which is there as long
        as that is this one."""
        return self.folder.uri_of(DRIVER), self._me.key

    def confirmed(self) -> HeldFolder:
        """`held`, once it is known that no other driver claimed the sweep at the same moment, where
        no lock keeps them apart: the last to claim it has it. Raises TakenError."""
        time.sleep(max(0.0, self._started + CLAIM_SECONDS - time.monotonic()))
        try:
            self.check()
        except LostError:
            raise taken(self.folder, "was claimed by another driver at the same moment") from None
        return self.held

    def seconds(self) -> float:
        """The wall clock that the sweep's drivers have run, this one until now included."""
        own = time.monotonic() - self._started if self.counted else 0.0
        return self._earlier + own

    def check(self) -> None:
        """Raise LostError unless the sweep is still this driver's, OSError if that cannot be told
        now. An object store is not asked at every write: a look takes its time there, and one at a
        server that is away some seconds."""
        if self.folder.local_path is None:
            if abs(time.time() - self._failed) < FAILED_SECONDS and self._failure is not None:
                raise self._failure
            if abs(time.time() - self._checked) < CHECK_SECONDS:
                return
        try:
            self._look()
        except OSError as error:
            self._failed, self._failure = time.time(), error
            raise
        self._checked, self._failure = time.time(), None

    def _look(self) -> None:
        if self._missing():
            time.sleep(AGAIN_SECONDS)  # some network file systems replace a file in two steps
            if name := self._missing():
                try:
                    self.folder.read(name)  # says why
                except FileNotFoundError:
                    raise LostError(
                        f"{self.folder.uri_of(name)} is gone: the sweep was deleted or moved while "
                        "this driver ran, which ends and writes nothing more; if it was moved: "
                        "rts-search resume ITS/NEW/FOLDER"
                    ) from None
        other = read_driver(self.folder)
        if other is not None and other.key != self._me.key:
            raise LostError(
                f"sweep {self.folder.name!r} was taken over by a driver on {other.host} (pid "
                f"{other.pid}): this one was not heard of for {LOST_SECONDS:g} s, or another sweep "
                "was put in its place; it ends and writes nothing more; follow the other with: "
                f"rts-search status {self.folder.argument()}"
            )

    def _missing(self) -> str | None:
        """What should be there; the spec too, for this driver may just have said that it lives."""
        begun = self.folder.exists(SPEC)
        if self._begun and not begun:
            return SPEC
        self._begun = begun
        return None if self.folder.exists(DRIVER) else DRIVER

    def poll(self) -> None:
        """Called often: looks for requests, and raises LostError once the sweep is lost. A storage
        that fails for a while is asked again the next time."""
        if self._lost is not None:
            raise self._lost
        now = time.monotonic()
        if now - self._polled < POLL_SECONDS:
            return
        self._polled = now
        with suppress(OSError):
            self.check()
            self._take_requests()

    def _beat(self) -> None:
        while not self._left.wait(BEAT_SECONDS):
            with suppress(OSError):
                try:
                    self._look()
                except LostError as error:
                    self._lost = error
                    return
                self._write()

    def _take_requests(self) -> None:
        for name in self.folder.files(CONTROL):
            if name == STOP + SUFFIX:
                self.stop = True
            elif name.startswith(f"{STOP}-"):
                self.trials.add(name.removeprefix(f"{STOP}-").removesuffix(SUFFIX))
            else:
                continue
            self.folder.delete(f"{CONTROL}/{name}")

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
