"""Ends a sweep in order: on Ctrl-C, SIGTERM, SIGHUP or `rts-search stop`, or when its budget is
used up."""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from ray._private import worker as ray_worker
from ray._private.ray_constants import PROCESS_TYPE_GCS_SERVER, PROCESS_TYPE_RAYLET
from ray.tune import Stopper

from results.meanings import Outcome
from rts_search.driver.budget import Budget, UsedUp
from rts_search.driver.control import Control

WITHOUT_RAY = 5.0  # seconds to end in order
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupt(Stopper):  # type: ignore[misc]
    """A Tune stopper; `reason` says why it ended the sweep, None while it has not.

    `given_up` says why the sweep cannot go on, None while it can. `used_up` is the budget, if that
    is the reason, `signal` the one that was; `user_stopped` are the trials that a user has ended.
    The first signal ends the sweep in order; a second one has its usual effect.
    """

    def __init__(
        self, budget: Budget, control: Control, given_up: Callable[[], str | None]
    ) -> None:
        self.budget, self.control, self.given_up = budget, control, given_up
        self.reason: str | None = None
        self.used_up: UsedUp | None = None
        self.signal: int | None = None
        self.user_stopped: set[str] = set()
        self.previous: dict[int, Any] = {}
        self.left = threading.Event()

    def __enter__(self) -> Interrupt:
        self.previous = _handle(self._on_signal)
        return self

    def __exit__(self, *exception: object) -> None:
        self.left.set()
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles it for a restore that we never do

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether a user asked to end the trial, unless it ended by itself with this epoch.

        `trial_id` is Tune's own; ours is in the result.
        """
        trial = result.get("trial")
        if trial not in self.control.trials or Outcome(result["outcome"]).finished:
            return False
        self.user_stopped.add(str(trial))
        return True

    def stop_all(self) -> bool:
        if self.reason is None:
            self.reason = self.given_up()
        if self.reason is None:
            self.control.poll()
            if self.control.stop:
                self.reason = "stopped by rts-search stop"
            elif (used_up := self.budget.used_up()) is not None:
                self.used_up, self.reason = used_up, used_up.line
        return self.reason is not None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.signal, self.reason = number, _told(number)
        for each, handler in self.previous.items():
            signal.signal(each, handler)
        if number == signal.SIGHUP:
            leave_terminal()
        threading.Thread(target=self._end_without_ray, daemon=True).start()

    def _end_without_ray(self) -> None:
        """Where the signal went to Ray's processes as well, as systemd and Slurm send it, Tune
        waits for them in vain, until Ray ends this process after a minute. As with a crash nothing
        is lost."""
        while not ray_ended():
            if self.left.wait(1.0):
                return
        if not self.left.wait(WITHOUT_RAY):
            go_on = f"rts-search resume {self.control.folder.argument()}"
            with suppress(OSError):  # nobody may listen any more
                told = f"{self.reason}, and Ray with it: the ledger is kept; go on with: {go_on}"
                print(told, flush=True)
            os._exit(130)


def ray_ended() -> bool:
    """Whether the Ray that this process has started has lost what it cannot go on without."""
    node = ray_worker._global_node
    dead = {kind for kind, _ in node.dead_processes()} if node is not None else set()
    return bool(dead & {PROCESS_TYPE_GCS_SERVER, PROCESS_TYPE_RAYLET})


@contextmanager
def signals_raise() -> Iterator[None]:
    """A signal that ends a sweep ends whatever the driver does or waits for outside of Tune's loop,
    as Ctrl-C does: with KeyboardInterrupt, which tells the signal."""
    previous = raise_on_signals()
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def raise_on_signals() -> dict[int, Any]:
    """See to it again, after Ray has put a handler of its own in the place of SIGTERM's."""
    return _handle(_raise)


def _handle(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Handle the signals with it, but for what `nohup` ignores; the handlers that were there."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return {s: signal.signal(s, handler) for s in SIGNALS if not (nohup and s == signal.SIGHUP)}


def _raise(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGHUP:
        leave_terminal()
    raise KeyboardInterrupt(_told(number))


def _told(number: int) -> str:
    return f"interrupted by {signal.Signals(number).name}"


def leave_terminal() -> None:
    """Say the last words to nobody, unless to a file: the terminal that hung up takes none."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.dup2(nowhere, descriptor)
    os.close(nowhere)
