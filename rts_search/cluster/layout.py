"""How many trials run at once, on which nodes, and what each gets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rts_search.spec.model import ResourcesConfig

EPSILON = 1e-9


@dataclass(frozen=True)
class Node:
    """What Ray has to give on one machine."""

    cpus: float
    gpus: float = 0.0
    address: str = ""
    node_id: str = ""

    def fits(self, cpu: float, gpu: float) -> int:
        """Trials at once: a trial never spans two nodes, and a fraction never two GPUs."""
        by_cpu = math.floor(self.cpus / cpu + EPSILON)
        return min(by_cpu, self.fits_gpus(gpu)) if gpu else by_cpu

    def fits_gpus(self, gpu: float) -> int:
        """Trials at once, were there CPUs enough."""
        each = math.floor(1 / gpu + EPSILON)
        return math.floor(self.gpus) * each if each else math.floor(self.gpus / gpu)


@dataclass(frozen=True)
class Layout:
    """Resources per trial, trials at once, and CPU threads per trial.

    `pending` of those trials have no node yet: they wait, and an autoscaling cluster adds nodes.
    With `grows` their number is what fits at any time, on nodes that join later too.
    """

    cpu: float
    gpu: float
    concurrent: int
    threads: int
    pending: int = 0
    grows: bool = False

    def __str__(self) -> str:
        gpu = f", {self.gpu:g} GPU" if self.gpu else ""
        return (
            f"{self.concurrent} trial{'s' if self.concurrent > 1 else ''} at once, each "
            f"{self.cpu:g} CPU{gpu} with {self.threads} thread{'s' if self.threads > 1 else ''}"
        )


def make_layout(
    resources: ResourcesConfig,
    nodes: Sequence[Node],
    gpu_share: float = 1.0,
    can_grow: bool = False,
) -> Layout:
    """The layout on these nodes.

    `gpu_share` is what `gpu: auto` means where there are GPUs. A cluster that `can_grow` is asked
    for all of `resources.concurrent` trials, whether they fit now or not, and without that number
    for one more than fit. Threads are whole CPUs of a trial: more threads than cores run at a
    fraction of the speed. Raises ValueError if not even one trial fits.
    """
    some_gpu = any(node.gpus for node in nodes)
    gpu = gpu_share * some_gpu if resources.gpu == "auto" else float(resources.gpu)
    fit = sum(node.fits(resources.cpu, gpu) for node in nodes)
    wanted = resources.concurrent or fit
    if fit == 0 and not (can_grow and resources.concurrent):
        raise ValueError(
            f"a trial asks for {resources.cpu:g} CPU and {gpu:g} GPU, but Ray has {has(nodes)}; "
            "lower resources.cpu or resources.gpu"
            + ("; or set resources.concurrent, and trials wait for new nodes" if can_grow else "")
        )
    concurrent = wanted if can_grow else min(fit, wanted)
    return Layout(
        resources.cpu,
        gpu,
        concurrent,
        threads=threads_of(resources),
        pending=max(0, concurrent - fit),
        grows=can_grow and resources.concurrent is None,
    )


def threads_of(resources: ResourcesConfig) -> int:
    return max(1, int(resources.cpu))


def has(nodes: Sequence[Node]) -> str:
    """As in `2 CPU and 0 GPU`, or `8 CPU and 2 GPU on its largest of 3 nodes`."""
    largest = max(nodes, key=lambda node: (node.gpus, node.cpus), default=Node(0))
    where = f" on its largest of {len(nodes)} nodes" if len(nodes) > 1 else ""
    return f"{largest.cpus:g} CPU and {largest.gpus:g} GPU{where}"


def explain(layout: Layout, nodes: Sequence[Node]) -> str:
    """One line: where the trials run, what limits their number, and what stays idle."""
    fits = [node.fits(layout.cpu, layout.gpu) for node in nodes]
    parts = [str(layout)]
    if len(nodes) > 1:
        parts.append(f"{' + '.join(map(str, fits))} fit on {len(nodes)} nodes")
    if layout.grows:
        parts.append("more as nodes join")
    if layout.pending:
        parts.append(f"{layout.pending} of them wait for nodes that an autoscaler may add")
    gpus = sum(node.gpus for node in nodes)
    if layout.gpu and sum(fits) < (by_gpu := sum(node.fits_gpus(layout.gpu) for node in nodes)):
        parts.append(f"the CPUs are the limit, the GPUs would take {by_gpu}: lower resources.cpu")
    elif gpus and not layout.gpu:
        parts.append(f"{gpus:g} GPU stay idle: trials are not given any")
    return "; ".join(parts)
