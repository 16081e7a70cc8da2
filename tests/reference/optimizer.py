"""SGD, PUGD, RTS, SAM, ASAM, their schedules and triggers, written to be read: NumPy float64,
one parameter at a time, whole histories kept. Shares no code with `trainables`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

TINY = 1e-12
Arrays = list[np.ndarray]


def make_data(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` points of 6 features in 4 classes, and their labels; noisy, so never fitted."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 6))
    y = np.argmax(x[:, :4] + 0.5 * rng.normal(size=(count, 4)), axis=1)
    return x, y


def initial_weights(seed: int) -> Arrays:
    """A tanh MLP 6-7-4: W1, b1, W2, b2."""
    rng = np.random.default_rng(seed)
    return [0.5 * rng.normal(size=shape) for shape in [(6, 7), (7,), (7, 4), (4,)]]


def loss_and_gradient(weights: Arrays, x: np.ndarray, y: np.ndarray) -> tuple[float, Arrays]:
    """Mean softmax cross-entropy of the MLP, and its gradient by hand."""
    w1, b1, w2, b2 = weights
    hidden = np.tanh(x @ w1 + b1)
    logits = hidden @ w2 + b2
    logits = logits - logits.max(axis=1, keepdims=True)
    p = np.exp(logits)
    p /= p.sum(axis=1, keepdims=True)
    rows = np.arange(len(y))
    loss = -np.log(p[rows, y]).mean()
    d_logits = p.copy()
    d_logits[rows, y] -= 1
    d_logits /= len(y)
    d_hidden = (d_logits @ w2.T) * (1 - hidden**2)
    gradient = [x.T @ d_hidden, d_hidden.sum(0), hidden.T @ d_logits, d_logits.sum(0)]
    return float(loss), gradient


def length(vectors: Arrays) -> float:
    total = 0.0
    for vector in vectors:
        total += float((vector**2).sum())
    return math.sqrt(total)


def dot(a: Arrays, b: Arrays) -> float:
    return sum(float((x * y).sum()) for x, y in zip(a, b, strict=True))


def alpha(strategy: str, low: float, high: float, t: float, total: float) -> float:
    """The table of schedules, as the paper writes it."""
    x = math.pi * t / (2 * total)
    if strategy == "constant":
        return high
    if strategy == "cos":
        return low + (high - low) * math.cos(x)
    if strategy == "sin":
        return low + (high - low) * math.sin(x)
    if strategy == "isin":
        return 1 / (low + (high - low) * math.sin(x))
    if strategy == "icos":
        return 1 / (low + (high - low) * math.cos(x))
    raise AssertionError(strategy)


def learning_rates(
    lr: float, times: np.ndarray, total: float, fired: float, factor: float, anneal: str
) -> np.ndarray:
    """lr at each t; from t = `fired` on it is that of `optimizer.after`."""

    def falling(share: np.ndarray | float) -> np.ndarray:
        return (1 + np.cos(np.pi * np.asarray(share))) / 2

    before = lr * falling(times / total)
    at_switch = lr * falling(fired / total)
    own = factor * at_switch * falling((times - fired) / (total - fired))
    return np.where(times < fired, before, factor * before if anneal == "keep" else own)


def epsilon(family: str, weights: Arrays, g: Arrays, rule: dict[str, Any]) -> Arrays:
    """ε of one step; `rule` has radius, or rho and eta."""
    if family in ("pugd", "rts"):
        scaled = [abs(w) * d for w, d in zip(weights, g, strict=True)]
        return [rule["radius"] * s / (length(scaled) + TINY) for s in scaled]
    if family == "sam":
        return [rule["rho"] * d / (length(g) + TINY) for d in g]
    if family == "asam":
        n = [abs(w) + rule["eta"] for w in weights]
        scaled = [a * d for a, d in zip(n, g, strict=True)]
        factor = rule["rho"] / (length(scaled) + TINY)
        return [factor * a * a * d for a, d in zip(n, g, strict=True)]
    raise AssertionError(family)


def update_direction(family: str, g: Arrays, perturbed: Arrays, rule: dict[str, Any]) -> Arrays:
    """U, or g* for SAM and ASAM."""
    if family in ("sam", "asam"):
        return perturbed
    total = [p + rule["scale"] * d for p, d in zip(perturbed, g, strict=True)]
    return [t / (length(total) + TINY) for t in total]


def sgd(weights: Arrays, direction: Arrays, buffers: list[Any], settings: list[dict]) -> None:
    """torch.optim.SGD's documented rule; `settings` has one dict a parameter."""
    for i, s in enumerate(settings):
        d = direction[i] + s["weight_decay"] * weights[i]
        if s["momentum"]:
            if buffers[i] is None:
                buffers[i] = d.copy()
            else:
                buffers[i] = s["momentum"] * buffers[i] + (1 - s["dampening"]) * d
            d = d + s["momentum"] * buffers[i] if s["nesterov"] else buffers[i]
        weights[i] = weights[i] - s["lr"] * d


def perturbed_step(
    family: str,
    weights: Arrays,
    buffers: list[Any],
    gradient: Callable[[Arrays], Arrays],
    rule: dict[str, Any],
    settings: list[dict],
) -> None:
    """One step of two gradients; `gradient` is a function of the weights."""
    g = gradient(weights)
    moved = [w + e for w, e in zip(weights, epsilon(family, weights, g, rule), strict=True)]
    sgd(weights, update_direction(family, g, gradient(moved), rule), buffers, settings)


def clipped(gradient: Arrays, bound: float) -> Arrays:
    """As torch.nn.utils.clip_grad_norm_ documents it."""
    factor = min(1.0, bound / (length(gradient) + 1e-6))
    return [factor * g for g in gradient]


@dataclass
class History:
    """Everything seen since the run's start; `gaps` has one |L_val − L_train| an epoch."""

    norms: list[float] = field(default_factory=list)
    cosines: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)


def statistic_and_threshold(
    trigger: dict[str, Any], seen: History, epochs: int, steps: int
) -> tuple[float | None, float | None]:
    """What the trigger compares at the end of epoch len(seen.gaps), from the whole history."""
    name = trigger["name"]
    if name == "variance":
        k = trigger["k"]
        first = max(k, math.ceil(epochs * steps / 10))
        statistic = float(np.var(seen.norms[-k:])) if len(seen.norms) >= k else None
        if len(seen.norms) < first:
            return statistic, None
        return statistic, trigger["gamma"] * float(np.var(seen.norms[:first]))
    if name == "cosine":
        k = trigger["k"]
        return (float(np.mean(seen.cosines[-k:])) if len(seen.cosines) >= k else None), trigger[
            "kappa"
        ]
    if name == "gap":
        xi = max(3, round(epochs / 10))
        segments = [seen.gaps[i : i + xi] for i in range(0, len(seen.gaps), xi)]
        segments = [segment for segment in segments if len(segment) == xi]
        if not segments:
            return seen.gaps[-1], None
        if trigger["baseline"] == "fixed":
            segments = segments[:1]
        weighted = sum((i + 1) * np.mean(segment) for i, segment in enumerate(segments))
        baseline = weighted / sum(i + 1 for i in range(len(segments)))
        return seen.gaps[-1], trigger["mu"] * float(baseline)
    return None, None


def fires(trigger: dict[str, Any], seen: History, epochs: int, steps: int) -> bool:
    """Does a trigger that has not fired fire at the end of epoch len(seen.gaps)?"""
    name, epoch = trigger["name"], len(seen.gaps)
    if name == "epoch":
        return epoch + 1 >= first_epoch(trigger, epochs)
    statistic, threshold = statistic_and_threshold(trigger, seen, epochs, steps)
    if statistic is None or threshold is None:
        return False
    if name == "variance":
        return statistic < threshold
    if name == "gap":
        past = epoch > max(3, round(epochs / 10))
        return past and epoch % trigger["period"] == 0 and statistic > threshold
    return statistic > threshold


def first_epoch(trigger: dict[str, Any], epochs: int) -> int:
    if "epoch" in trigger:
        return trigger["epoch"]
    return math.floor(trigger["fraction"] * epochs) + 1


@dataclass
class Run:
    """A finished run: weights, the first perturbed epoch, and each epoch's statistic."""

    weights: Arrays
    firing_epoch: int | None
    statistics: list[tuple[float | None, float | None]]


def train(
    family: str,
    trigger: dict[str, Any],
    radius: tuple[str, float, float],
    scale: tuple[str, float, float],
    settings: list[dict],
    epochs: int,
    steps: int,
    rho: float = 0.05,
    eta: float = 0.01,
) -> Run:
    """A whole run over fixed mini-batches, lr on a cosine from each parameter's own lr to 0."""
    weights, buffers = initial_weights(0), [None] * 4
    batches = [make_data(100 + step, 16) for step in range(steps)]
    held_out = make_data(99, 64)
    seen, statistics, previous = History(), [], None
    firing = {"always": 1, "never": None}.get(trigger["name"])
    if trigger["name"] == "epoch" and first_epoch(trigger, epochs) == 1:
        firing = 1
    for epoch in range(1, epochs + 1):
        losses = []
        for step, (x, y) in enumerate(batches):
            t = epoch - 1 + step / steps
            rule = {"rho": rho, "eta": eta}
            rule["radius"], rule["scale"] = alpha(*radius, t, epochs), alpha(*scale, t, epochs)
            now = [
                {**s, "lr": s["lr"] * (1 + math.cos(math.pi * t / epochs)) / 2} for s in settings
            ]
            loss, g = loss_and_gradient(weights, x, y)
            direction = g
            if firing is not None and epoch >= firing:
                moved = [
                    w + e for w, e in zip(weights, epsilon(family, weights, g, rule), strict=True)
                ]
                direction = update_direction(family, g, loss_and_gradient(moved, x, y)[1], rule)
            sgd(weights, direction, buffers, now)
            losses.append(loss)
            seen.norms.append(length(g))
            if previous is not None:
                seen.cosines.append(dot(g, previous) / (length(g) * length(previous)))
            previous = g
        seen.gaps.append(abs(loss_and_gradient(weights, *held_out)[0] - float(np.mean(losses))))
        frozen = trigger.get("baseline") == "dynamic" and firing is not None
        statistics.append(
            (seen.gaps[-1], statistics[-1][1])  # the dynamic baseline stops at the firing
            if frozen
            else statistic_and_threshold(trigger, seen, epochs, steps)
        )
        if firing is None and epoch < epochs and fires(trigger, seen, epochs, steps):
            firing = epoch + 1
    return Run(weights, firing, statistics)
