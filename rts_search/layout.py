"""How many trials run at once, and what each gets."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rts_search.spec import ResourcesConfig


@dataclass(frozen=True)
class Layout:
    """Resources per trial, trials at once, and CPU threads per trial."""

    cpu: float
    gpu: float
    concurrent: int
    threads: int

    def __str__(self) -> str:
        gpu = f", {self.gpu:g} GPU" if self.gpu else ""
        return (
            f"{self.concurrent} trials at once, each {self.cpu:g} CPU{gpu} "
            f"with {self.threads} thread{'s' if self.threads > 1 else ''}"
        )


def make_layout(resources: ResourcesConfig, cpus: float, gpus: float) -> Layout:
    """The layout on a cluster of so many CPUs and GPUs.

    Threads are whole CPUs of a trial: more threads than cores run at a fraction of the speed.
    Raises ValueError if not even one trial fits.
    """
    gpu = (1.0 if gpus else 0.0) if resources.gpu == "auto" else float(resources.gpu)
    if resources.cpu > cpus or gpu > gpus:
        raise ValueError(
            f"a trial asks for {resources.cpu:g} CPU and {gpu:g} GPU, but Ray has {cpus:g} CPU and "
            f"{gpus:g} GPU; lower resources.cpu or resources.gpu"
        )
    fit = math.floor(cpus / resources.cpu + 1e-9)
    if gpu:  # a fraction never spans two GPUs
        each = math.floor(1 / gpu + 1e-9)
        fit = min(fit, math.floor(gpus) * each if each else math.floor(gpus / gpu))
    concurrent = min(fit, resources.concurrent or fit)
    return Layout(resources.cpu, gpu, concurrent, max(1, int(resources.cpu)))
