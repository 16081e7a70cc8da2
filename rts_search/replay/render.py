"""What a replay found: a table for a terminal or Markdown, rows for a file, a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pyarrow as pa

from results.names import unknown
from rts_search.replay.measure import NEAR, Measured
from rts_search.replay.ranks import Interval, RankRow, Spread

Table = tuple[list[str], list[list[str]]]  # header and cells
COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#17becf")


def policy_table(measured: Sequence[Measured]) -> Table:
    """A row a policy; regret in points, what random search at equal cost comes to beside it."""
    header = ["policy", "epochs", "of full", "gradients", "hours", "completed", "regret"]
    header += [f"within {near}" for near in NEAR]
    header += ["random, equal cost", "its within 0.2", "within 0.2 against full"]
    rows = []
    for each in measured:
        stats, intervals = each.stats, each.intervals
        near = [_percent(stats, intervals, f"within_{n}") for n in NEAR]
        against = 100 * stats["within_0.2_minus_full"]
        gradients = stats["gradients"]
        rows.append(
            [
                each.policy.name,
                f"{stats['epochs']:,.0f}",
                _percent(stats, intervals, "share"),
                f"{gradients:,.0f}" if gradients == gradients else "–",
                f"{stats['hours']:.2f}",
                f"{stats['completed']:.1f}",
                f"{stats['regret']:.2f}{_between(intervals.get('regret'))}",
                *near,
                f"{stats['random_regret']:.2f}",
                f"{100 * stats['random_within_0.2']:.0f} %",
                f"{against:+.0f}{_between(intervals.get('within_0.2_minus_full'), 100, 0)}",
            ]
        )
    return header, rows


def rank_table(rows: Sequence[RankRow]) -> Table:
    cells = [
        [
            row.signal,
            str(row.epochs),
            _correlation(row.every, row.every_interval),
            _correlation(row.top, row.top_interval),
        ]
        for row in rows
    ]
    return ["signal", "epochs", "all configurations", "best third"], cells


def spread_line(spread: Spread) -> str:
    line = (
        f"The best third spreads with a standard deviation of {spread.top_sd:.2f}"
        f"{_between(spread.top_sd_interval)} points over a range of {spread.top_range:.2f}"
    )
    if spread.rerun_sd is None:
        return line + "; with one seed, nothing is known of reruns."
    return line + (
        f"; reruns of one of them deviate by {spread.rerun_sd:.2f}"
        f"{_between(spread.rerun_sd_interval)} points ({spread.seeds} seeds)."
    )


def _percent(stats: dict[str, float], intervals: dict[str, Interval], name: str) -> str:
    return f"{100 * stats[name]:.0f} %{_between(intervals.get(name), 100, 0)}"


def _between(interval: Interval | None, scale: float = 1, digits: int = 2) -> str:
    if interval is None:
        return ""
    low, high = (f"{scale * end:.{digits}f}" for end in interval)
    return f" ({low} to {high})"


def _correlation(value: float | None, interval: Interval | None) -> str:
    return "–" if value is None else f"{value:.2f}{_between(interval)}"


def markdown(table: Table) -> str:
    header, rows = table
    align = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, align, *rows])


def print_table(table: Table) -> None:
    from rich import box
    from rich.table import Table as RichTable

    from rts_search.tables import make_console

    header, rows = table
    shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(header):
        shown.add_column(name, justify="right" if i else "left", overflow="fold")
    for cells in rows:
        shown.add_row(*cells)
    make_console().print(shown)


def write_rows(measured: Sequence[Measured], path: Path) -> None:
    """All figures, a row a policy, as `.parquet`, `.csv` or `.json`. Raises ValueError."""
    from results.export import FORMATS, write_table

    kind = path.suffix.lstrip(".")
    if kind not in FORMATS:
        raise unknown("format of --output", kind, FORMATS)
    rows = []
    for each in measured:
        row: dict[str, Any] = {"policy": each.policy.name, **each.stats}
        for name, (low, high) in each.intervals.items():
            row |= {f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    write_table(pa.Table.from_pylist(rows), kind, path)


def write_plot(
    measured: Sequence[Measured], random: Sequence[tuple[float, float]], path: Path
) -> None:
    """Regret against cost as an SVG: each policy, and random search at every cost (share of full
    search, regret in points). Raises ValueError for another kind of file."""
    if path.suffix != ".svg":
        raise ValueError(f"--plot {path.name!r}: plots are written as .svg")
    points = [(each.stats["share"], each.stats["regret"]) for each in measured]
    right = max(1.0, *(x for x, _ in points))
    intervals = [each.intervals.get("regret") for each in measured]
    most = max(*(y for _, y in points), *(i[1] for i in intervals if i), 0.0)
    top = 1.1 * max(most, min(0.5, max(y for _, y in random)), 0.05)

    def at(x: float, y: float) -> tuple[float, float]:
        return 60 + 440 * x / right, 360 - 320 * min(y, top) / top

    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 780 410" '
        'font-family="sans-serif" font-size="12"><rect width="780" height="410" fill="white"/>',
        _line([at(0, top), at(0, 0), at(right, 0)], "#333"),
        _text(280, 400, "epochs, as a share of full search", "middle"),
        '<g transform="rotate(-90 16 200)">' + _text(16, 200, "regret, points", "middle") + "</g>",
    ]
    for i in range(5):
        x, y = at(right * i / 4, top * i / 4)
        parts += [_text(x, 378, f"{right * i / 4:.2f}", "middle")]
        parts += [_text(52, y + 4, f"{top * i / 4:.2f}", "end")]
    parts.append(_line([at(x, y) for x, y in random if y <= top], "#999", "4 3"))
    legend = [("random search", "#999")]
    for i, (each, (x, y), interval) in enumerate(zip(measured, points, intervals, strict=True)):
        colour = COLOURS[i % len(COLOURS)]
        if interval:
            parts.append(_line([at(x, interval[0]), at(x, interval[1])], colour))
        cx, cy = at(x, y)
        parts.append(f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="5" fill="{colour}"/>')
        legend.append((each.policy.name, colour))
    for i, (name, colour) in enumerate(legend):
        parts.append(f'<circle cx="520" cy="{36 + 20 * i}" r="5" fill="{colour}"/>')
        parts.append(_text(532, 40 + 20 * i, name))
    path.write_text("\n".join([*parts, "</svg>\n"]), encoding="utf-8")


def _line(points: Sequence[tuple[float, float]], colour: str, dashes: str = "") -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-dasharray="{dashes}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
