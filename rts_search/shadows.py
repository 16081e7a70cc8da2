"""Modules where one stands that hide others of the same name: found before they break anything."""

from __future__ import annotations

import re
import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# our packages beside this one, each with a module that tells it from another of its name
OWN = {"results": "query.py", "search_spaces": "registry.py", "trainables": "loop.py"}


class HiddenError(ImportError):
    """One of our packages is hidden by another of its name."""


def check_own() -> None:
    """Raises HiddenError, which Python prints in one line, if one of our packages is not ours."""
    for name, module in OWN.items():
        spec = find_spec(name)
        folders = [Path(each) for each in (spec and spec.submodule_search_locations) or ()]
        if folders and (folders[0] / module).exists():
            continue
        _tell_in_one_line()
        if spec is None:
            raise HiddenError(f"the package {name!r} is missing: install rts-search again")
        place = folders[0] if folders else spec.origin
        raise HiddenError(
            f"{place} hides the package {name!r} of rts-search: rename it, take its folder off "
            f"PYTHONPATH, or, where it was installed, pip uninstall {name}"
        )


def _tell_in_one_line() -> None:
    usual = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
        if isinstance(error, HiddenError):
            print(f"rts-search: {error}", file=sys.stderr)
        else:
            usual(kind, error, traceback)

    sys.excepthook = hook


def check_here() -> None:
    """Raises ValueError, in one line, for a module in the working directory, or in the script's,
    that hides one of Python's, of ours or of a package that we need: Ray's processes would import
    it instead, since Ray puts both folders first."""
    for folder in dict.fromkeys([Path.cwd(), Path(sys.argv[0]).resolve().parent]):
        for path in sorted(folder.iterdir()):
            if path.suffix == ".py" or (path / "__init__.py").is_file():
                _check(path)


def _check(path: Path) -> None:
    name = path.stem
    if name in sys.builtin_module_names or not _hides_another(path):
        return
    if name in sys.stdlib_module_names or name in ("rts_search", *OWN) or _is_needed(name):
        raise ValueError(
            f"{path} hides the module {name!r} that Ray's processes need: rename it, or stand "
            "in another folder"
        )


def _hides_another(path: Path) -> bool:
    others = [each for each in sys.path if Path(each).absolute() != path.parent]
    spec = PathFinder.find_spec(path.stem, others)
    if spec is None or spec.origin is None:
        return False
    return Path(spec.origin).resolve() not in (path.resolve(), (path / "__init__.py").resolve())


def _is_needed(name: str) -> bool:
    """Whether the module comes with a package that we need, directly or not."""
    from importlib import metadata  # when it is asked for: it takes its time

    todo, needed = ["rts-search"], {"rts-search"}
    while todo:
        try:
            lines = metadata.requires(todo.pop()) or []
        except metadata.PackageNotFoundError:
            continue
        wanted = {re.split(r"[^\w.-]", line)[0].lower().replace("_", "-") for line in lines}
        todo += wanted - needed
        needed |= wanted
    owners = metadata.packages_distributions().get(name, [])
    return any(owner.lower().replace("_", "-") in needed for owner in owners)
