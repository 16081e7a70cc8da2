"""The figure of a sweep's claims: the difference to each baseline with its interval."""

from __future__ import annotations

import plotly.graph_objects as go

from results.meanings import in_points
from rts_search.report.data import Told, finite
from rts_search.report.figures import label, short


def claimed(report: Told) -> go.Figure | None:
    """What claims have found: the difference to each baseline with its interval."""
    rows = [
        (f"{each.get('candidate')} over {each.get('baseline')} ({stored.claim.id[:6]})", each)
        for stored in report.claims
        for each in (stored.verdicts or {}).get("comparisons", [])
        if isinstance(each, dict)
        and all(finite(each.get(name)) for name in ("difference", "low", "high"))
    ]
    if not rows:
        return None
    share = in_points(report.claims[0].claim.metric)  # that of them all: a sweep has one task
    factor = 100 if share else 1
    figure = go.Figure(layout={"height": 140 + 34 * len(rows)})
    for verdict, tint in (("established", "#2a9d5c"), ("", "#8a929c")):
        own = [r for r in rows if (r[1].get("verdict") == "established") == bool(verdict)]
        values = [factor * each["difference"] for _, each in own]
        figure.add_scatter(
            x=[short(value) for value in values],
            y=[label(name) for name, _ in own],
            error_x={
                "array": [
                    short(factor * e["high"] - v) for (_, e), v in zip(own, values, strict=True)
                ],
                "arrayminus": [
                    short(v - factor * e["low"]) for (_, e), v in zip(own, values, strict=True)
                ],
                "symmetric": False,
            },
            mode="markers",
            marker={"size": 10, "color": tint},
            name=verdict or "not established",
            hovertemplate="%{y}: %{x:+.3g}<extra></extra>",
        )
    figure.add_vline(x=0, line={"dash": "dot", "color": "#8a929c"})
    title = "gain in test accuracy, points" if share else "gain on the test set"
    figure.update_xaxes(title=title)
    figure.update_yaxes(automargin=True, autorange="reversed")
    return figure
