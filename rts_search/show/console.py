"""The console, and durations in words."""

from __future__ import annotations

import os

from rich.console import Console


def make_console() -> Console:
    """A console as wide as the terminal; where there is none, wide enough for one line a row."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        return Console(width=160)
    return console


def duration(seconds: float) -> str:
    """As in `2 h 05 min`, `3 min 20 s` or `45 s`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"
