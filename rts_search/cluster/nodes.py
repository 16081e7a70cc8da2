"""A cluster's nodes, and the check that each loads the package and sees the storage."""

from __future__ import annotations

import uuid
from pathlib import Path

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from results.storage import SweepFolder
from rts_search.cluster.layout import Node
from rts_search.driver.lock import CONTROL

CHECK_SECONDS = 60.0  # a first task has to start a worker, and to import pyarrow there


def alive_nodes() -> list[Node]:
    """The nodes of the cluster that this process has joined, by address."""
    nodes = [
        Node(
            cpus=node["Resources"].get("CPU", 0.0),
            gpus=node["Resources"].get("GPU", 0.0),
            address=node["NodeManagerAddress"],
            node_id=node["NodeID"],
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
    return sorted(nodes, key=lambda node: node.address)


def check_nodes(folder: SweepFolder, nodes: list[Node]) -> None:
    """Each node must load this package, and read and write what the others do in the storage.

    A node that vanishes meanwhile is left out. Raises ValueError, in one line, naming the nodes
    that cannot.
    """
    mark = f"{CONTROL}/probe-{uuid.uuid4().hex[:8]}"
    folder.write(mark, b"")
    task = ray.remote(num_cpus=0, max_retries=0)(_see_storage)
    asked = {
        node: task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False)
        ).remote(folder, f"{mark}-{number}", mark)
        for number, node in enumerate(nodes)
    }
    problems = {}
    try:
        for node, answer in asked.items():
            try:
                ray.get(answer, timeout=CHECK_SECONDS)
            except RayTaskError as error:
                problems[node.address] = " ".join(str(error.cause or error).split())[-300:]
            except GetTimeoutError:
                problems[node.address] = f"no answer in {CHECK_SECONDS:g} s"
            except RayError:
                continue
    finally:
        for name in folder.files(CONTROL):
            if name.startswith(Path(mark).name):
                folder.delete(f"{CONTROL}/{name}")
    if problems:
        told = "; ".join(f"{address}: {problem}" for address, problem in problems.items())
        raise ValueError(
            f"{len(problems)} of {len(nodes)} nodes cannot work on {folder.uri}: {told}; use a "
            "storage that all nodes reach (s3://… or a shared volume), and rts-search submit, "
            "which ships this package"
        )


def _see_storage(folder: SweepFolder, own_mark: str, mark: str) -> None:
    if not folder.exists(mark):
        raise FileNotFoundError("it does not see what the head has written there")
    folder.write(own_mark, b"")
