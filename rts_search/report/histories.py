"""Training histories: loss, accuracy and generalisation gap over the epochs, with the firing."""

from __future__ import annotations

from statistics import fmean

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from results.meanings import column, metric_of
from rts_search.report.bands import add_mean
from rts_search.report.data import Told, finite
from rts_search.report.figures import KINDS, label, short, thinned
from rts_search.report.runs import Runs

# an axis, and its columns in training and in validation
PANELS = (
    ("loss", "train_loss", "val_loss"),
    ("accuracy", "train_accuracy", "val_accuracy"),
    ("generalisation gap", None, "generalization_gap"),
)
LOOKS = {"solid": "validation", "dot": "training"}


def history(report: Told) -> go.Figure | None:
    """Of chosen arms and trials: solid in validation, dotted in training, as means over seeds with
    the band from the lowest to the highest, and a diamond where a run fires."""
    if not report.arms:
        return None
    panels = [*PANELS]
    if column(report.objective) == "value":  # of a task of one's own
        panels[1] = (metric_of(report.objective).replace("_", " "), None, "value")
    figure = make_subplots(rows=len(PANELS), cols=1, shared_xaxes=True, vertical_spacing=0.05)
    for arm, tint in zip(report.arms, KINDS * len(report.arms), strict=False):
        for row, (_, train, validation) in enumerate(panels, 1):
            if train is not None:
                _add_line(figure, arm, train, tint, "dot", row)
            _add_line(figure, arm, validation, tint, "solid", row)
            _add_firings(figure, arm, validation, tint, row)
    for dash, name in LOOKS.items():
        line = {"color": "#8a929c", "dash": dash, "width": 2}
        figure.add_scatter(x=[None], y=[None], mode="lines", line=line, name=name)
    for row, (title, *_) in enumerate(panels, 1):
        figure.update_yaxes(title=title, row=row, col=1)
    epoch = "epoch; what is called validation is the test set" if report.on_test else "epoch"
    figure.update_xaxes(title=epoch, row=len(PANELS), col=1)
    figure.update_layout(height=860, showlegend=True)
    return figure


def _add_line(figure: go.Figure, arm: Runs, name: str, tint: str, dash: str, row: int) -> None:
    at = thinned([*arm.over_epochs(name).items()])
    seeds = f" ({len(arm.runs)} seeds)" if len(arm.runs) > 1 else ""
    add_mean(
        figure,
        [epoch for epoch, _ in at],
        [values for _, values in at],
        tint,
        row=row,
        mode="lines+markers" if len(at) == 1 else "lines",
        line={"color": tint, "dash": dash, "width": 2},
        name=label(arm.name) + seeds,
        legendgroup=label(arm.name),
        showlegend=row == 1 and dash == "solid",
        hovertemplate=f"{label(arm.name)}, {LOOKS[dash]}, epoch %{{x}}: %{{y:.4g}}<extra></extra>",
    )


def _add_firings(figure: go.Figure, arm: Runs, name: str, tint: str, row: int) -> None:
    """On the mean, at each epoch at which a run fires."""
    values = arm.over_epochs(name)
    known = {at: own for at in arm.firings if (own := [*filter(finite, values.get(at, ()))])}
    if known:
        figure.add_scatter(
            x=[*known],
            y=[short(fmean(own)) for own in known.values()],
            mode="markers",
            marker={"symbol": "diamond", "size": 9, "color": tint},
            legendgroup=label(arm.name),
            showlegend=False,
            hovertemplate=f"{label(arm.name)} fires: first perturbed epoch %{{x}}<extra></extra>",
            row=row,
            col=1,
        )
