"""What a replay found: a table for a terminal or Markdown, rows for a file, a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from results.export import check_plot
from results.names import unknown
from rts_search.replay.measure import NEAR, Measured
from rts_search.replay.ranks import Interval, RankRow, Spread

Table = tuple[list[str], list[list[str]]]  # header and cells


def policy_table(measured: Sequence[Measured]) -> Table:
    """A row a policy; regret in points, what random search at equal cost comes to beside it."""
    header = ["policy", "epochs", "gradients", "spent", "of full", "hours", "completed", "regret"]
    header += [f"within {near}" for near in NEAR]
    header += ["random, equal cost", "its within 0.2", "within 0.2 against full"]
    rows = []
    for each in measured:
        stats, intervals = each.stats, each.intervals
        near = [_percent(stats, intervals, f"within_{n}") for n in NEAR]
        against = 100 * stats["within_0.2_minus_full"]
        rows.append(
            [
                each.policy.name,
                f"{stats['epochs']:,.0f}",
                _count(stats["gradients"]),
                _count(stats["spent"]),
                _percent(stats, intervals, "share"),
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


def _count(number: float) -> str:
    return "–" if number != number else f"{number:,.0f}"


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

    from rts_search.show.console import make_console

    header, rows = table
    shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(header):
        shown.add_column(name, justify="right" if i else "left", overflow="fold")
    for cells in rows:
        shown.add_row(*cells)
    make_console().print(shown)


def figures(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """All of them, a row a policy."""
    rows = []
    for each in measured:
        row: dict[str, Any] = {"policy": each.policy.name, **each.stats}
        for name, (low, high) in each.intervals.items():
            row |= {f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    return rows


def write_rows(measured: Sequence[Measured], path: Path) -> None:
    """All figures, a row a policy, as `.parquet`, `.csv` or `.json`. Raises ValueError."""
    from results.export import FORMATS, write_table

    kind = path.suffix.lstrip(".")
    if kind not in FORMATS:
        raise unknown("format of --output", kind, FORMATS)
    write_table(pa.Table.from_pylist(figures(measured)), kind, path)


def write_plot(
    measured: Sequence[Measured], random: Sequence[tuple[float, float]], path: Path
) -> None:
    """Regret against cost, PNG or SVG: each policy, and random search at every cost (share of full
    search, regret in points). Raises ValueError for another kind of file."""
    check_plot(path)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none"}):
        figure = Figure(figsize=(9, 5), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(*zip(*random, strict=True), "--", color="0.6", label="random search")
        for each in measured:
            cost, regret = each.stats["share"], each.stats["regret"]
            low, high = each.intervals.get("regret", (regret, regret))
            # a percentile interval need not hold the point
            reach = [[max(0.0, regret - low)], [max(0.0, high - regret)]]
            axes.errorbar([cost], [regret], reach, fmt="o", label=each.policy.name)
        axes.set_xlim(left=0)
        highest = max(
            max(e.intervals.get("regret", (0, 0))[1], e.stats["regret"]) for e in measured
        )
        axes.set_ylim(0, 1.1 * max(highest, 0.5))
        axes.set_xlabel("cost, as a share of full search")
        axes.set_ylabel("regret, points")
        figure.legend(loc="outside right upper")
        figure.savefig(path, dpi=150)
