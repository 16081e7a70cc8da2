"""Ends a sweep cleanly: on Ctrl-C, on SIGTERM, or when its budget is used up."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

from ray.tune import Stopper

from rts_search.spec import BudgetConfig

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt(Stopper):  # type: ignore[misc]
    """A Tune stopper for the whole sweep; `reason` says why it ended it, None while it has not.

    The first signal ends the sweep in order; a second one has its usual effect.
    """

    def __init__(self, budget: BudgetConfig) -> None:
        self.reason: str | None = None
        self.budget = budget
        self.deadline = time.monotonic() + budget.hours * 3600 if budget.hours else None
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self.previous = {s: signal.signal(s, self._on_signal) for s in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles it for a restore that we never do

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if self.reason is None and self.deadline is not None and time.monotonic() > self.deadline:
            self.reason = f"budget.hours {self.budget.hours:g} used up"
        return self.reason is not None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.reason = f"interrupted by {signal.Signals(number).name}"
        for each, handler in self.previous.items():
            signal.signal(each, handler)
