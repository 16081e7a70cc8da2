"""Unknown names, with the nearest known one; `package.module:function` imported."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Collection
from importlib import import_module
from typing import Any

OWN = "package.module:function"  # how a user's own space, model or dataset is named


class NotHere(ValueError):
    """Files that would be downloaded, where nothing may be."""


# `results.names` holds the same function: neither package may import the other.
def unknown(what: str, name: object, known: Collection[str]) -> ValueError:
    """The error for a `name` that is not among the `known` ones; up to 20 of them are listed."""
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    guess = f"did you mean {near[0]!r}? " if near else ""
    listed = ", ".join(list(known)[:20]) + (", …" if len(known) > 20 else "")
    return ValueError(f"unknown {what} {name!r:.200}: {guess}known: {listed or 'none'}")


def import_named(what: str, path: str, kind: type = type(None)) -> Any:
    """What `package.module:name` names: a function, or a `kind`.

    Raises ValueError if the module cannot be imported or holds no such thing.
    """
    module_name, _, name = path.partition(":")
    try:
        module = import_module(module_name)
    except Exception as error:  # whatever the user's module raises
        reason = f"cannot import {module_name!r} ({in_words(error)}){place(path, error)}"
        raise ValueError(f"{what} {path!r}: {reason}") from error
    if not hasattr(module, name):
        public = [known for known in vars(module) if not known.startswith("_")]
        raise ValueError(f"{what} {path!r}: {unknown(f'name in {module_name}', name, public)}")
    found = getattr(module, name)
    if not callable(found) and not isinstance(found, kind):
        raise ValueError(f"{what} {path!r} is a {type(found).__name__}, not a function")
    return found


def own_error(what: str, path: str, error: Exception) -> ValueError:
    """What the function that `path` names has raised, in one line with the file and line."""
    return ValueError(f"{what} {path!r} failed with {in_words(error)}{place(path, error)}")


def in_words(error: Exception) -> str:
    """As in `KeyError: 'x'`, on one line."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)  # which has its place too
    return f"{type(error).__name__}: {' '.join(text.split())}".removesuffix(": ")


def place(path: str, error: Exception) -> str:
    """As in ` (mine.py, line 3)`: the last line of the code that `path` names which the error went
    through; empty if it went through none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}, line {error.lineno})"
    package = path.partition(":")[0].partition(".")[0]
    lines = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).partition(".")[0] == package
    ]
    return f" ({lines[-1][0]}, line {lines[-1][1]})" if lines else ""
