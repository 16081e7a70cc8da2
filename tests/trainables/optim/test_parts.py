"""The gradient monitor, the batch-norm freezer and loss scaling."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn

from trainables.optim import ASAM, RTS, SAM, BatchNormFreezer, GradientMonitor, LossScale
from trainables.optim.flat import ROW


def make_gradients(steps: int, dtype: torch.dtype) -> list[tuple[torch.Tensor, ...]]:
    """Two flat vectors a step, as with two dtypes."""
    generator = torch.Generator().manual_seed(0)
    drift = torch.randn(3 * ROW, generator=generator)
    gradients = drift + torch.randn(steps, 3 * ROW, generator=generator)
    return [(g[:ROW].to(dtype), g[ROW:].double()) for g in gradients]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_monitor_against_numpy(dtype):
    gradients = make_gradients(8, dtype)
    flat = [np.concatenate([part.double().numpy() for part in g]) for g in gradients]
    norms = np.array([np.linalg.norm(g) for g in flat])
    dots = np.array([a @ b for a, b in zip(flat[1:], flat, strict=False)])
    cosines = dots / (norms[1:] * norms[:-1])
    monitor = GradientMonitor(4, norms=True, cosines=True, device="cpu")
    tolerance = 5e-3 if dtype == torch.bfloat16 else 1e-5  # a bf16 product has 8 bits
    for epoch in range(2):
        for g in gradients[4 * epoch : 4 * epoch + 4]:
            monitor.observe(g)
        read_norms, read_cosines = monitor.read()
        assert read_norms.dtype == read_cosines.dtype == np.float64
        np.testing.assert_allclose(read_norms, norms[4 * epoch : 4 * epoch + 4], rtol=1e-6)
        expected = cosines[max(4 * epoch - 1, 0) : 4 * epoch + 3]
        np.testing.assert_allclose(read_cosines, expected, atol=tolerance)


def test_monitor_copies_what_it_sees_and_keeps_only_what_is_asked():
    (gradient,) = torch.ones(1, ROW)
    monitor = GradientMonitor(3, norms=False, cosines=True, device="cpu")
    monitor.observe([gradient])
    gradient.neg_()
    monitor.observe([gradient])
    norms, cosines = monitor.read()
    assert norms.size == 0
    np.testing.assert_allclose(cosines, [-1.0])
    only_norms = GradientMonitor(3, norms=True, cosines=False, device="cpu")
    only_norms.observe([gradient])
    assert only_norms.state_dict()["previous"] is None
    np.testing.assert_allclose(only_norms.read()[0], [64.0])


def test_monitor_is_full_after_an_epoch():
    monitor = GradientMonitor(1, norms=True, cosines=False, device="cpu")
    monitor.observe([torch.ones(ROW)])
    with pytest.raises(IndexError):
        monitor.observe([torch.ones(ROW)])


@pytest.mark.parametrize("reload_at", [0, 1, 3, 4, 6])
def test_monitor_round_trip(reload_at):
    gradients = make_gradients(8, torch.float32)
    straight, resumed = (GradientMonitor(4, True, True, "cpu") for _ in range(2))
    for step, gradient in enumerate(gradients):
        if step == reload_at:
            saved = io.BytesIO()
            torch.save(resumed.state_dict(), saved)
            saved.seek(0)
            resumed = GradientMonitor(4, True, True, "cpu")
            resumed.load_state_dict(torch.load(saved, weights_only=True))
        straight.observe(gradient)
        resumed.observe(gradient)
        if step % 4 == 3:
            for a, b in zip(straight.read(), resumed.read(), strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_freezer(momentum):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4, momentum=momentum),
        nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.BatchNorm1d(5)),
        nn.BatchNorm1d(5, track_running_stats=False),
    )
    x = torch.randn(8, 3, 4, 4)
    freezer = BatchNormFreezer(model)
    model(x)
    before = copy.deepcopy(model.state_dict())
    with freezer.frozen():
        frozen_output = model(x + 1)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert torch.equal(model(x + 1), frozen_output)  # batch statistics in both
    assert not torch.equal(model.state_dict()["1.running_mean"], before["1.running_mean"])
    assert model[1].num_batches_tracked == 2
    assert not model[3].track_running_stats


def test_batch_norm_freezer_restores_after_an_error():
    model = nn.BatchNorm1d(3)
    with pytest.raises(ZeroDivisionError), BatchNormFreezer(model).frozen():
        _ = 1 / 0
    assert model.track_running_stats


def quadratic_step(
    optimizer: RTS | SAM, parameters: list[nn.Parameter], bad: str | None = None
) -> None:
    """One perturbed step on Σ w⁴; an inf appears in the named gradient, first or second."""
    scaler = optimizer.loss_scale
    for which in ("first", "second"):
        optimizer.zero_grad()
        loss = torch.stack([p.pow(4).sum() for p in parameters]).sum()
        (loss if scaler is None else scaler.scale(loss)).backward()
        if bad == which:
            parameters[1].grad[0] = float("inf")
        if which == "first":
            optimizer.perturb()
            assert all(torch.isfinite(p).all() for p in parameters)
    optimizer.step()


def make_parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.linspace(-1, 1, 7)), nn.Parameter(torch.linspace(0.5, 2, 3))]


@pytest.mark.parametrize("family", [RTS, SAM, ASAM])
def test_loss_scale_skips_overflows_and_changes_nothing_else(family):
    plain, scaled = make_parameters(), make_parameters()
    options = {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.01}
    scaler = LossScale("cpu", initial=1024.0, growth_interval=2)
    reference, optimizer = family(plain, **options), family(scaled, loss_scale=scaler, **options)
    factors = []
    for bad in ["first", None, "second", None, None, None]:
        before = [p.detach().clone() for p in scaled]
        momentum = copy.deepcopy(optimizer.state_dict()["state"])
        quadratic_step(optimizer, scaled, bad)
        factors.append(scaler.factor.item())
        if bad is None:
            quadratic_step(reference, plain)
        else:
            assert all(torch.equal(a, b) for a, b in zip(before, scaled, strict=True))
            for index, state in momentum.items():
                after = optimizer.state_dict()["state"][index]["momentum_buffer"]
                assert torch.equal(state["momentum_buffer"], after)
    for a, b in zip(scaled, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    assert factors == [512.0, 512.0, 256.0, 256.0, 512.0, 512.0]


def test_loss_scale_skips_plain_steps_too():
    parameters = make_parameters()
    optimizer = RTS(parameters, momentum=0.9, loss_scale=LossScale("cpu"), perturbing=False)
    before = [p.detach().clone() for p in parameters]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, float("nan"))
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, parameters, strict=True))
    assert optimizer.loss_scale.factor.item() == 32768.0


def test_loss_scale_round_trip():
    states = []
    scaler = LossScale("cpu", initial=8.0, growth_interval=3)
    for step in range(7):
        if step == 2:
            saved, scaler = scaler.state_dict(), LossScale("cpu", growth_interval=3)
            scaler.load_state_dict(saved)
        scaler.unscale_([torch.ones(3)])
        scaler.update()
        states.append(scaler.factor.item())
    assert states == [8.0, 8.0, 16.0, 16.0, 16.0, 32.0, 32.0]


def test_loss_scale_refuses_bad_settings():
    with pytest.raises(ValueError, match="growth_factor > 1"):
        LossScale("cpu", growth_factor=1.0)
