"""SGD on perturbed gradients: what RTS, PUGD, SAM and ASAM have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from trainables.optim.flat import FlatBuffer
from trainables.optim.loss_scale import LossScale

Present = tuple[bool, ...]  # for each parameter of a buffer: has it a gradient?


class PerturbedSGD(Optimizer):
    """torch.optim.SGD on a direction made of the gradients g at w and g* at w + ε.

    Two forms of one step::

        loss.backward(); opt.perturb(); opt.zero_grad(); loss2.backward(); opt.step()
        opt.step(closure)     # closure: zero_grad, forward, backward, return the loss

    `step()` without `perturb()` before it is torch.optim.SGD on g; `step(closure)` perturbs if
    `perturbing` is true and returns the loss at w. After the second gradient the weights are
    restored exactly, from a copy. Nothing in a step waits for the device.

    Parameters become views of one flat vector per dtype and device (see FlatBuffer), so move the
    model first; give all parameter groups to the constructor. A parameter without a gradient
    counts as 0 in norms and gets no ε, decay or momentum; one gradient of the two is enough for
    an update. `state_dict` has torch's format, plus the `settings` under the key `perturbation`.

    Subclasses say what ε is (`_ascend`) and how g and g* combine (`_combine`).
    """

    settings: ClassVar[tuple[str, ...]] = ("perturbing",)  # attributes set from outside, saved
    _flats: tuple[FlatBuffer, ...] = ()

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.1,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        perturbing: bool = True,
        loss_scale: LossScale | None = None,
    ) -> None:
        """Raises ValueError for settings out of range and for parameters that share memory."""
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
        }
        super().__init__(params, defaults)
        self.perturbing = perturbing
        self.loss_scale = loss_scale
        self._flats = _flatten(self.param_groups)
        self._plans: dict[FlatBuffer, tuple[object, dict[Any, list[slice]]]] = {}
        self._perturbed: list[Present] | None = None  # between perturb() and step()

    @abstractmethod
    def _ascend(self, weights: list[Tensor], gradients: list[Tensor], out: list[Tensor]) -> Tensor:
        """Writes ε's direction to `out` and returns the 0-dim factor that makes it ε."""

    def _combine(self, gradients: list[Tensor], perturbed: list[Tensor]) -> None:
        """Turns g* in `perturbed` into the direction of the update; by default it is g*."""

    @property
    def gradient(self) -> tuple[Tensor, ...]:
        """g at w of the last step, flat, one vector per dtype and device; valid until the next."""
        return tuple(flat.gradient.data for flat in self._flats)

    @torch.no_grad()
    def perturb(self) -> None:
        """Keeps g and moves the weights to w + ε, whatever `perturbing` says.

        Raises RuntimeError if the weights are perturbed already.
        """
        self._refuse_perturbed("perturb()")
        present = [flat.gather(flat.gradient) for flat in self._flats]
        gradients = list(self.gradient)
        self._unscale(gradients)
        weights = [flat.weights.data for flat in self._flats]
        directions = [flat.direction.data for flat in self._flats]
        factor = self._ascend(weights, gradients, directions)
        for flat, weight, direction in zip(self._flats, weights, directions, strict=True):
            flat.clean.copy_(weight)
            torch.addcmul(flat.clean, direction, factor.to(weight.device), out=weight)
            if self.loss_scale is not None:  # forward at NaN would ruin batch-norm statistics
                torch.where(self.loss_scale.found_inf > 0, flat.clean, weight, out=weight)
        self._perturbed = present

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """One update; with a closure, also the gradients it needs. Returns the closure's loss."""
        loss = None
        if closure is not None:
            self._refuse_perturbed("step(closure)")
            with torch.enable_grad():
                loss = closure()
            if self.perturbing:
                self.perturb()
                with torch.enable_grad():
                    closure()
        if self._perturbed is None:
            present = [flat.gather(flat.gradient) for flat in self._flats]
            directions = list(self.gradient)
            self._unscale(directions)
        else:
            present, directions = self._restore(self._perturbed)
        for flat, direction, here in zip(self._flats, directions, present, strict=True):
            self._update(flat, direction, here)
        if self.loss_scale is not None:
            self.loss_scale.update()
        return loss

    def _restore(self, first: list[Present]) -> tuple[list[Present], list[Tensor]]:
        """Back to w; returns the direction from g and g*, and who has either gradient."""
        second = [flat.gather(flat.direction) for flat in self._flats]
        for flat in self._flats:
            flat.weights.data.copy_(flat.clean)
        self._perturbed = None
        directions = [flat.direction.data for flat in self._flats]
        self._unscale(directions)
        self._combine(list(self.gradient), directions)
        pairs = zip(first, second, strict=True)
        return [a if a == b else tuple(map(max, a, b)) for a, b in pairs], directions

    def _update(self, flat: FlatBuffer, direction: Tensor, present: Present) -> None:
        """torch's own fused SGD, on whole slices of the flat vectors."""
        plan = self._plan(flat, present)
        for (index, first), slices in plan.items():
            group = self.param_groups[index]
            momentum = flat.momentum.data if group["momentum"] else None
            torch._fused_sgd_(
                [flat.weights.data[s] for s in slices],
                [direction[s] for s in slices],
                [] if momentum is None else [momentum[s] for s in slices],
                weight_decay=group["weight_decay"],
                momentum=group["momentum"],
                lr=group["lr"],
                dampening=group["dampening"],
                nesterov=group["nesterov"],
                maximize=False,
                is_first_step=first,
                found_inf=None if self.loss_scale is None else self.loss_scale.found_inf,
            )
        if any(first for _, first in plan):
            self._note_momentum(flat, present)

    def _plan(self, flat: FlatBuffer, present: Present) -> dict[Any, list[slice]]:
        """Slices by (group, first step of the momentum buffer?); kept until either changes.

        torch starts a momentum buffer with the undampened gradient, hence the second key.
        """
        has_momentum = tuple([group["momentum"] != 0 for group in self.param_groups])
        key = (present, has_momentum)
        if flat not in self._plans or self._plans[flat][0] != key:
            members = zip(flat.parameters, flat.groups, present, strict=True)
            labels = [
                (group, has_momentum[group] and parameter not in self.state) if here else None
                for parameter, group, here in members
            ]
            self._plans[flat] = key, flat.runs(labels)
        return self._plans[flat][1]

    def _note_momentum(self, flat: FlatBuffer, present: Present) -> None:
        """Shows the momentum buffers that a first step has filled in `state`."""
        members = zip(flat.parameters, flat.groups, flat.momentum.views, present, strict=True)
        for parameter, group, view, here in members:
            if here and self.param_groups[group]["momentum"] != 0:
                self.state[parameter]["momentum_buffer"] = view
        del self._plans[flat]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """For the constructor only. Raises RuntimeError afterwards, ValueError on bad settings."""
        if self._flats:
            raise RuntimeError("the flat buffers are laid out: give every group to the constructor")
        super().add_param_group(param_group)
        _check_group(self.param_groups[-1])

    def state_dict(self) -> dict[str, Any]:
        """torch.optim.SGD's state_dict and, under `perturbation`, the optimizer's `settings`."""
        perturbation = {name: getattr(self, name) for name in self.settings}
        return {**super().state_dict(), "perturbation": perturbation}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a state_dict of this class, or torch.optim.SGD's (settings stay then)."""
        self._refuse_perturbed("load_state_dict()")
        super().load_state_dict(state_dict)
        for name, value in state_dict.get("perturbation", {}).items():
            setattr(self, name, value)
        loaded = {p: state.get("momentum_buffer") for p, state in self.state.items()}
        self.state.clear()
        self._plans.clear()
        for flat in self._flats:
            for index, parameter in enumerate(flat.parameters):
                if (buffer := loaded.get(parameter)) is not None:
                    view = flat.momentum.views[index]
                    view.copy_(buffer)
                    self.state[parameter]["momentum_buffer"] = view

    def _unscale(self, gradients: Sequence[Tensor]) -> None:
        if self.loss_scale is not None:
            self.loss_scale.unscale_(gradients)

    def _refuse_perturbed(self, call: str) -> None:
        if self._perturbed is not None:
            raise RuntimeError(f"{call} while the weights are perturbed: call step() first")


def _flatten(groups: list[dict[str, Any]]) -> tuple[FlatBuffer, ...]:
    """One flat buffer per dtype and device; each group's parameters adjacent in it."""
    members: dict[tuple[torch.dtype, torch.device], list[tuple[Tensor, int]]] = {}
    for index, group in enumerate(groups):
        for parameter in cast("list[Tensor]", group["params"]):
            key = (parameter.dtype, parameter.device)
            members.setdefault(key, []).append((parameter, index))
    with torch.no_grad():
        return tuple(FlatBuffer(*zip(*pairs, strict=True)) for pairs in members.values())


def _check_group(group: dict[str, Any]) -> None:
    for name in ("lr", "momentum", "dampening", "weight_decay"):
        if not group[name] >= 0:  # `not`, so that NaN is refused too
            raise ValueError(f"{name} must be at least 0, not {group[name]}")
    if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
        raise ValueError("nesterov needs momentum above 0 and dampening 0")
    for parameter in group["params"]:
        if not parameter.is_floating_point():
            raise ValueError(f"parameters must be real floating-point, not {parameter.dtype}")
