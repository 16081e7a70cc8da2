"""The console: prose, tables that fit, and durations in words; nothing in them controls it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO, cast

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

INDENT = "  "
CELL = 120  # columns of a notebook's cell
COLOURS = re.compile(r"\x1b\[[0-9;:]*m")  # as Ray puts them into logs
# C0 but tab and newline, DEL, C1; what separates lines, or turns the direction of writing
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """Text of others' as a terminal may have it: controls are shown as JSON writes them, so that
    JSON stays what it is; a return is a new line, so that nothing is written over."""
    if CONTROLS.search(text) is None:
        return text
    text = COLOURS.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    return CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class CleanConsole(Console):
    """Prints text as it is: no markup, no links, no controls but rich's own."""

    def __init__(self, **asked: Any) -> None:
        super().__init__(markup=False, emoji=False, force_jupyter=False, **asked)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                style = segment.style and segment.style.update_link(None)
                yield Segment(clean(segment.text), style)


class CleanStream:
    """Standard output or error, cleaned of what `print`, warnings and errors write there.

    rich finds what is behind it by a name of its own: a console cleans what it is given, and its
    colours pass. So do bytes, which are files, but to a terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self.rich_proxied_file = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)

    def write(self, text: str) -> int:
        bar = text.startswith("\r")  # of a download, drawn over the one before
        self.rich_proxied_file.write("\r" * bar + clean(text[bar:]))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    @property
    def buffer(self) -> Any:
        return CleanBytes(self) if self.isatty() else self.rich_proxied_file.buffer


class CleanBytes:
    """The bytes of a table on their way to a terminal."""

    def __init__(self, stream: CleanStream) -> None:
        self.stream, self.flush = stream, stream.flush

    def write(self, content: bytes) -> int:
        self.stream.write(content.decode("utf-8", "replace"))
        return len(content)


@contextmanager
def cleaned_output() -> Iterator[None]:
    """All that is written to standard output and error goes through `clean`."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, CleanStream(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def in_cell() -> bool:
    """Whether this process is a notebook's kernel, and what it shows goes into a cell."""
    if (ipython := sys.modules.get("IPython")) is None:
        return False
    return getattr(ipython.get_ipython(), "kernel", None) is not None


def make_console(error: bool = False) -> Console:
    """A console as wide as the terminal; where there is none, wide enough for one line a row. On
    standard output or, beside what that is to hold, on standard `error`."""
    # not by its name, which the live table puts another stream under
    stream = sys.stderr if error else sys.stdout
    file = getattr(stream, "rich_proxied_file", stream)
    if in_cell():  # which Jupyter's settings give out for a terminal
        return CleanConsole(file=file, width=CELL, force_terminal=False)
    console = CleanConsole(file=file)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        return CleanConsole(file=file, width=160)
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
