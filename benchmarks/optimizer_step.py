"""Milliseconds of one PUGD step: flat buffers, one tensor at a time, and fused torch SGD.

Run: OMP_NUM_THREADS=1 python benchmarks/optimizer_step.py
Gradients are synthetic, so that only the optimizer is timed. The implementations take turns
within one run, each figure is the median over rounds, and ratios are to the fused SGD step.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from trainables.optim import RTS


def small_tensors() -> list[tuple[int, ...]]:
    """244 tensors with 1.5 M elements: a narrow, deep convolutional network."""
    block: list[tuple[int, ...]] = [(64, 42, 3, 3), (64,), (64,), (64,)]
    return 61 * block


def resnet_tensors() -> list[tuple[int, ...]]:
    """ResNet-18's 62 tensors with 11.7 M elements."""
    return [tuple(parameter.shape) for parameter in resnet18().parameters()]


class LoopPUGD(torch.optim.Optimizer):
    """PUGD as the usual SAM and PUGD repositories write it: a Python loop over parameters."""

    def __init__(self, params: Iterable[Tensor], base: torch.optim.Optimizer) -> None:
        super().__init__(params, {})
        self.base = base

    def norm(self, tensors: list[Tensor]) -> Tensor:
        return torch.norm(torch.stack([tensor.norm(p=2) for tensor in tensors]), p=2)

    @torch.no_grad()
    def perturb(self) -> None:
        parameters = self.param_groups[0]["params"]
        length = self.norm([p.abs() * p.grad for p in parameters]) + 1e-12
        for p in parameters:
            epsilon = p.abs() * p.grad / length
            self.state[p]["epsilon"] = epsilon
            self.state[p]["gradient"] = p.grad.clone()
            p.add_(epsilon)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        parameters = self.param_groups[0]["params"]
        for p in parameters:
            p.sub_(self.state[p]["epsilon"])
            p.grad.add_(self.state[p]["gradient"])
        length = self.norm([p.grad for p in parameters]) + 1e-12
        for p in parameters:
            p.grad.div_(length)
        self.base.step()


def steps(shapes: list[tuple[int, ...]]) -> dict[str, Callable[[], object]]:
    """Each implementation's step over parameters of its own."""
    sgd = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 5e-4}

    def parameters() -> list[nn.Parameter]:
        made = [nn.Parameter(torch.randn(shape)) for shape in shapes]
        for parameter in made:
            parameter.grad = torch.randn_like(parameter)
        return made

    fused = torch.optim.SGD(parameters(), **sgd, fused=True)
    flat = RTS(parameters(), **sgd)
    looped = parameters()
    loop = LoopPUGD(looped, torch.optim.SGD(looped, **sgd))
    return {
        "torch SGD, fused": fused.step,
        "PUGD, flat (ours)": lambda: (flat.perturb(), flat.step()),
        "PUGD, loop": lambda: (loop.perturb(), loop.step()),
    }


def measure(shapes: list[tuple[int, ...]], rounds: int) -> dict[str, float]:
    """Median milliseconds a step, by implementation."""
    candidates = steps(shapes)
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds + 3):
        for name, step in candidates.items():
            started = time.perf_counter()
            step()
            times[name].append(1000 * (time.perf_counter() - started))
    return {name: statistics.median(values[3:]) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    warnings.filterwarnings("ignore", "no second gradient")  # both passes have the same one
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name, shapes in (("244 small tensors", small_tensors()), ("ResNet-18", resnet_tensors())):
        count = sum(torch.Size(shape).numel() for shape in shapes)
        print(f"{name}: {len(shapes)} tensors, {count / 1e6:.1f} M elements")
        results = measure(shapes, rounds)
        base = results["torch SGD, fused"]
        for implementation, value in results.items():
            print(f"  {implementation:20} {value:8.2f} ms  {value / base:5.2f} x")


if __name__ == "__main__":
    main()
