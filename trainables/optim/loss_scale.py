"""Dynamic loss scaling for fp16 without host–device synchronisation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer


class Unscaler:
    """Divides a step's gradients by `factor`; `found_inf` is 1 if one of them is not finite.

    `factor` is None where the caller has unscaled the gradients.
    """

    def __init__(self, factor: Tensor | None, found_inf: Tensor) -> None:
        self.factor = factor
        self.found_inf = found_inf

    @classmethod
    def of_grad_scaler(cls, optimizer: Optimizer) -> Unscaler | None:
        """What torch's GradScaler has set on the optimizer whose step it calls, if it does."""
        given = vars(optimizer)
        if "found_inf" not in given:
            return None
        found_inf = torch.as_tensor(given["found_inf"], dtype=torch.float32)  # 0 without gradients
        return cls(given["grad_scale"], found_inf)

    def unscale_(self, gradients: Sequence[Tensor]) -> None:
        """Divides the gradients by `factor`; sets `found_inf` if an element is not finite."""
        if self.factor is None:
            return
        inverse = self.factor.reciprocal()
        for gradient in gradients:  # one call takes tensors of one dtype only
            torch._amp_foreach_non_finite_check_and_unscale_([gradient], self.found_inf, inverse)

    def update(self) -> None:
        """Called at the end of a step. GradScaler's own update() is its owner's business."""


class LossScale(Unscaler):
    """torch.amp.GradScaler's rule, kept on the device: no step asks the host whether to skip.

    Call `scale(loss).backward()` and give the object to the optimizer, which unscales its
    gradients, leaves weights and momentum as they are when any gradient of the step is not
    finite, and then calls `update`: `factor` shrinks by `backoff_factor` after such a step and
    grows by `growth_factor` after `growth_interval` steps without one.

    `device` is that of all parameters. With dampening, a momentum buffer whose first step was
    skipped starts with a dampened gradient.
    """

    factor: Tensor

    def __init__(
        self,
        device: torch.device | str,
        initial: float = 65536.0,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
    ) -> None:
        if not initial > 0 or not growth_factor > 1 or not 0 < backoff_factor < 1:
            raise ValueError(
                "loss scaling needs initial > 0, growth_factor > 1 and backoff_factor in (0, 1), "
                f"not {initial}, {growth_factor}, {backoff_factor}"
            )
        super().__init__(
            torch.tensor(float(initial), dtype=torch.float32, device=device),
            torch.zeros((), dtype=torch.float32, device=device),
        )
        self._growth = torch.zeros((), dtype=torch.int32, device=device)
        self._rule = growth_factor, backoff_factor, growth_interval

    def scale(self, loss: Tensor) -> Tensor:
        """The loss to call backward on: loss · `factor`."""
        return loss * self.factor

    def update(self) -> None:
        """Adjusts `factor` at the end of a step and clears `found_inf`."""
        torch._amp_update_scale_(self.factor, self._growth, self.found_inf, *self._rule)
        self.found_inf.zero_()

    def state_dict(self) -> dict[str, Tensor]:
        return {"factor": self.factor.clone(), "growth": self._growth.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.factor.copy_(state["factor"])
        self._growth.copy_(state["growth"])
