"""Where a sweep came from: git commit, package versions, hardware."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path

PACKAGES = ("rts-search", "torch", "torchvision", "ray", "optuna", "pyarrow", "numpy")


@dataclass(frozen=True)
class Provenance:
    """Recorded with each sweep and each trial; `versions` is JSON."""

    git_commit: str | None
    git_dirty: bool | None
    versions: str
    hardware: str
    host: str


@lru_cache(maxsize=1)
def provenance() -> Provenance:
    """Of this process. The commit is that of the working directory's repository, if it is one."""
    commit = _git("rev-parse", "HEAD")
    dirty = bool(_git("status", "--porcelain")) if commit else None
    versions = {"python": platform.python_version()} | {p: _version(p) for p in PACKAGES}
    return Provenance(commit, dirty, json.dumps(versions), hardware(), socket.gethostname())


def hardware() -> str:
    """One line: processor, cores, memory, GPUs (as torch sees them)."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    parts = [_processor(), f"{os.cpu_count()} cores", f"{memory:.0f} GiB", *gpus]
    return ", ".join(parts)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
