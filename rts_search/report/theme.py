"""How a report looks: light and dark as the reader's system has it, and black on white in print."""

from __future__ import annotations

import json
from typing import Any

import plotly.graph_objects as go

from results.export import plain

HEIGHT = 420  # of a figure, if it has none of its own

STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --soft: #5c6670; --line: #d9dee3;
  --paper: #ffffff; --panel: #f5f7f9; --mark: #2a6db0; --warn: #9a5b00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e8ed; --soft: #9aa5b1; --line: #38424d;
  --paper: #14181d; --panel: #1d232a; --mark: #79b2ea; --warn: #e0a84a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 1.2rem 1.4rem 4rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem; padding-top: .6rem;
  border-top: 1px solid var(--line); }
p { margin: .35rem 0; max-width: 60rem; overflow-wrap: anywhere; }
nav { font-size: .9rem; margin: .6rem 0 0; display: flex; flex-wrap: wrap; gap: 0 1rem; }
nav a { white-space: nowrap; }
a { color: var(--mark); text-decoration: none; } a:hover { text-decoration: underline; }
.soft, figcaption { color: var(--soft); font-size: .93em; }
.warn { color: var(--warn); }
.answer { background: var(--panel); border-left: 4px solid var(--mark); border-radius: 4px;
  padding: .7rem 1rem; margin: 1rem 0; }
.answer p:first-child { font-size: 1.1rem; font-weight: 600; margin-top: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; margin: .6rem 0; }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
td:first-child { white-space: nowrap; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; } td.n { white-space: nowrap; }
tbody + tbody tr:first-child td { border-top: 2px solid var(--soft); }
code, pre { font: .85rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
pre { background: var(--panel); padding: .6rem .9rem; border-radius: 4px; overflow-x: auto; }
figure { margin: .4rem 0 0; break-inside: avoid; } figure > div { width: 100%; }
summary { cursor: pointer; color: var(--mark); }
@media print {
  :root { --ink: #000; --soft: #444; --line: #bbb; --paper: #fff; --panel: #f3f3f3; --mark: #000;
    --warn: #000; color-scheme: light; }
  body { max-width: none; padding: 0; font-size: 10.5pt; }
  nav, details, .modebar { display: none !important; }
  h2 { break-after: avoid; } table { break-inside: auto; } tr { break-inside: avoid; }
  pre { white-space: pre-wrap; } table { font-size: 8pt; }
}
"""


def look(night: bool) -> dict[str, Any]:
    """What plotly calls a template: colours and places that all figures share."""
    ink, line = ("#e3e8ed", "#333d47") if night else ("#1d2329", "#e3e7eb")
    axis = {
        **dict.fromkeys(("gridcolor", "zerolinecolor", "linecolor"), line),
        "automargin": True,
        "title": {"standoff": 8},
    }
    clear = "rgba(0,0,0,0)"
    return {
        "layout": {
            "paper_bgcolor": clear,
            "plot_bgcolor": clear,
            "font": {"color": ink, "size": 12, "family": "system-ui, sans-serif"},
            "xaxis": axis,
            "yaxis": axis,
            "hoverlabel": {"align": "left"},
            "hovermode": "closest",
            "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
            "margin": {"l": 60, "r": 20, "t": 40, "b": 50},
            "modebar": {"bgcolor": clear, "color": "#8a929c"},
        }
    }


def described(figure: go.Figure) -> dict[str, Any]:
    """A figure as plotly's JSON, with a height, and without the look that plotly gives it."""
    told: dict[str, Any] = plain(figure.to_plotly_json())
    told["layout"].pop("template", None)
    told["layout"].setdefault("height", HEIGHT)
    return told


# Draws the figures that stand as JSON beside their places, in the reader's colours; in the order of
# the page, with room for the browser in between. `window.drawn` counts them.
SCRIPT = """
'use strict';
const dark = matchMedia('(prefers-color-scheme: dark)');
const looks = LOOKS;
const figures = [...document.querySelectorAll('figure > div')].map(place => ({place,
  told: JSON.parse(place.nextElementSibling.textContent)}));
window.drawn = 0;
const config = {responsive: true, displaylogo: false, plotlyServerURL: '',
  modeBarButtonsToRemove: ['select2d', 'lasso2d', 'autoScale2d', 'sendChartToCloud']};
const draw = ({place, told}, night, width) => {
  const layout = {...told.layout, template: looks[Number(night)], autosize: !width, width};
  const image = {format: 'svg', filename: place.id};
  return Plotly.react(place, told.data, layout, {...config, toImageButtonOptions: image});
};
const all = (night, width) => figures.forEach(each => draw(each, night, width));
(function next(at) {
  if (at >= figures.length) return;
  draw(figures[at], dark.matches).then(() => { window.drawn += 1; });
  setTimeout(next, 0, at + 1);
})(0);
dark.addEventListener('change', () => all(dark.matches));
addEventListener('beforeprint', () => all(false, 680));
addEventListener('afterprint', () => all(dark.matches));
const seconds = Number(document.body.dataset.again);
if (seconds) setTimeout(() => location.reload(), 1000 * seconds);
""".replace("LOOKS", json.dumps([look(night=False), look(night=True)]))
