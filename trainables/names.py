"""Unknown names, with the nearest known one; `package.module:function` imported."""

from __future__ import annotations

import difflib
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
    return ValueError(f"unknown {what} {name!r}: {guess}known: {listed or 'none'}")


def import_named(what: str, path: str, kind: type = type(None)) -> Any:
    """What `package.module:name` names: a function, or a `kind`.

    Raises ValueError if the module cannot be imported or holds no such thing.
    """
    module_name, _, name = path.partition(":")
    try:
        module = import_module(module_name)
    except Exception as error:  # whatever the user's module raises
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{what} {path!r}: cannot import {module_name!r} ({reason})") from error
    if not hasattr(module, name):
        public = [known for known in vars(module) if not known.startswith("_")]
        raise ValueError(f"{what} {path!r}: {unknown(f'name in {module_name}', name, public)}")
    found = getattr(module, name)
    if not callable(found) and not isinstance(found, kind):
        raise ValueError(f"{what} {path!r} is a {type(found).__name__}, not a function")
    return found
