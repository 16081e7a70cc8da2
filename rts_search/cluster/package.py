"""What a job takes to a cluster: the spec, this package's source, the user's modules."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from results.storage import is_uri, refuse_secret
from rts_search.shadows import OWN, check_here
from rts_search.spec.model import SweepSpec
from rts_search.spec.written import dump

PACKAGES = ("rts_search", *OWN)
SPEC_FILE = "sweep.yaml"
LEFT_BEHIND = (".*", "__pycache__", "sweeps", "node_modules", "*.parquet", "*.pt", *PACKAGES)
LARGEST_MIB = 100  # Ray refuses more than 512; code is far smaller


def check_storage_is_shared(storage: str) -> None:
    """Raises ValueError for a folder that only this machine can mean, or a URI with a secret."""
    refuse_secret(storage)
    if not is_uri(storage) and not Path(storage).is_absolute():
        raise ValueError(
            f"storage {storage!r} is a folder under the one you stand in, which a cluster does "
            "not have; give --storage s3://bucket/prefix, or the absolute path of a volume that "
            "all nodes mount"
        )


@contextmanager
def staged(spec: SweepSpec | None) -> Iterator[Path]:
    """A folder with the spec, and the working directory's files if the spec names its functions.

    Raises ValueError if those files are too large to be code.
    """
    with tempfile.TemporaryDirectory(prefix="rts-search-job-") as scratch:
        folder = Path(scratch) / "work"
        if spec is not None and names_own_functions(spec):
            check_here()  # the job will stand there
            shutil.copytree(Path.cwd(), folder, ignore=_left_behind)
            _check_size(folder)
        folder.mkdir(exist_ok=True)
        if spec is not None:
            (folder / SPEC_FILE).write_text(dump(spec.model_dump(mode="json")), "utf-8")
        yield folder


def _check_size(folder: Path) -> None:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20
    if size > LARGEST_MIB:
        raise ValueError(
            f"{Path.cwd()} holds {size:.0f} MiB beside what is left behind, above {LARGEST_MIB}: "
            "submit from a folder that holds your modules only"
        )


def names_own_functions(spec: SweepSpec) -> bool:
    """Whether space, dataset, model or task is `package.module:function`."""
    return any(":" in name for name in spec.named.values())


def _left_behind(folder: str, names: list[str]) -> set[str]:
    """Of a folder: what is no code, and links to elsewhere or to folders, with a warning."""
    plain = {entry.name for entry in os.scandir(folder) if entry.is_file() or entry.is_dir()}
    links = {entry.name for entry in os.scandir(folder) if entry.is_symlink()}
    inside = {n for n in links & plain if not (Path(folder) / n).is_dir() and _is_here(folder, n)}
    ignored = set(shutil.ignore_patterns(*LEFT_BEHIND)(folder, names))
    environments = {name for name in names if (Path(folder) / name / "pyvenv.cfg").exists()}
    for name in sorted(links - inside - ignored):
        warnings.warn(f"not packed, a link: {Path(folder) / name}", stacklevel=2)
    return ignored | environments | (links - inside) | (set(names) - plain)


def _is_here(folder: str, name: str) -> bool:
    return (Path(folder) / name).resolve().is_relative_to(Path.cwd().resolve())


def runtime_env(folder: Path, install: bool, stop_seconds: int) -> dict[str, Any]:
    """Ray's runtime environment for a job. Our source goes along, so that the cluster runs what
    is installed here; other packages are the nodes' own, unless `install`."""
    modules = []
    for package in PACKAGES:
        found = find_spec(package)
        assert found is not None
        assert found.origin is not None
        modules.append(str(Path(found.origin).parent))
    environment: dict[str, Any] = {
        "working_dir": str(folder),
        "py_modules": modules,
        "excludes": ["**/__pycache__"],
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(stop_seconds)},
    }
    return environment | ({"pip": pinned()} if install else {})


def pinned() -> list[str]:
    """Our dependencies, each at the version that is installed here; Ray is the cluster's own."""
    names = [re.split(r"[\[<>=!~; ]", line)[0] for line in _required()]
    return [f"{name}=={metadata.version(name)}" for name in names if name != "ray"]


def _required() -> list[str]:
    return [line for line in metadata.requires("rts-search") or [] if "extra ==" not in line]
