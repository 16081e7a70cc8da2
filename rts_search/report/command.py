"""`rts-search report` and `plot`: a sweep as a page, and its figures as files."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from pathlib import Path

import plotly.graph_objects as go

from results.names import unknown
from results.storage import write_aside
from rts_search.report.data import read
from rts_search.report.page import PLOTS, single, write
from rts_search.sweep import Sweep

EVERY = 10  # seconds between two pages of a sweep that runs
PAGES = (".html", ".htm")
FILES = (*PAGES, ".json")
KINDS = {kind: plot.words for kind, plot in PLOTS.items()}


def report(
    sweep: Sweep,
    output: Path | None,
    say: Callable[[str], None],
    *,
    live: bool = False,
    where: str | None = None,
) -> None:
    """Write the page; `live`, again and again until the sweep's driver has ended."""
    path = output or Path(f"{sweep.name}-report.html")
    if path.suffix not in PAGES:
        raise ValueError(f"report {path.name!r}: a report is a page, {' or '.join(PAGES)}")
    if live and sweep.driver() is not None:
        say(f"{path.resolve()}, written every {EVERY} s while the sweep runs; Ctrl-C ends that")
        try:
            while sweep.driver() is not None:
                _write(path, write(read(sweep, where), EVERY))
                time.sleep(EVERY)
        finally:
            _write(path, write(read(sweep, where)))
    else:
        _write(path, write(read(sweep, where)))
    say(f"{path.resolve()}  ({path.stat().st_size / 1e6:.1f} MB)")


def figure_of(kind: str, sweep: Sweep, where: str | None = None) -> tuple[go.Figure, str]:
    """The figure, and what is to be said below it. Raises ValueError, in one line, also where there
    is nothing to draw."""
    if kind not in KINDS:
        raise unknown("plot", kind, KINDS)
    figure = PLOTS[kind].draw(read(sweep, where))
    if figure is None:
        raise ValueError(f"{sweep.name}: no {kind} to draw. {PLOTS[kind].absent}")
    return figure, PLOTS[kind].words


def plot(
    kind: str,
    sweep: Sweep,
    output: Path | None,
    say: Callable[[str], None],
    where: str | None = None,
) -> None:
    """Write one figure: as a page, or as plotly's JSON."""
    path = output or Path(f"{sweep.name}-{kind}.html")
    if path.suffix not in FILES:
        raise ValueError(
            f"plot {path.name!r}: plots are written as {', '.join(FILES)}; the page's camera saves "
            "an .svg"
        )
    figure, words = figure_of(kind, sweep, where)
    page = path.suffix != ".json"
    _write(path, single(sweep.name, kind, figure, words) if page else figure.to_json())
    say(f"{path.resolve()}")


def _write(path: Path, text: str) -> None:
    write_aside(path, text.encode(), path.with_name(f".{path.name}.{uuid.uuid4().hex}"))
