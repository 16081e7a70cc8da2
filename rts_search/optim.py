"""The optimizer, its schedules and triggers for a loop of one's own."""

import trainables.optim
from trainables.optim import *  # noqa: F403
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
