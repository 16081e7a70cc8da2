"""A sweep whose every write is recorded, and its folder as a power cut leaves it after each.

As a program: goes on with the sweeps in the storages that it is given, in one session of Ray.
"""

from __future__ import annotations

import io
import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from results.storage import SweepFolder
from tests.faults.recording import Step, steps
from tests.sweeps.harness import Sweep

NAME = "cut"
SPEC: dict[str, Any] = {
    "name": NAME,
    "space": "tests.faults.recording:switch",
    "data": {"train_size": 300},
    "model": {"name": "tests.faults.recording:mlp", "args": {"width": 16, "depth": 1}},
    "train": {"epochs": 4, "batch_size": 25, "lr": 0.05},
    "search": {"trials": 8, "controls": {"families": ["pugd"]}},
    "stop": {"policy": "asha", "fidelity": "schedule", "first_rung": 1, "eta": 2, "audit": 0.2},
    "resources": {"concurrent": 1},
    "checkpoint": {"every_seconds": 0, "keep_top": 1},
}

Files = dict[str, bytes | None]  # a folder's files by path; None: a folder


class Recorded(NamedTuple):
    sweep: Sweep
    steps: list[Step]


def record(home: Path) -> Recorded:
    """A sweep in this folder that ran to its end, unless it has already, and its writes."""
    log, done = home / "record", home / "done"
    log.mkdir(parents=True, exist_ok=True)
    sweep = Sweep(home, **SPEC)
    if not done.exists():
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RTS_RECORD", str(log))
            sweep.run("sweep", "spec.yaml")
        done.touch()
    return Recorded(sweep, steps(log))


def contents(folder: Path) -> Files:
    """What is in a folder, but for its lock."""
    files = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {str(p.relative_to(folder)): c for p, c in files.items() if p.name != ".driver.lock"}


def cuts(record: list[Step]) -> Iterator[tuple[str, Files]]:
    """The folder after each write, and in the midst of each, with words for the moment."""
    now: Files = {}
    for number, step in enumerate(record):
        for words, files in _midst(now, step):
            yield f"in step {number}, {step.path}: {words}", files
        _apply(now, step)
        yield f"after step {number}, {step.path}", dict(now)


def _midst(now: Files, step: Step) -> Iterator[tuple[str, Files]]:
    if step.source is not None:
        return  # a file is moved at once
    if step.content is not None:
        assert step.aside is not None
        yield "half is written", {**now, step.aside: step.content[: len(step.content) // 2]}
        return
    inside = [path for path in now if path.startswith(f"{step.path}/")]
    for gone in inside if len(inside) > 1 else []:
        yield f"{gone} is deleted", {path: c for path, c in now.items() if path != gone}
    if inside:
        left = {path: c for path, c in now.items() if path not in inside}
        yield "the folder is empty", {**left, step.path: None}


def _apply(now: Files, step: Step) -> None:
    if step.source is not None:
        del now[step.source]
    if step.content is not None:
        now[step.path] = step.content
        return
    for path in [p for p in now if p == step.path or p.startswith(f"{step.path}/")]:
        del now[path]


def lay_out(files: Mapping[str, bytes | None], storage: Path) -> Path:
    """A sweep's folder with these files, in a storage of its own."""
    for path, content in files.items():
        target = storage / NAME / path
        (target.parent if content is not None else target).mkdir(parents=True, exist_ok=True)
        if content is not None:
            target.write_bytes(content)
    return storage / NAME


def resume_all(storages: list[Path]) -> int:
    """Go on with each, in one session of Ray; how many did not run to their end."""
    from rts_search.cluster.session import prepare_environment

    prepare_environment(None, False)
    from rich.console import Console

    from rts_search import runner
    from rts_search.cluster.session import ray_session
    from rts_search.spec.changes import resumed_spec
    from rts_search.spec.reading import load_spec

    failed = 0
    with ray_session(None) as session:
        runner.ray_session = lambda *_: nullcontext(session)  # type: ignore[assignment]
        for storage in storages:
            began, said = time.monotonic(), io.StringIO()
            folder = SweepFolder(storage, NAME)
            try:
                if folder.exists("spec.yaml"):
                    spec = resumed_spec(folder, [])
                else:  # as its user would begin it again
                    spec = load_spec((storage.parent / "spec.yaml").read_text())
                    spec = spec.model_copy(update={"storage": str(storage)})
                result = runner.run_sweep(spec, Console(file=said, width=200))
                assert result.interrupted is None, result.interrupted
            except Exception:
                failed += 1
                traceback.print_exc()
                print(f"{storage}: FAILED\n{said.getvalue()}")
            print(f"{storage.name} {time.monotonic() - began:.1f} s", flush=True)
    return failed


if __name__ == "__main__":
    os.environ.pop("RTS_RECORD", None)
    sys.exit(resume_all([Path(argument) for argument in sys.argv[1:]]))
