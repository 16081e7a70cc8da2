"""The optimizer, its schedules and triggers for a loop of one's own.

The optimizers need torch and NumPy only. Schedules and triggers are validated by pydantic, which is
loaded when one of them is asked for.
"""

from typing import TYPE_CHECKING, Any

import trainables.optim
from trainables.optim import *  # noqa: F403

if TYPE_CHECKING:
    from trainables.schedules import AfterConfig, Schedule
    from trainables.triggers import (
        AlwaysTrigger,
        CosineTrigger,
        EpochObservation,
        EpochTrigger,
        GapTrigger,
        NeverTrigger,
        Trigger,
        TriggerConfig,
        VarianceTrigger,
    )

__all__ = [
    *trainables.optim.__all__,
    "AfterConfig",
    "AlwaysTrigger",
    "CosineTrigger",
    "EpochObservation",
    "EpochTrigger",
    "GapTrigger",
    "NeverTrigger",
    "Schedule",
    "Trigger",
    "TriggerConfig",
    "VarianceTrigger",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from trainables import schedules, triggers

    return getattr(schedules if hasattr(schedules, name) else triggers, name)
