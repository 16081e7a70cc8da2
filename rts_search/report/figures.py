"""The figures of a report, one function each: None where there is nothing to draw."""

from __future__ import annotations

import html
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from results.meanings import Outcome, column, merit
from rts_search.report.data import Shown, Told, finite
from rts_search.show.console import clean
from rts_search.show.tables import describe_trial

BEST = 5  # configurations whose schedules are drawn
POINTS = 200  # of a curve, at most
COLOURS = {
    Outcome.COMPLETED: "#4a8fd6",
    Outcome.STOPPED: "#8a929c",
    Outcome.USER_STOPPED: "#8a929c",
    Outcome.RUNNING: "#2a9d5c",
    Outcome.INTERRUPTED: "#c9a227",
    Outcome.DIVERGED: "#d9480f",
    Outcome.COLLAPSED: "#e08e0b",
    Outcome.FAILED: "#e0457b",
    Outcome.OUT_OF_MEMORY: "#e0457b",
}
OTHER = "#b07aa1"  # an outcome, or a kind of trigger, that is none of ours
KINDS = ("#4a8fd6", "#e08e0b", "#2a9d5c", "#e0457b", "#7b5cc4", "#17a2a2", "#d9480f")
DASHES = ("dash", "dot", "dashdot", "longdash")
SCALE = [[0, "#8a929c"], [0.5, "#4a8fd6"], [1, "#e08e0b"]]  # seen on white and on black


def label(text: Any, most: int = 200) -> str:
    """Text of a ledger as plotly has it, which reads tags in it."""
    plain = " ".join(clean(str(text)).split())
    return html.escape(plain[: most - 1] + "…" if len(plain) > most else plain)


def told(trial: Shown) -> str:
    """A trial in a hover's two lines."""
    return f"{label(trial.name)} ({label(trial.outcome)})<br>{label(describe_trial(trial.row))}"


def short(value: Any) -> float | None:
    """Five digits: more make the file larger, and nobody sees them."""
    return float(f"{value:.5g}") if finite(value) else None


def axis_of(low: float, high: float, log: bool) -> dict[str, Any]:
    """An axis from `low` to `high`, in log with words at powers of ten alone where it is wide."""
    if not log:
        return {"type": "linear"}
    tens = math.log10(high / low)
    words = {"dtick": max(1, round(tens / 6))} if tens > 1.5 else {}
    return {"type": "log", "exponentformat": "power", **words}


def colour(outcome: str) -> str:
    return next((each for name, each in COLOURS.items() if name == outcome), OTHER)


def by_outcome(trials: Iterable[Shown]) -> dict[str, list[Shown]]:
    """In the order of COLOURS from its end, so that what completed is drawn last, on top."""
    found: dict[str, list[Shown]] = defaultdict(list)
    for trial in trials:
        found[trial.outcome].append(trial)
    order = [*map(str, COLOURS)][::-1]
    return dict(
        sorted(found.items(), key=lambda each: order.index(each[0]) if each[0] in order else -1)
    )


def curves(report: Told) -> go.Figure | None:
    """The objective over the epochs, a line a trial, coloured by outcome; controls are dashed."""
    figure = go.Figure()
    for outcome, trials in by_outcome(t for t in report.shown if t.run).items():
        x: list[Any] = []
        y: list[Any] = []
        names: list[str] = []
        for trial in trials:
            rows = thinned(trial.run)
            x += [*(row["epoch"] for row in rows), None]
            y += [*(short(row[column(report.objective)]) for row in rows), None]
            names += [label(trial.name)] * (len(rows) + 1)
        figure.add_scatter(
            x=x,
            y=y,
            customdata=names,
            mode="lines" if max(len(t.run) for t in trials) > 1 else "lines+markers",
            line={"color": colour(outcome), "width": 1.2},
            opacity=0.85 if len(trials) < 60 else 0.45,
            name=f"{label(outcome)} ({len(trials)})",
            hovertemplate="%{customdata}, epoch %{x}: %{y:.4f}<extra></extra>",
        )
    for trial, dash in zip(controls_of(report), DASHES * 9, strict=False):
        rows = thinned(trial.run)
        figure.add_scatter(
            x=[row["epoch"] for row in rows],
            y=[short(row[column(report.objective)]) for row in rows],
            mode="lines",
            line={"color": "#e0457b", "width": 2, "dash": dash},
            name=f"control {label(trial.row['control'])}",
            hovertemplate=f"{label(trial.name)}, epoch %{{x}}: %{{y:.4f}}<extra></extra>",
        )
    if not figure.data:
        return None
    figure.update_xaxes(title="epoch, at the rung that was reached")
    figure.update_yaxes(title=report.axis)
    return figure


def controls_of(report: Told) -> list[Shown]:
    """The best run of each control arm that has epochs."""
    best: dict[str, Shown] = {}
    for trial in report.controls:
        name = str(trial.row["control"])
        known = best.get(name)
        if trial.run and (known is None or _merit(trial, report) > _merit(known, report)):
            best[name] = trial
    return [*best.values()]


def _merit(trial: Shown, report: Told) -> float:
    return float("-inf") if trial.value is None else merit(trial.value, report.objective)


def thinned(run: Sequence[Any], most: int = POINTS) -> list[Any]:
    """At most so many of its epochs, evenly, the first and the last one among them."""
    if len(run) <= most:
        return list(run)
    return [run[place * (len(run) - 1) // (most - 1)] for place in range(most)]


def schedules(report: Told) -> go.Figure | None:
    """Radius, scale and learning rate of the best, dotted before their trigger fires."""
    trials = [trial for trial in report.best if trial.run][:BEST]
    rows = [("radius", "radius α<sub>r</sub>"), ("scale", "scale α<sub>s</sub>"), ("lr", "lr")]
    drawn = [
        (name, title)
        for name, title in rows
        if any(finite(row[name]) for trial in trials for row in trial.run)
    ]
    if not drawn:
        return None
    figure = make_subplots(rows=len(drawn), cols=1, shared_xaxes=True, vertical_spacing=0.06)
    for place, (name, title) in enumerate(drawn, 1):
        values = [row[name] for trial in trials for row in trial.run if finite(row[name])]
        wide = min(values) > 0 and max(values) / min(values) > 30
        axis = axis_of(min(values), max(values), wide)
        figure.update_yaxes(title=title, **axis, row=place, col=1)
        for trial, tint in zip(trials, KINDS, strict=False):
            _add_schedule(figure, trial, name, tint, place)
    figure.update_xaxes(title="epoch", row=len(drawn), col=1)
    figure.update_layout(height=150 + 190 * len(drawn))
    return figure


def _add_schedule(figure: go.Figure, trial: Shown, name: str, tint: str, place: int) -> None:
    """Two lines that meet where it fires, and a mark there."""
    firing = trial.firing or trial.total + 1
    parts = {
        "dot": [row for row in trial.run if row["epoch"] <= firing],
        "solid": [row for row in trial.run if row["epoch"] >= firing],
    }
    for dash, run in parts.items():
        figure.add_scatter(
            x=[row["epoch"] for row in thinned(run)],
            y=[short(row[name]) for row in thinned(run)],
            mode="lines+markers" if len(run) == 1 else "lines",
            line={"color": tint, "dash": dash, "width": 2},
            marker={"symbol": "diamond", "size": 8},
            name=label(trial.name),
            legendgroup=label(trial.name),
            showlegend=place == 1 and (dash == "solid") == bool(parts["solid"]) and bool(run),
            hovertemplate=f"{label(trial.name)}, epoch %{{x}}: %{{y:.4g}}<extra></extra>",
            row=place,
            col=1,
        )
    for row in parts["solid"][:1]:
        figure.add_scatter(
            x=[row["epoch"]],
            y=[short(row[name])],
            mode="markers",
            marker={"symbol": "diamond", "size": 9, "color": tint},
            legendgroup=label(trial.name),
            showlegend=False,
            hovertemplate=f"{label(trial.name)} fires: first perturbed epoch %{{x}}<extra></extra>",
            row=place,
            col=1,
        )


def firing(report: Told) -> go.Figure | None:
    """The objective at the end over the first perturbed epoch, T + 1 for plain SGD."""
    trials = [t for t in report.shown if t.completed and t.firing is not None]
    points = [t for t in trials if t.value is not None]
    if not points:
        return None
    kinds: dict[str, list[Shown]] = defaultdict(list)
    for trial in points:
        kinds[str(trial.row["config_trigger"] or "not known")].append(trial)
    figure = go.Figure()
    for place, (kind, own) in enumerate(sorted(kinds.items())):
        figure.add_scatter(
            x=[trial.firing for trial in own],
            y=[short(trial.value) for trial in own],
            customdata=[told(trial) for trial in own],
            mode="markers",
            marker={"size": 9, "opacity": 0.75, "color": KINDS[place % len(KINDS)]},
            name=f"trigger {label(kind)}",
            hovertemplate="%{customdata}<br>epoch %{x}: %{y:.4f}<extra></extra>",
        )
    add_controls(figure, report)
    never = max(trial.total + 1 for trial in points)
    figure.add_vline(x=never - 0.5, line={"dash": "dot", "color": "#8a929c", "width": 1})
    room = max(0.7, 0.02 * never)
    title = f"first perturbed epoch ({never}: never, plain SGD)"
    figure.update_xaxes(title=title, range=[1 - room, never + room])
    figure.update_layout(showlegend=True)
    figure.update_yaxes(title=report.axis)
    return figure


def add_controls(figure: go.Figure, report: Told) -> None:
    """A line across for the best run of each control arm; those that are equal share one."""
    at: dict[float | None, list[str]] = defaultdict(list)
    for trial in controls_of(report):
        if trial.value is not None:
            at[short(trial.value)].append(label(trial.row["control"]))
    for (value, names), dash in zip(at.items(), DASHES * 9, strict=False):
        figure.add_hline(
            y=value,
            line={"color": "#e0457b", "width": 1.5, "dash": dash},
            annotation_text=", ".join(names),
            annotation_position="top left",
            annotation_font={"size": 11, "color": "#e0457b"},
        )


def front(report: Told) -> go.Figure | None:
    """The objective against gradient evaluations: all that completed, the front, the controls."""
    found = report.front
    if found is None or not (found.trials or found.others):
        return None
    shown = {trial.name for trial in report.shown}
    groups: list[tuple[str, list[dict[str, Any]], dict[str, Any]]] = [
        (
            "completed trials",
            [row for row in found.others if row["trial_id"] in shown],
            {"mode": "markers", "marker": {"color": "#8a929c", "size": 7, "opacity": 0.6}},
        ),
        (
            "Pareto front",
            found.trials,
            {
                "mode": "lines+markers",
                "line": {"shape": "hv", "color": "#4a8fd6", "width": 2},
                "marker": {"size": 10},
            },
        ),
        (
            "controls",
            found.controls,
            {
                "mode": "markers+text",
                "marker": {"symbol": "x", "size": 10, "color": "#e0457b"},
                "text": _named_once(found.controls, found.cost, found.metric),
                "textposition": "top center",
                "textfont": {"color": "#e0457b"},
            },
        ),
    ]
    figure = go.Figure()
    for name, rows, look in groups:
        if rows:
            figure.add_scatter(
                x=[short(row[found.cost]) for row in rows],
                y=[short(row[found.metric]) for row in rows],
                customdata=[f"{label(r['trial_id'])}<br>{label(describe_trial(r))}" for r in rows],
                name=name,
                hovertemplate="%{customdata}<br>%{x:,} gradients: %{y:.4f}<extra></extra>",
                **look,
            )
    figure.update_xaxes(title="gradient evaluations of its run of T epochs")
    figure.update_yaxes(title=report.axis)
    return figure


def _named_once(controls: Sequence[Any], *place: str) -> list[str]:
    """The names of controls, of those in one place together at the first of them."""
    at: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for row in controls:
        at[tuple(row[name] for name in place)].append(label(row["control"]))
    return [", ".join(at.pop(tuple(row[name] for name in place), ())) for row in controls]


def rise(report: Told) -> go.Figure | None:
    """How much the loss rises at the perturbed weights, against the generalisation gap."""
    found = [
        (trial, trial.tail("loss_rise"), trial.tail("generalization_gap"), trial.tail("radius"))
        for trial in report.shown
        if trial.completed
    ]
    points = [each for each in found if finite(each[1]) and finite(each[2])]
    if not points:
        return None
    radii = [math.log10(r) if finite(r) and r is not None and r > 0 else None for *_, r in points]
    figure = go.Figure(
        go.Scatter(
            x=[short(x) for _, x, _, _ in points],
            y=[short(y) for _, _, y, _ in points],
            customdata=[told(trial) for trial, *_ in points],
            mode="markers",
            marker={
                "size": 9,
                "opacity": 0.85,
                "color": [short(radius) for radius in radii],
                "colorscale": SCALE,
                "showscale": any(radius is not None for radius in radii),
                "colorbar": {"title": {"text": "log₁₀ α<sub>r</sub>"}, "thickness": 12},
            },
            hovertemplate="%{customdata}<br>rise %{x:.4g}, gap %{y:.4g}<extra></extra>",
        )
    )
    rises = [x for _, x, _, _ in points if x is not None]
    wide = min(rises) > 0 and max(rises) / min(rises) > 30
    axis = axis_of(min(rises), max(rises), wide)
    figure.update_xaxes(title="loss rise at the perturbed weights", **axis)
    figure.update_yaxes(title="generalisation gap: validation loss − training loss")
    return figure


def stops(report: Told) -> go.Figure | None:
    """At each rung: how many were stopped there, and how many went on."""
    steps = report.rungs
    stopped = [t.row["stopped_rung"] for t in report.trials if t.outcome == Outcome.STOPPED]
    if len(steps) < 2 or not report.trials:
        return None
    ended = [sum(rung == place for rung in stopped) for place in range(len(steps))]
    on = [len(report.trials) - sum(ended[: place + 1]) for place in range(len(steps))]
    others = [0] * len(steps)
    done = sum(trial.completed for trial in report.trials)
    on[-1], others[-1] = done, on[-1] - done
    unit = "T" if report.spec is not None and report.spec.stop.by_schedule else "epoch"
    names = [f"rung {place}: {unit} {step}" for place, step in enumerate(steps)]
    names[-1] = f"completed: T {steps[-1]}"
    figure = go.Figure(layout={"barmode": "stack", "height": 320})
    figure.add_bar(x=names, y=on, name="went on, or completed", marker={"color": "#4a8fd6"})
    figure.add_bar(x=names, y=ended, name="stopped there", marker={"color": "#8a929c"})
    if others[-1]:
        name = "not stopped, and not completed"
        figure.add_bar(x=names, y=others, name=name, marker={"color": "#e08e0b"})
    figure.update_traces(hovertemplate="%{x}: %{y} trials<extra>%{fullData.name}</extra>")
    figure.update_yaxes(title="trials")
    return figure


Draw = Callable[[Told], go.Figure | None]
