"""RTS (with PUGD and SGD), SAM and ASAM: their perturbation and update direction."""

from __future__ import annotations

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


class RTS(PerturbedSGD):
    """ε = α_r·|w|⊙g / ‖|w|⊙g‖,  U = (g* + α_s·g) / ‖g* + α_s·g‖,  w ← SGD(w, U).

    `radius` α_r, `scale` α_s (≥ 0) and `perturbing` are read at each step. PUGD
    (arXiv 2110.00199) is radius = scale = 1, SGD is perturbing = False.
    """

    settings: ClassVar[tuple[str, ...]] = ("radius", "scale", "perturbing")

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
        self.radius = _not_negative("radius", radius)
        self.scale = _not_negative("scale", scale)

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

    def __init__(
        self, params: ParamsT, lr: float = 0.1, *, rho: float = 0.05, **options: Unpack[SGDOptions]
    ) -> None:
        super().__init__(params, lr, **options)
        self.rho = _not_negative("rho", rho)

    def _ascend(self, weights: list[Tensor], gradients: list[Tensor], out: list[Tensor]) -> Tensor:
        for g, direction in zip(gradients, out, strict=True):
            direction.copy_(g)
        return self.rho / (norm(gradients) + TINY)


class ASAM(SAM):
    """ε = ρ·N²g/‖N g‖ with N = |w| + η,  w ← SGD(w, g*)  (arXiv 2102.11600)."""

    settings: ClassVar[tuple[str, ...]] = ("rho", "eta", "perturbing")

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
        self.eta = _not_negative("eta", eta)

    def _ascend(self, weights: list[Tensor], gradients: list[Tensor], out: list[Tensor]) -> Tensor:
        for w, g, direction in zip(weights, gradients, out, strict=True):
            torch.abs(w, out=direction).add_(self.eta).mul_(g)
        factor = self.rho / (norm(out) + TINY)
        for w, direction in zip(weights, out, strict=True):
            direction.mul_(w.abs().add_(self.eta))
        return factor


def _not_negative(name: str, value: float) -> float:
    if not value >= 0:
        raise ValueError(f"{name} must be at least 0, not {value}")
    return value
