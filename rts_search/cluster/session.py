"""Starts or joins Ray, and reads its resources."""

from __future__ import annotations

import ctypes
import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from rts_search.cluster.layout import Node
from rts_search.cluster.scratch import held, own_folder, remove_leftovers
from rts_search.shadows import check_here

LOOPBACK = "127.0.0.1"
ARENAS = -8  # glibc's M_ARENA_MAX
SESSION_MB = 20  # what a sweep's session takes at most, its logs included


@dataclass(frozen=True)
class Session:
    """The running Ray: its nodes, whether it was there before us and may gain more of them, and
    where its dashboard is (None without one). `folder` is that of a session of our own, and goes
    with it."""

    nodes: tuple[Node, ...]
    joined: bool
    dashboard: str | None
    folder: Path | None = None


@contextmanager
def ray_session(address: str | None, verbose: bool = False) -> Iterator[Session]:
    """Join the cluster at `address`, or start Ray on this machine; ends what it started.

    Raises ConnectionError, in one line, if there is no cluster at the address.
    """
    if address is not None and address.startswith("http"):
        raise ConnectionError(
            f"{address!r} is a dashboard's address: hand a sweep in there with rts-search submit, "
            "or join as its driver at host:6379"
        )
    if address is not None:
        check_reachable(address)
    import ray
    from ray._common.utils import get_default_ray_temp_dir

    if address is None:
        remove_leftovers(Path(get_default_ray_temp_dir()))

    level = logging.INFO if verbose else logging.CRITICAL  # failures are in the ledger
    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(level)
    with warnings.catch_warnings():
        warnings.simplefilter("default" if verbose else "ignore")
        try:
            context = ray.init(
                address=address or "local",  # else Ray joins whatever it finds on the machine
                log_to_driver=verbose,
                logging_level=level,
                configure_logging=verbose,
                **({} if address else {"include_dashboard": True, "dashboard_host": LOOPBACK}),
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            where = f"at {address!r}" if address else "on this machine"
            reason = " ".join(str(error).partition("Traceback (most")[0].split())[:300]
            raise ConnectionError(f"no Ray {where}: {reason}") from None
        except SystemExit:  # by Ray's own handler
            raise KeyboardInterrupt("interrupted by SIGTERM") from None
    # looked at later, with --verbose; a cluster's own is not ours to remove
    ours = nullcontext() if address else held(Path(context.address_info["session_dir"]), verbose)
    with ours:
        try:
            from rts_search.cluster.nodes import alive_nodes

            url = context.dashboard_url
            yield Session(
                nodes=tuple(alive_nodes()),
                joined=address is not None,
                dashboard=f"http://{url}" if url else None,
                folder=None if address else Path(context.address_info["session_dir"]),
            )
        finally:
            ray.shutdown()


def check_reachable(address: str) -> None:
    """Raise ConnectionError, in seconds, if nothing listens at `host:port`, with a scheme or none.

    Ray itself would try for minutes. Other addresses, such as `auto`, are left to it.
    """
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        hint = (
            "give the address of the dashboard that `ray start --head` printed"
            if address.startswith("http")
            else "give the address that `ray start --head` printed, or leave --address out to use "
            "this machine"
        )
        raise ConnectionError(
            f"no Ray at {address!r} ({error.strerror or error}); {hint}"
        ) from None


def check_room(folder: Path) -> None:
    """Raise ValueError if a session finds no room under the folder: Ray itself would try for a
    minute, and then tell of something else."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    try:
        with tempfile.TemporaryFile(dir=there) as probe:  # what is free may be another user's
            probe.write(bytes(SESSION_MB * 2**20))
            probe.flush()
    except OSError as error:
        free = shutil.disk_usage(there).free // 2**20
        raise ValueError(
            f"{there} has no room for Ray's session ({error.strerror}: {free} MB are free, "
            f"{SESSION_MB} MB needed): make room there, or name another folder: "
            "RAY_TMPDIR=/a/short/path rts-search …"
        ) from None


def prepare_environment(address: str | None, verbose: bool) -> None:
    """Settings that Ray reads when it is imported: call this before anything imports it. Raises
    ValueError where a module would hide one that Ray's processes need, or a full disk its session.

    Tune's own writers and reports are off. To join a cluster, the token that Ray's settings hold
    is used: `ray start` asks for it by default, but joining does not by itself send it.
    """
    check_here()
    with suppress(AttributeError, OSError):  # where there is no glibc
        ctypes.CDLL(None).mallopt(ARENAS, 2)  # else each of 30 threads has one, that keeps its size
    check_room(Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"))
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "86400")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # ours keeps the ledger in order
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # of every result
    if not verbose:
        logging.getLogger("ray.widgets").setLevel(logging.CRITICAL)  # asks notebooks for ipywidgets
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    held = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    token = Path.home() / ".ray" / "auth_token"
    if address and (held or token.exists()):
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    if not address:
        # despite its name: the node's address, and all that Ray listens on, is then the loopback
        if "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in os.environ:
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
            if (constants := sys.modules.get("ray._private.ray_constants")) is not None:
                # in a notebook that has imported Ray before
                constants.ENABLE_RAY_CLUSTER = False  # type: ignore[attr-defined]
        if "RAY_TMPDIR" not in os.environ:
            check_room(own := own_folder())
            os.environ["RAY_TMPDIR"] = str(own)
        if not held:
            keep_private(token)


def keep_private(token: Path) -> None:
    """Make the token file if there is none, and readable by us alone: Ray's own is everyone's."""
    with suppress(OSError):  # another user's, or a home that cannot be written: Ray will tell
        token.parent.mkdir(mode=0o700, exist_ok=True)
        with suppress(FileExistsError):
            descriptor = os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            os.write(descriptor, secrets.token_hex(32).encode())
            os.close(descriptor)
        token.chmod(0o600)
