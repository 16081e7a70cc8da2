"""What the ledger's words mean: how trials stand or end, and which way objectives go."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, get_args

Objective = Literal["val_accuracy", "val_loss", "train_loss", "train_accuracy"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
MINIMISED: tuple[Objective, ...] = ("val_loss", "train_loss")
MAXIMISED = tuple(name for name in OBJECTIVES if name not in MINIMISED)


def direction(objective: str) -> Literal["maximize", "minimize"]:
    """In Optuna's words."""
    return "minimize" if objective in MINIMISED else "maximize"


def merit(value: float, objective: str) -> float:
    """A value of the objective so that higher is better."""
    return -value if objective in MINIMISED else value


class Outcome(StrEnum):
    """As the ledger names it. Values are strings; the properties are its meanings."""

    RUNNING = "running"
    COMPLETED = "completed"  # its whole schedule of T epochs
    STOPPED = "stopped"  # by the stopper, at `stopped_rung` and `stopped_epoch`
    DIVERGED = "diverged"
    COLLAPSED = "collapsed"
    FAILED = "failed"
    OUT_OF_MEMORY = "out_of_memory"
    USER_STOPPED = "user_stopped"
    INTERRUPTED = "interrupted"  # with its sweep

    @property
    def finished(self) -> bool:
        """Whether the trial has ended; a resume goes on with the others."""
        return self not in (Outcome.RUNNING, Outcome.INTERRUPTED)

    @property
    def told(self) -> Literal["complete", "pruned", "fail"]:
        """What a searcher is told of such an end."""
        if self is Outcome.COMPLETED:
            return "complete"
        return "pruned" if self in (Outcome.STOPPED, Outcome.USER_STOPPED) else "fail"

    @property
    def repeats(self) -> bool:
        """Whether its configuration would end the same way again; failures may be chance."""
        return self.finished and self not in (Outcome.FAILED, Outcome.OUT_OF_MEMORY)

    @property
    def whole(self) -> bool:
        """Whether nobody cut the run short: it says how its configuration ends."""
        return self in (Outcome.COMPLETED, Outcome.DIVERGED, Outcome.COLLAPSED)
