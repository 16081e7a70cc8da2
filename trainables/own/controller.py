"""What a training function of one's own is given: optimizer, schedules, trigger, and its epochs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from trainables.config import TrialConfig
from trainables.loop import peak_memory, set_schedules, short, take_step
from trainables.metrics import EpochMetrics, TestMetrics
from trainables.optim import PerturbedSGD
from trainables.triggers import EpochObservation

if TYPE_CHECKING:
    from trainables.own.run import OwnRun

Model = TypeVar("Model", bound=nn.Module)
NAMED = ("train_accuracy", "val_loss", "val_accuracy")  # metrics with a column of their own
OF_TEST = ("test_loss", "test_accuracy")
TAKEN = {field.name for field in fields(EpochMetrics)} - {*NAMED}


class Controller:
    """The run, as the function sees it.

    Call `prepare` with the model once, loop over `epochs()`, call `step` for every batch, and yield
    the epoch's metrics: a dict of numbers by name. The trigger is shown them, and decides whether
    the next epoch's steps are perturbed.
    """

    def __init__(self, run: OwnRun, rung: int, final: bool) -> None:
        self._run, self._rung, self._final = run, rung, final
        self._epoch = 0  # the one that is trained, until it is observed
        self._prepared = False
        self._steps = 0
        self._schedule: tuple[float, float, float] | None = None  # of the epoch's first step
        self._sums = torch.zeros(2)  # of the losses at w and at w + ε, on the device
        self._started = self._trained = 0.0

    @property
    def config(self) -> TrialConfig:
        """All settings of the trial."""
        return self._run.config

    @property
    def device(self) -> torch.device:
        """Where to train."""
        return self._run.device

    @property
    def seed(self) -> int:
        """Python's, NumPy's and torch's generators begin with it."""
        return self.config.train.seed

    @property
    def batch_size(self) -> int:
        return self.config.train.batch_size

    @property
    def total_epochs(self) -> int:
        """T."""
        return self.config.train.epochs

    @property
    def generator(self) -> torch.Generator:
        """On the CPU, for the order of the data: seeded, and saved with the run."""
        return self._run.generator

    @property
    def optimizer(self) -> PerturbedSGD:
        """RTS, SAM or ASAM, after `prepare`; `step` drives it."""
        return self._run.optimizer

    @property
    def perturbing(self) -> bool:
        """Whether the steps of this epoch are perturbed."""
        return self._run.trigger.perturbing(self._epoch)

    @property
    def testing(self) -> bool:
        """Whether this epoch is the last one of T: the only one after which the test set may be
        looked at, under names that begin with `test_`."""
        return self._final and self._epoch == self.total_epochs

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of the trial, for evaluation; `step` has it already."""
        return self._run.autocast()

    def prepare(self, model: Model, *, steps_per_epoch: int, **kept: Any) -> Model:
        """The model on the device, with the trial's optimizer and trigger.

        Every epoch must have `steps_per_epoch` steps. `kept` are further objects with `state_dict`
        and `load_state_dict` that a checkpoint must hold.
        """
        if self._prepared:
            raise ValueError("rts.prepare is called once, before rts.epochs()")
        if steps_per_epoch < 1:
            raise ValueError(f"steps_per_epoch {steps_per_epoch} must be at least 1")
        model = model.to(self.device)
        self._run.watch(model, steps_per_epoch)
        self._run.kept = kept
        self._prepared = True
        return model

    def epochs(self) -> Iterator[int]:
        """The epochs that are left to train, from 1 to T; the model is put in training mode."""
        self._need_prepared()
        self._run.resume()
        for epoch in range(self._run.epochs_done + 1, self.total_epochs + 1):
            self._begin(epoch)
            yield epoch

    def step(self, compute: Callable[[], Tensor]) -> Tensor:
        """A step of the optimizer: one gradient, or two where it is perturbed.

        `compute()` gives the mean loss of the batch, with its graph; it is called once or twice.
        Returns the loss at w, detached, on the device.
        """
        run = self._run
        if not self._epoch:
            raise ValueError("rts.step belongs into the loop over rts.epochs()")
        if self._steps == run.steps_per_epoch:
            raise ValueError(
                f"epoch {self._epoch} has more than the {run.steps_per_epoch} steps that "
                "rts.prepare was told of"
            )
        schedule = set_schedules(run, self._epoch, self._steps, self.perturbing)
        self._schedule = self._schedule or schedule
        loss, risen = take_step(run, self.perturbing, compute)
        self._sums[0] += loss
        if risen is not None:
            self._sums[1] += risen
        self._steps += 1
        self._trained = time.perf_counter()
        return loss

    def observe(self, metrics: Mapping[str, Any]) -> EpochMetrics:
        """Ends the epoch: shows the trigger what it came to. Called with what the function yields.

        Raises ValueError, in one line, for metrics that are no numbers or have names of others.
        """
        run, epoch = self._run, self._epoch
        self._check_steps()
        of_training = run.task.objective == "train_loss"
        told = self._told(metrics)
        losses = (self._sums / run.steps_per_epoch).tolist()
        train_loss, risen = losses[0], losses[1] if self.perturbing else None
        val_loss = told.get("val_loss")
        norms, cosines = run.monitor.read()
        run.trigger.observe(EpochObservation(epoch, norms, cosines, train_loss, val_loss))
        assert self._schedule is not None
        lr, radius, scale = self._schedule
        now = time.perf_counter()
        others = {n: v for n, v in told.items() if n not in (*NAMED, *OF_TEST)}
        found = EpochMetrics(
            epoch=epoch,
            total_epochs=self.total_epochs,
            rung=self._rung,
            lr=lr,
            radius=radius,
            scale=scale,
            train_loss=train_loss,
            perturbed_loss=risen,
            loss_rise=None if risen is None else risen - train_loss,
            perturbing=self.perturbing,
            train_accuracy=told.get("train_accuracy"),
            val_loss=val_loss,
            val_accuracy=told.get("val_accuracy"),
            generalization_gap=None if val_loss is None else val_loss - train_loss,
            trigger_statistic=run.trigger.statistic,
            trigger_threshold=run.trigger.threshold,
            trigger_epoch=run.trigger.firing_epoch,
            gradient_evaluations=run.gradient_evaluations,
            train_seconds=short(self._trained - self._started),
            eval_seconds=short(now - self._trained),
            epoch_seconds=short(now - self._started),
            images_per_second=None,
            peak_memory_bytes=peak_memory(run.device),
            value=train_loss if of_training else told[run.task.objective],
            metrics=json.dumps(others) if others else None,
            test=self._test(told) if self.testing else None,
        )
        run.history.append(found)
        self._epoch = 0
        return found

    def _begin(self, epoch: int) -> None:
        if self._epoch:
            raise ValueError(f"nothing was yielded after epoch {self._epoch}")
        self._epoch, self._steps, self._schedule = epoch, 0, None
        self._sums = torch.zeros(2, device=self.device)
        self._started = self._trained = time.perf_counter()
        self._run.model.train()

    def _need_prepared(self) -> None:
        if not self._prepared:
            raise ValueError("rts.prepare(model, steps_per_epoch=…) comes before rts.epochs()")

    def _check_steps(self) -> None:
        wanted = self._run.steps_per_epoch if self._prepared else 0
        if not self._epoch:
            raise ValueError("metrics were yielded outside of the loop over rts.epochs()")
        if self._steps != wanted:
            raise ValueError(
                f"epoch {self._epoch} had {self._steps} steps, not the {wanted} that rts.prepare "
                "was told of"
            )

    def _told(self, metrics: Any) -> dict[str, float]:
        """What was yielded, checked, as numbers."""
        task, trigger = self._run.task, self._run.trigger
        if not isinstance(metrics, Mapping):
            raise ValueError(f"{metrics!r:.100} was yielded: a dict of metrics is needed")
        told = {name: _number(name, value) for name, value in metrics.items()}
        if taken := sorted(told.keys() & TAKEN):
            raise ValueError(f"metric {taken[0]!r} has a meaning already: give it another name")
        tests = sorted(name for name in told if name.startswith("test"))
        if tests and not self.testing:
            raise ValueError(
                f"{tests[0]!r} was yielded after epoch {self._epoch}: the test set is looked at "
                "once, where rts.testing says so"
            )
        if task.objective not in told and task.objective != "train_loss":
            names = ", ".join(sorted(told)) or "nothing"
            raise ValueError(
                f"the task's objective {task.objective!r} was not yielded, but {names}: set "
                "task.objective to one of them"
            )
        if trigger.needs_val_loss and "val_loss" not in told:
            name = self.config.optimizer.trigger.name
            raise ValueError(f"trigger {name} watches val_loss, which was not yielded")
        return told

    def _test(self, told: Mapping[str, float]) -> TestMetrics:
        loss, accuracy = (told.get(name) for name in OF_TEST)
        return TestMetrics(
            loss, accuracy, None, None, test_value=told.get(self._run.task.test_metric)
        )


def _number(name: Any, value: Any) -> float:
    """Also of a tensor or array of one element; waits for the device."""
    try:
        if isinstance(name, str) and name.isidentifier() and not isinstance(value, str):
            return float(value.detach() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError):
        pass
    raise ValueError(f"metric {name!r} is {value!r:.100}: names are words, and values numbers")
