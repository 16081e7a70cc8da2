"""Whole runs of optimizer, schedules, monitor and triggers against the NumPy reference."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.reference import optimizer as reference
from trainables.optim import ASAM, RTS, SAM, GradientMonitor, PerturbedSGD
from trainables.schedules import Schedule
from trainables.triggers import EpochObservation, Trigger, TriggerConfig

EPOCHS, STEPS = 10, 5
GROUPS = [  # matrices and biases
    {"lr": 0.1, "momentum": 0.9, "dampening": 0.0, "weight_decay": 5e-3, "nesterov": True},
    {"lr": 0.03, "momentum": 0.5, "dampening": 0.2, "weight_decay": 0.0, "nesterov": False},
]
ONE = ("constant", 1.0, 1.0)
STRATEGIES = [
    ("constant", 0.5, 0.5),
    ("cos", 0.1, 2.0),
    ("isin", 0.5, 4.0),
    ("sin", 0.0, 1.5),
    ("icos", 0.25, 2.0),
]
ALWAYS, NEVER = {"name": "always"}, {"name": "never"}
STATISTICAL = [  # each fires inside a run of 10 epochs of 5 steps
    {"name": "variance", "k": 6, "gamma": 0.5},
    {"name": "cosine", "k": 6, "kappa": 0.2},
    {"name": "gap", "mu": 1.2, "period": 1, "baseline": "fixed"},
    {"name": "gap", "mu": 1.05, "period": 2, "baseline": "dynamic"},
]
CASES = [
    ("sgd", NEVER, ONE, ONE),
    ("pugd", ALWAYS, ONE, ONE),
    ("sam", ALWAYS, ONE, ONE),
    ("asam", ALWAYS, ONE, ONE),
    *[("rts", ALWAYS, radius, ("constant", 2.0, 2.0)) for radius in STRATEGIES],
    *[("rts", ALWAYS, ("constant", 0.3, 0.3), scale) for scale in STRATEGIES],
    *[("rts", trigger, STRATEGIES[1], STRATEGIES[4]) for trigger in STATISTICAL],
    ("rts", {"name": "epoch", "epoch": 4}, STRATEGIES[2], STRATEGIES[3]),
    ("rts", {"name": "epoch", "fraction": 0.35}, STRATEGIES[4], STRATEGIES[1]),
    ("rts", {"name": "epoch", "fraction": 0.0}, STRATEGIES[4], STRATEGIES[1]),
    ("rts", {"name": "epoch", "fraction": 1.0}, STRATEGIES[4], STRATEGIES[1]),
]


class Session:
    """What a training loop holds; `reload` makes it anew from saved bytes."""

    def __init__(self, family: str, trigger: dict[str, Any]) -> None:
        weights = reference.initial_weights(0)
        self.parameters = [torch.nn.Parameter(torch.from_numpy(w)) for w in weights]
        matrices, biases = self.parameters[::2], self.parameters[1::2]
        groups = [{"params": matrices, **GROUPS[0]}, {"params": biases, **GROUPS[1]}]
        self.optimizer: PerturbedSGD = {"sam": SAM, "asam": ASAM}.get(family, RTS)(groups)
        config = TriggerConfig.model_validate(trigger)
        self.trigger: Trigger = config.make(EPOCHS, STEPS)
        self.monitor = GradientMonitor(STEPS, True, True, "cpu")

    def reload(self, family: str, trigger: dict[str, Any]) -> Session:
        saved = io.BytesIO()
        state = {"weights": self.parameters, "optimizer": self.optimizer.state_dict()}
        torch.save({**state, "monitor": self.monitor.state_dict()}, saved)
        saved.seek(0)
        loaded = torch.load(saved, weights_only=True)
        fresh = Session(family, trigger)
        with torch.no_grad():
            for parameter, weight in zip(fresh.parameters, loaded["weights"], strict=True):
                parameter.copy_(weight)
        fresh.optimizer.load_state_dict(loaded["optimizer"])
        fresh.monitor.load_state_dict(loaded["monitor"])
        fresh.trigger.load_state_dict(json.loads(json.dumps(self.trigger.state_dict())))
        return fresh

    def loss(self, batch: tuple[np.ndarray, np.ndarray]) -> Tensor:
        w1, b1, w2, b2 = self.parameters
        x, y = map(torch.from_numpy, batch)
        return functional.cross_entropy(torch.tanh(x @ w1 + b1) @ w2 + b2, y)

    def step(self, batch: tuple[np.ndarray, np.ndarray], closure_form: bool) -> float:
        def closure() -> Tensor:
            self.optimizer.zero_grad()
            loss = self.loss(batch)
            loss.backward()
            return loss

        if closure_form:
            value = self.optimizer.step(closure)
        else:
            value = closure()
            if self.optimizer.perturbing:
                self.optimizer.perturb()
                closure()
            self.optimizer.step()
        self.monitor.observe(self.optimizer.gradient)
        assert value is not None
        return value.item()


def train(
    family: str,
    trigger: dict[str, Any],
    radius: tuple[str, float, float],
    scale: tuple[str, float, float],
) -> tuple[Session, list[tuple[float | None, float | None]]]:
    """50 steps, saved and reloaded in the middle of epoch 5; both forms of a step alternate."""
    session, statistics = Session(family, trigger), []
    names = ("strategy", "beta_min", "beta_max")
    radius_of, scale_of = (Schedule(**dict(zip(names, s, strict=True))) for s in (radius, scale))
    batches = [reference.make_data(100 + step, 16) for step in range(STEPS)]
    for epoch in range(1, EPOCHS + 1):
        losses = []
        for step, batch in enumerate(batches):
            if (epoch, step) == (5, 3):
                session = session.reload(family, trigger)
            optimizer, progress = session.optimizer, (epoch - 1 + step / STEPS) / EPOCHS
            for group, settings in zip(optimizer.param_groups, GROUPS, strict=True):
                group["lr"] = settings["lr"] * 0.5 * (1 + math.cos(math.pi * progress))
            optimizer.perturbing = session.trigger.perturbing(epoch)
            if isinstance(optimizer, RTS):
                optimizer.radius, optimizer.scale = radius_of(progress), scale_of(progress)
            losses.append(session.step(batch, closure_form=step % 2 == 0))
        norms, cosines = session.monitor.read()
        val_loss = session.loss(reference.make_data(99, 64)).item()
        observation = EpochObservation(epoch, norms, cosines, float(np.mean(losses)), val_loss)
        session.trigger.observe(observation)
        statistics.append((session.trigger.statistic, session.trigger.threshold))
    return session, statistics


@pytest.mark.parametrize(("family", "trigger", "radius", "scale"), CASES)
def test_run_agrees_with_reference(family, trigger, radius, scale):
    rho = 0.5 if family == "asam" else 0.05
    per_parameter = [GROUPS[0], GROUPS[1], GROUPS[0], GROUPS[1]]
    expected = reference.train(
        family, trigger, radius, scale, per_parameter, EPOCHS, STEPS, rho=rho
    )
    session, statistics = train(family, trigger, radius, scale)
    assert session.trigger.firing_epoch == expected.firing_epoch
    if trigger in STATISTICAL:
        assert 2 <= expected.firing_epoch <= EPOCHS, "the case must exercise the firing"
        for pair, wanted in zip(statistics, expected.statistics, strict=True):
            assert [v is None for v in pair] == [v is None for v in wanted]
            assert np.allclose(np.array(pair, float), np.array(wanted, float), 1e-9, equal_nan=True)
    ours = [p.detach().numpy() for p in session.parameters]
    difference = max(abs(a - b).max() for a, b in zip(ours, expected.weights, strict=True))
    assert difference <= 1e-10 * max(abs(w).max() for w in expected.weights)
    moved = max(abs(a - b).max() for a, b in zip(ours, reference.initial_weights(0), strict=True))
    assert moved > 1e-2
