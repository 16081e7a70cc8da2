"""`gpu: auto` with a fake reader of device memory; on a GPU, with the real one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rts_search.cluster import gpu_share
from rts_search.cluster.gpu_share import (
    GIB,
    HEADROOM,
    MOST,
    CudaMemory,
    Usage,
    measure,
    probe_config,
)
from rts_search.spec.model import SweepSpec
from rts_search.spec.reading import load_spec
from trainables.optim import RTS

SPEC = "data: {name: digits, train_size: 200}\nmodel: {name: mlp, args: {width: 8}}\n"


@dataclass
class FakeMemory:
    """Counts what the process holds by what the optimizer has perturbed."""

    perturbed: int = 0

    def total(self) -> int:
        return 8 * GIB

    def peak(self) -> int:
        return self.perturbed


def test_a_trial_is_measured_while_it_perturbs(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, original = FakeMemory(), RTS.perturb

    def counted(optimizer: RTS, *arguments: Any) -> Any:
        memory.perturbed += 1
        return original(optimizer, *arguments)

    monkeypatch.setattr(RTS, "perturb", counted)
    config = probe_config(load_spec(SPEC + "train: {batch_size: 20}"))
    usage = measure(config, memory)
    assert usage == Usage(peak=9, total=8 * GIB)  # 180 images in batches of 20, one epoch
    memory.perturbed = 0
    monkeypatch.setattr(gpu_share, "STEPS", 4)  # of a longer one, some steps
    usage = measure(config.placed("cpu", "stream"), memory)
    assert usage == Usage(peak=4, total=8 * GIB, streams=True)


@pytest.mark.parametrize(
    ("also", "expected"),
    [
        ("[]", 128),
        ("[batch_size]", 500),
        ("{batch_size: [32, 64]}", 128),
        ("{batch_size: [32, 1024]}", 1024),
        ("[lr]", 128),
    ],
)
def test_the_largest_batch_is_measured(also: str, expected: int) -> None:
    config = probe_config(load_spec(f"search: {{also: {also}}}"))
    assert config.train.batch_size == expected
    assert config.optimizer.family == "pugd"
    assert config.train.epochs == 1


@given(st.integers(1, 80 * GIB), st.integers(4 * GIB, 80 * GIB))
def test_what_is_packed_fits(peak: int, total: int) -> None:
    usage = Usage(peak, total)
    if peak > total:
        with pytest.raises(ValueError, match="trials over several GPUs are not built"):
            usage.share()
        return
    share = usage.share()
    trials = int(1 / share + 1e-9)
    assert 0 < share <= 1
    assert trials <= MOST
    assert trials == 1 or trials * peak <= (1 - HEADROOM) * total * 1.0001


def test_the_probe_is_told_in_a_line() -> None:
    assert str(Usage(3 * GIB, 16 * GIB)) == (
        "gpu auto: in a probe a trial took 3.00 of 16.0 GiB; 4 trials share a GPU"
    )
    assert "GiB, its images streaming; 4 trials" in str(Usage(3 * GIB, 16 * GIB, streams=True))


def test_a_space_is_probed_by_its_base() -> None:
    assert probe_config(SweepSpec()).model == SweepSpec().model


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_gpu() -> None:
    usage = measure(probe_config(load_spec(SPEC)), CudaMemory())
    assert 10e6 < usage.peak < usage.total
    assert usage.share() < 1
