"""Gradient norms and cosines of consecutive gradients, without host–device synchronisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.optim.flat import norm

TINY = 1e-12


class GradientMonitor:
    """Records ‖g_t‖ and cos(g_t, g_{t−1}) of an epoch's steps on the device.

    `steps_per_epoch` is the most steps between two `read`s. Cosines keep a copy of the previous
    gradient, also across epochs; the first step of a run has no cosine.
    """

    def __init__(
        self, steps_per_epoch: int, norms: bool, cosines: bool, device: torch.device | str
    ) -> None:
        device = torch.device(device)
        dtype = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
        self.norms, self.cosines = norms, cosines
        self._norms = torch.zeros(steps_per_epoch if norms else 0, dtype=dtype, device=device)
        self._cosines = torch.zeros(steps_per_epoch if cosines else 0, dtype=dtype, device=device)
        self._step = 0  # steps since the last read
        self._cosine_step = 0
        self._previous: list[Tensor] | None = None
        self._previous_norm: Tensor | None = None

    @torch.no_grad()
    def observe(self, gradient: Sequence[Tensor]) -> None:
        """Records one step's flat gradient, as `PerturbedSGD.gradient` gives it.

        Raises IndexError after `steps_per_epoch` steps without a `read`.
        """
        if not self.norms and not self.cosines:
            return
        length = norm(gradient)
        if self.norms:
            self._norms[self._step].copy_(length)
        if self.cosines:
            self._observe_cosine(gradient, length)
        self._step += 1

    def _observe_cosine(self, gradient: Sequence[Tensor], length: Tensor) -> None:
        if self._previous is None or self._previous_norm is None:
            self._previous = [g.clone() for g in gradient]
        else:
            dots = []
            for previous, g in zip(self._previous, gradient, strict=True):
                dtype = torch.promote_types(g.dtype, torch.float32)
                dots.append(previous.mul_(g).sum(dtype=dtype).to(length.device))
                previous.copy_(g)
            cosine = torch.stack(dots).sum() / (length * self._previous_norm + TINY**2)
            self._cosines[self._cosine_step].copy_(cosine)
            self._cosine_step += 1
        self._previous_norm = length

    def read(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The norms and the cosines since the last read, in step order; waits for the device.

        An array is empty if it is not recorded; the run's first epoch has one cosine less.
        """
        norms = self._norms[: self._step].cpu().numpy().astype(np.float64)
        cosines = self._cosines[: self._cosine_step].cpu().numpy().astype(np.float64)
        self._step = self._cosine_step = 0
        return norms, cosines

    def state_dict(self) -> dict[str, Any]:
        """What the next epoch and an unread part of this one need."""
        return {
            "norms": self._norms[: self._step].clone(),
            "cosines": self._cosines[: self._cosine_step].clone(),
            "step": self._step,
            "previous": None if self._previous is None else [g.clone() for g in self._previous],
            "previous_norm": self._previous_norm,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        device = self._norms.device
        self._step, self._cosine_step = state["step"], len(state["cosines"])
        self._norms[: len(state["norms"])].copy_(state["norms"])
        self._cosines[: self._cosine_step].copy_(state["cosines"])
        previous = state["previous"]
        self._previous = None if previous is None else [g.to(device, copy=True) for g in previous]
        length = state["previous_norm"]
        self._previous_norm = None if length is None else length.to(device)
