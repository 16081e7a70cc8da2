"""`searchable`: marks a training function of one's own as something that a sweep can train."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from trainables.config import TaskConfig, TrialConfig
from trainables.names import OWN, import_named

if TYPE_CHECKING:
    from trainables.metrics import EpochMetrics
    from trainables.own.controller import Controller

Metrics = Mapping[str, Any]  # what the function yields after an epoch, by name
Function = Callable[..., Iterator[Metrics]]


class Task:
    """A training function: `function(rts, **args)`, a generator that yields its metrics after every
    epoch. `rts` is the Controller, from which it has its optimizer, epochs and steps.
    """

    def __init__(self, function: Function) -> None:
        name = getattr(function, "__name__", repr(function))
        if not inspect.isgeneratorfunction(function):
            raise TypeError(
                f"searchable {name} is no generator: it must yield its metrics after every epoch"
            )
        if not list(inspect.signature(function).parameters):
            raise TypeError(f"searchable {name} takes nothing: its first parameter is the run")
        self.function = function
        self.__name__, self.__doc__ = name, function.__doc__
        self.__module__ = function.__module__

    def __repr__(self) -> str:
        return f"<searchable {self.name}>"

    @property
    def name(self) -> str:
        """As a spec names it."""
        return f"{self.__module__}:{self.__name__}"

    def __call__(self, rts: Controller, **args: Any) -> Iterator[Metrics]:
        return self.function(rts, **args)

    def train(self, **settings: Any) -> Iterator[EpochMetrics]:
        """Train one configuration here, outside of any sweep, an epoch at a time.

        `settings` are those of a trial: `train={"epochs": 5, "lr": 0.1}`, `optimizer={"family":
        "pugd"}`, `task={"objective": "val_mse", "args": {...}}`. Raises pydantic's ValidationError,
        a ValueError, for others.
        """
        from trainables.own.run import OwnRun, train_own

        task = {"name": self.name, **settings.pop("task", {})}
        config = TrialConfig.model_validate({"task": task, **settings})
        check_args(self, config.task)
        return train_own(OwnRun(config), self)


def searchable(function: Function) -> Task:
    """Mark a training function as one that sweeps can train: `task: {name: "module:function"}`.

    Raises TypeError for what is no generator function with the run as its first parameter.
    """
    return Task(function)


def load_task(config: TaskConfig) -> Task:
    """The function that a spec names, imported, with the arguments checked. Raises ValueError, in
    one line."""
    found = import_named("task", config.name, Task)
    if not isinstance(found, Task):
        raise ValueError(
            f"task {config.name!r} is not searchable: put @rts_search.searchable before the "
            f"function ({OWN})"
        )
    check_args(found, config)
    return found


def check_args(task: Task, config: TaskConfig | None) -> None:
    """Raises ValueError for arguments that the function does not take, or lacks."""
    args = config.args if config else {}
    try:
        inspect.signature(task.function).bind(None, **args)
    except TypeError as error:
        raise ValueError(f"task {task.name!r}: task.args do not fit it: {error}") from None
