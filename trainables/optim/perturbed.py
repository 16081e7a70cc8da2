"""SGD on perturbed gradients: what RTS, PUGD, SAM and ASAM have in common."""

from __future__ import annotations

import warnings
import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from trainables.optim.flat import FlatBuffer
from trainables.optim.loss_scale import LossScale, Unscaler
from trainables.optim.sgd import FlatSGD, Present

PLAIN_STEP = (
    "a plain SGD step although `perturbing` is true: call perturb() and a second backward() before "
    "step(), or step(closure); set optimizer.perturbing = False if SGD is meant"
)
NO_SECOND_GRADIENT = (
    "no second gradient: call zero_grad(), then backward(), between perturb() and step(); without "
    "zero_grad() the second gradient is added to the first, which then counts twice"
)


class FirstPass(NamedTuple):
    """Who had a gradient at w, and one of those gradients, to see whether it is still there."""

    present: list[Present]
    parameter: Tensor
    gradient: weakref.ref[Tensor]
    version: int

    def is_still_there(self) -> bool:
        """Unchanged or written once: clearing it in place and a new one would write it twice."""
        now = self.parameter.grad
        return now is not None and now is self.gradient() and now._version <= self.version + 1


class PerturbedSGD(FlatSGD):
    """torch.optim.SGD on a direction made of the gradients g at w and g* at w + ε.

    Two forms of one step::

        loss.backward(); opt.perturb(); opt.zero_grad(); loss2.backward(); opt.step()
        opt.step(closure)     # closure: zero_grad, forward, backward, return the loss

    `step()` without `perturb()` before it is torch.optim.SGD on g, with a warning if `perturbing`
    is true; `step(closure)` perturbs if `perturbing` is true and returns the loss at w. After the
    second gradient the weights are restored exactly, from a copy: by `step()`, by `restore()`,
    which gives the step up, or at the end of `with opt.perturbed():`, also after an error. Nothing
    in a step waits for the device. torch's GradScaler may call `step()`.

    Parameters become views of one flat vector per dtype and device (see FlatBuffer), so move the
    model first; give all parameter groups to the constructor. A parameter without a gradient
    counts as 0 in norms and gets no ε, decay or momentum; one gradient of the two is enough for
    an update. `state_dict` has torch's format, plus the `settings` under the key `perturbation`.
    Copy or pickle optimizer and model together, or the copy has parameters of its own.

    Subclasses say what ε is (`_ascend`) and how g and g* combine (`_combine`).
    """

    settings: ClassVar[tuple[str, ...]] = ("perturbing",)  # attributes set from outside, saved
    _step_supports_amp_scaling = True  # GradScaler leaves unscaling and skipping to step()

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
        super().__init__(params, lr, momentum, dampening, weight_decay, nesterov)
        self.perturbing = perturbing
        self.loss_scale = loss_scale

    def _lay_out(self) -> None:
        """Starts between two steps."""
        super()._lay_out()
        self._first: FirstPass | None = None  # between perturb() and step()
        self._away = False  # are the weights at w + ε?
        self._scaled = True  # is the loss scaled? Unknown until a step
        self._warned: set[str] = set()

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

        Call `zero_grad()` before the second backward pass, which adds to g otherwise. Raises
        RuntimeError if the step has been perturbed already and if no parameter has a gradient.
        """
        self._refuse_within_step("perturb()")
        first = _first_pass(self._flats)
        gradients = list(self.gradient)
        if self.loss_scale is not None:
            self.loss_scale.unscale_(gradients)
        weights = [flat.weights.data for flat in self._flats]
        directions = [flat.direction.data for flat in self._flats]
        factor = self._ascend(weights, gradients, directions)
        for flat, weight, direction in zip(self._flats, weights, directions, strict=True):
            flat.clean.copy_(weight)
            here = factor.to(weight.device)
            torch.addcmul(flat.clean, direction, here, out=weight)
            if self._scaled:  # g overflows now and then; forward at NaN ruins batch-norm statistics
                torch.where(here > 0, weight, flat.clean, out=weight)
        torch.clear_autocast_cache()
        self._first, self._away = first, True

    @contextmanager
    def perturbed(self) -> Iterator[None]:
        """For the second pass: the weights are at w + ε inside, at w after it, error or not.

        `step()` comes after it, except after an error: the step is given up then.
        """
        self.perturb()
        try:
            yield
        except BaseException:
            self.restore()
            raise
        self._return()

    def restore(self) -> None:
        """Gives up the step that `perturb()` began: back to w, to the bit. Else does nothing.

        Gradients stay as they are: call `zero_grad()` before the next backward pass.
        """
        if self._first is not None:
            self._return()
            self._first = None
            if self.loss_scale is not None:
                self.loss_scale.found_inf.zero_()  # of this step's g

    @torch.no_grad()
    def _return(self) -> None:
        if self._away:
            for flat in self._flats:
                flat.weights.data.copy_(flat.clean)
            torch.clear_autocast_cache()
            self._away = False

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """One update; with a closure, also the gradients it needs. Returns the closure's loss."""
        scaler = self._scaler(closure)
        loss = None
        if closure is not None:
            self._refuse_within_step("step(closure)")
            with torch.enable_grad():
                loss = closure()
                if self.perturbing:
                    with self.perturbed():
                        closure()
        elif self._first is None and self.perturbing:
            self._warn_once(PLAIN_STEP)
        if self._first is None:
            present = [flat.gather(flat.gradient) for flat in self._flats]
            directions = list(self.gradient)
            if scaler is not None:
                scaler.unscale_(directions)
        else:
            second = [flat.gather(flat.direction) for flat in self._flats]
            if self._first.is_still_there() or not any(map(any, second)):
                self._warn_once(NO_SECOND_GRADIENT)
            pairs = zip(self._first.present, second, strict=True)
            present = [a if a == b else tuple(map(max, a, b)) for a, b in pairs]
            directions = self._join(scaler)
        for flat, direction, here in zip(self._flats, directions, present, strict=True):
            self._update(flat, direction, here, None if scaler is None else scaler.found_inf)
        if scaler is not None:
            scaler.update()
        self._scaled = scaler is not None
        torch.clear_autocast_cache()
        return loss

    def _join(self, scaler: Unscaler | None) -> list[Tensor]:
        """Back to w; returns the direction from g and g*."""
        self._return()
        self._first = None
        directions = [flat.direction.data for flat in self._flats]
        if scaler is not None:
            if scaler is not self.loss_scale:  # perturb() could not know GradScaler's factor
                scaler.unscale_(self.gradient)
            scaler.unscale_(directions)
        self._combine(list(self.gradient), directions)
        return directions

    def _scaler(self, closure: object) -> Unscaler | None:
        """What unscales this step: torch's GradScaler if it has called, else `loss_scale`."""
        theirs = Unscaler.of_grad_scaler(self)
        if theirs is None:
            return self.loss_scale
        refusal = None
        if closure is not None:
            refusal = "GradScaler.step() takes no closure: call perturb() between two backward()s"
        elif self.loss_scale is not None:
            refusal = "the loss has two scales: use torch's GradScaler or loss_scale, not both"
        elif self._first is not None and theirs.factor is None:
            refusal = (
                "GradScaler.unscale_(optimizer) knows one gradient a step, not two: leave it out; "
                "step() unscales both. To clip, scale the bound: "
                "clip_grad_norm_(parameters, scaler.scale(torch.tensor(max_norm)))"
            )
        if refusal is not None:
            for name in ("grad_scale", "found_inf"):  # GradScaler does when step() returns
                vars(self).pop(name)
            raise RuntimeError(refusal)
        return theirs

    def state_dict(self) -> dict[str, Any]:
        """torch.optim.SGD's state_dict and, under `perturbation`, the optimizer's `settings`.

        Warns while the weights are perturbed, when the model's state_dict holds w + ε.
        """
        if self._away:
            warnings.warn(
                "state_dict() while the weights are perturbed: the model's holds w + ε, not w; "
                "call step() or restore() first",
                stacklevel=2,
            )
        perturbation = {name: getattr(self, name) for name in self.settings}
        return {**super().state_dict(), "perturbation": perturbation}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a state_dict of this class, or torch.optim.SGD's (settings stay then)."""
        self._refuse_within_step("load_state_dict()")
        super().load_state_dict(state_dict)
        for name, value in state_dict.get("perturbation", {}).items():
            setattr(self, name, value)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles; the flat buffers are made anew."""
        self._refuse_within_step("a copy")
        settings = {name: getattr(self, name) for name in (*self.settings, "loss_scale")}
        return {**super().__getstate__(), **settings}

    def _refuse_within_step(self, call: str) -> None:
        if self._first is not None:
            raise RuntimeError(
                f"{call} between perturb() and step(): call step() or restore() first"
            )

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, stacklevel=5)  # step()'s caller; step() has two decorators


def _first_pass(flats: Sequence[FlatBuffer]) -> FirstPass:
    """Gathers g."""
    present = [flat.gather(flat.gradient) for flat in flats]
    for flat in flats:
        for parameter in flat.parameters:
            if (gradient := parameter.grad) is not None:
                return FirstPass(present, parameter, weakref.ref(gradient), gradient._version)
    raise RuntimeError(
        "perturb() without a gradient: call backward() first, on the optimizer's own parameters "
        "(a copied or wrapped model has others: make its optimizer after it, or copy both at once)"
    )
