"""Where a sweep came from: git commit, package versions, hardware, its data and own code."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import socket
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module, metadata
from pathlib import Path
from types import FunctionType, ModuleType

from rts_search.apart import apart
from rts_search.spec.model import SweepSpec

# without one of these the kernel has no GPU that torch could name
GPU_DEVICES = "dxg", "kfd", "nvhost*", "nvidia*", "nvmap"
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


def fingerprints(spec: SweepSpec) -> dict[str, str]:
    """Short hashes of what a spec only names, and what can change under its name: the data, the
    modules of a space, a model and a task of one's own, a file of weights."""
    found = {}
    if spec.task is None:
        from trainables.data.cache import data_fingerprint

        found[f"data {spec.data.name}"] = data_fingerprint(spec.data)
    for what, name in spec.named.items():
        module, mark, _ = name.partition(":")
        if mark and what != "data":
            found[f"module {module}"] = _hash(*modules_behind(import_module(module)))
    if isinstance(spec.model.pretrained, str):
        weights = Path(spec.model.pretrained).expanduser()
        found[f"weights {spec.model.pretrained}"] = _hash(weights)
    return found


def modules_behind(module: ModuleType) -> list[Path]:
    """The source of a module of one's own and, beside it, of those that it imports."""
    folder = Path(str(import_module(module.__name__.partition(".")[0]).__file__)).parent
    if "." in module.__name__ or hasattr(module, "__path__"):
        folder = folder.parent  # of the package
    found: dict[str, Path] = {}
    todo = [module]
    while todo:
        here = todo.pop()
        file = Path(getattr(here, "__file__", None) or os.devnull)
        own = here is module or (
            file.is_relative_to(folder) and not {"site-packages", "dist-packages"} & {*file.parts}
        )
        if here.__name__ in found or not own:
            continue
        found[here.__name__] = file
        for value in vars(here).values():
            named = value.__name__ if isinstance(value, ModuleType) else None
            if isinstance(value, type | FunctionType):
                named = value.__module__
            if named in sys.modules:
                todo.append(sys.modules[named])
    return [found[name] for name in sorted(found)]


def _hash(*files: Path) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def hardware() -> str:
    """One line: processor, cores, memory, GPUs (as torch sees them)."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    parts = [_processor(), f"{os.cpu_count()} cores", f"{memory:.0f} GiB"]
    if any(next(Path("/dev").glob(name), None) for name in GPU_DEVICES):
        parts += apart(f"{__name__}:gpus")
    return ", ".join(parts)


def gpus() -> list[str]:
    """Their names. Loads torch."""
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


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
            # no hook and no monitor that the repository's own settings name
            ["git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
