"""A model and a space of a user's own whose module, in workers and their driver, which imports the
space before it writes, records all that they write.

Each write and each deletion in the sweep's folder becomes a numbered file in the folder that
RTS_RECORD names, under a lock: so their order is exact, between processes too.
"""

from __future__ import annotations

import fcntl
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results.storage import SweepFolder
from search_spaces.builtin import switch as switch  # the driver's reason
from trainables.checkpoint import CheckpointFolder
from trainables.models.nets import mlp as mlp  # the workers' reason to load this module

RECORD = os.environ.get("RTS_RECORD")


@dataclass(frozen=True)
class Step:
    """A file that was put in place (`content`), or (None) a file or folder that was deleted.
    `aside` is where the file's content was written first, `source` where the file was before."""

    path: str
    content: bytes | None
    aside: str | None = None
    source: str | None = None


@contextmanager
def _in_order(record: Path) -> Iterator[None]:
    with open(record / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _recorded(method: Callable[..., Any], root: Callable[[Any], str], aside: str | None) -> Any:
    """A method of a folder at `root` that writes or deletes the path that is its first argument, or
    moves it to its second one."""

    def run(folder: Any, path: str, *rest: Any) -> Any:
        assert RECORD is not None
        record, home = Path(RECORD), Path(root(folder))
        moved = method.__name__ == "move"
        file = home / (rest[0] if moved else path)
        sweep = next(parent for parent in file.parents if parent.parent.name == "sweeps")
        inside = str(file.relative_to(sweep))
        with _in_order(record):
            there = file.exists()
            result = method(folder, path, *rest)
            if moved:
                step = Step(inside, file.read_bytes(), source=path)
            elif rest:
                step = Step(inside, file.read_bytes(), aside and aside.format(path=inside))
            else:
                step = Step(inside, None)
            if rest or (there and not file.exists()):
                number = len(list(record.glob("*.step")))
                (record / f"{number:06d}.step").write_bytes(pickle.dumps(step))
        return result

    return run


def steps(record: Path) -> list[Step]:
    return [pickle.loads(path.read_bytes()) for path in sorted(record.glob("*.step"))]


if RECORD:
    for kind, names, aside in (
        (SweepFolder, ("write", "delete", "delete_empty", "move"), ".aside/{path}"),
        (CheckpointFolder, ("write", "delete"), "{path}.part"),
    ):
        root = (lambda f: f.root) if kind is SweepFolder else (lambda f: f.path)
        for name in names:
            setattr(kind, name, _recorded(getattr(kind, name), root, aside))
