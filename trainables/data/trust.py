"""Warns before reading a file that can run code and that another user could have written."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path


class TrustWarning(UserWarning):
    """Another user could have written what is about to be read."""


def warn_if_others_write(paths: Iterable[Path], what: str) -> None:
    """Warn, in one line that begins with `what`, if another user could change one of the paths."""
    reasons = (reason for path in paths for reason in others_write(path))
    reason = next(reasons, None)
    if reason is not None:
        message = f"{what}, and another user could change them: {reason}; use a private folder"
        warnings.warn(message, TrustWarning, stacklevel=2)


def others_write(path: Path) -> Iterator[str]:
    """Why another user than root could change what is at `path`: one reason a file or folder.

    The path's folders up to the root are looked at, and those of symbolic links on the way. A
    folder with the sticky bit, as /tmp, protects what is in it. Where only the owner may enter a
    folder, the permissions of what lies below do not matter.
    """
    if not path.exists():
        return
    here, todo, closed = Path("/"), list(Path(os.path.abspath(path)).parts[:0:-1]), [False]
    yield from _reasons(here, here.lstat())
    while todo:
        part = todo.pop()
        if part == "..":
            here, closed = here.parent, closed[:-1] or [False]
            continue
        entry = (here / part).lstat()
        if not closed[-1] or entry.st_uid not in trusted_users():
            yield from _reasons(here / part, entry)
        if stat.S_ISLNK(entry.st_mode):
            target = here / os.readlink(here / part)
            here, closed = Path("/"), [False]
            todo += target.parts[:0:-1]
            continue
        here /= part
        closed.append(closed[-1] or not entry.st_mode & (stat.S_IXGRP | stat.S_IXOTH))


def _reasons(path: Path, entry: os.stat_result) -> Iterator[str]:
    mode = entry.st_mode
    if entry.st_uid not in trusted_users():
        yield f"{path} belongs to user {entry.st_uid}"
    elif stat.S_ISLNK(mode) or (stat.S_ISDIR(mode) and mode & stat.S_ISVTX):
        return
    elif mode & stat.S_IWOTH:
        yield f"{path} is writable by everyone"
    elif mode & stat.S_IWGRP:
        yield f"{path} is writable by its group"


def trusted_users() -> tuple[int, int]:
    """Root and this one."""
    return 0, os.geteuid()
