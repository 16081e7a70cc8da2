"""Whose code runs: said before it does, and refused where it is another user's and not trusted."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path

from results.storage import MARKS, SweepFolder
from rts_search.spec.model import SweepSpec
from trainables.config import TrialConfig
from trainables.data.trust import trusted_users


def check_trust(
    folder: SweepFolder,
    asked: SweepSpec | TrialConfig,
    trusted: bool,
    say: Callable[[str], None] = print,
    source: Path | None = None,
) -> None:
    """Say which code beside ours a sweep in this folder is about to run, and from which files.

    Raises ValueError, in one line, if the folder, a spec or ledger in it, such a file or the one
    that says what is run (`source`) belongs to another user (root apart), unless that is `trusted`.
    An object store tells no owners.
    """
    files = [source] if source is not None else []
    for what, name in asked.named.items():
        module, mark, _ = name.partition(":")
        if mark:
            found = list(sources_of(module))
            say(f"runs {what} {name} from {found[-1] if found else 'a module that is not here'}")
            files += found
    if folder.local_path is not None:
        files += [folder.local_path, *(folder.local_path / mark for mark in MARKS)]
    theirs = next((path for path in files if path.exists() and _owner(path)), None)
    if theirs is not None and not trusted:
        raise ValueError(
            f"{theirs} belongs to user {_owner(theirs)}: to go on is to run what is named there, "
            "as you; look at it first, and then add --trust"
        )


def sources_of(module: str) -> Iterator[Path]:
    """The files that importing the module would run, its packages' first, without running any."""
    places, name = None, ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        if (loaded := getattr(sys.modules.get(name), "__file__", None)) is not None:
            yield Path(loaded)
            places = getattr(sys.modules[name], "__path__", None)
            continue
        found = PathFinder.find_spec(name, places)
        if found is None:
            return
        if found.origin is not None:
            yield Path(found.origin)
        places = found.submodule_search_locations


def _owner(path: Path) -> str | None:
    """Another user than this one and root, to whom the file belongs."""
    owner = os.stat(path).st_uid
    if owner in trusted_users():
        return None
    try:
        return pwd.getpwuid(owner).pw_name
    except KeyError:
        return str(owner)
