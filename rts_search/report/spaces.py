"""Figures of the space: what matters in it, parallel coordinates, and slices with its edges."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from rts_search.report.data import Shown, Told, finite, in_effect, names_of, standing
from rts_search.report.figures import SCALE, axis_of, by_outcome, colour, label, short
from rts_search.search.edges import Range
from rts_search.search.known import FIRING

FEWEST = 10  # trials that tell what matters
TOP = 5  # trials, at least, that count as the best of which a parameter is to be told
MOST = 16  # parameters
CHOICES = 12  # values of a choice that are told apart
SHADES = 10
LACKING = -0.13  # where trials without a parameter stand on its axis


@dataclass(frozen=True)
class Parameter:
    """One that trials differ in: a number, `log` where its range is, or one of `choices`."""

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    choices: Sequence[Any] = ()

    def scaled(self, value: Any) -> float:
        """Where it stands on an axis."""
        if self.choices:
            return self.choices.index(value)
        return math.log10(value) if self.log else float(value)


def parameters_of(
    points: Sequence[Mapping[str, Any]], ranges: Mapping[str, Range]
) -> list[Parameter]:
    """What these points differ in, with the ranges of the space where they are known."""
    found = []
    for name in names_of(points):
        values = [point[name] for point in points if name in point]
        if not all(map(finite, values)):
            choices = sorted(set(values), key=lambda value: (str(type(value)), str(value)))
            found.append(Parameter(name, choices=choices))
            continue
        known = ranges.get(name)
        ends = [*values, *([known.low, known.high] if known else [])]
        low, high = min(ends), max(ends)
        log = known.log if known else low > 0 and high / low >= 100 and name != FIRING
        whole = all(isinstance(value, int) for value in values)
        found.append(Parameter(name, low, high, log and low > 0, whole))
    return found


def importance(report: Told) -> go.Figure | None:
    """What tells the best from the others, by PED-ANOVA."""
    found = importances(report)
    if not found:
        return None
    shares = list(found.items())[:MOST][::-1]
    figure = go.Figure(
        go.Bar(
            x=[short(share) for _, share in shares],
            y=[label(name) for name, _ in shares],
            orientation="h",
            marker={"color": "#4a8fd6"},
            hovertemplate="%{y}: %{x:.1%}<extra></extra>",
        ),
        layout={"height": 150 + 24 * len(shares)},
    )
    figure.update_xaxes(title="share of the importance", tickformat=".0%", rangemode="tozero")
    figure.update_yaxes(automargin=True)
    return figure


def importances(report: Told) -> dict[str, float]:
    """Optuna's PED-ANOVA over configurations in effect, the most important first; those that were
    stopped count below those that completed. Nothing where there are too few."""
    ended = [t for t in report.trials if t.outcome != "running" and t.value is not None]
    points = [in_effect(trial) for trial in ended]
    asked = parameters_of(points, report.ranges)
    if len(ended) < FEWEST or not asked:
        return {}
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    order = sorted({standing(trial, report.objective) for trial in ended}, reverse=True)
    places = {each: place for place, each in enumerate(order)}
    given = {each.name: _distribution(each) for each in asked}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))  # lower is better
    study.add_trials(
        optuna.trial.create_trial(
            value=places[standing(trial, report.objective)],
            params={
                each.name: each.choices.index(point[each.name])
                if each.choices
                else point[each.name]
                for each in asked
                if each.name in point
            },
            distributions={name: given[name] for name in given if name in point},
        )
        for trial, point in zip(ended, points, strict=True)
    )
    share = min(0.5, max(0.1, TOP / len(ended)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        judge = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=share)
        told = optuna.importance.get_param_importances(study, evaluator=judge)
    return {name: value for name, value in told.items() if finite(value)}


def _distribution(parameter: Parameter) -> Any:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if parameter.choices:
        return CategoricalDistribution(range(len(parameter.choices)))
    if parameter.whole and float(parameter.low).is_integer() and float(parameter.high).is_integer():
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)


def parallel(report: Told) -> go.Figure | None:
    """Parallel coordinates of what completed: an axis a parameter, the objective the last one.

    Lines of SVG, in as many traces as there are `SHADES`: plotly's own are WebGL's, which takes
    seconds where there is no GPU, is not printed, and makes code from text.
    """
    trials = [trial for trial in report.shown if trial.completed and trial.value is not None]
    points = [{**trial.params, **_firing(trial)} for trial in trials]
    asked = parameters_of(points, report.ranges)[:MOST]
    values = [trial.value for trial in trials if trial.value is not None]
    if not asked or len(set(values)) < 2:
        return None
    axes = [_axis(each, points) for each in asked]
    axes.append(_objective_axis(report.axis, values))
    figure = go.Figure(layout={"height": 470, "showlegend": False, "margin": {"t": 70, "r": 50}})
    for place, axis in enumerate(axes):
        line = {"color": "#8a929c", "width": 1}
        figure.add_shape(type="line", x0=place, x1=place, y0=LACKING, y1=1.02, line=line)
        figure.add_annotation(
            x=place, y=1.08 + 0.08 * (place % 2), text=axis.title, showarrow=False
        )
        for height, text in axis.ticks.items():
            figure.add_annotation(
                x=place,
                y=height,
                text=text,
                showarrow=False,
                xanchor="left",
                xshift=3,
                font={"size": 10, "color": "#8a929c"},
            )
    _add_lines(figure, report, [trial.name for trial in trials], axes)
    figure.update_xaxes(visible=False, range=[-0.1, len(axes) - 0.6])
    figure.update_yaxes(visible=False, range=[-0.16, 1.22])
    return figure


def _add_lines(figure: go.Figure, report: Told, names: Sequence[str], axes: Sequence[Axis]) -> None:
    """A line a trial, coloured by the place of its objective among all; the best are on top."""
    order = sorted(range(len(names)), key=lambda at: axes[-1].heights[at])
    if report.lower_is_better:
        order.reverse()
    for shade in range(SHADES):
        own = order[shade * len(order) // SHADES : (shade + 1) * len(order) // SHADES]
        xs = [x for _ in own for x in (*range(len(axes)), None)]
        ys = [y for at in own for y in (*(short(axis.heights[at]) for axis in axes), None)]
        tint = sample_colorscale(SCALE, [shade / (SHADES - 1)])[0]
        figure.add_scatter(
            x=xs,
            y=ys,
            text=[label(names[at]) for at in own for _ in range(len(axes) + 1)],
            mode="lines",
            line={"color": tint, "width": 1 if shade < SHADES - 1 else 1.8},
            opacity=0.5 if shade < SHADES - 1 else 0.9,
            hovertemplate="%{text}<extra></extra>",
        )


@dataclass(frozen=True)
class Axis:
    """One of parallel coordinates: where each trial is, and where words stand, from 0 to 1."""

    title: str
    heights: Sequence[float]
    ticks: Mapping[float, str]


def _firing(trial: Shown) -> dict[str, Any]:
    return {} if trial.firing is None else {FIRING: trial.firing}


def _axis(parameter: Parameter, points: Sequence[Mapping[str, Any]]) -> Axis:
    """Trials without the parameter stand below all that have it."""
    having = {
        at: parameter.scaled(p[parameter.name])
        for at, p in enumerate(points)
        if parameter.name in p
    }
    low, high = min(having.values()), max(having.values())
    heights = [
        (having[at] - low) / ((high - low) or 1) if at in having else LACKING
        for at in range(len(points))
    ]
    ticks = {
        (at - low) / ((high - low) or 1): text for at, text in _ticks(parameter, low, high).items()
    }
    if len(having) < len(points):
        ticks[LACKING] = "–"
    return Axis(label(parameter.name, 28), heights, ticks)


def _objective_axis(title: str, values: Sequence[float]) -> Axis:
    low, high = min(values), max(values)
    ticks = {step / 4: f"{low + (high - low) * step / 4:.4g}" for step in range(5)}
    return Axis(title, [(value - low) / (high - low) for value in values], ticks)


def _ticks(parameter: Parameter, low: float, high: float) -> dict[float, str]:
    """Where an axis has words: its choices, or five values."""
    if parameter.choices:
        told = list(enumerate(parameter.choices))[:: 1 + len(parameter.choices) // CHOICES]
        return {float(at): label(choice, 24) for at, choice in told}
    steps = [low + (high - low) * step / 4 for step in range(5)]
    if parameter.whole and not parameter.log:
        steps = sorted({float(round(step)) for step in steps})
    return {step: f"{10**step if parameter.log else step:.3g}" for step in steps}


def slices(report: Told) -> go.Figure | None:
    """The objective over each parameter, with the edges of the space."""
    trials = [trial for trial in report.shown if trial.value is not None]
    asked = parameters_of([trial.params for trial in trials], report.ranges)[:MOST]
    if not asked:
        return None
    across = min(3, len(asked))
    down = -(-len(asked) // across)
    figure = make_subplots(
        rows=down,
        cols=across,
        shared_yaxes=True,
        horizontal_spacing=0.04,
        vertical_spacing=0.5 / max(2, 2 * down),
    )
    for place, parameter in enumerate(asked):
        row, col = place // across + 1, place % across + 1
        for outcome, own in by_outcome(t for t in trials if parameter.name in t.params).items():
            figure.add_scatter(
                x=[_value(parameter, trial.params[parameter.name]) for trial in own],
                y=[short(trial.value) for trial in own],
                customdata=[label(trial.name) for trial in own],
                mode="markers",
                marker={
                    "size": 6,
                    "opacity": 0.75,
                    "color": colour(outcome),
                    "symbol": "circle" if outcome == "completed" else "x-thin-open",
                },
                name=label(outcome),
                legendgroup=label(outcome),
                showlegend=place == 0,
                hovertemplate="%{customdata}: %{x}, %{y:.4f}<extra></extra>",
                row=row,
                col=col,
            )
        _add_edges(figure, parameter, report.ranges.get(parameter.name), row, col)
    figure.update_yaxes(title=report.axis, col=1)
    figure.update_layout(height=90 + 230 * down)
    return figure


def _value(parameter: Parameter, value: Any) -> Any:
    return label(value, 24) if parameter.choices else short(value)


def _add_edges(
    figure: go.Figure, parameter: Parameter, known: Range | None, row: int, col: int
) -> None:
    """The axis of a slice, and a line at each end of the parameter's range."""
    name = label(parameter.name, 40)
    if parameter.choices:
        order = [label(choice, 24) for choice in parameter.choices]
        ends = [-0.5, len(order) - 0.5]
        kind = {"type": "category", "categoryorder": "array", "categoryarray": order}
        figure.update_xaxes(title=name, range=ends, **kind, row=row, col=col)
        return
    figure.update_xaxes(
        title=name, **axis_of(parameter.low, parameter.high, parameter.log), row=row, col=col
    )
    edges = ((known.low, known.open_low), (known.high, known.open_high)) if known else ()
    for edge, is_open in edges:
        line = {"dash": "dash" if is_open else "dot", "color": "#8a929c", "width": 1}
        figure.add_vline(x=edge, line=line, row=row, col=col)
