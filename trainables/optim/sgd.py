"""torch.optim.SGD's update, on directions that lie in flat buffers."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from trainables.optim.flat import FlatBuffer

Present = tuple[bool, ...]  # for each parameter of a buffer: has it a gradient?


class FlatSGD(Optimizer):
    """Parameters in flat buffers, their groups and momentum; a subclass has the `step`."""

    _flats: tuple[FlatBuffer, ...] = ()

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        momentum: float,
        dampening: float,
        weight_decay: float,
        nesterov: bool,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
        }
        super().__init__(params, defaults)
        self._lay_out()

    def _lay_out(self) -> None:
        """Moves the parameters to flat buffers."""
        self._flats = _flatten(self.param_groups)
        self._plans: dict[FlatBuffer, tuple[object, dict[Any, list[slice]]]] = {}

    def _update(
        self, flat: FlatBuffer, direction: Tensor, present: Present, found_inf: Tensor | None
    ) -> None:
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
                found_inf=found_inf,
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

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a state_dict of torch.optim.SGD's format."""
        super().load_state_dict(state_dict)
        self._adopt_momentum()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """After a copy or an unpickling the flat buffers are made anew."""
        super().__setstate__(state)
        if "defaults" in state:  # not from load_state_dict()
            self._lay_out()
            self._adopt_momentum()

    def _adopt_momentum(self) -> None:
        """Moves the momentum buffers in `state` to the flat ones."""
        loaded = {p: state.get("momentum_buffer") for p, state in self.state.items()}
        self.state.clear()
        self._plans.clear()
        for flat in self._flats:
            for index, parameter in enumerate(flat.parameters):
                if (buffer := loaded.get(parameter)) is not None:
                    view = flat.momentum.views[index]
                    view.copy_(buffer)
                    self.state[parameter]["momentum_buffer"] = view


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
        if not 0 <= group[name] < math.inf:  # `not`, so that NaN is refused too
            raise ValueError(f"{name} must be finite and at least 0, not {group[name]}")
    if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
        raise ValueError("nesterov needs momentum above 0 and dampening 0")
    for parameter in group["params"]:
        if hasattr(parameter, "__tensor_flatten__"):
            raise ValueError(
                f"parameters must be plain tensors, not {type(parameter).__name__} (FSDP2, tensor "
                "parallelism): use DistributedDataParallel"
            )
        if not parameter.is_floating_point():
            raise ValueError(f"parameters must be real floating-point, not {parameter.dtype}")
