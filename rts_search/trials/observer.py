"""What there is to see of a sweep's trials while they run: the one seam to Tune tells it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rts_search.trials.trial import LiveTrial


class Observer:
    """Is told of every trial, on the driver, in order; by default it does nothing.

    Observers are told one after the other, in the order in which they were given.
    """

    def begins(self, trial: LiveTrial) -> None:
        """The trial will be handed to a worker, for the first time or after a resume. If this
        raises OSError it is not, and will be offered again."""

    def reported(self, trial: LiveTrial, epochs: Sequence[dict[str, Any]]) -> None:
        """New epochs, which `trial.history` holds already."""

    def retried(self, trial: LiveTrial) -> None:
        """Its worker was lost; it goes on from its checkpoint, and repeats later epochs."""

    def ended(self, trial: LiveTrial) -> None:
        """It has ended with `trial.outcome` and `trial.message`; no longer among the live ones."""

    def tick(self) -> None:
        """Called often, whether anything happened or not."""

    def close(self) -> None:
        """No trial runs any more."""
