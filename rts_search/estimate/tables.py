"""An estimate, and when triggers fire, as tables and lines on a terminal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from rts_search.show.console import prose
from rts_search.show.tables import WIDTH, sparkline

if TYPE_CHECKING:
    from rts_search.estimate.cost import Estimate, Range, Row
    from rts_search.estimate.firing import FiringTable
    from rts_search.spec.model import SweepSpec


def print_estimate(
    console: Console, spec: SweepSpec, found: Estimate, notes: list[str] | None = None
) -> None:
    """The tables of rungs and layouts, what they rest on, and the one line that sums it up."""
    console.print(rung_table(found))
    if found.hours:
        console.print(layout_table(found))
    for line in (*basis(spec, found), *(notes or []), summary(spec, found)):
        prose(console, line)


def rung_table(found: Estimate) -> Table:
    columns = ("rung", "T", "trials", "epochs", "gradient evaluations", "time, one by one")
    table = _table(columns)
    for row in found.rows:
        table.add_row(*_cells(row))
    table.add_section()
    table.add_row(*_cells(found.whole))
    return table


def layout_table(found: Estimate) -> Table:
    table = _table(("layout", "time"))
    for layout, hours in found.hours:
        asked = "  (as the spec asks)" if layout == found.asked else ""
        table.add_row(f"{layout}{asked}", _cell(hours * 3600, _duration))
    return table


def basis(spec: SweepSpec, found: Estimate) -> list[str]:
    """What the figures rest on."""
    lines = []
    if spec.stop.clock == "firing":
        lines.append(
            "as if no trial were stopped, which is at most: with stop.clock firing each is judged "
            "at epochs of its own"
        )
    elif spec.stop.policy != "none":
        lines.append(
            "trials are the mean of simulated sweeps under the sweep's own stopper, with 5–95 % of "
            f"them; {found.audited} audited trials climb to the top"
        )
    if found.alone.gradients != found.whole.gradients:
        epochs, gradients = found.alone.epochs.likely, found.alone.gradients.likely
        lines.append(
            f"SGD that trials share is counted once; if each were alone: {_count(epochs)} epochs, "
            f"{_count(gradients)} gradient evaluations"
        )
    if found.never:
        lines.append(
            f"{found.never:.0%} of the proposals never fire: told as plain SGD, they are no trials "
            "and cost nothing"
        )
    if found.known:
        lines.append(
            f"when {_and(found.known)} triggers fire is read from plain SGD that earlier sweeps "
            "have trained"
        )
    if found.observed:
        lines.append(
            f"perturbed epochs with {_and(found.observed)} triggers: as in earlier sweeps of this "
            "data and model"
        )
    if found.guessed:
        lines.append(
            f"unknown when {_and(found.guessed)} triggers fire: between never and as soon as they "
            "can, taken half way"
        )
    speed = found.speed
    if speed is None:
        lines.append("hours unknown: no earlier sweep of this data, model and hardware, no probe")
    else:
        lines.append(
            f"seconds an epoch, from {speed.source}: SGD {speed.sgd:.3g}, perturbed "
            f"{speed.perturbed:.3g}, validation {speed.evaluation:.3g}; a trial's start "
            f"{speed.trial:.2g}, its test {speed.test:.2g}"
        )
        lines.append("trials at once are taken not to slow each other down")
    return lines


def summary(spec: SweepSpec, found: Estimate) -> str:
    """One line: the sweep's duration in the spec's layout, or its epochs if that is unknown, and
    what ends it."""
    first = first_to_end(spec, found)
    share = 1.0 if first is None else min(1.0, first[1])
    text = f"about {found.whole.epochs.likely * share:,.0f} epochs"
    for layout, hours in found.hours:
        if layout == found.asked:
            likely, low, high = map(_duration, (hours * (3600 * share)).ends)
            text = f"about {likely} (range {low} – {high})"
    text += f" with {found.asked}"
    if first is None:
        return f"{text}; it ends with its trials"
    if share == 1:
        return f"{text}; it ends with its trials, at {1 / first[1]:.0%} of {first[0]}"
    return f"{text}; {first[0]} ends it, at {share:.0%} of what all trials would cost"


def first_to_end(spec: SweepSpec, found: Estimate) -> tuple[str, float] | None:
    """The budget of which the sweep is expected to need most, as in `budget.epochs 500`, and how
    much of the sweep it pays for: below 1 it ends the sweep before its trials do. None without a
    budget."""
    needed = {
        "hours": next((h.likely for layout, h in found.hours if layout == found.asked), None),
        "epochs": found.whole.epochs.likely,
        "gradient_evaluations": found.whole.gradients.likely,
    }
    budget = spec.budget.model_dump()
    paid = {name: budget[name] / cost for name, cost in needed.items() if cost and budget[name]}
    if not paid:
        return None
    name = min(paid, key=lambda name: paid[name])
    return f"budget.{name} {budget[name]:g}", paid[name]


def print_firing(console: Console, found: FiringTable) -> None:
    """Each trigger's thresholds, and a line of bars: the firing epoch over them."""
    where = f", {found.trunk}" if found.trunk else ""
    prose(
        console,
        f"plain SGD of {found.source}: T {found.total}, {found.steps} steps an epoch, lr "
        f"{found.lr:g}{where}",
    )
    table = _table(("trigger", "threshold", "fires at epoch"))
    for firing in found.triggers:
        for number, (low, high, epochs) in enumerate(firing.lines(found.total)):
            values = f"{low:.3g}" if low == high else f"{low:.3g} – {high:.3g}"
            table.add_row("" if number else firing.words, f"{firing.symbol} {values}", epochs)
        table.add_section()
    console.print(table)
    for firing in found.triggers:
        low, high = firing.threshold.low, firing.threshold.high
        bars = sparkline([firing.at(value) for value in firing.grid(WIDTH)])
        prose(console, f"{firing.words}, {firing.symbol} from {low:g} to {high:g}:")
        prose(console, f"  {bars}" if bars.strip() else "  never")
    prose(console, "bars: the firing epoch, over thresholds; blank: never")


def plot_firing(found: FiringTable, path: Path) -> None:
    """A panel a trigger: the firing epoch over the threshold. Raises ValueError for another kind of
    file, OSError if it cannot be written."""
    from results.export import check_plot

    check_plot(path)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none"}):
        rows = len(found.triggers)
        figure = Figure(figsize=(8, 2.2 * rows), layout="constrained")
        panels = figure.subplots(rows, squeeze=False)[:, 0]
        for axes, firing in zip(panels, found.triggers, strict=True):
            for part in firing.segments:
                if part.epoch is not None:
                    axes.plot([part.low, part.high], [part.epoch] * 2, "C0.-")
            axes.set_xscale("log" if firing.threshold.log else "linear")
            axes.set_xlim(firing.threshold.low, firing.threshold.high)
            axes.set_ylim(0, found.total + 1)
            axes.set_title(firing.words, fontsize="medium")
            axes.set_xlabel(firing.symbol)
            axes.set_ylabel("fires at epoch")
        figure.savefig(path, dpi=150)


def _table(columns: tuple[str, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.name,
        "" if row.total is None else str(row.total),
        _cell(row.trials, _trials),
        _cell(row.epochs, _count),
        _cell(row.gradients, _count),
        "–" if row.seconds is None else _cell(row.seconds, _duration),
    )


def _cell(value: Range, show: Callable[[float], str]) -> str:
    likely, low, high = map(show, value.ends)
    return likely if low == high == likely else f"{likely} ({low} – {high})"


def _trials(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _duration(seconds: float) -> str:
    from rts_search.show.console import duration

    return duration(seconds)


def _and(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
