"""A thousand short trials on a cluster, with a random fault every few seconds. `make soak`.

`RTS_SOAK_TRIALS` and `RTS_SOAK_SEED` change how many, and which faults.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.sweeps.cluster import Cluster, Node, unavailable
from tests.sweeps.watch import ClusterSweep, failures, workers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.very_slow,
    pytest.mark.faults,
    pytest.mark.soak,
    pytest.mark.skipif(unavailable() is not None, reason=str(unavailable())),
]
TRIALS = int(os.environ.get("RTS_SOAK_TRIALS", "1000"))
SEED = int(os.environ.get("RTS_SOAK_SEED", str(int(time.time()) % 100_000)))
PAUSE = (4.0, 10.0)  # seconds between two faults


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as cluster:
        for cpus in (0, 2, 2):
            cluster.add(cpus)
        yield cluster


class Faults:
    """What can happen to the cluster, each drawn as often as it is listed."""

    def __init__(self, cluster: Cluster, rng: random.Random) -> None:
        self.cluster, self.rng = cluster, rng
        self.done: Counter[str] = Counter()
        self.kinds: list[Callable[[], None]] = [
            *[self.worker_killed] * 4, *[self.network_cut] * 2, *[self.raylet_frozen] * 2,
            self.node_killed, self.driver_killed,
        ]  # fmt: skip

    def one(self) -> None:
        fault = self.rng.choice(self.kinds)
        with suppress(IndexError):  # there is none to kill just now
            fault()
            self.done[fault.__name__] += 1

    def node(self) -> Node:
        return self.rng.choice(self.cluster.nodes[1:])

    def worker_killed(self) -> None:
        kill(self.rng.choice([w for node in self.cluster.nodes for w in workers(node)]))

    def network_cut(self) -> None:
        node = self.node()
        node.cut()
        time.sleep(3)
        node.mend()

    def raylet_frozen(self) -> None:
        for raylet in self.node().processes("raylet/raylet"):
            raylet.send_signal(signal.SIGSTOP)
            time.sleep(3)
            raylet.send_signal(signal.SIGCONT)

    def node_killed(self) -> None:
        node = self.node()
        node.kill()
        self.cluster.start(node, cpus=2)

    def driver_killed(self) -> None:
        for process in self.cluster.head.processes("python"):
            with suppress(psutil.Error):
                if "rts_search.cli" in process.cmdline():
                    kill(process)


def kill(process: psutil.Process) -> None:
    with suppress(psutil.Error):
        process.send_signal(signal.SIGKILL)


def test_a_thousand_trials_under_faults(cluster: Cluster) -> None:
    rng = random.Random(SEED)
    print(f"\nseed {SEED}, {TRIALS} trials")
    faults, began = Faults(cluster, rng), time.monotonic()
    with ClusterSweep(
        cluster,
        str(cluster.home / "sweeps"),
        data={"train_size": 300},
        model={"name": "mlp", "args": {"width": 8}},
        train={"epochs": 3},
        search={"trials": TRIALS, "sampler": "random"},
        stop={"first_rung": 1},
        resources={"retries": 50},
        checkpoint={"every_seconds": 1},
    ) as sweep:
        process = sweep.submit("--max-retries", "100")
        sweep.wait_for_epochs(10)
        while process.poll() is None:
            faults.one()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=rng.uniform(*PAUSE))
            revive(cluster)
        rows = sweep.finish(process, limit=60)
    told = ", ".join(f"{count} × {kind}" for kind, count in faults.done.most_common())
    print(f"{sum(faults.done.values())} faults in {time.monotonic() - began:.0f} s: {told}")
    assert not failures(rows)


def revive(cluster: Cluster) -> None:
    """A node that Ray took for dead ends by itself: bring it back, as a cloud would."""
    for node in cluster.nodes[1:]:
        if node.process is not None and node.process.poll() is not None:
            node.kill()
            cluster.start(node, cpus=2)
