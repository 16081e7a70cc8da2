"""The recipes of docs/optimizer.md, as they stand there, against the NumPy reference."""

from __future__ import annotations

import math
import multiprocessing
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.reference import optimizer as reference
from tests.reference.optimizer import Arrays
from trainables.optim import RTS, SAM

PAGE = Path(__file__).parents[3] / "docs" / "optimizer.md"
STEPS, ROWS = 20, 16
BATCHES = [reference.make_data(200 + step, ROWS) for step in range(STEPS)]
SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "dampening": 0.0, "nesterov": False}
PUGD = {"radius": 1.0, "scale": 1.0}
Gradient = Callable[[Arrays], Arrays]


def recipes() -> dict[str, str]:
    """The page's Python blocks by heading; the second one under a heading ends in 2."""
    found: dict[str, str] = {}
    pattern = re.compile(r"^#+ (.+?)$|^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
    heading = ""
    for title, code in pattern.findall(PAGE.read_text("utf-8")):
        if title:
            heading = title
        else:
            found[heading if heading not in found else f"{heading} 2"] = code
    return found


def make_model(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """The reference's MLP."""
    model = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 4)).to(dtype)
    with torch.no_grad():
        for parameter, weight in zip(model.parameters(), reference.initial_weights(0), strict=True):
            parameter.copy_(torch.from_numpy(weight.T))  # torch's matrices are transposed
    return model


def arrays(parameters: Any) -> Arrays:
    return [p.detach().double().numpy().T for p in parameters]


def run(heading: str, model: nn.Module, batches: Any = BATCHES) -> dict[str, Any]:
    """Executes a recipe, warnings as errors, and returns its names."""
    dtype = next(model.parameters()).dtype
    names = {
        "torch": torch,
        "device": "cpu",
        "model": model,
        "criterion": nn.CrossEntropyLoss(),
        "batches": [(torch.from_numpy(x).to(dtype), torch.from_numpy(y)) for x, y in batches],
        "optimizer": RTS(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4),
        "clip_grad_norm_": nn.utils.clip_grad_norm_,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(compile(recipes()[heading], f"{PAGE}: {heading}", "exec"), names)
    return names


def expected(
    batches: Any = BATCHES,
    change: Callable[[Arrays], Arrays] = lambda g: g,
    at: Callable[[int], dict[str, Any]] = lambda step: {},
    plain_until: int = 0,
) -> list[Arrays]:
    """The reference's weights after each step; `change` is done to each gradient, `at` says a
    step's settings."""
    weights, buffers, trace = reference.initial_weights(0), [None] * 4, []
    for step, (x, y) in enumerate(batches):
        rule = {**PUGD, **SGD, **at(step)}

        def gradient(w: Arrays, x: np.ndarray = x, y: np.ndarray = y) -> Arrays:
            return change(reference.loss_and_gradient(w, x, y)[1])

        if step < plain_until:
            reference.sgd(weights, gradient(weights), buffers, [rule] * 4)
        else:
            reference.perturbed_step("rts", weights, buffers, gradient, rule, [rule] * 4)
        trace.append([w.copy() for w in weights])
    return trace


def distance(ours: Arrays, theirs: Arrays) -> float:
    """The largest difference of an element, relative to the largest weight."""
    largest = max(abs(w).max() for w in theirs)
    return max(float(abs(a - b).max()) for a, b in zip(ours, theirs, strict=True)) / largest


def clip(gradient: Arrays) -> Arrays:
    return reference.clipped(gradient, 0.2)


def scheduled(step: int) -> dict[str, Any]:
    return {
        "radius": reference.alpha("isin", 0.5, 4.0, step, STEPS),
        "lr": 0.1 * (1 + math.cos(math.pi * step / STEPS)) / 2,
    }


CASES: dict[str, dict[str, Any]] = {
    "In a loop of your own": {},
    "Closure, and plain SGD first": {"plain_until": STEPS // 2},
    "GradScaler": {},
    "Accumulation": {},
    "Clipping": {"change": clip},
    "Clipping 2": {"change": clip},
    "Schedulers": {"at": scheduled},
}
OTHERS = {"Autocast", "DistributedDataParallel", "Batch norm", "Averaged weights"}


def test_every_recipe_is_tested():
    assert set(recipes()) == set(CASES) | OTHERS


@pytest.mark.parametrize("heading", CASES)
def test_recipe_equals_the_reference(heading):
    model = make_model()
    run(heading, model)
    tolerance = 1e-6 if heading == "Clipping 2" else 1e-10  # torch adds 1e-6 to the scaled norm
    assert distance(arrays(model.parameters()), expected(**CASES[heading])[-1]) < tolerance
    if CASES[heading]:  # the setting makes a difference
        assert distance(arrays(model.parameters()), expected()[-1]) > 1e-3


def test_autocast_around_both_passes_is_near_the_reference():
    model = make_model(torch.float32)
    run("Autocast", model, BATCHES[:8])
    ours = arrays(model.parameters())
    assert distance(ours, expected(BATCHES[:8])[-1]) < 0.005  # bf16 has 8 bits
    unperturbed = expected(BATCHES[:8], at=lambda step: {"radius": 0.0})[-1]
    assert distance(ours, unperturbed) > 0.05


def test_batch_norm_takes_the_first_pass_alone():
    model = nn.Sequential(nn.BatchNorm1d(6, affine=False, dtype=torch.float64), make_model())
    run("Batch norm", model)
    normalised = [((x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5), y) for x, y in BATCHES]
    assert distance(arrays(model.parameters()), expected(normalised)[-1]) < 1e-10
    mean, variance = np.zeros(6), np.ones(6)
    for x, _ in BATCHES:
        mean, variance = 0.9 * mean + 0.1 * x.mean(0), 0.9 * variance + 0.1 * x.var(0, ddof=1)
    np.testing.assert_allclose(model[0].running_mean.numpy(), mean, rtol=1e-10)
    np.testing.assert_allclose(model[0].running_var.numpy(), variance, rtol=1e-10)


def test_averaged_weights_are_those_after_each_step():
    average = run("Averaged weights", make_model())["average"]
    trace = expected()
    wanted = trace[0]
    for weights in trace[1:]:
        wanted = [0.9 * a + 0.1 * w for a, w in zip(wanted, weights, strict=True)]
    assert distance(arrays(average.module.parameters()), wanted) < 1e-10


def rank_main(rank: int, folder: str) -> None:
    """One of two processes: its half of each batch; writes what it ends with."""
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    half = slice(rank * ROWS // 2, (rank + 1) * ROWS // 2)
    batches = [(x[half], y[half]) for x, y in BATCHES]
    model = make_model()
    run("DistributedDataParallel", model, batches)
    ends = {"averaged": arrays(model.parameters())}

    for name, family in {"own, SAM": SAM, "own, RTS": RTS}.items():
        model = make_model()
        ddp = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
        optimizer = family(model.parameters(), lr=0.1)
        for x, y in batches:
            ends[name] = own_epsilon(ddp, optimizer, torch.from_numpy(x), torch.from_numpy(y))

    torch.distributed.fsdp.fully_shard(
        model := make_model(), mesh=torch.distributed.init_device_mesh("cpu", (2,))
    )
    with pytest.raises(ValueError, match=r"plain tensors, not DTensor \(FSDP2"):
        RTS(model.parameters())
    torch.save(ends, f"{folder}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


def own_epsilon(ddp: Any, optimizer: Any, x: torch.Tensor, y: torch.Tensor) -> Arrays:
    optimizer.zero_grad()
    with ddp.no_sync():
        nn.functional.cross_entropy(ddp(x), y).backward()
    with optimizer.perturbed():
        optimizer.zero_grad()
        nn.functional.cross_entropy(ddp(x), y).backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
    return arrays(ddp.parameters())


def test_ddp_averages_and_each_process_may_have_its_own_epsilon(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    ranks = [spawn.Process(target=rank_main, args=(rank, str(tmp_path))) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    assert [process.exitcode for process in ranks] == [0, 0]
    first, second = (torch.load(tmp_path / f"rank{r}.pt", weights_only=False) for r in (0, 1))
    wanted = expected()[-1]  # on the whole batches
    assert distance(first["averaged"], wanted) < 1e-10
    assert distance(second["averaged"], first["averaged"]) == 0
    assert distance(second["own, SAM"], first["own, SAM"]) == 0
    assert distance(second["own, RTS"], first["own, RTS"]) > 1e-3  # as the page warns
