"""The optimizer in loops that are not ours: torch's GradScaler, copies, errors, forgotten calls."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainables.optim import ASAM, RTS, SAM, LossScale, PerturbedSGD

FAMILIES = [RTS, SAM, ASAM]
X = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(8) % 3


def make_model(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)
    return nn.Sequential(*layers).to(dtype)


def loss_of(model: nn.Module) -> Tensor:
    dtype = next(model.parameters()).dtype
    return nn.functional.cross_entropy(model(X.to(dtype)), Y)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def step(model: nn.Module, optimizer: PerturbedSGD) -> None:
    optimizer.zero_grad()
    loss_of(model).backward()
    optimizer.perturb()
    optimizer.zero_grad()
    loss_of(model).backward()
    optimizer.step()


def scaled_step(
    model: nn.Module, optimizer: PerturbedSGD, scaler: Any, bad: str | None = None
) -> None:
    """A step with GradScaler; an inf appears in the named gradient, first or second."""
    for which in ("first", "second"):
        optimizer.zero_grad()
        scaler.scale(loss_of(model)).backward()
        if bad == which:
            model[3].weight.grad[0, 0] = float("inf")
        if which == "first":
            optimizer.perturb()
    scaler.step(optimizer)
    scaler.update()


@pytest.mark.parametrize("family", FAMILIES)
def test_grad_scaler_scales_both_gradients_and_skips_overflows(family):
    plain, scaled = make_model(torch.float64), make_model(torch.float64)
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    reference, optimizer = (family(m.parameters(), **options) for m in (plain, scaled))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    factors = []
    for bad in ["first", None, "second", "first", None]:
        before = weights(scaled)
        scaled_step(scaled, optimizer, scaler, bad)
        assert torch.isfinite(scaled[1].running_var).all()
        if bad is None:
            step(plain, reference)
        else:
            assert torch.equal(weights(scaled), before)
        factors.append(scaler.get_scale())
    torch.testing.assert_close(weights(scaled), weights(plain), rtol=1e-9, atol=1e-9)
    assert factors == [2.0**16, 2.0**16, 2.0**15, 2.0**15, 2.0**15]  # it sees the second only


def test_grad_scaler_in_plain_steps_is_torch_sgd():
    ours, theirs = make_model(), make_model()
    options = {"lr": 0.1, "momentum": 0.9}
    optimizer = RTS(ours.parameters(), perturbing=False, **options)
    reference = torch.optim.SGD(theirs.parameters(), **options)
    for model, opt in ((ours, optimizer), (theirs, reference)):
        scaler = torch.amp.GradScaler("cpu")
        for unscale in (False, True, True):
            opt.zero_grad()
            scaler.scale(loss_of(model)).backward()
            if unscale:
                scaler.unscale_(opt)
                nn.utils.clip_grad_norm_(model.parameters(), 0.01)
            scaler.step(opt)
            scaler.update()
    torch.testing.assert_close(weights(ours), weights(theirs))


@pytest.mark.parametrize("misuse", ["unscale_", "closure", "two scales"])
def test_grad_scaler_is_refused_where_it_would_go_wrong(misuse):
    model, scaler = make_model(), torch.amp.GradScaler("cpu")
    own = LossScale("cpu") if misuse == "two scales" else None
    optimizer = RTS(model.parameters(), loss_scale=own)
    before = weights(model)
    scaler.scale(loss_of(model)).backward()
    if misuse == "unscale_":
        scaler.unscale_(optimizer)
    message = {"unscale_": "leave it out", "closure": "no closure", "two scales": "two scales"}
    arguments = [lambda: loss_of(model)] if misuse == "closure" else []
    if not arguments:
        optimizer.perturb()
    with pytest.raises(RuntimeError, match=message[misuse]):
        scaler.step(optimizer, *arguments)
    optimizer.restore()
    assert torch.equal(weights(model), before)
    optimizer.loss_scale = None
    step(model, optimizer)  # nothing of the refused step is left


def test_one_autocast_block_around_everything_equals_a_block_each():
    results = []
    for together in (False, True):
        model = make_model()
        optimizer = RTS(model.parameters(), radius=2.0)
        losses = []

        def forward(model: nn.Module = model, losses: list[Tensor] = losses) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                losses.append(loss_of(model))
            return losses[-1]

        with torch.autocast("cpu", torch.bfloat16) if together else nullcontext():
            for kind in ("perturbed", "plain", "given up"):
                optimizer.perturbing = kind != "plain"
                optimizer.zero_grad()
                forward().backward()
                if optimizer.perturbing:
                    optimizer.perturb()
                    optimizer.zero_grad()
                    forward().backward()
                if kind == "given up":
                    optimizer.restore()
                else:
                    optimizer.step()
            forward()
        results.append(torch.stack(losses).detach())
    assert torch.equal(*results)


def pickled(pair: Any) -> Any:
    return pickle.loads(pickle.dumps(pair))


def saved(pair: Any) -> Any:
    file = io.BytesIO()
    torch.save(pair, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled, saved])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("swapped", [False, True])
def test_a_copied_pair_trains_on_as_the_original_does(copied, family, swapped):
    model = make_model()
    scale = LossScale("cpu", initial=4.0)
    optimizer = family(model.parameters(), lr=0.1, momentum=0.9, dampening=0.2, loss_scale=scale)
    step(model, optimizer)
    optimizer.param_groups[0]["lr"] = 0.05
    if family is RTS:
        optimizer.radius, optimizer.scale = 0.5, 3.0
    pair = (optimizer, model) if swapped else (model, optimizer)
    twin, twins = copied(pair)[::-1] if swapped else copied(pair)
    before = weights(model)
    step(twin, twins)
    assert torch.equal(weights(model), before)
    step(model, optimizer)
    assert torch.equal(weights(twin), weights(model))
    assert torch.equal(twins.loss_scale.factor, scale.factor)
    assert twins.state_dict().keys() == optimizer.state_dict().keys()
    moments = [o.state_dict()["state"][0]["momentum_buffer"] for o in (twins, optimizer)]
    assert torch.equal(*moments)


def test_a_copy_without_its_model_says_so_and_leaves_the_original():
    model = make_model()
    optimizer = RTS(model.parameters())
    twins = copy.deepcopy(optimizer)
    loss_of(model).backward()
    with pytest.raises(RuntimeError, match=r"without a gradient.*copy both at once"):
        twins.perturb()
    optimizer.perturb()
    with pytest.raises(RuntimeError, match=r"a copy between.*restore\(\)"):
        copy.deepcopy((model, optimizer))


def test_saving_a_layer_writes_that_layer():
    model = nn.Sequential(nn.Linear(1000, 1000), nn.Linear(10, 10))
    optimizer = RTS(model.parameters(), momentum=0.9, perturbing=False)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    momentum = optimizer.state_dict()["state"][2]
    for layer in (model[1].state_dict(), model[1].weight, momentum):
        file = io.BytesIO()
        torch.save(layer, file)
        assert len(file.getvalue()) < 5_000


@pytest.mark.parametrize("way", ["restore", "context", "closure"])
def test_an_error_in_the_second_pass_leads_back_to_w(way):
    ours, theirs = make_model(), make_model()
    optimizer, reference = RTS(ours.parameters(), lr=0.1), RTS(theirs.parameters(), lr=0.1)
    before, calls = weights(ours), []

    def closure() -> Tensor:
        if calls:
            assert not torch.equal(weights(ours), before)
            raise KeyboardInterrupt
        calls.append(True)
        return first_pass(ours, optimizer)

    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        if way == "closure":
            optimizer.step(closure)
        closure()
        if way == "context":
            with optimizer.perturbed():
                closure()
        optimizer.perturb()
        closure()
    if way == "restore":
        optimizer.restore()
    assert torch.equal(weights(ours), before)
    step(ours, optimizer)
    step(theirs, reference)
    assert torch.equal(weights(ours), weights(theirs))


def first_pass(model: nn.Module, optimizer: PerturbedSGD) -> Tensor:
    optimizer.zero_grad()
    loss = loss_of(model)
    loss.backward()
    return loss


def test_a_step_given_up_leaves_no_overflow_to_the_next():
    model = make_model()
    optimizer = RTS(model.parameters(), loss_scale=LossScale("cpu"))
    first_pass(model, optimizer)
    model[3].weight.grad[0, 0] = float("inf")
    before = weights(model)
    optimizer.perturb()
    optimizer.restore()
    step(model, optimizer)
    assert not torch.equal(weights(model), before)


def test_the_context_is_at_w_again_before_the_step():
    ours, theirs = make_model(), make_model()
    optimizer = RTS(ours.parameters(), lr=0.1)
    before = weights(ours)
    first_pass(ours, optimizer)
    with optimizer.perturbed():
        assert (weights(ours) - before).norm() == pytest.approx(1.0, rel=1e-5)
        first_pass(ours, optimizer)
    assert torch.equal(weights(ours), before)
    with pytest.raises(RuntimeError, match=r"perturb\(\) between perturb\(\) and step\(\)"):
        optimizer.perturb()
    optimizer.step()
    step(theirs, RTS(theirs.parameters(), lr=0.1))
    assert torch.equal(weights(ours), weights(theirs))


def test_state_dict_warns_at_perturbed_weights_only():
    model = make_model()
    optimizer = RTS(model.parameters())
    first_pass(model, optimizer)
    with optimizer.perturbed(), pytest.warns(UserWarning, match=r"holds w \+ ε"):
        optimizer.state_dict()
    assert warnings_of(optimizer.state_dict) == []


def warnings_of(call: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(warning.message) for warning in caught]


def test_a_plain_step_of_a_perturbing_optimizer_warns_once():
    model = make_model()
    optimizer = RTS(model.parameters())

    def plain() -> None:
        for _ in range(3):
            first_pass(model, optimizer)
            optimizer.step()

    (message,) = warnings_of(plain)
    assert "plain SGD step" in message
    assert "perturbing = False" in message
    optimizer = RTS(model.parameters(), perturbing=False)
    assert warnings_of(plain) == []
    optimizer.perturbing = True
    assert warnings_of(lambda: optimizer.step(lambda: first_pass(model, optimizer))) == []
    with pytest.warns(UserWarning, match="plain SGD") as caught:
        optimizer.step()
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("between", "warned"),
    [
        ("backward", True),
        ("zero_grad", True),
        ("", True),
        ("zero_grad backward", False),
        ("zero_grad backward backward", False),
        ("in_place backward", False),
        ("in_place backward backward", False),
        ("model backward", False),
    ],
)
def test_a_second_gradient_that_is_missing_or_added_to_the_first_is_noticed(between, warned):
    model = make_model()
    optimizer = RTS(model.parameters())
    calls = {
        "backward": lambda: loss_of(model).backward(),
        "zero_grad": optimizer.zero_grad,
        "in_place": lambda: optimizer.zero_grad(set_to_none=False),
        "model": model.zero_grad,
    }

    def two_steps() -> None:
        for _ in range(2):
            first_pass(model, optimizer)
            optimizer.perturb()
            for name in between.split():
                calls[name]()
            optimizer.step()

    messages = warnings_of(two_steps)
    assert len(messages) == warned
    assert all("no second gradient" in message for message in messages)


def test_settings_are_kept_as_numbers_whatever_was_given():
    optimizer = RTS(make_model().parameters(), radius=np.float64(0.5), scale=torch.tensor(0.25))
    settings = optimizer.state_dict()["perturbation"]
    assert settings == {"radius": 0.5, "scale": 0.25, "perturbing": True}
    assert {type(settings["radius"]), type(settings["scale"])} == {float}


@pytest.mark.parametrize(
    ("family", "name"),
    [(RTS, "radius"), (RTS, "scale"), (SAM, "rho"), (ASAM, "rho"), (ASAM, "eta")],
)
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_settings_are_checked_whenever_they_are_set(family, name, value):
    optimizer = family(make_model().parameters())
    before = getattr(optimizer, name)
    with pytest.raises(ValueError, match=f"{name} must be finite and at least 0, not {value}"):
        setattr(optimizer, name, value)
    state = optimizer.state_dict()
    state["perturbation"][name] = value
    with pytest.raises(ValueError, match=name):
        optimizer.load_state_dict(state)
    assert getattr(optimizer, name) == before
    setattr(optimizer, name, 0)
    assert getattr(optimizer, name) == 0


def test_sparse_gradients_are_named():
    model = nn.Embedding(10, 3, sparse=True)
    optimizer = RTS(model.parameters())
    model(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(RuntimeError, match=r"sparse gradients.*sparse=False"):
        optimizer.perturb()
