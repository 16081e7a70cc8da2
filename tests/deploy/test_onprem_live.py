"""`deploy/onprem.yaml` run by Ray's cluster launcher over three nodes that run sshd."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from results.database import query
from tests.sweeps.cluster import Cluster, Node, unavailable
from tests.sweeps.harness import ROOT

MISSING = [f"needs {tool}" for tool in ("sshd", "ssh", "rsync") if shutil.which(tool) is None]
WHY_NOT = unavailable() or " ".join(MISSING) or None
pytestmark = [
    pytest.mark.slow,
    pytest.mark.very_slow,
    pytest.mark.faults,
    pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)),
]
USER_HOME = Path(pwd.getpwuid(0).pw_dir)
BIN = Path(sys.executable).parent
# A process namespace of its own: the recipe's `ray stop` ends every Ray that it can see.
ALONE = ("-mup", "--fork", "--kill-child", "--mount-proc")


def own_folders(home: Path, *kept: Path) -> str:
    """Shell lines that put `home`/user over the user's home and `home`/tmp over /tmp, and leave
    what is `kept` of them where it was."""
    lines = ["mount --make-rprivate /", "cd /"]
    for name, folder in {"user": USER_HOME, "tmp": Path("/tmp")}.items():
        own = home / name
        own.mkdir(parents=True, exist_ok=True)
        for path in (Path(sys.prefix), Path(sys.base_prefix), ROOT, *kept):
            if path.is_relative_to(folder):
                inside = own / path.relative_to(folder)
                inside.mkdir(parents=True, exist_ok=True)
                lines.append(shlex.join(["mount", "--rbind", str(path), str(inside)]))
        lines.append(shlex.join(["mount", "--rbind", str(own), str(folder)]))
    return "\n".join(lines)


class Machine(Node):
    """A machine that is reached by ssh, with the user's home, /tmp and processes of its own."""

    namespaces = ALONE

    def __init__(self, cluster: Cluster, number: int, public_key: str, shared: Path) -> None:
        super().__init__(cluster, number)
        cluster.nodes.append(self)
        folders = own_folders(self.home, shared)
        self.setup = (
            f'hostname "$NODE_NAME"\n{folders}\n'
            "mount -t tmpfs none /run && mkdir /run/sshd\n"
            'exec "$@"'
        )
        user = self.home / "user"
        (user / ".ssh").mkdir(mode=0o700)
        (user / ".ssh" / "authorized_keys").write_text(public_key, "utf-8")
        make_key(user / ".ssh" / "host")
        # as the page says where nodes have their packages already
        (user / "rts").mkdir()
        for part in Path(sys.prefix).iterdir():
            (user / "rts" / part.name).symlink_to(part)
        asked = (ROOT / "pyproject.toml").read_text("utf-8")
        asked += (ROOT / "constraints.txt").read_text("utf-8")
        (user / "rts" / "asked").write_text(asked, "utf-8")
        self.process = self.command(
            str(shutil.which("sshd")), "-D", "-e", "-f", "/dev/null", "-o", "UsePAM=no",
            "-h", str(USER_HOME / ".ssh" / "host"),
        )  # fmt: skip


def make_key(path: Path) -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path.with_suffix(".pub").read_text("utf-8")


class Launcher:
    """Where the user sits: no node, with a home and a /tmp of its own."""

    def __init__(self, home: Path, shared: Path) -> None:
        self.user, self.setup = home / "user", own_folders(home, shared)
        (self.user / ".ssh").mkdir(mode=0o700)
        self.public_key = make_key(self.user / ".ssh" / "id_ed25519")
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        self.environment |= {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}

    def run(self, command: str, limit: float = 240) -> str:
        """A command line, in the repository; its output."""
        script = f"{self.setup}\ncd {shlex.quote(str(ROOT))}\n{command}"
        done = subprocess.run(
            ["unshare", *ALONE, "bash", "-ec", script],
            env=self.environment | {"HOME": str(USER_HOME)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit,
        )
        print(f"$ {command}\n{done.stdout}")
        assert done.returncode == 0, done.stdout
        return done.stdout

    def fill_in(self, head: Node, *workers: Node) -> str:
        """The recipe with these addresses, user and key, and nothing else changed."""
        recipe = yaml.safe_load((ROOT / "deploy" / "onprem.yaml").read_text("utf-8"))
        recipe["provider"]["head_ip"] = head.address
        recipe["provider"]["worker_ips"] = [worker.address for worker in workers]
        recipe["auth"]["ssh_user"] = pwd.getpwuid(0).pw_name
        (self.user / "onprem.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), "utf-8")
        return "~/onprem.yaml"


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """A folder that all machines mount at the same path."""
    (tmp_path / "sweeps").mkdir()
    return tmp_path / "sweeps"


@pytest.fixture
def launcher(tmp_path: Path, storage: Path) -> Launcher:
    return Launcher(tmp_path / "launcher", storage)


@pytest.fixture
def cluster(tmp_path: Path, launcher: Launcher, storage: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, routed=True) as cluster:  # else Ray takes 127.0.0.1 as its address
        for number in range(3):
            Machine(cluster, number, launcher.public_key, storage)
        yield cluster


def wait_until(condition: Callable[[], bool], limit: float) -> float:
    """The seconds that it took."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() < begun + limit, "waited in vain"
        time.sleep(1)
    return time.monotonic() - begun


def check_alone(launcher: Launcher, node: Node) -> None:
    """On the node only its own processes are seen, none of this machine's."""
    ssh = "ssh -o StrictHostKeyChecking=no -o LogLevel=ERROR -o ConnectionAttempts=20"
    told = launcher.run(f"{ssh} {node.address} 'readlink /proc/self/ns/pid; hostname; ps -eo comm'")
    namespace, name, _, *processes = told.splitlines()
    assert name == node.name
    assert namespace != os.readlink("/proc/self/ns/pid")
    assert set(processes) <= {"sshd", "bash", "ps"}
    assert not node.processes("ray")


def test_up_sweep_and_down(cluster: Cluster, launcher: Launcher, storage: Path) -> None:
    head, *workers = cluster.nodes
    for node in cluster.nodes:
        check_alone(launcher, node)
    recipe = launcher.fill_in(head, *workers)
    launcher.run("(umask 077 && ray get-auth-token --generate > /dev/null)")
    launcher.run(f"ray up -y {recipe}")
    status = f"ray exec {recipe} 'ray status'"
    took = wait_until(lambda: " 3 local.cluster.node" in launcher.run(status), 120)
    print(f"all nodes after {took:.0f} s")

    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{cluster.dashboard}/api/jobs/")
    assert refused.value.code == 401
    told = launcher.run(
        f"rts-search submit deploy/sweep.yaml --address {cluster.dashboard} "
        f"--storage {storage} --name digits --set resources.gpu=0 --set search.trials=6 --follow",
        limit=480,
    )
    rows = query(str(storage), "SELECT * FROM trials", ["digits"]).to_pylist()
    assert {row["host"] for row in rows} == {worker.name for worker in workers}, told
    assert not [row for row in rows if row["outcome"] in ("failed", "running")]

    launcher.run(f"ray down -y {recipe}")
    assert not head.processes("raylet", "gcs_server")
    took = wait_until(lambda: not any(worker.processes("raylet") for worker in workers), 180)
    print(f"the workers' Ray ended after {took:.0f} s")
