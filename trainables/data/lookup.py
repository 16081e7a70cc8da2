"""Names that stand for code: built-ins with a nearest match, and `package.module:function`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any


def unknown_name(what: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for a name that is neither built in nor `package.module:function`."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    # a few hundred names do not fit into one line
    rest = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known[:12])}"
    return ValueError(f"{what} {name!r} is unknown: {rest} (or package.module:function)")


def import_function(what: str, path: str) -> Callable[..., Any]:
    """The function that `package.module:function` names.

    Raises ValueError if the module cannot be imported or holds no such function.
    """
    module_name, _, name = path.partition(":")
    try:
        module = import_module(module_name)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{what} {path!r}: cannot import {module_name!r}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"{what} {path!r}: module {module_name!r} has no function {name!r}")
    return function  # type: ignore[no-any-return]
