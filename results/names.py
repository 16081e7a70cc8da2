"""Unknown names: one clear error with the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Collection


# `trainables.names` holds the same function: neither package may import the other.
def unknown(what: str, name: object, known: Collection[str]) -> ValueError:
    """The error for a `name` that is not among the `known` ones; up to 20 of them are listed."""
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    guess = f"did you mean {near[0]!r}? " if near else ""
    listed = ", ".join(list(known)[:20]) + (", …" if len(known) > 20 else "")
    return ValueError(f"unknown {what} {name!r:.200}: {guess}known: {listed or 'none'}")
