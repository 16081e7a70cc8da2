"""Sweeps on a cluster of three nodes while a cluster does what clusters do. `make faults`."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.s3 import ENVIRONMENT, new_storage, serve_s3
from tests.sweeps.cluster import Cluster, unavailable
from tests.sweeps.watch import ClusterSweep, failures, wait_for_work, wait_until, workers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.very_slow,
    pytest.mark.faults,
    pytest.mark.skipif(unavailable() is not None, reason=str(unavailable())),
]
MINUTE = 60.0


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head that trains nothing, and two nodes that do."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with Cluster(tmp_path) as cluster:
        cluster.add(cpus=0)
        cluster.add(cpus=2)
        cluster.add(cpus=2)
        yield cluster


@pytest.fixture
def storage(cluster: Cluster) -> str:
    """A folder that all nodes see, as a shared volume."""
    return str(cluster.home / "sweeps")


def test_a_worker_is_killed(cluster: Cluster, storage: str) -> None:
    with ClusterSweep(cluster, storage) as sweep:
        process = sweep.submit("--follow")
        wait_for_work(cluster, *cluster.nodes[1:])
        killed = next(worker for node in cluster.nodes for worker in workers(node))
        killed.send_signal(signal.SIGKILL)
        rows = sweep.finish(process)
    assert rows.retries.sum() == 1
    assert not failures(rows)


def test_a_node_is_killed_and_another_one_added(cluster: Cluster, storage: str) -> None:
    long = {"stop": {"policy": "none"}, "search": {"trials": 30}}  # the new node needs 20 s
    with ClusterSweep(cluster, storage, resources={"retries": 0}, **long) as sweep:
        process = sweep.submit("--follow")
        wait_for_work(cluster, *cluster.nodes[1:])
        cluster.nodes[2].kill()
        added = cluster.add(cpus=2)
        wait_for_work(cluster, added)
        rows = sweep.finish(process)
    assert rows.retries.sum() >= 1  # with retries 0: it does not count as a failure
    assert not failures(rows)
    assert added.name in set(rows.host)


def test_the_head_is_killed(cluster: Cluster, storage: str) -> None:
    with ClusterSweep(cluster, storage) as sweep:
        process = sweep.submit("--follow", "--max-retries", "1")
        sweep.wait_for_epochs(30)
        before = sweep.ask("SELECT trial_id, ended FROM trials WHERE ended IS NOT NULL")
        for node in cluster.nodes:  # without their head the others end by themselves, later
            node.kill()
        for node in cluster.nodes:
            cluster.start(node, cpus=0 if node is cluster.head else 2)
        rows = sweep.finish(process)
    for row in before:
        assert rows.ended[row["trial_id"]] == row["ended"]  # it did not run again
    assert not failures(rows)


def test_a_raylet_is_frozen_for_a_minute(cluster: Cluster, storage: str) -> None:
    with ClusterSweep(cluster, storage) as sweep:
        process = sweep.submit("--follow")
        wait_for_work(cluster, *cluster.nodes[1:])
        raylet = cluster.nodes[1].processes("raylet")[0]
        raylet.send_signal(signal.SIGSTOP)
        time.sleep(MINUTE)
        raylet.send_signal(signal.SIGCONT)
        rows = sweep.finish(process)
    assert not failures(rows)


def test_the_network_is_cut_and_mended(cluster: Cluster, storage: str) -> None:
    with ClusterSweep(cluster, storage) as sweep:
        process = sweep.submit("--follow")
        wait_for_work(cluster, *cluster.nodes[1:])
        cluster.nodes[1].cut()
        time.sleep(MINUTE)
        cluster.nodes[1].mend()
        rows = sweep.finish(process)
    assert not failures(rows)


def test_the_object_store_is_down_for_a_minute(cluster: Cluster) -> None:
    with (
        serve_s3(cluster.gateway) as server,
        ClusterSweep(cluster, new_storage(server)) as sweep,
    ):
        process = sweep.submit("--follow")
        sweep.wait_for_epochs(20)
        sweep.unreadable.set()
        with refused(server):
            time.sleep(MINUTE)
        time.sleep(10)  # a read that began while it was down may still wait
        sweep.unreadable.clear()
        rows = sweep.finish(process)
    assert not failures(rows)
    assert rows.retries.sum() == 0


class refused:
    """New connections to a server on this machine are refused. (Those under way go on, for moto
    would keep half of an upload that is cut.)"""

    def __init__(self, server: str) -> None:
        host, port = server.split(":")
        self.rule = ["INPUT", "-d", host, "-p", "tcp", "--dport", port, "--syn", "-j", "REJECT",
                     "--reject-with", "tcp-reset"]  # fmt: skip

    def __enter__(self) -> None:
        subprocess.run(["iptables", "-I", *self.rule], check=True)

    def __exit__(self, *exception: object) -> None:
        subprocess.run(["iptables", "-D", *self.rule], check=True)


USER_MODULE = '''
"""One's own space and model: trials that hang, or that raise."""
import time
import torch
from torch import nn

def some_hang(trial):
    kind = trial.suggest_categorical("kind", ["fine", "hangs"])
    return {"model": {"name": "faulty_user:model", "args": {"kind": kind}}}

def all_raise(trial):
    seen = trial.suggest_float("seen", 0, 1)
    return {"model": {"name": "faulty_user:model", "args": {"kind": "raises", "seen": seen}}}

class Faulty(nn.Module):
    def __init__(self, kind, shape, classes):
        super().__init__()
        self.kind, self.layers = kind, nn.Linear(shape[0] * shape[1] * shape[2], classes)

    def forward(self, x):
        if self.kind == "hangs":
            time.sleep(3600)
        if self.kind == "raises":
            raise RuntimeError("the user's model broke")
        return self.layers(x.flatten(1))

def model(num_classes, image_shape, kind="fine", seen=0.0):
    return Faulty(kind, image_shape, num_classes)
'''


def test_a_trial_that_hangs_is_ended(cluster: Cluster, storage: str) -> None:
    points = [{"kind": kind} for kind in ("fine", "hangs", "fine")]
    sweep = ClusterSweep(
        cluster,
        storage,
        space="faulty_user:some_hang",
        model={"name": "mlp", "args": {"width": 8}},
        search={"trials": 2, "start_from": points[:2]},
        stop={"policy": "none"},
        resources={"retries": 1, "patience_minutes": 0.2},
    )
    (sweep.home / "faulty_user.py").write_text(USER_MODULE, "utf-8")
    with sweep:
        rows = sweep.finish(sweep.submit("--follow"))
    hung = rows[rows.outcome == "failed"]
    assert len(hung) == 1
    assert hung.message.iloc[0].startswith("hung: no epoch within resources.patience_minutes 0.2")
    assert hung.retries.iloc[0] == 1
    logs = [
        path.read_text("utf-8", "replace")
        for node in cluster.nodes
        for path in (node.home / "tmp").glob("session_2*/logs/worker-*.err")
    ]
    assert any("faulty_user.py" in log and "Timeout" in log for log in logs)  # where it hung


def test_200_trials_fail_at_once(cluster: Cluster, storage: str) -> None:
    cluster.add(cpus=4)
    sweep = ClusterSweep(
        cluster,
        storage,
        space="faulty_user:all_raise",
        model={"name": "mlp", "args": {"width": 8}},
        train={"epochs": 1},
        search={"trials": 200, "controls": True},
        stop={"policy": "none"},
        resources={"retries": 0},
    )
    (sweep.home / "faulty_user.py").write_text(USER_MODULE, "utf-8")
    with sweep:
        rows = sweep.finish(sweep.submit("--follow"), limit=1500, code=1)
    failed = rows[rows.outcome == "failed"]
    assert len(failed) == 200
    assert failed.message.str.contains("the user's model broke").all()
    assert (rows[rows.control.notna()].outcome == "completed").all()


def test_a_node_without_gpu_for_the_trial_shows_it_none(cluster: Cluster, storage: str) -> None:
    cluster.add(2, 2)  # GPUs in name only
    sweep = ClusterSweep(
        cluster,
        storage,
        model={"name": "blind_user:model", "args": {}},
        train={"epochs": 2},
        search={"trials": 3},
        stop={"policy": "none"},
        resources={"gpu": 0},
    )
    (sweep.home / "blind_user.py").write_text(BLIND, "utf-8")
    with sweep:
        rows = sweep.finish(sweep.submit("--follow"))
    assert (rows.outcome == "completed").all()


BLIND = '''
"""A model that refuses to train where it could see a GPU."""
import os
from torch import nn

def model(num_classes, image_shape):
    import ray
    if ray.is_initialized() and ray.get_runtime_context().get_actor_id():
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        assert seen == "", f"sees GPUs {seen!r}"
    channels, height, width = image_shape
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, num_classes))
'''


def test_trials_that_wait_make_a_cluster_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's own autoscaler, with its provider of nodes that are processes on the head's machine."""
    monkeypatch.setenv("RAY_FAKE_CLUSTER", "1")
    monkeypatch.setenv("AUTOSCALER_UPDATE_INTERVAL_S", "1")
    with Cluster(tmp_path, routed=True) as cluster:
        config = {
            "cluster_name": "grows",
            "max_workers": 2,
            "idle_timeout_minutes": 5,
            "upscaling_speed": 1.0,
            **{key: [] for key in LISTS},
            **{key: {} for key in MAPS},
            "file_mounts_sync_continuously": False,
            "provider": {"type": "fake_multinode", "disable_node_updaters": True},
            "head_node_type": "ray.head.default",
            "available_node_types": {
                "ray.head.default": {"resources": {"CPU": 0}, "max_workers": 0, "node_config": {}},
                "worker": {"resources": {"CPU": 1}, "max_workers": 2, "node_config": {}},
            },
        }
        (tmp_path / "nodes.yaml").write_text(yaml.safe_dump(config), "utf-8")
        cluster.add(0, 0, f"--autoscaling-config={tmp_path}/nodes.yaml")
        sweep = ClusterSweep(
            cluster,
            str(tmp_path / "sweeps"),
            search={"trials": 3},
            stop={"policy": "none"},
            resources={"concurrent": 2, "gpu": 0},
        )
        spec = str(sweep.home / "spec.yaml")
        joined = ("--address", f"{cluster.head.address}:6379")
        with sweep:
            process = cluster.head.command(
                sys.executable, "-m", "rts_search.cli", "sweep", spec, *joined
            )
            wait_until(lambda: len(workers(cluster.head)) == 2, 120, cluster)
            rows = sweep.finish(process)
    assert (rows.outcome == "completed").all()
    told = (cluster.head.home / "log").read_text("utf-8")
    assert "2 of them wait for nodes that an autoscaler may add" in told


# what the launcher would fill in; that of this provider is not in Ray's wheel
LISTS = (
    "cluster_synced_files", "initialization_commands", "setup_commands", "head_setup_commands",
    "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands",
    "rsync_exclude", "rsync_filter",
)  # fmt: skip
MAPS = ("file_mounts", "auth", "docker", "head_node", "worker_nodes")
