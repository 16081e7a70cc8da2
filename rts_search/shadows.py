"""Which rts-search runs, and modules that hide ours or others: found before they break a thing."""

from __future__ import annotations

import re
import sys
import sysconfig
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.metadata import PackagePath

# our packages beside this one; the first line of each says whose it is
OWN = ("results", "search_spaces", "trainables")
HOME = Path(__file__).parents[1]
AGAIN = "install rts-search again with pip install --force-reinstall --no-deps"


class HiddenError(ImportError):
    """One of our packages is hidden by another of its name."""


def check_own() -> None:
    """Raises HiddenError, which Python prints in one line, if one of our packages is not ours."""
    for name in OWN:
        spec = find_spec(name)
        if spec is not None and spec.has_location and _is_own(Path(str(spec.origin))):
            continue
        _tell_in_one_line()
        if spec is None:
            raise HiddenError(f"the package {name!r} is missing: {AGAIN}")
        place = Path((spec.submodule_search_locations or [str(spec.origin)])[0])
        if place == HOME / name:
            raise HiddenError(f"{place} is not that of rts-search any more{_installed_over(name)}")
        raise HiddenError(
            f"{place} hides the package {name!r} of rts-search: rename it, take its folder off "
            f"PYTHONPATH, or, where it was installed, pip uninstall {name}"
        )


def _is_own(module: Path) -> bool:
    with module.open(encoding="utf-8", errors="replace") as file:
        return "rts-search" in file.readline()


def _installed_over(name: str) -> str:
    """What has happened to our package, and what mends it."""
    from importlib import metadata  # when it is asked for: it takes its time

    others = sorted({*metadata.packages_distributions().get(name, [])} - {"rts-search"})
    if not others:
        return f": {AGAIN}"
    named = " ".join(others)
    return f": {named} was installed over it; pip uninstall {named}, then {AGAIN}"


def version() -> str:
    from importlib import metadata

    try:
        return f"rts-search {metadata.version('rts-search')}"
    except metadata.PackageNotFoundError:
        return "rts-search, not installed"


def check_installed() -> str:
    """Which rts-search this is. Raises ValueError, in one line, for packages of two installations
    and for files that another package, or anyone, has overwritten."""
    from importlib import metadata

    for name in OWN:
        spec = find_spec(name)
        folder = Path(str(spec and spec.origin)).parent
        if folder.parent != HOME:
            raise ValueError(_two(folder, HOME / "rts_search"))
    found = f"{version()}, at {HOME}"
    try:
        installed = metadata.distribution("rts-search")
    except metadata.PackageNotFoundError:
        return found
    own = [f for f in installed.files or () if f.parts[0] in ("rts_search", *OWN) and f.hash]
    if not own:  # a link to a checkout
        return found
    there = Path(str(installed.locate_file("rts_search")))
    if there.resolve().parent != HOME.resolve():
        raise ValueError(_two(there, HOME / "rts_search"))
    changed = [path for path in own if not _is_unchanged(path)]
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise ValueError(
            f"{changed[0].locate()}{more}: not as {version()} installed it"
            f"{_installed_over(changed[0].parts[0])}"
        )
    return found


def _two(one: Path, other: Path) -> str:
    return (
        f"{one} and {other} are of two installations of rts-search: take the folder of one off "
        "PYTHONPATH, leave the checkout, or pip uninstall rts-search"
    )


def _is_unchanged(path: PackagePath) -> bool:
    import base64
    import hashlib

    assert path.hash is not None
    try:
        found = hashlib.new(path.hash.mode, path.read_binary()).digest()
    except OSError:
        return False
    return base64.urlsafe_b64encode(found).decode().rstrip("=") == path.hash.value


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
    it instead, since Ray puts both folders first. What packages install beside Python as scripts
    (bottle.py) is theirs; and a notebook is no script."""
    scripts = Path(sysconfig.get_path("scripts")).resolve()
    is_script = hasattr(sys.modules["__main__"], "__file__")
    script = [Path(sys.argv[0]).resolve().parent] if is_script else []
    for folder in dict.fromkeys([Path.cwd(), *script]):
        if folder == scripts:
            continue
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
    from importlib import metadata

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
