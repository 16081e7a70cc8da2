"""`rts-search doctor`: checks of the installation, each with its remedy.

Each check imports what it needs: where an import fails, the others still tell.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata

from rich.console import Console

from rts_search.shadows import check_here, check_installed


def run_checks(console: Console, storage: str) -> bool:
    """Run all checks and print a line for each; True if all is well."""
    checks: list[tuple[str, Callable[[], str]]] = [
        ("python", _python),
        ("install", check_installed),
        ("packages", _packages),
        ("modules", _modules),
        ("hardware", _hardware),
        ("device", _device),
        ("storage", lambda: _storage(storage)),
        ("data", _data),
        ("ray", _ray),
    ]
    well = True
    for name, check in checks:
        try:
            console.print(
                f"ok    {name:9} {check()}", markup=False, highlight=False, soft_wrap=True
            )
        except Exception as error:  # a doctor reports whatever it meets, and goes on
            well = False
            line = " ".join(str(error).split())
            console.print(f"MEND  {name:9} {line}", markup=False, highlight=False, soft_wrap=True)
    return well


def _python() -> str:
    return f"{sys.version.split()[0]} at {sys.executable}"


def _packages() -> str:
    """Versions, against the ranges that this package was installed with."""
    from packaging.requirements import Requirement

    from rts_search.spec.provenance import PACKAGES

    for line in metadata.requires("rts-search") or []:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            raise RuntimeError(
                f"{requirement} is not installed: pip install '{requirement}'"
            ) from None
        if found not in requirement.specifier:
            raise RuntimeError(
                f"{requirement} is asked for, {found} found: pip install '{requirement}'"
            )
    return ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)


def _modules() -> str:
    check_here()
    return "none here hides one that is needed"


def _hardware() -> str:
    from rts_search.spec.provenance import hardware

    return hardware()


def _device() -> str:
    import torch

    from trainables.state import resolve_device, resolve_precision

    device = resolve_device("auto")
    precision = str(resolve_precision("auto", device)).removeprefix("torch.")
    (torch.ones(8, device=device) * 2).sum().item()
    return f"{device}, precision {precision}"


def _storage(storage: str) -> str:
    from results.storage import SweepFolder

    folder = SweepFolder(storage, f"doctor-{uuid.uuid4().hex[:8]}")
    folder.write("probe", b"rts")
    if folder.read("probe") != b"rts":
        raise RuntimeError(f"{folder.uri} does not give back what was written; use other storage")
    folder.filesystem.delete_dir(folder.root)
    return f"{folder.storage} can be written"


def _data() -> str:
    from trainables.config import DataConfig
    from trainables.data import prepare

    data = prepare(DataConfig(name="digits"))
    return f"digits has {len(data.train_labels)} training images"


@contextmanager
def _local_ray() -> Iterator[str]:
    from rts_search.cluster.layout import has
    from rts_search.cluster.session import prepare_environment, ray_session

    prepare_environment(os.environ.get("RAY_ADDRESS"), verbose=False)
    with ray_session(os.environ.get("RAY_ADDRESS")) as session:
        yield f"{has(session.nodes)}, dashboard {session.dashboard}"


def _ray() -> str:
    with _local_ray() as found:
        return found
