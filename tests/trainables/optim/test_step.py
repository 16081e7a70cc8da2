"""Properties of one perturbed step, the flat buffers under it, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from trainables.optim import ASAM, RTS, SAM, GradientMonitor, LossScale, PerturbedSGD
from trainables.optim.flat import ROW, norm

FAMILIES = [RTS, SAM, ASAM]
SHAPES = [(5, 3), (5,), (2, 5), (1,)]
seeds = st.integers(0, 2**31)


def make_parameters(seed: int, dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in SHAPES]


def loss_of(parameters: list[nn.Parameter], factor: float = 1.0) -> Tensor:
    """Smooth and without symmetry between the parameters."""
    terms = [torch.sin(p + 0.1 * i).square().sum() for i, p in enumerate(parameters)]
    return factor * (torch.stack([t.double() for t in terms]).sum() + terms[0].double() * terms[1])


def vector(parameters: list[nn.Parameter]) -> Tensor:
    return torch.cat([p.detach().double().flatten() for p in parameters])


def step(optimizer: PerturbedSGD, loss: Callable[[], Tensor]) -> Tensor:
    """One two-gradient step; returns the weights as they were while perturbed."""
    optimizer.zero_grad()
    loss().backward()
    optimizer.perturb()
    perturbed = vector([p for g in optimizer.param_groups for p in g["params"]])
    optimizer.zero_grad()
    loss().backward()
    optimizer.step()
    return perturbed


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@settings(max_examples=25, deadline=None)
@given(seed=seeds)
def test_weights_come_back_exactly(family, dtype, seed):
    parameters = make_parameters(seed, dtype)
    optimizer = family(parameters, lr=0.0, momentum=0.9, weight_decay=0.1)
    before = vector(parameters)
    for _ in range(3):
        perturbed = step(optimizer, lambda: loss_of(parameters))
        assert not torch.equal(perturbed, before)
        assert torch.equal(vector(parameters), before)


@settings(max_examples=50, deadline=None)
@given(seeds, st.floats(1e-2, 100), st.floats(0, 100))
def test_lengths_of_epsilon_and_direction(seed, radius, scale):
    parameters = make_parameters(seed)
    optimizer = RTS(parameters, lr=1.0, radius=radius, scale=scale)
    before = vector(parameters)
    epsilon = step(optimizer, lambda: loss_of(parameters)) - before
    assert epsilon.norm().item() == pytest.approx(radius, rel=1e-9)
    assert (before - vector(parameters)).norm().item() == pytest.approx(1.0, rel=1e-9)


@settings(max_examples=50, deadline=None)
@given(seeds, st.integers(-10, 20))
def test_epsilon_and_direction_ignore_a_factor_on_the_loss(seed, exponent):
    results = []
    for factor in (1.0, 3.0 * 2.0**exponent):
        parameters = make_parameters(seed)
        optimizer = RTS(parameters, lr=1.0, radius=0.5, scale=2.0)
        perturbed = step(optimizer, lambda p=parameters, f=factor: loss_of(p, f))
        results.append(torch.stack((perturbed, vector(parameters))))
    torch.testing.assert_close(results[0], results[1], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("family", FAMILIES)
def test_zero_gradient_moves_nothing(family):
    parameters = make_parameters(0)
    optimizer = family(parameters, momentum=0.9)
    before = vector(parameters)
    perturbed = step(optimizer, lambda: loss_of(parameters, 0.0))
    assert torch.equal(perturbed, before)
    assert torch.equal(vector(parameters), before)


def test_norms_span_groups_dtypes_and_skip_none():
    parameters = make_parameters(3)
    parameters[1] = nn.Parameter(parameters[1].detach().float())
    unused = nn.Parameter(torch.ones(4, dtype=torch.float64))
    groups = [
        {"params": [parameters[0], unused], "weight_decay": 0.5},
        {"params": parameters[1:], "lr": 0.5},
    ]
    optimizer = RTS(groups, lr=1.0, momentum=0.9, radius=0.7, scale=0.0)
    before = vector(parameters)
    everything = step(optimizer, lambda: loss_of(parameters))
    perturbed = torch.cat((everything[:15], everything[19:]))  # without `unused`
    assert (perturbed - before).norm().item() == pytest.approx(0.7, rel=1e-6)
    move = before - vector(parameters)
    move[:15] -= 0.5 * before[:15]
    move[15:] /= 0.5
    assert move.norm().item() == pytest.approx(1.0, rel=1e-6)
    assert torch.equal(unused.detach(), torch.ones(4, dtype=torch.float64))
    assert unused not in optimizer.state
    assert len(optimizer.gradient) == 2


def test_a_gradient_in_one_pass_only_still_updates():
    parameters = make_parameters(4)
    optimizer = RTS(parameters, lr=1.0, radius=1.0, scale=1.0)
    first, second = (torch.randn(p.shape, dtype=p.dtype) for p in parameters[:2])
    parameters[0].grad = first
    before = [p.detach().clone() for p in parameters]
    optimizer.perturb()
    optimizer.zero_grad()
    parameters[1].grad = second
    optimizer.step()
    length = torch.cat((first.flatten(), second)).norm()
    for index, gradient in enumerate((first, second)):
        expected = before[index] - gradient / length
        torch.testing.assert_close(parameters[index].detach(), expected)
    assert torch.equal(parameters[2].detach(), before[2])


def test_closure_gives_the_loss_at_w_and_counts_gradients():
    parameters, calls = make_parameters(5), []
    optimizer = RTS(parameters, radius=3.0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(parameters)
        loss.backward()
        calls.append(loss.item())
        return loss

    expected = loss_of(parameters).item()
    assert optimizer.step(closure).item() == expected
    assert len(calls) == 2
    assert calls[1] != expected
    optimizer.perturbing = False
    optimizer.step(closure)
    assert len(calls) == 3


def test_momentum_carries_over_when_perturbing_starts():
    parameters = make_parameters(6)
    optimizer = RTS(parameters, lr=1.0, momentum=0.5, perturbing=False)
    loss_of(parameters).backward()
    gradient = torch.cat([p.grad.flatten() for p in parameters])
    optimizer.step()
    before = vector(parameters)
    step(optimizer, lambda: loss_of(parameters))
    direction = before - vector(parameters) - 0.5 * gradient
    assert direction.norm().item() == pytest.approx(1.0, rel=1e-9)


def test_tied_weights_and_layouts_survive_flattening():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 16), nn.Linear(16, 16))
    model[3].weight = model[2].weight
    model = model.to(torch.float64).to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    untouched = copy.deepcopy(model)
    optimizer = RTS(model.parameters(), momentum=0.9)
    assert torch.equal(model(x), untouched(x))
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    before = vector(list(model.parameters()))
    perturbed = step(optimizer, lambda: model(x).square().mean())
    assert (perturbed - before).norm().item() == pytest.approx(1.0, rel=1e-9)
    assert model[3].weight is model[2].weight
    loaded = copy.deepcopy(model.state_dict())
    model.load_state_dict(loaded)  # in place: the optimizer goes on
    step(optimizer, lambda: model(x).square().mean())


def test_weights_may_be_changed_in_place_between_steps():
    ours, theirs = make_parameters(7), make_parameters(8)
    optimizer = RTS(ours)
    step(optimizer, lambda: loss_of(ours))
    with torch.no_grad():
        for a, b in zip(ours, theirs, strict=True):
            a.copy_(b)
    step(optimizer, lambda: loss_of(ours))
    step(RTS(theirs), lambda: loss_of(theirs))
    assert torch.equal(vector(ours), vector(theirs))


def test_norm_is_accurate_over_millions_of_elements():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1000 * ROW, generator=generator)
    assert norm([x]).item() == pytest.approx(x.double().norm().item(), rel=1e-6)
    assert norm([x, x.double()]).dtype == torch.float64


def test_settings_are_saved_with_the_state():
    optimizer = RTS(make_parameters(0), radius=2.0)
    optimizer.scale, optimizer.perturbing = 3.0, False
    other = RTS(make_parameters(1))
    other.load_state_dict(optimizer.state_dict())
    assert (other.radius, other.scale, other.perturbing) == (2.0, 3.0, False)


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        (RTS, {"lr": -0.1}, "lr must be finite and at least 0, not -0.1"),
        (RTS, {"lr": float("inf")}, "lr must be finite and at least 0, not inf"),
        (RTS, {"lr": float("nan")}, "lr must be finite and at least 0"),
        (RTS, {"momentum": -1}, "momentum"),
        (RTS, {"weight_decay": -1}, "weight_decay"),
        (RTS, {"nesterov": True}, "nesterov needs momentum above 0"),
        (RTS, {"radius": -1}, "radius"),
        (RTS, {"scale": float("nan")}, "scale"),
        (SAM, {"rho": -1}, "rho"),
        (ASAM, {"eta": -1}, "eta"),
    ],
)
def test_bad_settings_are_refused(family, options, message):
    with pytest.raises(ValueError, match=message):
        family(make_parameters(0), **options)


def test_bad_parameters_are_refused():
    parameters = make_parameters(0)
    with pytest.raises(ValueError, match="lr must be finite and at least 0"):
        RTS([{"params": parameters, "lr": -1}])
    with pytest.raises(ValueError, match="more than one parameter group"):
        RTS([{"params": parameters}, {"params": parameters[:1]}])
    with pytest.raises(ValueError, match="share memory"):
        RTS([nn.Parameter(parameters[0].detach()), nn.Parameter(parameters[0].detach()[1:])])
    with pytest.raises(ValueError, match="real floating-point"):
        RTS([nn.Parameter(torch.ones(3, dtype=torch.complex64))])


def test_misuse_is_refused():
    parameters = make_parameters(0)
    optimizer = RTS(parameters)
    saved = optimizer.state_dict()
    loss_of(parameters).backward()
    optimizer.perturb()
    with pytest.raises(RuntimeError, match="call step"):
        optimizer.perturb()
    with pytest.raises(RuntimeError, match="call step"):
        optimizer.load_state_dict(saved)
    with pytest.raises(RuntimeError, match="call step"):
        optimizer.step(lambda: loss_of(parameters))
    optimizer.restore()
    with pytest.raises(RuntimeError, match="constructor"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})


@pytest.mark.parametrize("when", ["step", "perturb"])
def test_replaced_storage_is_noticed(when):
    model = nn.Linear(3, 2)
    optimizer = RTS(model.parameters(), perturbing=False)
    model.to(torch.float64)
    with pytest.raises(RuntimeError, match="storage was replaced"):
        getattr(optimizer, when)()


def test_a_second_optimizer_takes_the_parameters_over():
    parameters = make_parameters(0)
    first, second = RTS(parameters, perturbing=False), RTS(parameters)
    step(second, lambda: loss_of(parameters))
    with pytest.raises(RuntimeError, match="storage was replaced"):
        first.step()


class Operations(TorchDispatchMode):
    """Records the name of every kernel called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.filterwarnings("ignore:no second gradient")  # both passes have the same
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scaled", [False, True])
def test_a_step_never_asks_the_host_and_has_few_kernels(family, scaled):
    parameters = [nn.Parameter(torch.randn(4)) for _ in range(200)]
    options = {"loss_scale": LossScale("cpu")} if scaled else {}
    optimizer = family(parameters, momentum=0.9, weight_decay=0.1, **options)
    monitor = GradientMonitor(2, norms=True, cosines=True, device="cpu")
    for parameter in parameters:
        parameter.grad = torch.randn(4)
    for _ in range(2):  # the first step also makes the buffers
        with Operations() as operations:
            optimizer.perturb()
            optimizer.step()
            monitor.observe(optimizer.gradient)
    assert not {"_local_scalar_dense", "is_nonzero", "_to_copy", "equal"} & set(operations.names)
    kernels = [n for n in operations.names if n not in ("view", "slice", "select")]
    assert len(kernels) <= 50, kernels  # for 200 parameters
