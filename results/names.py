"""Unknown names: one clear error with the nearest valid one."""

from __future__ import annotations

import difflib
from collections.abc import Collection


def unknown(what: str, name: str, known: Collection[str]) -> ValueError:
    """The error for a `name` that is not among the `known` ones."""
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return ValueError(f"unknown {what} {name!r}: did you mean {near[0]!r}?")
    listed = ", ".join(sorted(known)[:20]) + (", …" if len(known) > 20 else "")
    return ValueError(f"unknown {what} {name!r}: " + (f"known: {listed}" if known else "none"))
