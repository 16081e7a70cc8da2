"""`rts-search report` and `plot`: a sweep as a page, and its figures as files."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from results.names import unknown
from results.storage import write_aside
from rts_search.notebook import Sweep
from rts_search.report.data import read
from rts_search.report.images import IMAGES, check_browser, image
from rts_search.report.page import PLOTS, single, write

EVERY = 10  # seconds between two pages of a sweep that runs
PAGES = (".html", ".htm")
FILES = (*PAGES, ".json", *IMAGES)
LANDSCAPE = "landscape"
PLANES = (
    "The mean loss along random directions from the final weights, whose every filter has the norm "
    "of the weights' own (arXiv 1712.09913; biases and batch norm stay): the mean over directions, "
    "with the band from the lowest to the highest; below, over the plane of the first two. All "
    "trials have the same draws, images and scale of colours."
)


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
                _write(path, write(read(sweep, where), EVERY).encode())
                time.sleep(EVERY)
        finally:
            _write(path, write(read(sweep, where)).encode())
    else:
        _write(path, write(read(sweep, where)).encode())
    say(f"{path.resolve()}  ({path.stat().st_size / 1e6:.1f} MB)")


def plot(
    kind: str,
    sweep: Sweep,
    output: Path | None,
    say: Callable[[str], None],
    where: str | None = None,
    *,
    names: Sequence[str] = (),
    trust: bool = False,
    **grid: Any,
) -> None:
    """Write one figure as a page, as plotly's JSON or as an image. `names` choose the trials and
    arms of a history or landscape; `grid` are the settings of a landscape's that are not None."""
    if kind not in (*PLOTS, LANDSCAPE):
        raise unknown("plot", kind, [*PLOTS, LANDSCAPE])
    given = {name: value for name, value in grid.items() if value is not None}
    foreign = [*given, *(["trust"] if trust else [])] if kind != LANDSCAPE else []
    foreign += ["trials"] if names and kind not in ("history", LANDSCAPE) else []
    if foreign:
        of = "the landscape" if foreign != ["trials"] else "the landscape and the history"
        raise ValueError(f"plot {kind} takes no --{foreign[0]}, which is of {of}")
    path = output or Path(f"{sweep.name}-{kind}.html")
    if path.suffix not in FILES:
        raise ValueError(f"plot {path.name!r}: plots are written as {', '.join(FILES)}")
    if path.suffix in IMAGES:
        check_browser(path.suffix)  # before what takes minutes
    if kind == LANDSCAPE:
        figure, words = _landscape(sweep, where, names, given, trust, say)
    else:
        told = read(sweep, where, names)
        figure, words = PLOTS[kind].draw(told), PLOTS[kind].words
    if figure is None:
        raise ValueError(f"{sweep.name}: no {kind} to draw. {PLOTS[kind].absent}")
    if path.suffix in IMAGES:
        _write(path, image(figure, path.suffix))
    elif path.suffix == ".json":
        _write(path, figure.to_json().encode())
    else:
        _write(path, single(sweep.name, kind, figure, words).encode())
    say(f"{path.resolve()}")


def _landscape(
    sweep: Sweep,
    where: str | None,
    names: Sequence[str],
    given: Mapping[str, Any],
    trust: bool,
    say: Callable[[str], None],
) -> tuple[go.Figure, str]:
    """Of the named trials or the usual ones, with what is to be said below it."""
    from rts_search.report.landscape import Grid, measure, usual  # they load torch
    from rts_search.report.surfaces import landscape

    grid = Grid(**given)
    measured = measure(sweep, names or usual(read(sweep, where)), grid, trust, say)
    for each in measured:
        say(str(each))
    return landscape(measured), " ".join([PLANES, *(f"{each}." for each in measured)])


def _write(path: Path, content: bytes) -> None:
    write_aside(path, content, path.with_name(f".{path.name}.{uuid.uuid4().hex}"))
