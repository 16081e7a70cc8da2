"""The loss landscapes of trials as one figure: along directions, and over the plane of two."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from rts_search.report.bands import add_mean
from rts_search.report.data import finite
from rts_search.report.figures import KINDS, label, short

if TYPE_CHECKING:  # it loads torch
    from rts_search.report.landscape import Landscape

ACROSS = 3  # planes in a row
LEVELS = 20  # lines of equal loss, about
LEAST = 1e-6  # the lowest loss on a log scale
AWAY = "distance, in norms of the filters"


def landscape(measured: Sequence[Landscape]) -> go.Figure:
    """The mean loss along each trial's directions, with the band from the lowest to the highest;
    and over a plane each, all on one scale of colours."""
    columns = min(ACROSS, len(measured))
    rows = math.ceil(len(measured) / columns)
    whole = [{"colspan": columns}, *[None] * (columns - 1)]
    figure = make_subplots(
        rows=1 + rows,
        cols=columns,
        specs=[whole, *[[{}] * columns] * rows],
        subplot_titles=["", *(label(each.name) for each in measured)],
        vertical_spacing=0.3 / (1 + rows),
    )
    for each, tint in zip(measured, KINDS * len(measured), strict=False):
        add_mean(
            figure,
            each.grid.steps,
            [*zip(*each.lines, strict=True)],
            tint,
            row=1,
            mode="lines",
            line={"color": tint, "width": 2},
            name=label(each.name),
            hovertemplate=f"{label(each.name)}, %{{x:.3g}} away: %{{y:.4g}}<extra></extra>",
        )
    logs = [*filter(finite, (_log(v) for each in measured for line in each.lines for v in line))]
    wide = {"type": "log", **_ticks(min(logs), max(logs))} if max(logs) - min(logs) > 1 else {}
    figure.update_yaxes(title="mean loss", row=1, col=1, **wide)
    figure.update_xaxes(title=AWAY, row=1, col=1)
    _add_planes(figure, measured, columns)
    figure.update_layout(
        title={"text": _title(measured[0]), "font": {"size": 14}, "y": 0.99, "yanchor": "top"},
        showlegend=True,
        height=420 + 360 * rows,
        margin={"t": 84},
    )
    return figure


def _title(one: Landscape) -> str:
    grid = one.grid
    of = f"{one.images:,}" if one.images == one.of else f"{one.images:,} of {one.of:,}"
    kind = "training" if grid.on == "train" else grid.on
    return (
        f"Mean loss over {of} {kind} images; {grid.directions} random directions, seed {grid.seed}"
    )


def _add_planes(figure: go.Figure, measured: Sequence[Landscape], columns: int) -> None:
    """Lines of equal loss at the same, round levels of log₁₀ for all trials."""
    logs = [_log(loss) for each in measured for line in each.plane for loss in line]
    every = [*filter(finite, logs)]
    low, high = min(every), max(every)
    size = max(round((high - low) / LEVELS, 2), 0.01)
    for place, each in enumerate(measured):
        row, col = 2 + place // columns, 1 + place % columns
        figure.add_contour(
            x=[*map(short, each.grid.steps)],
            y=[*map(short, each.grid.steps)],
            z=[[short(_log(loss)) for loss in line] for line in each.plane],
            text=[[f"{loss:.4g}" for loss in line] for line in each.plane],
            coloraxis="coloraxis",
            contours={"start": low, "end": high, "size": size},
            line={"width": 0.6, "color": "#ffffff"},
            hovertemplate="%{x:.3g}, %{y:.3g} away: loss %{text}<extra></extra>",
            row=row,
            col=col,
        )
        figure.update_yaxes(scaleanchor=f"x{place + 2}", constrain="domain", row=row, col=col)
        figure.update_xaxes(constrain="domain", row=row, col=col)
    figure.update_layout(
        coloraxis={
            "colorscale": "Viridis",
            "cmin": low,
            "cmax": high,
            "colorbar": {
                "title": {"text": "loss"},
                **_ticks(low, high, math.log10),
                "thickness": 12,
                "len": 0.5,
                "y": 0,
                "yanchor": "bottom",
            },
        }
    )


def _log(loss: float) -> float:
    return math.log10(max(loss, LEAST)) if finite(loss) else math.nan


def _ticks(
    low: float, high: float, placed: Callable[[float], float] = float
) -> dict[str, list[Any]]:
    """An axis's words at losses of one digit, between two powers of ten: some eight at most."""
    digits = (1,) if high - low > 3 else (1, 2, 5)
    powers = range(math.floor(low), math.ceil(high) + 1)
    losses = [digit * 10.0**power for power in powers for digit in digits]
    losses = [loss for loss in losses if low <= math.log10(loss) <= high]
    losses = losses if len(losses) > 1 else [10**low, 10**high]
    return {"tickvals": [*map(placed, losses)], "ticktext": [f"{loss:.3g}" for loss in losses]}
