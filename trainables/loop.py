"""The training loop: `train(config)` yields one EpochMetrics an epoch."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from trainables.config import TrialConfig
from trainables.data import epoch_batches, eval_batches
from trainables.metrics import EpochMetrics, TestMetrics
from trainables.optim import RTS
from trainables.state import RunState, TrainingState
from trainables.triggers import EpochObservation
from trainables.trunk import Trunk

EVAL_BATCH = 1000  # images of 64 × 64 pixels, as many fewer as they are larger


def train(
    config: TrialConfig,
    state: TrainingState | None = None,
    rung: int = 0,
    final: bool = True,
    trunk: Trunk | None = None,
) -> Iterator[EpochMetrics]:
    """Train a configuration for its T epochs; with `state`, go on where that state stands.

    The test set is touched once, after the last epoch, whose metrics carry its result; not at
    all if the run is not `final` but a rung below the last. The caller may stop at any epoch and
    may save `state.state_dict()` between epochs. The epochs before it fires are added to `trunk`.
    """
    run = state if state is not None else TrainingState(config)
    total = config.train.epochs
    for epoch in range(run.epochs_done + 1, total + 1):
        started = time.perf_counter()
        trained = train_epoch(run, epoch)
        trained_at = time.perf_counter()
        data = run.data
        val_loss, val_accuracy, _ = evaluate(run, data.validation_images, data.validation_labels)
        evaluated_at = time.perf_counter()
        norms, cosines = run.monitor.read()
        run.trigger.observe(
            EpochObservation(epoch, norms, cosines, trained["train_loss"], val_loss)
        )
        train_seconds = trained_at - started
        metrics = EpochMetrics(
            epoch=epoch,
            total_epochs=total,
            rung=rung,
            **trained,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            generalization_gap=val_loss - trained["train_loss"],
            trigger_statistic=run.trigger.statistic,
            trigger_threshold=run.trigger.threshold,
            trigger_epoch=run.trigger.firing_epoch,
            gradient_evaluations=run.gradient_evaluations,
            train_seconds=short(train_seconds),
            eval_seconds=short(evaluated_at - trained_at),
            epoch_seconds=short(evaluated_at - started),
            images_per_second=short(run.images_per_epoch / train_seconds),
            peak_memory_bytes=peak_memory(run.device),
        )
        run.remember(metrics)
        if trunk is not None and not metrics.perturbing:
            trunk.add(run, metrics, norms, cosines)
        if epoch == total and final:
            metrics = run.history[-1] = replace(metrics, test=test(run))
        yield metrics


def short(value: float) -> float:
    """Three digits, within the jitter of epochs: the ledger stores them in two bytes."""
    return float(f"{value:.3g}")


def train_epoch(run: TrainingState, epoch: int) -> dict[str, Any]:
    """One pass over the training data."""
    train = run.config.train
    batches = epoch_batches(
        run.data, train.batch_size, run.generator, train.drop_last, run.memory_format
    )
    with closing(batches):
        return train_on(run, epoch, batches)


def train_on(
    run: TrainingState, epoch: int, batches: Iterable[tuple[Tensor, Tensor]]
) -> dict[str, Any]:
    """One pass over an epoch's batches; sums stay on the device until its end."""
    perturbing = run.trigger.perturbing(epoch)
    run.model.train()
    loss_at_w = torch.zeros((), device=run.device)
    perturbed_loss = torch.zeros((), device=run.device)
    correct = torch.zeros((), device=run.device, dtype=torch.int64)
    images = 0
    first: tuple[float, float, float] | None = None
    for step, (x, y) in enumerate(batches):
        schedule = set_schedules(run, epoch, step, perturbing)
        first = first or schedule
        outputs: list[Tensor] = []
        loss, risen = take_step(run, perturbing, partial(classify, run, x, y, outputs))
        loss_at_w += loss * len(y)
        correct += (outputs[0].argmax(1) == y).sum()
        if risen is not None:
            perturbed_loss += risen * len(y)
        images += len(y)
    sums = torch.stack((loss_at_w, perturbed_loss, correct.to(loss_at_w.dtype))).tolist()
    train_loss, at_epsilon = sums[0] / images, sums[1] / images if perturbing else None
    assert first is not None, "an epoch has at least one step"
    return {
        "lr": first[0],
        "radius": first[1],
        "scale": first[2],
        "train_loss": train_loss,
        "train_accuracy": sums[2] / images,
        "perturbed_loss": at_epsilon,
        "loss_rise": None if at_epsilon is None else at_epsilon - train_loss,
        "perturbing": perturbing,
    }


def set_schedules(
    run: RunState, epoch: int, step: int, perturbing: bool
) -> tuple[float, float, float]:
    """Set lr, α_r and α_s for a step (from 0) of an epoch, at progress = t/T, and return them.
    SAM's radius is its ρ."""
    config, optimizer = run.config, run.optimizer
    in_epoch = step / run.steps_per_epoch if config.train.schedule_by == "step" else 0.0
    progress = (epoch - 1 + in_epoch) / config.train.epochs
    first = run.trigger.firing_epoch if perturbing else None
    fired = None if first is None else (first - 1) / config.train.epochs
    lr = config.train.lr * config.optimizer.after.lr_share(progress, fired)
    for group in optimizer.param_groups:
        group["lr"] = lr
    if not isinstance(optimizer, RTS):
        return lr, config.optimizer.effective_rho, 0.0
    optimizer.perturbing = perturbing
    optimizer.radius = config.optimizer.radius(progress)
    optimizer.scale = config.optimizer.scale(progress)
    return lr, optimizer.radius, optimizer.scale


def take_step(
    run: RunState, perturbing: bool, compute: Callable[[], Tensor]
) -> tuple[Tensor, Tensor | None]:
    """One step of the optimizer on the mean loss that `compute` gives; returns that at w and, where
    it is perturbed, that at w + ε, both detached."""
    loss, risen = backward(run, compute), None
    if perturbing:
        run.optimizer.perturb()
        run.optimizer.zero_grad()
        frozen = run.config.train.batch_norm == "freeze"
        with run.batch_norm.frozen() if frozen else nullcontext():
            risen = backward(run, compute)
    run.optimizer.step()
    run.optimizer.zero_grad()
    run.monitor.observe(run.optimizer.gradient)
    run.gradient_evaluations += 2 if perturbing else 1
    return loss, risen


def backward(run: RunState, compute: Callable[[], Tensor]) -> Tensor:
    """Forward and backward; returns the loss, detached."""
    with run.autocast():
        loss = compute()
    scaled = loss if run.loss_scale is None else run.loss_scale.scale(loss)
    scaled.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def classify(run: TrainingState, x: Tensor, y: Tensor, outputs: list[Tensor]) -> Tensor:
    """The mean cross-entropy; the output, detached, is appended to `outputs`."""
    output = run.forward(x)
    outputs.append(output.detach())
    return functional.cross_entropy(output, y)


@torch.no_grad()
def evaluate(run: TrainingState, images: Tensor, labels: Tensor) -> tuple[float, float, Tensor]:
    """Mean loss and accuracy over images that are never augmented, in evaluation mode, and which of
    them were told right."""
    run.model.eval()
    loss = torch.zeros((), device=run.device)
    right = []
    size = eval_batch(run.data.image_shape)
    with closing(eval_batches(run.data, images, labels, size, run.memory_format)) as batches:
        for x, y in batches:
            with run.autocast():
                output = run.forward(x)
            loss += functional.cross_entropy(output.float(), y, reduction="sum")
            right.append(output.argmax(1) == y)
    hits = torch.cat(right)
    total_loss, total_correct = torch.stack((loss, hits.sum())).tolist()
    return total_loss / len(labels), total_correct / len(labels), hits


def eval_batch(image_shape: tuple[int, int, int]) -> int:
    """Images evaluated at once, so that large ones need no more memory than in training."""
    _, height, width = image_shape
    return max(1, min(EVAL_BATCH, EVAL_BATCH * 64**2 // (height * width)))


def test(run: TrainingState) -> TestMetrics:
    """The test set, for the final weights and for those with the best validation accuracy."""
    images, labels = run.data.test_images, run.data.test_labels
    final_loss, final_accuracy, right = evaluate(run, images, labels)
    weights = {k: v.clone() for k, v in run.model.state_dict().items()}
    run.model.load_state_dict(run.best_weights)
    best_loss, best_accuracy, _ = evaluate(run, images, labels)
    run.model.load_state_dict(weights)
    hits = base64.b64encode(np.packbits(right.cpu().numpy()).tobytes()).decode()
    return TestMetrics(final_loss, final_accuracy, best_loss, best_accuracy, hits)


def peak_memory(device: torch.device) -> int | None:
    """Peak bytes allocated on the device since the run's start; None where it has no memory."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
