"""RTS (with PUGD and SGD), SAM and ASAM: their perturbation and update direction."""

from __future__ import annotations

import math
from typing import ClassVar, TypedDict, Unpack

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from trainables.optim.flat import norm
from trainables.optim.loss_scale import LossScale
from trainables.optim.perturbed import PerturbedSGD

TINY = 1e-12  # added to norms, so that ε and U are 0 where the gradient is


class SGDOptions(TypedDict, total=False):
    """What every family takes beside its own settings; see PerturbedSGD."""

    momentum: float
    dampening: float
    weight_decay: float
    nesterov: bool
    perturbing: bool
    loss_scale: LossScale | None


class NotNegative:
    """A setting of an optimizer that is finite and at least 0, checked whenever it is set."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, optimizer: PerturbedSGD | None, owner: type) -> float:
        if optimizer is None:
            raise AttributeError(self.name)
        value: float = vars(optimizer)[self.name]
        return value

    def __set__(self, optimizer: PerturbedSGD, value: float) -> None:
        if not 0 <= value < math.inf:
            raise ValueError(f"{self.name} must be finite and at least 0, not {value}")
        vars(optimizer)[self.name] = float(
            value
        )  # a tensor or NumPy's could change, or not be saved


class RTS(PerturbedSGD):
    """ε = α_r·|w|⊙g / ‖|w|⊙g‖,  U = (g* + α_s·g) / ‖g* + α_s·g‖,  w ← SGD(w, U).

    `radius` α_r, `scale` α_s (≥ 0) and `perturbing` are read at each step. PUGD
    (arXiv 2110.00199) is radius = scale = 1, SGD is perturbing = False.
    """

    settings: ClassVar[tuple[str, ...]] = ("radius", "scale", "perturbing")
    radius = NotNegative()
    scale = NotNegative()

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.1,
        *,
        radius: float = 1.0,
        scale: float = 1.0,
        **options: Unpack[SGDOptions],
    ) -> None:
        super().__init__(params, lr, **options)
        self.radius = radius
        self.scale = scale

    def _ascend(self, weights: list[Tensor], gradients: list[Tensor], out: list[Tensor]) -> Tensor:
        for w, g, direction in zip(weights, gradients, out, strict=True):
            torch.abs(w, out=direction).mul_(g)
        return self.radius / (norm(out) + TINY)

    def _combine(self, gradients: list[Tensor], perturbed: list[Tensor]) -> None:
        for g, u in zip(gradients, perturbed, strict=True):
            u.add_(g, alpha=self.scale)
        length = norm(perturbed) + TINY
        for u in perturbed:
            u.div_(length.to(u.device))


class SAM(PerturbedSGD):
    """ε = ρ·g/‖g‖,  w ← SGD(w, g*)  (arXiv 2010.01412)."""

    settings: ClassVar[tuple[str, ...]] = ("rho", "perturbing")
    rho = NotNegative()

    def __init__(
        self, params: ParamsT, lr: float = 0.1, *, rho: float = 0.05, **options: Unpack[SGDOptions]
    ) -> None:
        super().__init__(params, lr, **options)
        self.rho = rho

    def _ascend(self, weights: list[Tensor], gradients: list[Tensor], out: list[Tensor]) -> Tensor:
        for g, direction in zip(gradients, out, strict=True):
            direction.copy_(g)
        return self.rho / (norm(gradients) + TINY)


class ASAM(SAM):
    """ε = ρ·N²g/‖N g‖ with N = |w| + η,  w ← SGD(w, g*)  (arXiv 2102.11600)."""

    settings: ClassVar[tuple[str, ...]] = ("rho", "eta", "perturbing")
    eta = NotNegative()

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.1,
        *,
        rho: float = 0.5,
        eta: float = 0.01,
        **options: Unpack[SGDOptions],
    ) -> None:
        super().__init__(params, lr, rho=rho, **options)
        self.eta = eta

    def _ascend(self, weights: list[Tensor], gradients: list[Tensor], out: list[Tensor]) -> Tensor:
        for w, g, direction in zip(weights, gradients, out, strict=True):
            torch.abs(w, out=direction).add_(self.eta).mul_(g)
        factor = self.rho / (norm(out) + TINY)
        for w, direction in zip(weights, out, strict=True):
            direction.mul_(w.abs().add_(self.eta))
        return factor
