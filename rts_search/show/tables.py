"""The ledger as tables and curves on a terminal. No torch, no ray."""

from __future__ import annotations

import re
import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from results.meanings import metric_of
from results.query import SweepListing, SweepSummary
from results.schema import json_object
from results.soundness import FEWEST, Correlation, Rank, Soundness
from rts_search.show.console import duration, prose
from rts_search.trials.rows import trial_columns
from rts_search.trials.trial import LiveTrial
from trainables.metrics import tail_mean
from trainables.triggers import trigger_words

BARS = " ▁▂▃▄▅▆▇█"
WIDTH = 60
AUDITED_SHOWN = 20
CURVES = (
    *("val_accuracy", "train_loss", "perturbed_loss", "val_loss", "loss_rise"),
    *("radius", "scale", "lr"),
)
NULL = "–"
FEW = 4  # columns, which are folded where they are too wide, and not set in blocks
SHORT = ("lr", "weight_decay", "batch_size", "momentum")
# parameters of the built-in spaces that a configuration's words tell already
TOLD = re.compile(
    r"(radius|scale)_(alpha(_start|_end)?|shape|strategy|(inverse_)?beta(_min|_max)?)"
    r"|trigger(_\w+)?|after_(lr_factor|anneal)|family|((sam|asam)_)?rho"
)


def describe_trial(row: Mapping[str, Any]) -> str:
    """A configuration in a few words, as in `rts radius isin 100→0.5 · variance γ 0.1`."""
    parts = []
    if row["family"] == "rts":
        for part in ("radius", "scale"):
            start, end = row[f"config_{part}_alpha_start"], row[f"config_{part}_alpha_end"]
            first, last = (NULL if value is None else f"{value:.3g}" for value in (start, end))
            strategy = row[f"config_{part}_strategy"]
            moving = f"{strategy} {first}→{last}"
            parts.append(f"{part} {first if strategy == 'constant' else moving}")
        parts.append(_trigger(row))
        parts += _after(row)
    if row["config_rho"] is not None:
        parts.append(f"ρ {row['config_rho']:.3g}")
    parts += _own_parameters(row)
    if row["control"]:
        parts.append(f"T {row['total_epochs']}")
    family = "sgd: rts" if never_perturbed(row) else row["family"] or ""
    return f"{family} {' · '.join(parts)}".strip()


def never_perturbed(row: Mapping[str, Any]) -> bool:
    """Whether a trial of the family rts was plain SGD until its end."""
    ended = row["family"] == "rts" and row["outcome"] == "completed"
    return ended and row["trigger_epoch"] is None and row["config_trigger"] != "always"


def _own_parameters(row: Mapping[str, Any]) -> list[str]:
    """What was searched beside radius, scale, trigger and ρ: settings of training, as in `lr 0.1`,
    and then a user's own parameters, by their names."""
    params = json_object(row["params"])
    training = {f"{prefix}{key}": key for key in SHORT for prefix in ("", f"{row['family']}_")}
    training = {n: key for n, key in training.items() if row[f"config_{key}"] is not None}
    found = {training[name] for name in params if name in training}
    words = [f"{key} {row[f'config_{key}']:.3g}" for key in SHORT if key in found]
    words_told = row["config_json"] is not None  # not of what was imported with parameters only
    own = {
        n: v
        for n, v in params.items()
        if n not in training and not (words_told and TOLD.fullmatch(n))
    }
    return words + [f"{n} {f'{v:.3g}' if isinstance(v, float) else v}" for n, v in own.items()]


def in_words(trial: LiveTrial) -> str:
    """A trial's configuration before it has begun, as `describe_trial` tells it."""
    row = defaultdict(lambda: None, trial_columns(trial))  # in the ledger the rest is null
    return describe_trial(row).replace(" (not fired)", "")


def _trigger(row: Mapping[str, Any]) -> str:
    words = str(row["config_trigger"])
    with suppress(KeyError, TypeError, ValueError):  # rows from elsewhere may have others
        words = trigger_words(json_object(row["config_json"])["optimizer"]["trigger"])
    if words in ("always", "never"):
        return words
    fired = f"fired {row['trigger_epoch']}" if row["trigger_epoch"] is not None else "not fired"
    return f"{words} ({fired})"


def _after(row: Mapping[str, Any]) -> list[str]:
    """What becomes of lr at the firing, as in `then lr ×0.3`, if anything does."""
    factor, own = row["config_after_lr_factor"], row["config_after_anneal"] == "own"
    if factor in (None, 1) and not own:  # null in earlier versions
        return []
    times = f"then lr ×{NULL if factor is None else f'{factor:.3g}'}"
    return [f"{times}, own anneal" if own else times]


def spent(summary: SweepSummary) -> list[str]:
    """Outcomes and cost."""
    listing = summary.listing
    outcomes = ", ".join(f"{many} {outcome}" for outcome, many in listing.outcomes.items())
    trials = f"{listing.trials} trials" + (f" ({outcomes})" if outcomes else "")
    gradients, all_of_them = summary.spent_gradient_evaluations, summary.gradient_evaluations
    cost = f"{summary.spent_epochs:,} epochs, {gradients:,} gradient evaluations"
    if summary.started and summary.ended:
        cost += f", {duration((summary.ended - summary.started).total_seconds())}"
    lines = [f"{listing.name}: {trials} and {listing.controls} controls", f"spent: {cost}"]
    if saved := all_of_them - gradients:
        lines.append(
            f"saved: {summary.epochs - summary.spent_epochs:,} epochs of plain SGD that trials "
            f"share, {saved:,} gradient evaluations of {all_of_them:,} ({saved / all_of_them:.0%})"
        )
    return lines


def print_spent(console: Console, summary: SweepSummary) -> None:
    prose(console, "")
    for line in spent(summary):
        prose(console, line)


def print_summary(console: Console, summary: SweepSummary) -> None:
    """A sweep in some lines: outcomes, cost, triggers, the best trial."""
    listing, lines = summary.listing, spent(summary)
    if summary.firing:
        shares = [f"{kind} {f.fired}/{f.trials}" for kind, f in summary.firing.items()]
        lines.append(f"triggers that fired: {', '.join(shares)}")
    if summary.best is not None:
        value = number(summary.best["final_objective"])
        label = " (on the test set)" if summary.best["selected_on"] == "test" else ""
        told = f"{metric_of(listing.objective)} {value}{label}"
        lines.append(f"best: {summary.best['trial_id']}, {told}")
    if listing.on_test:
        lines.append(
            f"{listing.on_test} of its trials were validated on the test set, on which epochs and "
            "settings were chosen: their figures are too good to be compared with others"
        )
    for line in lines:
        prose(console, line)


def soundness_line(report: Soundness) -> str:
    """The audit in one line."""
    if not report.audited:
        return "audit: no trial was audited; raise stop.audit to judge the stopper"
    line = f"audit: the stopper would have ended {report.lost} of {len(report.audited)} audited"
    return f"{line} trials, {report.top_lost} of the {report.top} best" if report.top else line


def print_soundness(console: Console, report: Soundness, unit: str = "epochs") -> None:
    for line in soundness_lines(report, unit):
        prose(console, line)


def soundness_lines(report: Soundness, unit: str = "epochs") -> list[str]:
    """What the audited trials say of the stopper, at rungs that are counted in `unit`."""
    audited, ended = report.audited, [t for t in report.audited if t.final is not None]
    if not audited:
        lines = ["audit: no trial was audited yet; raise stop.audit to judge the stopper"]
    else:
        lines = [
            f"audit: {len(audited)} trials went on whatever the stopper said, and {len(ended)} "
            f"completed; it would have ended {report.lost} of {len(audited)}"
            + (f", and {report.top_lost} of the {report.top} best in the end" if ended else "")
        ]
    for rung in report.rungs:
        lines.append(
            f"  after {rung.epochs} {unit} ({rung.reached} trials): rank correlation with the end "
            f"{_rho(rung.audited)}; among all completed, survivors only, {_rho(rung.completed)}"
        )
    for trial in ended[:AUDITED_SHOWN]:
        places = [
            f"{_place(rank)} after {rung.epochs}"
            for rank, rung in zip(trial.ranks, report.rungs, strict=True)
        ]
        at_rungs = f"rank {', '.join(places)}; " if places else ""
        line = f"  {trial.trial_id}: {at_rungs}{_place(trial.final)} in the end"
        if trial.lost_rung is not None:
            line += f", would have ended at rung {trial.lost_rung}"
        lines.append(line)
    if len(ended) > AUDITED_SHOWN:
        lines.append(f"  and {len(ended) - AUDITED_SHOWN:,} more (--json has all)")
    return lines


def _place(rank: Rank | None) -> str:
    return "–" if rank is None else f"{rank.place:g} of {rank.of}"


def _rho(found: Correlation) -> str:
    if found.n < FEWEST:
        return f"not told by fewer than {FEWEST} (n = {found.n})"
    if found.value is None:
        return f"undefined, all are equal (n = {found.n})"
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f}, n = {found.n})"


def print_listings(console: Console, listings: Sequence[SweepListing]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("sweep", "trials", "controls", "best", "outcomes", "updated"):
        left = name in ("sweep", "best", "outcomes", "updated")
        table.add_column(name, justify="left" if left else "right", overflow="fold")
    for each in listings:
        outcomes = ", ".join(f"{many} {outcome}" for outcome, many in each.outcomes.items())
        best = "–" if each.best is None else f"{metric_of(each.objective)} {number(each.best)}"
        best += " (on test)" if each.on_test and each.best is not None else ""
        updated = each.updated.strftime("%Y-%m-%d %H:%M") if each.updated else ""
        table.add_row(each.name, str(each.trials), str(each.controls), best, outcomes, updated)
    console.print(table)


def print_trial(
    console: Console,
    row: dict[str, Any],
    curve: Sequence[dict[str, Any]],
    weights: str | None = None,
    gone: str | None = None,
) -> None:
    """One trial: its row, and its curves over the epochs; where its weights are, and how to go on
    where its driver is gone."""
    imported = row["source"] is not None
    head = f"{row['trial_id']} of {row['sweep']}: {row['family'] or 'imported'}, {row['outcome']}"
    head += f" after {row['epochs']} epochs, T = {row['total_epochs']}"
    lines = [head, *filter(None, [describe_trial(row)])]
    if row["stage"]:
        of = f" of claim {row['claim']}" if row["claim"] else ""
        lines.append(f"{row['stage']} run{of}, arm {row['arm']}, seed {row['seed']}")
    lines += [row[name] for name in ("message", "traceback") if row[name]]
    on_test = " (on the test set)" if row["selected_on"] == "test" else ""
    figures = ["final_val_accuracy", "best_val_accuracy", "test_accuracy", "test_value"]
    if row["objective"] not in (None, "val_accuracy"):
        figures.insert(0, "final_objective")
    for name in figures:
        if row[name] is not None:
            told = f"final {metric_of(row['objective'])}" if name == "final_objective" else name
            label = "" if name.startswith("test") else on_test
            lines.append(f"{told:28} {row[name]:.4f}{label}")
    if imported:
        lines.append(f"{'imported from':28} {row['source']}")
    elif row["outcome"] == "completed":
        none = "none (those of the best are kept: checkpoint.keep_top)"
        lines.append(f"{'weights':28} {weights or none}")
    lines += [gone] if gone else []
    runs = [list(run) for _, run in groupby(curve, key=lambda epoch: epoch["rung"])]
    if len(runs) > 1:
        lines += [_rung_line(run) for run in runs]
    curve = runs[-1] if runs else []
    for name in CURVES:
        values = [epoch[name] for epoch in curve]
        if any(value is not None for value in values):
            lines.append(f"{name:14} {_ends(values):>20}  {sparkline(values)}")
    for line in lines:
        prose(console, line)


def _rung_line(run: Sequence[dict[str, Any]]) -> str:
    """A rung of one trial: its T, its final value (or its value so far), when the trigger fired."""
    last, accuracies = run[-1], [epoch["val_accuracy"] for epoch in run]
    told = None not in (*accuracies, last["total_epochs"])  # as all ours are
    final = number(tail_mean(accuracies, last["total_epochs"])) if told else "–"
    fired = last["trigger_epoch"]
    trigger = "trigger not fired" if fired is None else f"trigger fired at epoch {fired}"
    return (
        f"rung {last['rung']}: epoch {last['epoch']} of T = {last['total_epochs']}, final "
        f"val_accuracy {final}, {trigger}  {sparkline(accuracies)}"
    )


def sparkline(values: Sequence[float | None]) -> str:
    """Values as a line of bars, at most 60 wide; gaps are blank."""
    if len(values) > WIDTH:
        values = [values[i * (len(values) - 1) // (WIDTH - 1)] for i in range(WIDTH)]
    known = [v for v in values if v is not None and v == v and abs(v) != float("inf")]
    if not known:
        return ""
    low, span = min(known), (max(known) - min(known)) or 1.0
    return "".join(
        BARS[1 + round((v - low) / span * (len(BARS) - 2))] if v in known else " " for v in values
    )


def _ends(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{known[0]:.4g} → {known[-1]:.4g}"


def number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if abs(value) < 1000 else count(value)


def count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def print_rows(console: Console, names: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Any query's answer: a table, or a block a row where that is wider than the terminal."""
    cells = [[_cell(row[name]) for name in names] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(names, *cells, strict=True)]
    if rows and sum(widths) + 2 * len(widths) > console.width and len(names) > FEW:
        _print_blocks(console, names, cells)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in names:
        numeric = all(isinstance(row[name], int | float | None) for row in rows)
        table.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for texts in cells:
        table.add_row(*map(Text, texts))  # no markup
    console.print(table)


def _print_blocks(console: Console, names: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """A line a value, in blocks of a row each; what is null is left out."""
    indent = max(map(cell_len, names)) + 2
    room, lines = max(20, console.width - indent), []
    for number, texts in enumerate(cells, 1):
        lines.append(f"─ row {number} ".ljust(WIDTH, "─"))
        for name, text in zip(names, texts, strict=True):
            if text != NULL:
                folded = (textwrap.wrap(line, room) or [""] for line in text.splitlines() or [""])
                parts = [part for line in folded for part in line]
                lines.append(f"{name:{indent}}{parts[0]}")
                lines += [" " * indent + part for part in parts[1:]]
    console.print(Text("\n".join(lines)), soft_wrap=True)


def _cell(value: Any) -> str:
    if value is None:
        return NULL
    return f"{value:.6g}" if isinstance(value, float) else str(value)
