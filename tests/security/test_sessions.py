"""A sweep with real Ray on this machine: who can reach it, and what it writes down."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rts_search.cluster.session import keep_private
from tests.sweeps.harness import ROOT, Sweep

SENTINELS = {
    "AWS_SECRET_ACCESS_KEY": "sentinel-aws-0123456789abcdef",
    "AWS_SESSION_TOKEN": "sentinel-session-0123456789abcdef",
    "WANDB_API_KEY": "sentinel-wandb-0123456789abcdef",
    "RAY_AUTH_TOKEN": "sentinel-ray-0123456789abcdef0123456789abcdef",
}
REMOTE = "sentinel-git-0123456789abcdef"

LISTENING = """
import json, psutil
from rts_search.cluster.session import prepare_environment, ray_session
prepare_environment(None, verbose=False)
with ray_session(None) as session:
    import ray
    @ray.remote
    def work():
        return 1
    assert ray.get(work.remote()) == 1
    me = psutil.Process()
    found = [
        (process.name(), connection.laddr.ip, connection.laddr.port)
        for process in (me, *me.children(recursive=True))
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    print(json.dumps([session.dashboard, found]))
"""


@pytest.fixture
def ray_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Ray's files in a folder of their own, of a short path, and none of its settings."""
    for name in list(os.environ):
        if name.startswith("RAY_"):
            monkeypatch.delenv(name)
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        yield Path(folder)


def test_a_session_is_on_the_loopback_also_where_ray_was_imported_before(ray_folder: Path) -> None:
    code = (
        "import ray\n"  # as a notebook may
        "from rts_search.cluster.session import prepare_environment\n"
        "prepare_environment(None, verbose=False)\n"
        "print(ray._private.services.get_node_ip_address())\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "127.0.0.1\n"


@pytest.mark.slow
def test_all_that_a_local_session_listens_on_is_the_loopback(
    ray_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # no token yet
    done = subprocess.run(
        [sys.executable, "-c", LISTENING],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    dashboard, found = json.loads(done.stdout.splitlines()[-1])
    names = {name for name, _, _ in found}
    assert {"gcs_server", "raylet"} <= names, names
    assert len(found) >= 8
    assert {ip.removeprefix("::ffff:") for _, ip, _ in found} == {"127.0.0.1"}, found
    assert dashboard.startswith("http://127.0.0.1:")
    assert int(dashboard.rpartition(":")[2]) in {port for _, _, port in found}
    token = tmp_path / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


@pytest.mark.slow
def test_no_secret_is_written_down(
    ray_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SENTINELS.items():
        monkeypatch.setenv(name, value)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@x"]
    remote = f"https://user:{REMOTE}@example.com/x.git"
    for command in ("init", f"remote add origin {remote}", "commit --allow-empty -m x"):
        subprocess.run([*git, *command.split()], check=True, capture_output=True)
    sweep = Sweep(
        tmp_path,
        search={"trials": 2, "controls": False},
        train={"epochs": 3},
        loggers=["tensorboard"],
    )
    output = sweep.run("sweep", "spec.yaml", "--verbose")
    assert "git_commit: null" not in (sweep.folder / "spec.yaml").read_text("utf-8")
    written = {"the output": output.encode()}
    for folder in (sweep.folder, ray_folder):
        written |= {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert len(written) > 20
    for secret in (*SENTINELS.values(), REMOTE):
        assert [where for where, text in written.items() if secret.encode() in text] == []


def test_the_token_file(tmp_path: Path) -> None:
    token = tmp_path / ".ray" / "auth_token"
    previous = os.umask(0)
    try:
        keep_private(token)
    finally:
        os.umask(previous)
    content = token.read_text("utf-8")
    assert len(content) == 64
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
    token.chmod(0o644)  # as Ray makes it
    keep_private(token)
    assert token.read_text("utf-8") == content
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    keep_private(tmp_path / ".ray" / "auth_token" / "below")  # a home like this is left to Ray
