"""The console: prose, tables that fit, and durations in words."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

INDENT = "  "


def make_console() -> Console:
    """A console as wide as the terminal; where there is none, wide enough for one line a row."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        return Console(width=160)
    return console


def prose(console: Console, line: str) -> None:
    """Prose, wrapped at words on a terminal; elsewhere a line stays one, for tools that read it."""
    if not console.is_terminal:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
        return
    indent = line[: len(line) - len(line.lstrip())]
    for row in wrapped(line, console.width, indent + INDENT):
        console.print(row, markup=False, highlight=False, soft_wrap=True)


def wrapped(line: str, width: int, indent: str) -> list[str]:
    """Lines of at most `width`, those after the first one indented; a longer word (a path) stays
    whole, so that it can be copied."""
    body = line.lstrip(" ")
    lead, rows, row = line[: len(line) - len(body)], [], ""
    for word in body.split(" "):
        if row and cell_len(f"{lead}{row} {word}") > width:
            rows.append(lead + row)
            lead, row = indent, word
        else:
            row = f"{row} {word}" if row else word
    return [*rows, lead + row]


Told = tuple[Sequence[str], str]  # a row's cells, and what is told after them


def print_told(
    console: Console, titles: Sequence[str], groups: Sequence[Sequence[Told]], left: int
) -> None:
    """Groups of rows under the titles, the first `left` columns at the left; the last title is that
    of what is told, which has a line of its own where it does not fit beside the cells."""
    rows = [row for group in groups for row in group]
    table = [titles[:-1], *(cells for cells, _ in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    room = console.width - sum(widths) - len(INDENT) * len(widths)
    beside = all(cell_len(told) <= room for _, told in rows)

    def line(cells: Sequence[str], told: str) -> str:
        pads = [" " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True)]
        both = list(zip(cells, pads, strict=True))
        padded = [cell + pad for cell, pad in both[:left]]
        padded += [pad + cell for cell, pad in both[left:]]
        return INDENT.join([*padded, told]).rstrip()

    lines = [line(titles[:-1], titles[-1] if beside else "")]
    for number, group in enumerate(groups):
        lines += [""] if number and beside and group else []
        for cells, told in group:
            fits = cell_len(told) <= room
            lines.append(line(cells, told if fits else ""))
            if not fits:
                lines += wrapped(INDENT + told, console.width, INDENT * 2)
    for text in lines:
        console.print(Text(text), soft_wrap=True)


def duration(seconds: float) -> str:
    """As in `2 h 05 min`, `3 min 20 s` or `45 s`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"
