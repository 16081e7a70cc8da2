"""The sweep's folder beside its ledger: spec, journal, and the lock of its one driver."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from results.storage import SweepFolder
from rts_search.provenance import provenance
from rts_search.spec import SweepSpec, parse

SPEC, JOURNAL = "spec.yaml", "optuna.journal"


def spec_hash(spec: SweepSpec) -> str:
    """A short hash of all settings but the name and where results go."""
    content = spec.model_dump_json(exclude={"name", "storage"})
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def write_spec(folder: SweepFolder, spec: SweepSpec) -> None:
    """What was asked, and with what code and hardware; written once, when the sweep begins."""
    if folder.exists(SPEC):
        return
    origin = asdict(provenance())
    origin["versions"] = json.loads(origin["versions"])
    content = spec.model_dump(mode="json") | {"provenance": origin | {"spec_hash": spec_hash(spec)}}
    folder.write(SPEC, yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode())


def read_spec(folder: SweepFolder) -> SweepSpec:
    """The spec that a sweep was begun with. Raises ValueError if there is none."""
    try:
        content = yaml.safe_load(folder.read(SPEC))
    except FileNotFoundError:
        raise ValueError(f"no sweep at {folder.uri}: it has no {SPEC}") from None
    content.pop("provenance", None)
    # the folder may have been moved since
    return parse(SweepSpec, content | {"name": folder.name, "storage": folder.storage})


def journal_path(folder: SweepFolder) -> Path:
    """Optuna's journal: in the sweep's folder, or for an object store on the driver's disk."""
    if folder.local_path is not None:
        return Path(folder.local_path) / JOURNAL
    path = _driver_files(folder) / JOURNAL
    if not path.exists() and folder.exists(JOURNAL):
        path.write_bytes(folder.read(JOURNAL))
    return path


def save_journal(folder: SweepFolder) -> None:
    """On an object store, put the driver's journal beside the ledger; elsewhere it is there."""
    if folder.local_path is None:
        folder.write(JOURNAL, journal_path(folder).read_bytes())


@contextmanager
def hold_lock(folder: SweepFolder) -> Iterator[None]:
    """Refuse a second driver on this machine. Raises ValueError while another one runs."""
    home = Path(folder.local_path) if folder.local_path is not None else _driver_files(folder)
    home.mkdir(parents=True, exist_ok=True)
    lock = FileLock(home / ".driver.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"sweep {folder.name!r} has a driver already; follow it with: rts-search status "
            f"{folder.name}"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _driver_files(folder: SweepFolder) -> Path:
    base = Path(os.environ.get("RTS_SEARCH_CACHE", Path.home() / ".cache" / "rts-search"))
    path = base / "drivers" / hashlib.sha256(folder.uri.encode()).hexdigest()[:16]
    path.mkdir(parents=True, exist_ok=True)
    return path
