"""Figures as images, drawn by plotly's kaleido in a Chrome or Chromium that is installed."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go

from rts_search.report.theme import described, look

IMAGES = (".svg", ".png", ".pdf")
WIDTH, DENSITY = 1000, 2  # pixels of the figure, and how many an image has for each


def check_browser(suffix: str) -> None:
    """Raises ValueError, in one line, where no browser is found that could draw it."""
    from choreographer.browsers import Chromium

    path = Chromium.find_browser(skip_local=False)
    if path is None or not Path(path).is_file():
        raise ValueError(
            f"an {suffix} is drawn by Chrome or Chromium, and none is found: install one (Debian's "
            "package chromium), name it in BROWSER_PATH, or write .html, whose camera saves an .svg"
        )


def image(figure: go.Figure, suffix: str) -> bytes:
    """As it is in print. Raises ValueError, in one line, where the browser fails."""
    from kaleido import calc_fig_sync
    from kaleido.errors import KaleidoError

    told = described(figure)
    told["layout"] |= {"template": look(night=False), "paper_bgcolor": "white"}
    size = {"width": WIDTH, "height": told["layout"]["height"], "scale": DENSITY}
    try:
        drawn: bytes = calc_fig_sync(
            told,
            opts={"format": suffix.removeprefix("."), **size},
            kopts={"mathjax": False},  # which would be loaded from the web
        )
    except (KaleidoError, RuntimeError) as error:
        why = " ".join(" ".join(map(str, error.args)).split())
        raise ValueError(f"the browser (BROWSER_PATH names another) failed: {why}") from None
    return drawn
