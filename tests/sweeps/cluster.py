"""A Ray cluster on one machine: its nodes are network namespaces on a bridge, each with its own
address, host name, Ray folder and dataset cache."""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import signal
import string
import subprocess
import sys
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import psutil

from tests.sweeps.harness import ROOT, STARTED

LETTERS = itertools.cycle(string.ascii_lowercase)
RAY = Path(sys.executable).with_name("ray")
KEPT = ("RAY_FAKE_CLUSTER",)  # of Ray's settings: the others are not those of our nodes
START = """
hostname "$NODE_NAME"
mount --make-rprivate /
mkdir -p /tmp/ray "$NODE_HOME/tmp" && mount --bind "$NODE_HOME/tmp" /tmp/ray
exec "$@"
"""


@lru_cache(maxsize=1)
def unavailable() -> str | None:
    """Why there can be no such cluster here; None if there can."""
    if shutil.which("ip") is None:
        return "needs `ip` (Debian's iproute2)"
    name = f"rts-probe-{os.getpid()}"
    probe = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if probe.returncode:
        return f"needs root and network namespaces: {probe.stderr.strip()}"
    _ip("netns", "del", name)
    return None


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


class Node:
    """One node: `name` is its network namespace and host name, `address` its own."""

    namespaces = ("-mu",)  # those it has besides, for `unshare`
    setup = START

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.cluster, self.number = cluster, number
        self.name = f"{cluster.tag}n{number}"
        self.address = f"{cluster.network}.{10 + number}"
        self.home = cluster.home / f"node{number}"
        (self.home / "cache").mkdir(parents=True, exist_ok=True)
        self.process: subprocess.Popen[bytes] | None = None
        link = f"{self.name}v"
        _ip("netns", "add", self.name)
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        _ip("link", "set", link, "master", cluster.tag, "up")
        _ip("-n", self.name, "addr", "add", f"{self.address}/24", "dev", "eth0")
        _ip("-n", self.name, "link", "set", "eth0", "up")
        _ip("-n", self.name, "link", "set", "lo", "up")
        if cluster.routed:
            _ip("-n", self.name, "route", "add", "default", "via", cluster.gateway)
        self.link = link

    def command(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a command on the node, its output in the node's `log`."""
        environment = self.cluster.environment | {
            "NODE_NAME": self.name,
            "NODE_HOME": str(self.home),
            "RTS_SEARCH_CACHE": str(self.home / "cache"),
        }
        inside = ["ip", "netns", "exec", self.name, "unshare", *self.namespaces]
        inside += ["bash", "-ec", self.setup, "node"]
        with open(self.home / "log", "ab") as log:
            return subprocess.Popen(
                [*inside, *command],
                env=environment,
                cwd=self.home,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start(self, cpus: int, gpus: int = 0, *options: str) -> None:
        """`ray start`, as the head if this is the cluster's first node."""
        head = self is self.cluster.head
        role = ["--head", "--port=6379", "--dashboard-host=0.0.0.0"]
        role = role if head else [f"--address={self.cluster.head.address}:6379"]
        sizes = [f"--num-cpus={cpus}", f"--num-gpus={gpus}", "--object-store-memory=200000000"]
        self.process = self.command(
            str(RAY), "start", "--block", "--disable-usage-stats", *role,
            f"--node-ip-address={self.address}", *sizes, *options,
        )  # fmt: skip

    def processes(self, *names: str) -> list[psutil.Process]:
        """The node's processes, all or those of a name (a part of it or of the command line)."""
        pids = subprocess.run(
            ["ip", "netns", "pids", self.name], capture_output=True, text=True, check=True
        ).stdout.split()
        found = []
        for pid in pids:
            with suppress(psutil.Error):
                process = psutil.Process(int(pid))
                text = f"{process.name()} {' '.join(process.cmdline()[:2])}"
                if not names or any(name in text for name in names):
                    found.append(process)
        return found

    def kill(self) -> None:
        """All of the node's processes die at once, as when its power fails."""
        while processes := self.processes():
            for process in processes:
                with suppress(psutil.Error):
                    process.send_signal(signal.SIGKILL)
            time.sleep(0.1)
        if self.process is not None:
            self.process.wait(timeout=10)
        shutil.rmtree(self.home / "tmp", ignore_errors=True)

    def cut(self) -> None:
        """No packet reaches or leaves the node."""
        _ip("link", "set", self.link, "down")

    def mend(self) -> None:
        _ip("link", "set", self.link, "up")


class Cluster:
    """`head` and further nodes; a context manager that removes all of it."""

    def __init__(self, home: Path, routed: bool = False) -> None:
        """A `routed` cluster's nodes have a default route. It leads nowhere, so that names are
        looked up in vain for seconds, but some parts of Ray find their own address by it."""
        self.home, self.routed = home, routed
        number = os.getpid() % 250
        # names of their own: the kernel takes away those of the last cluster in its own time
        self.tag, self.network = f"rts{os.getpid()}{next(LETTERS)}", f"10.211.{number}"
        self.gateway = f"{self.network}.1"  # this machine, as the nodes see it
        self.token_file = home / "token"
        self.token_file.write_text(secrets.token_hex(32), "utf-8")
        self.token_file.chmod(0o600)
        kept = {key: value for key, value in os.environ.items() if key in KEPT or key[:4] != "RAY_"}
        self.environment = kept | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_file),
            "PATH": f"{RAY.parent}{os.pathsep}{os.environ['PATH']}",  # as in a node's container
        }
        self.nodes: list[Node] = []

    def __enter__(self) -> Cluster:
        _ip("link", "add", self.tag, "type", "bridge")
        _ip("addr", "add", f"{self.gateway}/24", "dev", self.tag)
        _ip("link", "set", self.tag, "up")
        return self

    def cli(self, home: Path, *arguments: str) -> subprocess.Popen[str]:
        """Start `rts-search` on this machine, which has the token and is no node."""
        process = subprocess.Popen(
            [sys.executable, "-m", "rts_search.cli", *arguments],
            cwd=home,
            env=self.environment | {"PYTHONPATH": str(ROOT)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        STARTED.append(process)
        return process

    def run(self, home: Path, *arguments: str, code: int = 0, limit: float = 300) -> str:
        """Run `rts-search` to its end; its output."""
        process = self.cli(home, *arguments)
        output, _ = process.communicate(timeout=limit)
        assert process.returncode == code, output
        return output

    def __exit__(self, *exception: object) -> None:
        for node in self.nodes:
            node.kill()
            _ip("netns", "del", node.name)
        _ip("link", "del", self.tag)

    @property
    def head(self) -> Node:
        return self.nodes[0]

    @property
    def dashboard(self) -> str:
        return f"http://{self.head.address}:8265"

    def add(self, cpus: int = 2, gpus: int = 0, *options: str) -> Node:
        """Another node, the first being the head; returns once it has joined."""
        node = Node(self, len(self.nodes))
        self.nodes.append(node)
        self.start(node, cpus, gpus, *options)
        return node

    def start(self, node: Node, cpus: int = 2, gpus: int = 0, *options: str) -> None:
        """Start Ray on a node that has none (any more); returns once it has joined."""
        before = (node.home / "log").stat().st_size if (node.home / "log").exists() else 0
        node.start(cpus, gpus, *options)
        deadline = time.monotonic() + 60
        while b"Ray runtime started" not in (node.home / "log").read_bytes()[before:]:
            alive = node.process is not None and node.process.poll() is None
            assert alive, (node.home / "log").read_text("utf-8")
            assert time.monotonic() < deadline, (node.home / "log").read_text("utf-8")
            time.sleep(0.1)
