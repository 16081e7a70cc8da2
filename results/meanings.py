"""What the ledger's words mean: how trials stand or end, and which way objectives go."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Literal, get_args

Named = Literal["val_accuracy", "val_loss", "train_loss", "train_accuracy"]
OBJECTIVES: tuple[Named, ...] = get_args(Named)
MINIMISED: tuple[Named, ...] = ("val_loss", "train_loss")
MAXIMISED = tuple(name for name in OBJECTIVES if name not in MINIMISED)
# of a task of one's own: the metric's name, and its direction
OWN = re.compile(r"(?P<metric>[A-Za-z_][A-Za-z0-9_]{0,63}):(?P<way>min|max)")


def own_objective(metric: str, way: Literal["minimize", "maximize"]) -> str:
    """As the ledger names it: `val_mse:min`, or one of OBJECTIVES where it is that."""
    if metric in OBJECTIVES and direction(metric) == way:
        return metric
    return f"{metric}:{way[:3]}"


def is_objective(name: str) -> bool:
    return name in OBJECTIVES or OWN.fullmatch(name) is not None


def column(objective: str) -> str:
    """Its column in `epochs`."""
    return objective if objective in OBJECTIVES else "value"


def metric_of(objective: str) -> str:
    """Its name without the direction."""
    return objective.partition(":")[0]


def minimised(objective: str) -> bool:
    return objective in MINIMISED or objective.endswith(":min")


def direction(objective: str) -> Literal["maximize", "minimize"]:
    """In Optuna's words."""
    return "minimize" if minimised(objective) else "maximize"


def in_points(metric: str) -> bool:
    """Whether differences in it are told in points: an accuracy is a share."""
    return metric.endswith("accuracy")


def merit(value: float, objective: str) -> float:
    """A value of the objective so that higher is better."""
    return -value if minimised(objective) else value


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
