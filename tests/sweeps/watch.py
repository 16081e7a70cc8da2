"""A sweep on a cluster under faults: submitted as a user does, its ledger read all the time."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import yaml

from results.database import query
from tests.sweeps.cluster import Cluster, Node
from tests.sweeps.harness import check_tables

SPEC: dict[str, Any] = {
    "name": "faulty",
    "data": {"name": "digits", "validation_fraction": 0.2},
    "model": {"name": "cnn", "args": {"width": 16}},
    "train": {"epochs": 45, "batch_size": 50},
    "space": "rts",
    "search": {"trials": 8, "controls": True},
    "stop": {"policy": "asha", "fidelity": "epoch", "first_rung": 5, "eta": 3},
    "checkpoint": {"every_seconds": 0, "keep_top": 2},
}


class ClusterSweep:
    """A sweep that is handed in to the cluster; a context manager that reads its ledger
    meanwhile, and fails if it ever could not, unless `unreadable` allows it for a while."""

    def __init__(self, cluster: Cluster, storage: str, **changes: Any) -> None:
        self.cluster, self.storage = cluster, storage
        content = json.loads(json.dumps(SPEC | {"storage": storage}))
        for key, value in changes.items():
            content[key] = {**content.get(key, {}), **value} if isinstance(value, dict) else value
        self.name, self.trials = content["name"], content["search"]["trials"]
        self.home = cluster.home / "work"
        self.home.mkdir(exist_ok=True)
        (self.home / "spec.yaml").write_text(yaml.safe_dump(content), "utf-8")
        self.problems: list[str] = []
        self.reads = 0
        self.unreadable = threading.Event()
        self._done = threading.Event()
        self._reader = threading.Thread(target=self._read_on)

    def __enter__(self) -> ClusterSweep:
        self._reader.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._reader.join()

    def submit(self, *options: str) -> subprocess.Popen[str]:
        arguments = ("spec.yaml", "--address", self.cluster.dashboard, *options)
        return self.cluster.cli(self.home, "submit", *arguments)

    def ask(self, sql: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = query(self.storage, sql, [self.name]).to_pylist()
        return rows

    def epochs(self) -> int:
        """Rows of epochs so far."""
        try:
            return int(self.ask("SELECT count(*) AS n FROM epochs")[0]["n"])
        except (ValueError, OSError):
            return 0

    def wait_for_epochs(self, count: int, limit: float = 120) -> None:
        wait_until(lambda: self.epochs() >= count, limit, self.cluster)

    def finish(
        self, process: subprocess.Popen[Any], limit: float = 600, code: int = 0
    ) -> pd.DataFrame:
        """The sweep's trials once it has ended so, after checks of the whole ledger."""
        output, _ = process.communicate(timeout=limit)
        assert process.returncode == code, output
        self._done.set()
        self._reader.join()
        assert not self.problems, self.problems
        assert self.reads > 3
        rows = pd.DataFrame(self.ask("SELECT * FROM trials"))
        epochs = pd.DataFrame(self.ask("SELECT * FROM epochs"))
        checked = check_tables(rows, epochs, self.trials)
        ends = ", ".join(f"{n} {outcome}" for outcome, n in rows.outcome.value_counts().items())
        print(
            f"\n  {len(rows)} trials ({ends}), {rows.retries.sum()} retries; "
            f"{len(epochs):,} epochs, each once; the ledger was read {self.reads} times"
        )
        return checked

    def _read_on(self) -> None:
        while not self._done.wait(0.5):
            try:
                self.ask("SELECT outcome, count(*) FROM trials JOIN epochs USING (sweep, trial_id) "
                         "GROUP BY outcome")  # fmt: skip
                self.reads += 1
            except ValueError as error:
                if "no sweeps in" not in str(error):  # it has not begun
                    self.problems.append(str(error))
            except OSError as error:
                if not self.unreadable.is_set():
                    self.problems.append(str(error))


def wait_until(condition: Callable[[], bool], limit: float, cluster: Cluster) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain; the head's log: {head_log(cluster)}"
        time.sleep(0.3)


def head_log(cluster: Cluster) -> str:
    """The drivers' output, as the head keeps it, and its own."""
    logs = [cluster.head.home / "log"]
    logs += sorted(Path(cluster.head.home).glob("tmp/session_2*/logs/job-driver-*.log"))
    return "\n".join(path.read_text("utf-8")[-2000:] for path in logs)


def workers(node: Node) -> list[psutil.Process]:
    return node.processes("ray::TrialRunne")  # the kernel keeps 15 letters


def wait_for_work(cluster: Cluster, *nodes: Node) -> None:
    """Until each of the nodes has trained for some seconds."""

    def busy(node: Node) -> bool:
        return any(sum(worker.cpu_times()[:2]) > 5 for worker in workers(node))

    wait_until(lambda: all(map(busy, nodes)), 120, cluster)


def failures(rows: object) -> list[str]:
    return list(rows[rows.outcome.isin(["failed", "out_of_memory"])].message)  # type: ignore[index]
