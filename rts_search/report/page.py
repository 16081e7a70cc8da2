"""A report as one HTML page that opens offline: the answer first, then figures and tables."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from rts_search.report import figures, histories, spaces, tables
from rts_search.report.claimed import claimed
from rts_search.report.data import CURVES, MOST, Told
from rts_search.report.figures import POINTS, Draw
from rts_search.report.tables import escaped, paragraph
from rts_search.report.theme import SCRIPT, STYLE, described


@dataclass(frozen=True)
class Plot:
    """A figure with its title, what it shows in a sentence, and when there is none."""

    title: str
    draw: Draw
    words: str
    absent: str


PLOTS: Mapping[str, Plot] = {
    "curves": Plot(
        "Learning curves by outcome",
        figures.curves,
        "A line a trial, dashed the best run of each control. "
        f"At most {CURVES} trials are drawn (of more, the best half and others evenly), and "
        f"{POINTS} points of a curve.",
        "No epoch yet.",
    ),
    "history": Plot(
        "Training histories",
        histories.history,
        "The best trial and each arm of controls, or what was asked for: solid in validation, "
        "dotted in training, a diamond at the first perturbed epoch. Of several seeds (those that "
        "confirm it, where there are any) the mean, and the band from the lowest to the highest. "
        "The generalisation gap is validation loss − training loss.",
        "No epoch yet.",
    ),
    "schedules": Plot(
        "Schedules of the best",
        figures.schedules,
        f"Radius, scale and learning rate of the best {figures.BEST}: dotted until the trigger "
        "fires, a diamond at the first perturbed epoch.",
        "No schedule is known of a trial that completed.",
    ),
    "firing": Plot(
        "The firing epoch",
        figures.firing,
        "The objective at the end over the first perturbed epoch, of trials that completed; lines "
        "across are the best control of each arm.",
        "No trial with a trigger has completed yet.",
    ),
    "parallel": Plot(
        "Parallel coordinates",
        spaces.parallel,
        "A line a trial that completed, the best in orange and on top; – is where trials stand "
        "that do not have the parameter.",
        "Fewer than two trials have completed, or they do not differ.",
    ),
    "importance": Plot(
        "What matters",
        spaces.importance,
        "What tells the best from all others (Optuna's PED-ANOVA, over configurations in effect): "
        "the firing epoch stands for the trigger's thresholds, and trials that were never "
        "perturbed have no radius and scale. Stopped trials count below those that completed. "
        "With few trials it is rough.",
        f"Fewer than {spaces.FEWEST} trials have ended, or they do not differ.",
    ),
    "slices": Plot(
        "Slices",
        spaces.slices,
        "The objective over each parameter, of trials that were stopped where they stood (×). "
        "Lines are the edges of the space: dashed where it could be wider.",
        "Trials do not differ in a parameter.",
    ),
    "rungs": Plot(
        "Rungs",
        figures.stops,
        "How many trials were stopped at each rung, and how many went on.",
        "The sweep has no rungs.",
    ),
    "pareto": Plot(
        "Objective against cost",
        figures.front,
        "Trials on the front are those that no other one beats in both.",
        "No trial has completed yet, or trials have several settings, which have no one front.",
    ),
    "rise": Plot(
        "Loss rise against generalisation gap",
        figures.rise,
        "At the end of trials that completed. The rise is that at radius α_r, and is not "
        "comparable between different radii: hence the colour.",
        "No trial that completed was perturbed.",
    ),
}


def write(report: Told, again: int | None = None) -> str:
    """The whole page; with `again`, it loads itself anew after so many seconds."""
    drawn = {name: plot.draw(report) for name, plot in PLOTS.items()}

    def figure(name: str) -> str:
        plot, found = PLOTS[name], drawn[name]
        if found is None:
            return paragraph(plot.absent, "soft")
        return _figure(name, found, plot.words)

    differences = claimed(report)
    interval = _figure("claims", differences) if differences else ""
    parts = {
        "answer": tables.answer(report) + interval + tables.standing(report),
        "best": tables.best(report),
        "curves": figure("curves"),
        "history": figure("history"),
        "schedules": figure("schedules"),
        "firing": figure("firing"),
        "parallel": figure("parallel"),
        "importance": figure("importance"),
        "slices": figure("slices"),
        "rungs": figure("rungs") + tables.audit(report),
        "pareto": figure("pareto"),
        "triggers": tables.firings(report),
        "rise": figure("rise"),
        "failures": tables.failures(report),
        "provenance": tables.provenance(report),
    }
    return _document(report.sweep.name, parts, _counted(report), again)


TITLES = {name: plot.title for name, plot in PLOTS.items()} | {
    "answer": "The answer",
    "best": "The best against the controls",
    "landscape": "Loss landscape",
    "triggers": "Triggers",
    "failures": "Failures",
    "provenance": "Provenance",
}


def _counted(report: Told) -> str:
    count = f"{len(report.trials):,} trials and {len(report.controls)} controls"
    count += f", where {report.where}" if report.where else ""
    told = paragraph(count, "soft")
    if len(report.trials) > MOST:
        told += paragraph(
            f"Points are {MOST:,} of them, the best half and others evenly; importance, rungs and "
            "tables are of all.",
            "soft",
        )
    return told


def single(sweep: str, name: str, figure: go.Figure, words: str) -> str:
    """A page of one figure."""
    return _document(sweep, {name: _figure(name, figure, words)}, "", None)


def _figure(name: str, figure: go.Figure, words: str = "") -> str:
    """Its place, with what is drawn there as JSON beside it, in which no tag can end."""
    told = described(figure)
    height = told["layout"]["height"]
    text = json.dumps(told, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f'<figure><div id="{name}" style="height: {height}px"></div>'
        f'<script type="application/json">{text}</script>'
        f"<figcaption>{escaped(words)}</figcaption></figure>"
    )


def _document(sweep: str, parts: Mapping[str, str], head: str, again: int | None) -> str:
    links = "".join(f'<a href="#of-{name}">{escaped(TITLES[name])}</a>' for name in parts)
    sections = "".join(
        f'<section id="of-{name}"><h2>{escaped(TITLES[name])}</h2>{part}</section>'
        for name, part in parts.items()
    )
    scripts = [get_plotlyjs(), SCRIPT] if "<figure>" in sections else []
    live = f' data-again="{again}"' if again else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escaped(sweep)} · rts-search</title><style>{STYLE}</style></head><body{live}>"
        f"<h1>{escaped(sweep)}</h1>{head}{f'<nav>{links}</nav>' if len(parts) > 1 else ''}"
        f"{sections}{''.join(f'<script>{script}</script>' for script in scripts)}</body></html>\n"
    )


def _policy(scripts: Sequence[str]) -> str:
    """What the page may do: run our scripts and no other, and load nothing from anywhere."""
    digests = [hashlib.sha256(script.encode()).digest() for script in scripts]
    allowed = (
        " ".join(f"'sha256-{base64.b64encode(each).decode()}'" for each in digests) or "'none'"
    )
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"
    )
