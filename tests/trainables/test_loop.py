"""The training loop on real, small runs: every reported field against its own recomputation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from tests.reference import optimizer as reference
from trainables import loop
from trainables.config import TrialConfig
from trainables.data import epoch_batches
from trainables.metrics import EpochMetrics
from trainables.state import TrainingState

T, STEPS, IMAGES, VALIDATION = 3, 6, 270, 30  # 300 images, a tenth of them for validation
MOVING = {
    "family": "rts",
    "radius": {"alpha_start": 2.0, "alpha_end": 0.5},
    "scale": {"alpha_start": 0.5, "alpha_end": 2.0, "shape": "inverse"},
}
STILL = {"lr": 1e-12, "momentum": 0, "weight_decay": 0}  # w stays where it starts


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RTS_SEARCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def make(
    optimizer: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    model: dict[str, Any] | None = None,
    **train: Any,
) -> TrialConfig:
    digits = {"name": "digits", "train_size": 300, "test_size": 100, "augment": False}
    return TrialConfig.model_validate(
        {
            "data": {**digits, **(data or {})},
            "model": model or {"name": "cnn", "args": {"width": 4}},
            "train": {"epochs": T, "batch_size": 50, "seed": 7, "device": "cpu", **train},
            "optimizer": optimizer or {"family": "sgd"},
        }
    )


def run(config: TrialConfig) -> tuple[list[EpochMetrics], TrainingState]:
    state = TrainingState(config)
    return list(loop.train(config, state)), state


def weights(state: TrainingState) -> dict[str, Tensor]:
    return deepcopy(state.model.state_dict())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def cosine_lr(lr: float, progress: float) -> float:
    return lr * (1 + math.cos(math.pi * progress)) / 2


def evaluated(state: TrainingState, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean loss and accuracy in one batch, normalised by hand."""
    data = state.data
    mean, std = data.mean.view(1, -1, 1, 1), data.std.view(1, -1, 1, 1)
    model = deepcopy(state.model).eval()
    with torch.no_grad():
        output = model((images.float() / 255 - mean) / std)
    loss = functional.cross_entropy(output, labels).item()
    return loss, (output.argmax(1) == labels).float().mean().item()


def test_every_field_of_a_perturbed_run() -> None:
    config = make(MOVING)
    history, state = run(config)
    rule = config.optimizer
    assert [m.epoch for m in history] == [1, 2, 3]
    assert state.history == history
    for m in history:
        progress = (m.epoch - 1) / T
        assert (m.total_epochs, m.rung, m.perturbing, m.trigger_epoch) == (T, 0, True, 1)
        assert m.lr == pytest.approx(cosine_lr(0.1, progress))
        assert (m.radius, m.scale) == (rule.radius(progress), rule.scale(progress))
        assert m.gradient_evaluations == 2 * STEPS * m.epoch
        assert m.perturbed_loss is not None
        assert m.loss_rise == pytest.approx(m.perturbed_loss - m.train_loss)
        assert m.loss_rise > 0
        assert m.generalization_gap == m.val_loss - m.train_loss
        for accuracy, images in ((m.train_accuracy, IMAGES), (m.val_accuracy, VALIDATION)):
            assert 0 <= accuracy <= 1
            assert accuracy * images == pytest.approx(round(accuracy * images), abs=1e-4)
        assert (m.trigger_statistic, m.trigger_threshold, m.peak_memory_bytes) == (None,) * 3
        assert m.train_seconds > 0
        assert m.eval_seconds > 0
        assert m.epoch_seconds == pytest.approx(m.train_seconds + m.eval_seconds, rel=1e-2)
        assert m.images_per_second == pytest.approx(IMAGES / m.train_seconds, rel=1e-2)
    assert history[-1].train_loss < history[0].train_loss


@pytest.mark.parametrize("schedule_by", ["step", "epoch"])
def test_schedules_move_by_step_or_by_epoch(schedule_by: str) -> None:
    config = make(MOVING, schedule_by=schedule_by)
    state, seen = TrainingState(config), []
    state.optimizer.register_step_pre_hook(
        lambda rts, *_: seen.append((rts.param_groups[0]["lr"], rts.radius, rts.scale))
    )
    history = list(loop.train(config, state))
    times = np.arange(T * STEPS) / (T * STEPS)
    if schedule_by == "epoch":
        times = np.repeat(np.arange(T) / T, STEPS)
    rule = config.optimizer
    wanted = [(cosine_lr(0.1, t), rule.radius(t), rule.scale(t)) for t in times]
    np.testing.assert_allclose(seen, wanted, rtol=1e-12)
    assert [(m.lr, m.radius, m.scale) for m in history] == seen[::STEPS]


@pytest.mark.parametrize("schedule_by", ["step", "epoch"])
@pytest.mark.parametrize("anneal", ["keep", "own"])
def test_lr_after_the_switch(anneal: str, schedule_by: str) -> None:
    rule = {
        "family": "rts",
        "trigger": {"name": "epoch", "epoch": 2},
        "after": {"lr_factor": 0.25, "anneal": anneal},
    }
    state, seen = TrainingState(make(rule, schedule_by=schedule_by)), []
    state.optimizer.register_step_pre_hook(lambda rts, *_: seen.append(rts.param_groups[0]["lr"]))
    history = list(loop.train(state.config, state))
    times = np.arange(T * STEPS) / STEPS
    if schedule_by == "epoch":
        times = np.floor(times)
    wanted = reference.learning_rates(0.1, times, T, 1.0, 0.25, anneal)
    np.testing.assert_allclose(seen, wanted, rtol=1e-12)
    assert [m.lr for m in history] == seen[::STEPS]
    assert [m.perturbing for m in history] == [False, True, True]


def test_lr_after_the_switch_acts_from_the_firing_on_and_not_by_default() -> None:
    def trained(**rule: Any) -> tuple[list[float], dict[str, Tensor]]:
        late = {"family": "rts", "trigger": {"name": "epoch", "epoch": 2}}
        history, state = run(make({**late, **rule}))
        return [m.train_loss for m in history], weights(state)

    losses, usual = trained()
    assert same(trained(after={"lr_factor": 1, "anneal": "keep"})[1], usual)
    other, changed = trained(after={"lr_factor": 0.5})
    assert other[0] == losses[0]
    assert other[1] != losses[1]
    assert not same(changed, usual)


@pytest.mark.parametrize(
    ("optimizer", "radius", "scale", "gradients"),
    [
        ({"family": "sgd"}, 1.0, 1.0, 1),
        ({"family": "rts", "trigger": {"name": "never"}, "radius": 3}, 3.0, 1.0, 1),
        ({"family": "pugd"}, 1.0, 1.0, 2),
        ({"family": "sam"}, 0.05, 0.0, 2),
        ({"family": "asam"}, 0.5, 0.0, 2),
        ({"family": "sam", "rho": 0.2}, 0.2, 0.0, 2),
    ],
)
def test_families_report_their_radius_and_cost(
    optimizer: dict[str, Any], radius: float, scale: float, gradients: int
) -> None:
    for m in run(make(optimizer, epochs=2))[0]:
        assert (m.radius, m.scale, m.perturbing) == (radius, scale, gradients == 2)
        assert m.gradient_evaluations == gradients * STEPS * m.epoch
        assert (m.perturbed_loss is None) == (m.loss_rise is None) == (gradients == 1)


def test_perturbation_is_reported_from_the_firing_epoch_on() -> None:
    history, _ = run(make({"family": "rts", "trigger": {"name": "epoch", "epoch": 2}}))
    assert [m.perturbing for m in history] == [False, True, True]
    assert [m.perturbed_loss is None for m in history] == [True, False, False]
    assert [m.loss_rise is None for m in history] == [True, False, False]
    assert [m.trigger_epoch for m in history] == [2, 2, 2]
    assert [m.gradient_evaluations for m in history] == [STEPS, 3 * STEPS, 5 * STEPS]


def gradients_of(config: TrialConfig) -> tuple[list[EpochMetrics], np.ndarray]:
    """The run, and its gradients at w, a row a step (the run must not perturb)."""
    state, rows = TrainingState(config), []

    def keep(*_: Any) -> None:
        rows.append(torch.cat([p.grad.flatten() for p in state.model.parameters()]).numpy())

    state.optimizer.register_step_pre_hook(keep)
    return list(loop.train(config, state)), np.array(rows, dtype=np.float64)


def test_the_variance_trigger_sees_the_gradient_norms() -> None:
    trigger = {"name": "variance", "k": 8, "gamma": 1e-9}
    history, gradients = gradients_of(make({"family": "rts", "trigger": trigger}))
    norms = np.linalg.norm(gradients, axis=1)
    assert (history[0].trigger_statistic, history[0].trigger_threshold) == (None, None)
    for m in history[1:]:
        seen = norms[: m.epoch * STEPS]
        assert m.trigger_statistic == pytest.approx(np.var(seen[-8:]), rel=1e-4)
        assert m.trigger_threshold == pytest.approx(1e-9 * np.var(norms[:8]), rel=1e-4)
        assert m.trigger_epoch is None


def test_the_cosine_trigger_sees_consecutive_gradients() -> None:
    trigger = {"name": "cosine", "k": 7, "kappa": 1.0}
    history, gradients = gradients_of(make({"family": "rts", "trigger": trigger}))
    unit = gradients / np.linalg.norm(gradients, axis=1, keepdims=True)
    cosines = (unit[1:] * unit[:-1]).sum(axis=1)
    assert history[0].trigger_statistic is None  # five cosines, of seven
    for m in history[1:]:
        seen = cosines[: m.epoch * STEPS - 1]
        assert m.trigger_statistic == pytest.approx(seen[-7:].mean(), abs=1e-5)
        assert m.trigger_threshold == 1.0


def test_the_gap_trigger_sees_the_reported_losses() -> None:
    trigger = {"name": "gap", "mu": 100.0, "period": 1}
    history, _ = run(make({"family": "rts", "trigger": trigger}, epochs=4))
    gaps = [abs(m.val_loss - m.train_loss) for m in history]
    assert [m.trigger_statistic for m in history] == gaps
    assert history[-1].trigger_threshold == pytest.approx(100 * np.mean(gaps[:3]))


def test_train_loss_is_at_w_and_perturbed_loss_at_w_plus_epsilon() -> None:
    rule = {"family": "rts", "radius": 0.7}
    config = make(rule, data={"augment": True}, epochs=1, **STILL)
    (metrics,), _ = run(config)

    fresh = TrainingState(config)
    model = fresh.model.train()
    parameters = list(model.parameters())
    at_w = perturbed = correct = 0.0
    for x, y in epoch_batches(fresh.data, 50, fresh.generator):
        output = model(x)
        loss = functional.cross_entropy(output, y)
        gradients = torch.autograd.grad(loss, parameters)
        directions = [w.detach().abs() * g for w, g in zip(parameters, gradients, strict=True)]
        length = torch.cat([d.flatten() for d in directions]).norm()
        shifted = deepcopy(model)
        with torch.no_grad():
            for w, d in zip(shifted.parameters(), directions, strict=True):
                w.add_(d, alpha=0.7 / length.item())
            perturbed += functional.cross_entropy(shifted(x), y).item() * len(y)
        at_w += loss.item() * len(y)
        correct += (output.argmax(1) == y).sum().item()
    assert metrics.train_loss == pytest.approx(at_w / IMAGES, rel=1e-5)
    assert metrics.train_accuracy == pytest.approx(correct / IMAGES)
    assert metrics.perturbed_loss == pytest.approx(perturbed / IMAGES, rel=1e-4)
    assert metrics.loss_rise == pytest.approx((perturbed - at_w) / IMAGES, rel=1e-3)


RTS_FROM_EPOCH_2 = {**MOVING, "trigger": {"name": "epoch", "epoch": 2}}


@pytest.mark.parametrize(
    "rule", [{"family": "sgd"}, RTS_FROM_EPOCH_2, {"family": "sam"}, {"family": "asam"}]
)
def test_the_weights_go_where_the_equations_lead(rule: dict[str, Any]) -> None:
    """Two epochs against autograd and the NumPy reference, step by step."""
    config = make(rule, data={"augment": True}, epochs=2, weight_decay=0.01)
    _, state = run(config)
    fresh, family = TrainingState(config), config.optimizer.family
    model = fresh.model.train()
    parameters = list(model.parameters())
    weights = [p.detach().numpy().astype(np.float64) for p in parameters]
    buffers: list[Any] = [None] * len(weights)

    def gradient(at: reference.Arrays, x: Tensor, y: Tensor) -> reference.Arrays:
        for parameter, value in zip(parameters, at, strict=True):
            parameter.data.copy_(torch.from_numpy(value))
        loss = functional.cross_entropy(model(x), y)
        return [g.numpy().astype(np.float64) for g in torch.autograd.grad(loss, parameters)]

    for step in range(2 * STEPS):
        if step % STEPS == 0:
            batches = epoch_batches(fresh.data, 50, fresh.generator)
        x, y = next(batches)
        progress, optimizer = step / (2 * STEPS), config.optimizer
        values = {"radius": optimizer.radius(progress), "scale": optimizer.scale(progress)}
        values |= {"rho": optimizer.effective_rho, "eta": optimizer.eta}
        direction = g = gradient(weights, x, y)
        if family in ("sam", "asam") or (family == "rts" and step >= STEPS):
            epsilon = reference.epsilon(family, weights, g, values)
            perturbed = gradient([w + e for w, e in zip(weights, epsilon, strict=True)], x, y)
            direction = reference.update_direction(family, g, perturbed, values)
        settings = {"lr": cosine_lr(0.1, progress), "weight_decay": 0.01, "momentum": 0.9}
        settings |= {"dampening": 0.0, "nesterov": False}
        reference.sgd(weights, direction, buffers, [settings] * len(weights))
    for ours, expected in zip(state.model.parameters(), weights, strict=True):
        # float32 against float64: other CPUs, with other kernels, part from it by some 1e-4
        np.testing.assert_allclose(ours.detach().numpy(), expected, rtol=1e-3, atol=1e-3)


def test_evaluation_is_plain_and_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    history, state = run(make(MOVING, data={"augment": True}))
    before, generator = weights(state), state.generator.get_state()
    data = state.data
    wanted = evaluated(state, data.validation_images, data.validation_labels)
    last = history[-1]
    assert (last.val_loss, last.val_accuracy) == pytest.approx(wanted, rel=1e-5)
    monkeypatch.setattr(loop, "EVAL_BATCH", 7)
    again = loop.evaluate(state, data.validation_images, data.validation_labels)
    assert again[:2] == pytest.approx(wanted, rel=1e-5)
    assert again[2].double().mean().item() == pytest.approx(wanted[1])
    assert same(weights(state), before)  # batch norm's statistics included
    assert torch.equal(state.generator.get_state(), generator)


class Reads(TorchDispatchMode):
    """Counts what would make the host wait for a GPU: values that are asked for."""

    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        names = "_local_scalar_dense", "is_nonzero", "equal", "nonzero"
        self.count += func.overloadpacket.__name__ in names
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("residence", ["device", "stream"])
@pytest.mark.parametrize("family", ["sgd", "pugd", "sam"])
def test_no_step_waits_for_the_device(family: str, residence: str, precision: str) -> None:
    reads = []
    for size in (20, 90):
        data = {"augment": True, "residence": residence}
        config = make({"family": family}, data, batch_size=size, precision=precision)
        state = TrainingState(config)
        loop.train_epoch(state, 1)  # what is set up lazily
        with Reads() as mode:
            loop.train_epoch(state, 2)
        reads.append(mode.count)
    assert reads == [0, 0]


@pytest.mark.parametrize(
    ("size", "images"), [(8, 1000), (64, 1000), (65, 969), (224, 81), (4096, 1)]
)
def test_large_images_are_evaluated_a_few_at_a_time(size: int, images: int) -> None:
    assert loop.eval_batch((3, size, size)) == images


def test_batch_norm_sees_the_second_pass_unless_frozen() -> None:
    names = ("sgd", "update", "freeze")
    statistics = {}
    for name in names:
        train = {"epochs": 1, "batch_norm": "freeze" if name == "freeze" else "update", **STILL}
        _, state = run(make({"family": "sgd" if name == "sgd" else "pugd"}, **train))
        statistics[name] = {k: v for k, v in weights(state).items() if "running" in k}
        counts = {int(v) for k, v in weights(state).items() if "num_batches_tracked" in k}
        assert counts == {2 * STEPS if name == "update" else STEPS}
    for key, value in statistics["sgd"].items():
        torch.testing.assert_close(statistics["freeze"][key], value, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(statistics["update"][key], value, rtol=1e-3)


def test_best_weights_are_a_copy_of_the_first_best_epoch() -> None:
    config = make(MOVING, epochs=4)
    state = TrainingState(config)
    snapshots = {m.epoch: (m.val_accuracy, weights(state)) for m in loop.train(config, state)}
    best = max(snapshots, key=lambda epoch: (snapshots[epoch][0], -epoch))
    assert same(state.best_weights, snapshots[best][1])
    for parameter in state.model.parameters():
        parameter.data.add_(1.0)
    assert same(state.best_weights, snapshots[best][1])


def test_a_worse_or_equal_epoch_does_not_replace_the_best() -> None:
    config = make(epochs=4)
    state = TrainingState(config)
    metrics = next(loop.train(config, state))
    first = weights(state)
    for accuracy, replaced in ((metrics.val_accuracy - 0.01, False), (metrics.val_accuracy, False)):
        next(state.model.parameters()).data.add_(1.0)
        state.remember(replace(metrics, val_accuracy=accuracy))
        assert same(state.best_weights, first) is not replaced
    state.remember(replace(metrics, val_accuracy=metrics.val_accuracy + 0.01))
    assert same(state.best_weights, weights(state))
    assert not same(state.best_weights, first)


def test_the_test_set_is_reported_at_the_end_for_final_and_best_weights() -> None:
    config = make(MOVING)
    history, state = run(config)
    assert [m.test is None for m in history] == [True, True, False]
    images, labels = state.data.test_images, state.data.test_labels
    final, best = weights(state), deepcopy(state.best_weights)
    reported = history[-1].test
    assert reported is not None
    assert (reported.test_loss, reported.test_accuracy) == pytest.approx(
        evaluated(state, images, labels), rel=1e-5
    )
    state.model.load_state_dict(best)
    assert (reported.best_test_loss, reported.best_test_accuracy) == pytest.approx(
        evaluated(state, images, labels), rel=1e-5
    )
    state.model.load_state_dict(final)

    fresh = TrainingState(config)  # best weights that certainly differ from the final ones
    state.best_weights = weights(fresh)
    again = loop.test(state)
    assert again.test_loss == reported.test_loss
    wanted = evaluated(fresh, images, labels)
    assert (again.best_test_loss, again.best_test_accuracy) == pytest.approx(wanted, rel=1e-5)
    assert same(weights(state), final)


def without_times(m: EpochMetrics) -> EpochMetrics:
    none = {"train_seconds": 0.0, "eval_seconds": 0.0, "epoch_seconds": 0.0}
    return replace(m, **none, images_per_second=0.0)


def test_the_test_set_decides_nothing() -> None:
    runs = [run(make(MOVING, data={"test_size": size})) for size in (50, 100)]
    small, large = ([replace(without_times(m), test=None) for m in h] for h, _ in runs)
    assert small == large
    assert same(weights(runs[0][1]), weights(runs[1][1]))
    assert runs[0][0][-1].test != runs[1][0][-1].test


@pytest.mark.parametrize(
    ("train", "steps", "images"),
    [
        ({"batch_size": 50}, 6, 270),
        ({"batch_size": 50, "drop_last": True}, 5, 250),
        ({"batch_size": 269}, 1, 269),  # a last batch of one image has no batch statistics
        ({"batch_size": 1000}, 1, 270),
    ],
)
def test_steps_of_an_epoch(train: dict[str, Any], steps: int, images: int) -> None:
    (metrics,), _ = run(make(epochs=1, **train))
    assert metrics.gradient_evaluations == steps
    assert metrics.images_per_second == pytest.approx(images / metrics.train_seconds, rel=1e-2)


def test_drop_last_of_a_single_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size 1000 is above the 270 training images"):
        TrainingState(make(batch_size=1000, drop_last=True))
