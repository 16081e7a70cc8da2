"""A sweep as a job on a cluster of three nodes, one of which is killed; from a machine that is no
node of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sweeps.cluster import Cluster, unavailable
from tests.sweeps.harness import ROOT
from tests.sweeps.watch import ClusterSweep, failures, wait_for_work

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(unavailable() is not None, reason=str(unavailable())),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        cluster.add(cpus=0)
        cluster.add(cpus=2)
        cluster.add(cpus=2)
        yield cluster


def test_a_sweep_is_handed_in_watched_and_stopped(cluster: Cluster) -> None:
    storage = str(cluster.home / "sweeps")
    at = ("--address", cluster.dashboard)
    with ClusterSweep(cluster, storage, name="shown") as sweep:
        process = sweep.submit("--follow")
        wait_for_work(cluster, *cluster.nodes[1:])
        assert "already, as job shown" in cluster.run(
            sweep.home, "submit", "spec.yaml", *at, code=2
        )
        status = cluster.run(sweep.home, "status", "shown", *at)
        assert "job shown RUNNING" in status
        cluster.nodes[2].kill()
        rows = sweep.finish(process)
    assert rows.retries.sum() >= 1
    assert not failures(rows)

    listed = cluster.run(sweep.home, "list", *at)
    assert "shown" in listed
    assert "SUCCEEDED" in listed
    logs = cluster.run(sweep.home, "logs", "shown", *at)
    assert "0 + 2 + 2 fit on 3 nodes" in logs
    assert f"sweep shown: {sweep.trials} rts configurations" in logs
    # each node that trained has the data, and got it without the files
    for node in cluster.nodes[1:]:
        assert list((node.home / "cache").glob("digits-*/train_images.npy")), node.name

    # the same name again is refused by its driver, and is not tried again
    again = cluster.run(
        sweep.home, "submit", "spec.yaml", *at, "--follow", "--max-retries", "3", code=1
    )
    assert "sweep 'shown' exists" in again.splitlines()[-1]
    assert "handed in again" not in again

    # more trials, which are then stopped
    before = sweep.epochs()
    resumed = cluster.run(sweep.home, "resume", "shown", *at, "--trials", "40")
    assert "job shown.3: sweep shown" in resumed
    sweep.wait_for_epochs(before + 5)
    assert "sweep shown has ended" in cluster.run(sweep.home, "stop", "shown", *at)
    status = cluster.run(sweep.home, "status", "shown", *at)
    assert "job shown.3 STOPPED" in status
    outcomes = {row["outcome"] for row in sweep.ask("SELECT DISTINCT outcome FROM trials")}
    assert "interrupted" in outcomes
    assert "running" not in outcomes
    assert "over already: STOPPED" in cluster.run(sweep.home, "stop", "shown", *at, code=2)


@pytest.mark.parametrize(
    ("token", "told"),
    [(None, "asks for a token, and none was found"), ("ab" * 32, "refused the token")],
)
def test_a_token_that_is_missing_or_wrong_is_one_line(
    cluster: Cluster, tmp_path: Path, token: str | None, told: str
) -> None:
    environment = {key: value for key, value in os.environ.items() if key[:4] != "RAY_"}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    if token is not None:
        (tmp_path / "token").write_text(token, "utf-8")
        environment["RAY_AUTH_TOKEN_PATH"] = str(tmp_path / "token")
    done = subprocess.run(
        [sys.executable, "-m", "rts_search.cli", "list", "--address", cluster.dashboard],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert told in done.stderr
    assert "ray get-auth-token" in done.stderr
    assert (token or "no token") not in done.stdout + done.stderr


def test_the_token_is_on_no_command_line_and_in_no_log(cluster: Cluster) -> None:
    token = cluster.token_file.read_text("utf-8")
    for node in cluster.nodes:
        for process in node.processes():
            assert token not in " ".join(process.cmdline())
        logs = [path for path in (node.home / "tmp").glob("session_2*/logs/**/*") if path.is_file()]
        assert not [path for path in logs if token in path.read_text("utf-8", "replace")]


def test_a_storage_that_nodes_do_not_share_is_refused(cluster: Cluster) -> None:
    """Each node has a /tmp/ray of its own, which serves as a disk that is not shared."""
    sweep = ClusterSweep(cluster, "/tmp/ray/sweeps", name="alone")
    process = sweep.submit("--follow")
    try:
        output, _ = process.communicate(timeout=120)
    finally:
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 1
    last = output.splitlines()[-1]
    assert "nodes cannot work on /tmp/ray/sweeps/alone" in last
    assert "it does not see what the head has written there" in last
    assert cluster.nodes[1].address in last


def test_no_dashboard_is_one_line(cluster: Cluster) -> None:
    for address, told in (("http://127.0.0.1:1", "no Ray at"), ("head:6379", "not a dashboard's")):
        output = cluster.run(cluster.home, "list", "--address", address, code=2)
        assert len(output.splitlines()) == 1
        assert told in output
