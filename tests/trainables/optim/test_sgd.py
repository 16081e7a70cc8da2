"""Without perturbation the optimizer is torch.optim.SGD, whatever the gradients' None pattern."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from trainables.optim import RTS, PerturbedSGD

SHAPES = [(3, 4), (), (7,), (2, 3, 3, 3), (0,), (65,)]
OPTIONS = [
    {},
    {"weight_decay": 0.1},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
]


def make_parameters(dtypes: list[torch.dtype], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pairs = zip(SHAPES, itertools.cycle(dtypes), strict=False)
    return [
        torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))
        for shape, dtype in pairs
    ]


def set_gradients(parameters: list[Tensor], step: int, pattern: str) -> None:
    """The same gradients for equal arguments. Patterns: all, some (changing), zeroed, none."""
    generator = torch.Generator().manual_seed(1000 + step)
    for index, parameter in enumerate(parameters):
        gradient = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        here = pattern in ("all", "zeroed") or (pattern == "some" and (index + step) % 3 != 0)
        if pattern == "zeroed" and index % 2:
            gradient.zero_()
        parameter.grad = gradient.to(parameter.dtype) if here else None


def groups(parameters: list[Tensor]) -> list[dict]:
    return [
        {"params": parameters[:3]},
        {"params": parameters[3:], "lr": 0.02, "weight_decay": 0.3},
    ]


def assert_near(ours: list[Tensor], theirs: list[Tensor], ulps: float = 8) -> None:
    for a, b in zip(ours, theirs, strict=True):
        tolerance = ulps * torch.finfo(a.dtype).eps
        torch.testing.assert_close(a.detach(), b.detach(), rtol=tolerance, atol=tolerance)


def assert_same_state(ours: PerturbedSGD, theirs: torch.optim.SGD) -> None:
    a, b = ours.state_dict()["state"], theirs.state_dict()["state"]
    b = {index: state for index, state in b.items() if state.get("momentum_buffer") is not None}
    assert a.keys() == b.keys()
    buffers = [(a[i]["momentum_buffer"], b[i]["momentum_buffer"]) for i in a]
    assert_near([x for x, _ in buffers], [y for _, y in buffers])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtypes", [[torch.float64], [torch.float32, torch.float64]], ids=str)
def test_equals_torch_sgd(options, dtypes):
    ours, theirs = make_parameters(dtypes), make_parameters(dtypes)
    optimizer = RTS(groups(ours), lr=0.1, perturbing=False, **options)
    reference = torch.optim.SGD(groups(theirs), lr=0.1, **options)
    for step, pattern in enumerate(["some", "some", "none", "all", "zeroed", "some", "all"]):
        for parameters, opt in ((ours, optimizer), (theirs, reference)):
            set_gradients(parameters, step, pattern)
            opt.step()
        assert_near(ours, theirs)
        assert_same_state(optimizer, reference)


def test_momentum_switched_on_later_and_lr_changed():
    ours, theirs = make_parameters([torch.float64]), make_parameters([torch.float64])
    options = {"lr": 0.1, "dampening": 0.2}
    optimizer = RTS(groups(ours), **options, perturbing=False)
    reference = torch.optim.SGD(groups(theirs), **options)
    for step in range(6):
        for parameters, opt in ((ours, optimizer), (theirs, reference)):
            opt.param_groups[1]["momentum"] = 0.8 if step >= 2 else 0.0
            opt.param_groups[0]["lr"] = 0.1 / (1 + step)
            set_gradients(parameters, step, "all")
            opt.step()
        assert_near(ours, theirs)


@pytest.mark.filterwarnings("ignore:a plain SGD step")
@pytest.mark.parametrize("direction", ["to_torch", "from_torch", "to_itself"])
def test_state_dict_is_torchs(direction):
    options = {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}
    classes = {
        "to_torch": (RTS, torch.optim.SGD),
        "from_torch": (torch.optim.SGD, RTS),
        "to_itself": (RTS, RTS),
    }[direction]
    straight = make_parameters([torch.float64])
    reference = torch.optim.SGD(groups(straight), **options)
    before, after = make_parameters([torch.float64]), make_parameters([torch.float64], seed=1)
    first, second = classes[0](groups(before), **options), classes[1](groups(after), **options)
    for step in range(3):
        for parameters, opt in ((straight, reference), (before, first)):
            set_gradients(parameters, step, "some")
            opt.step()
    with torch.no_grad():
        for old, new in zip(before, after, strict=True):
            new.copy_(old)
    # torch's own SGD wants its keys in the groups, ours need only the values
    state = first.state_dict()
    if direction == "to_torch":
        for group in state["param_groups"]:
            group.update(maximize=False, foreach=None, differentiable=False, fused=None)
    second.load_state_dict(state)
    for step in range(3, 6):
        for parameters, opt in ((straight, reference), (after, second)):
            set_gradients(parameters, step, "all")
            opt.step()
    assert_near(after, straight)


def test_state_belongs_to_the_parameter_and_is_replaced_on_loading():
    parameters = make_parameters([torch.float64])
    optimizer = RTS(groups(parameters), momentum=0.9, dampening=0.5, perturbing=False)
    empty = optimizer.state_dict()
    empty["state"] = {0: {"momentum_buffer": None}}  # as older versions of torch write it
    for step in range(2):
        set_gradients(parameters, step, "all")
        optimizer.step()
    assert set(optimizer.state) == set(parameters)
    for parameter in parameters:
        assert optimizer.state[parameter]["momentum_buffer"].shape == parameter.shape
    optimizer.load_state_dict(empty)
    assert not optimizer.state
    weights = [p.detach().clone() for p in parameters]
    set_gradients(parameters, 0, "all")
    optimizer.step()  # a first step again: undampened, without the old buffer
    for parameter, weight, lr, decay in zip(
        parameters, weights, [0.1] * 3 + [0.02] * 3, [0] * 3 + [0.3] * 3, strict=True
    ):
        expected = weight - lr * (parameter.grad + decay * weight)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-14, atol=1e-14)


def test_gradient_is_valid_after_the_step():
    parameters = make_parameters([torch.float64])
    optimizer = RTS(parameters, momentum=0.9, weight_decay=0.1, perturbing=False)
    set_gradients(parameters, 0, "some")
    expected = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    optimizer.step()
    optimizer.zero_grad()
    (flat,) = optimizer.gradient
    assert torch.equal(flat[flat != 0], expected)
