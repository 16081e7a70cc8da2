"""Figures of the space: what matters in it, parallel coordinates, and slices with its edges."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from rts_search.report.data import FIRING, Shown, Told, finite, in_effect, names_of, standing
from rts_search.report.figures import SCALE, by_outcome, colour, label, short
from rts_search.search.edges import Range

FEWEST = 10  # trials that tell what matters
TOP = 5  # trials, at least, that count as the best of which a parameter is to be told
MOST = 16  # parameters
CHOICES = 12  # values of a choice that are told apart


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
            marker={"color": "#3b82c4"},
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
    """Parallel coordinates of what completed: an axis a parameter, the objective the last one."""
    trials = [trial for trial in report.shown if trial.completed and trial.value is not None]
    points = [{**trial.params, **_firing(trial)} for trial in trials]
    asked = parameters_of(points, report.ranges)[:MOST]
    values = [short(trial.value) for trial in trials]
    if not asked or len(trials) < 2:
        return None
    dimensions = [_axis(each, points) for each in asked]
    dimensions.append({"label": report.axis, "values": values})
    return go.Figure(
        go.Parcoords(
            dimensions=dimensions,
            line={
                "color": values,
                "colorscale": SCALE,
                "reversescale": report.lower_is_better,
                "showscale": False,
            },
            labelangle=-20,
            labelside="top",
        ),
        layout={"height": 460, "margin": {"t": 110, "l": 70, "r": 70}},
    )


def _firing(trial: Shown) -> dict[str, Any]:
    return {} if trial.firing is None else {FIRING: trial.firing}


def _axis(parameter: Parameter, points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A dimension of `Parcoords`; trials without the parameter stand below all that have it."""
    having = [parameter.scaled(p[parameter.name]) for p in points if parameter.name in p]
    low, high = min(having), max(having)
    below = low - 0.12 * ((high - low) or 1.0)
    values = [
        short(parameter.scaled(p[parameter.name])) if parameter.name in p else short(below)
        for p in points
    ]
    axis: dict[str, Any] = {"label": label(parameter.name, 40), "values": values}
    lacking = len(having) < len(points)
    ticks = _ticks(parameter, low, high)
    if lacking:
        ticks = {below: "–"} | ticks
    axis["tickvals"], axis["ticktext"] = [*map(short, ticks)], [*ticks.values()]
    return axis


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
        figure.update_xaxes(title=name, type="category", row=row, col=col)
        return
    figure.update_xaxes(title=name, type="log" if parameter.log else "linear", row=row, col=col)
    for edge, is_open in (
        ((known.low, known.open_low), (known.high, known.open_high)) if known else ()
    ):
        line = {"dash": "dash" if is_open else "dot", "color": "#8a929c", "width": 1}
        figure.add_vline(x=edge, line=line, row=row, col=col)
