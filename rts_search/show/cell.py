"""A sweep's progress in a notebook's cell: one place that is drawn anew."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from rts_search.show.console import clean

if TYPE_CHECKING:
    from rts_search.show.progress import Progress

STYLE = "font: 12px/1.5 monospace; margin: 0"


class Cell:
    """Draws a sweep's progress, in the end how it has ended."""

    def __init__(self) -> None:
        self.handle: Any = None

    def start(self) -> None:
        pass

    def draw(self, progress: Progress, ended: bool = False) -> None:
        from IPython.display import display

        content = drawn(progress, ended)
        if self.handle is None:
            self.handle = display(content, raw=True, display_id=True)
        else:
            self.handle.update(content, raw=True)

    def stop(self, progress: Progress) -> None:
        self.draw(progress, ended=True)


def drawn(progress: Progress, ended: bool) -> dict[str, str]:
    """What the cell shows: as HTML, and as text where that is all there is."""
    lines = [clean(line) for line in progress.lines(ended)]
    done, planned = sum(progress.outcomes.values()), progress.planned
    bar = f"<progress value='{done}' max='{planned}' style='width: 100%'></progress>"
    parts = [bar, *(f"<div style='{STYLE}'>{html.escape(line)}</div>" for line in lines)]
    head, *rows = progress.rows()
    if rows and not ended:
        cells = "".join([_row("th", head), *(_row("td", row) for row in rows)])
        parts.append(f"<table style='{STYLE}'>{cells}</table>")
    return {"text/plain": "\n".join(lines), "text/html": "".join(parts)}


def _row(tag: str, cells: list[str]) -> str:
    told = "".join(f"<{tag}>{html.escape(clean(cell))}</{tag}>" for cell in cells)
    return f"<tr>{told}</tr>"
