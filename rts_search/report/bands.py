"""A mean as a line, in the band from the lowest to the highest value."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import plotly.graph_objects as go

from rts_search.report.data import finite
from rts_search.report.figures import short


def add_mean(
    figure: go.Figure,
    x: Sequence[float],
    values: Sequence[Sequence[Any]],
    tint: str,
    row: int,
    col: int = 1,
    **look: Any,
) -> None:
    """Draw the mean of the `values` at each x, of those that are finite, and their band where there
    are several; `look` is the line's trace."""
    pairs = ((at, [*filter(finite, own)]) for at, own in zip(x, values, strict=True))
    known = [(at, own) for at, own in pairs if own]
    if any(len(own) > 1 for _, own in known):
        places = [at for at, _ in known]
        edge = [*(max(own) for _, own in known), *(min(own) for _, own in reversed(known))]
        figure.add_scatter(
            x=[*map(short, [*places, *reversed(places)])],
            y=[*map(short, edge)],
            mode="lines",
            line={"width": 0},
            fill="toself",
            fillcolor=tint,
            opacity=0.16,
            hoverinfo="skip",
            showlegend=False,
            legendgroup=look.get("legendgroup"),
            row=row,
            col=col,
        )
    figure.add_scatter(
        x=[short(at) for at, _ in known],
        y=[short(fmean(own)) for _, own in known],
        row=row,
        col=col,
        **look,
    )
