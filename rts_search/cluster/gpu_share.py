"""`gpu: auto`: the share of a GPU that a trial takes, measured by its memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from rts_search.spec.model import SweepSpec
from search_spaces.registry import TRAINING_RANGES
from trainables.config import OptimizerConfig, TrialConfig

MOST = 16  # trials on a GPU: more only take turns
STEPS = 20  # of a probe: more take no more memory
HEADROOM = 0.1  # of a GPU, kept free: allocators fragment, and trials differ
GIB = 2**30


class DeviceMemory(Protocol):
    """Reads the memory of the device that this process trains on, in bytes."""

    def total(self) -> int: ...

    def peak(self) -> int:
        """The most that this process has held, what its driver holds for it included."""


class CudaMemory:
    """The first visible GPU, which no other process may use meanwhile."""

    def total(self) -> int:
        import torch

        return int(torch.cuda.mem_get_info()[1])

    def peak(self) -> int:
        import torch

        free, total = torch.cuda.mem_get_info()
        context = total - free - torch.cuda.memory_reserved()  # CUDA's own, a few 100 MB
        return int(context + torch.cuda.max_memory_reserved())


@dataclass(frozen=True)
class Usage:
    """Bytes that a trial held at most, and that its GPU has."""

    peak: int
    total: int
    streams: bool = False  # its images stay on the host

    def share(self) -> float:
        """The part of a GPU to ask Ray for, 1/n for the n trials that fit beside each other.

        Raises ValueError if not even one does.
        """
        room = (1 - HEADROOM) * self.total
        if self.peak > self.total:
            raise ValueError(
                f"a trial takes {self.peak / GIB:.1f} GiB, and a GPU has {self.total / GIB:.1f}: "
                "lower train.batch_size or the model's size; trials over several GPUs are not built"
            )
        fit = min(MOST, max(1, math.floor(room / max(self.peak, 1))))
        return math.floor(1e4 / fit) / 1e4  # Ray counts in steps of 0.0001

    def __str__(self) -> str:
        trials = round(1 / self.share())
        streams = ", its images streaming" if self.streams else ""
        return (
            f"gpu auto: in a probe a trial took {self.peak / GIB:.2f} of {self.total / GIB:.1f} "
            f"GiB{streams}; {trials} trial{'s' if trials > 1 else ''} share a GPU"
        )


def probe_config(spec: SweepSpec) -> TrialConfig:
    """What is measured: PUGD, which holds most, at the largest batch size that is searched."""
    also = spec.search.also
    sizes: list[int] = []
    if "batch_size" in also:
        sizes = list(map(int, also["batch_size"] if isinstance(also, dict) else SIZES))
    train = spec.train.model_copy(
        update={"epochs": 1, "batch_size": max([spec.train.batch_size, *sizes])}
    )
    pugd = OptimizerConfig.model_validate({"family": "pugd"})
    return spec.base.model_copy(update={"train": train, "optimizer": pugd})


SIZES = TRAINING_RANGES["batch_size"]


def measure(config: TrialConfig, memory: DeviceMemory) -> Usage:
    """Train an epoch of some steps, evaluation included, in this process."""
    from trainables.loop import EVAL_BATCH, train
    from trainables.state import TrainingState

    state = TrainingState(config)
    state.data = state.data.first(STEPS * config.train.batch_size, EVAL_BATCH)
    for _ in islice(train(config, state, final=False), 1):
        pass
    return Usage(memory.peak(), memory.total(), state.data.streams)


def probe(spec: SweepSpec) -> Usage:
    """Measure on one GPU of the cluster, in a process of its own.

    Raises ValueError, in one line, if the probe fails, of too little memory for instance.
    """
    import ray

    task = ray.remote(num_gpus=1, num_cpus=spec.resources.cpu, max_calls=1)(_measure_on_gpu)
    try:
        usage: Usage = ray.get(task.remote(probe_config(spec)))
    except ray.exceptions.RayTaskError as error:
        reason = " ".join(str(error.cause or error).split())[-300:]
        raise ValueError(
            f"gpu auto: one trial alone on a GPU failed: {reason}; if it needs more memory than "
            "one GPU has, lower train.batch_size or the model's size"
        ) from None
    return usage


def _measure_on_gpu(config: TrialConfig) -> Usage:
    return measure(config, CudaMemory())
