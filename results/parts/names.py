"""How parts are named: who wrote one and when, and whether it was merged."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Sequence

PART = re.compile(r"part-.+\.parquet")
# a part of `epochs`: when it was written, when its writer had opened the ledger, the writer's token
_WRITTEN = re.compile(r"part-(\d{20})-(\d{20}-[0-9a-f]{8})(?:-m\d+)?\.parquet")
_EARLIER = re.compile(
    r"part-(?:(\d{20})-[0-9a-f]{8}|_merged-[0-9a-f]{32})\.parquet"
)  # without a writer
_OF_TRIALS = re.compile(r"part-(\d{6,}(-m\d+)?|_merged-\w+)\.parquet")
_LEVEL = re.compile(r"-m(\d+)(?:\.parquet)?$")
_HIDDEN = "_part-"  # neither `*.parquet` nor pyarrow's own listing of a folder finds it


def new_writer(names: Sequence[str]) -> str:
    """A name for one that opens a ledger with these parts of `epochs`, newer than all before."""
    times = [int(digits) for name in names for digits in re.findall(r"-(\d{20})(?=-)", name)]
    opened = max(time.time_ns(), max(times, default=0) + 1)  # clocks differ
    return f"{opened:020d}-{uuid.uuid4().hex[:8]}"


def epoch_part(writer: str, level: int = 0) -> str:
    """A new name for a part of `epochs`: never taken, and in the order of time."""
    return f"part-{time.time_ns():020d}-{writer}{f'-m{level}' if level else ''}.parquet"


def epoch_part_of_import() -> str:
    """The one part of `epochs` that a ledger begins with whose trials were not trained here: the
    same at every try, older than all others."""
    return f"part-{0:020d}-{0:020d}-{0:08x}.parquet"


def level(name: str) -> int:
    """How often its rows were merged; 0 for a part as it was first written."""
    match = _LEVEL.search(name)
    return int(match[1]) if match else 0


def is_hidden(name: str) -> bool:
    return name.startswith(_HIDDEN)


def hide(name: str) -> str:
    """The name of a merged part while the parts that it replaces may be there."""
    return f"_{name.removesuffix('.parquet')}"


def shown(name: str) -> str:
    """A merged part's name, whether it is in place or not."""
    return f"{name[1:]}.parquet" if is_hidden(name) else name


def is_merged(name: str) -> bool:
    return bool(level(name)) or name.startswith("part-_merged-")


def may_hold_doubles(names: Sequence[str]) -> bool:
    """Whether an epoch may be in two of these parts of `epochs`, by their names.

    A writer that opens a ledger drops the doubles that it finds, and adds none. Hence they are
    possible only where another writer has written a part since the newest one opened: two drivers
    at once. Of versions that did not name the writer, all parts until then count.
    """
    parts: list[tuple[str, str]] = []  # time of writing, writer; times have one length
    for name in names:
        if match := _WRITTEN.fullmatch(shown(name)):
            parts.append((match[1], match[2]))
        elif match := _EARLIER.fullmatch(name):
            parts.append((match[1] or "", ""))
        else:
            return True  # put there by hand
    newest = max((writer for _, writer in parts), default="")
    opened = newest.partition("-")[0]
    return any(time >= opened for time, writer in parts if writer != newest or not newest)


def is_driven(name: str) -> bool:
    """Whether a part of `trials` is named as a driver names it: others may be copies."""
    return _OF_TRIALS.fullmatch(shown(name)) is not None


def merged_in(names: Sequence[str]) -> set[str]:
    return {shown(name) for name in names if is_merged(name)}
