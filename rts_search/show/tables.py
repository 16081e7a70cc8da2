"""The ledger as tables and curves on a terminal. No torch, no ray."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from results.pareto import Front
from results.query import Ranking, SweepListing, SweepSummary
from results.soundness import FEWEST, Correlation, Rank, Soundness
from rts_search.trials.rows import trial_row
from rts_search.trials.trial import LiveTrial
from trainables.metrics import tail_mean
from trainables.triggers import trigger_words

BARS = " ▁▂▃▄▅▆▇█"
WIDTH = 60


def describe_trial(row: dict[str, Any]) -> str:
    """A configuration in a few words, as in `rts radius isin 100→0.5 · variance γ 0.1`."""
    parts = []
    if row["family"] == "rts":
        for part in ("radius", "scale"):
            start, end = row[f"config_{part}_alpha_start"], row[f"config_{part}_alpha_end"]
            strategy = row[f"config_{part}_strategy"]
            moving = f"{strategy} {start:.3g}→{end:.3g}"
            parts.append(f"{part} {f'{start:.3g}' if strategy == 'constant' else moving}")
        parts.append(_trigger(row))
    if row["config_rho"] is not None:
        parts.append(f"ρ {row['config_rho']:.3g}")
    params = json.loads(row["params"] or "{}")
    for key in ("lr", "weight_decay", "batch_size", "momentum"):
        if any(name == key or name.endswith(f"_{key}") for name in params):
            parts.append(f"{key} {row[f'config_{key}']:.3g}")
    if row["control"]:
        parts.append(f"T {row['total_epochs']}")
    return f"{row['family']} {' · '.join(parts)}".rstrip()


def in_words(trial: LiveTrial) -> str:
    """A trial's configuration before it has begun, as `describe_trial` tells it."""
    row = defaultdict(lambda: None, trial_row(trial))  # in the ledger the rest is null
    return describe_trial(row).replace(" (not fired)", "")


def _trigger(row: dict[str, Any]) -> str:
    config = json.loads(row["config_json"] or "{}")  # rows from elsewhere may have none
    words = trigger_words(
        {"name": row["config_trigger"], **config.get("optimizer", {}).get("trigger", {})}
    )
    if words in ("always", "never"):
        return words
    fired = f"fired {row['trigger_epoch']}" if row["trigger_epoch"] is not None else "not fired"
    return f"{words} ({fired})"


def print_ranking(console: Console, ranking: Ranking) -> None:
    """The ranked trials with the controls below them."""
    several = len({row["sweep"] for row in (*ranking.trials, *ranking.controls)}) > 1
    metrics = {ranking.metric: ranking.metric.replace("_", " ")}
    metrics |= {"final_val_accuracy": "final val", "best_val_accuracy": "best epoch"}
    metrics |= {"test_accuracy": "test", "gradient_evaluations": "gradients"}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in (["sweep"] if several else []) + ["trial", *metrics.values(), "configuration"]:
        left = name in ("sweep", "trial", "configuration")
        table.add_column(name, justify="left" if left else "right", overflow="fold")
    for rows in (ranking.trials, [arm[0] for arm in arms(ranking.controls)]):
        for row in rows:
            outcome = "" if row["outcome"] == "completed" else f" ({row['outcome']})"
            cells = [row["trial_id"] + outcome, *(_metric(row, name) for name in metrics)]
            table.add_row(*([row["sweep"]] if several else []), *cells, describe_trial(row))
        table.add_section()
    console.print(table)
    console.print(_verdict(ranking), markup=False, highlight=False, soft_wrap=True)


def arms(controls: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The controls of each arm of each sweep, in the order in which they come: best first."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in controls:
        found.setdefault((row["sweep"], row["control"]), []).append(row)
    return list(found.values())


def arm_in_words(arm: Sequence[dict[str, Any]], top: dict[str, Any]) -> str:
    """As in `sgd (best of 8)`; untuned where the best trial has other training settings than an
    arm that had one try."""
    name = str(arm[0]["control"])
    if len(arm) > 1:
        return f"{name} (best of {len(arm)})"
    return name if _training(arm[0]) == _training(top) else f"{name} (untuned)"


def _training(row: dict[str, Any]) -> dict[str, Any]:
    train = json.loads(row["config_json"] or "{}").get("train", {})
    return {key: train[key] for key in train if key not in ("epochs", "seed", "device")}


def _verdict(ranking: Ranking) -> str:
    """The best against the controls, in points, and how far one seed can be trusted."""
    compared = f"{ranking.ranked} trials compared by {ranking.metric}; the test set ranks nothing."
    if not ranking.trials:
        return f"no trial has completed its whole schedule yet (--all shows others). {compared}"
    lines, top = [compared], ranking.trials[0]
    best = top["final_val_accuracy"]
    if ranking.metric == "final_val_accuracy":
        gains = [
            f"{(best - arm[0]['final_val_accuracy']) * 100:+.2f} to {arm_in_words(arm, top)}"
            for arm in arms(ranking.controls)
            if arm[0]["sweep"] == top["sweep"] and arm[0]["final_val_accuracy"] is not None
        ]
        if gains:
            lines.append(f"{top['trial_id']} in points of accuracy: {', '.join(gains)}.")
    lines.append(
        "One seed each: reruns of a configuration differ by 0.2 points or more, and the best of "
        "many\nis lucky too; small differences prove nothing before the top is rerun on new seeds."
    )
    return "\n".join(lines)


def _metric(row: dict[str, Any], name: str) -> str:
    return _count(row[name]) if name.endswith("gradient_evaluations") else _number(row[name])


def print_summary(console: Console, summary: SweepSummary) -> None:
    """A sweep in three lines: outcomes, cost, triggers."""
    listing = summary.listing
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in listing.outcomes.items())
    trials = f"{listing.trials} trials" + (f" ({outcomes})" if outcomes else "")
    lines = [f"{listing.name}: {trials} and {listing.controls} controls"]
    spent = f"{summary.epochs} epochs, {summary.gradient_evaluations:,} gradient evaluations"
    if summary.started and summary.ended:
        spent += f", {(summary.ended - summary.started).total_seconds():.0f} s"
    lines.append(f"spent: {spent}")
    if summary.firing:
        shares = [f"{kind} {f.fired}/{f.trials}" for kind, f in summary.firing.items()]
        lines.append(f"triggers that fired: {', '.join(shares)}")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def print_soundness(console: Console, report: Soundness) -> None:
    """What the audited trials say of the stopper."""
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
            f"  after {rung.epochs} epochs ({rung.reached} trials): rank correlation with the end "
            f"{_rho(rung.audited)}; among all completed, survivors only, {_rho(rung.completed)}"
        )
    for trial in ended:
        places = [
            f"{_place(rank)} after {rung.epochs}"
            for rank, rung in zip(trial.ranks, report.rungs, strict=True)
        ]
        line = f"  {trial.trial_id}: rank {', '.join(places)}; {_place(trial.final)} in the end"
        if trial.lost_rung is not None:
            line += f", would have ended at rung {trial.lost_rung}"
        lines.append(line)
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _place(rank: Rank | None) -> str:
    return "–" if rank is None else f"{rank.place:g} of {rank.of}"


def _rho(found: Correlation) -> str:
    if found.n < FEWEST:
        return f"not told by fewer than {FEWEST} (n = {found.n})"
    if found.value is None:
        return f"undefined, all are equal (n = {found.n})"
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f}, n = {found.n})"


def print_front(console: Console, front: Front) -> None:
    """The trials that no other one beats in both accuracy and cost, and the controls among them,
    by cost."""
    rows = sorted((*front.trials, *front.controls), key=lambda row: float(row[front.cost]))
    several = len({row["sweep"] for row in rows}) > 1
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    titles = ["trial", front.cost.replace("_", " "), "final val", "test", "configuration"]
    for name in (["sweep"] if several else []) + titles:
        left = name in ("sweep", "trial", "configuration")
        table.add_column(name, justify="left" if left else "right", overflow="fold")
    for row in rows:
        values = [_number(row[name]) for name in ("final_val_accuracy", "test_accuracy")]
        told = describe_trial(row)
        if row["control"]:
            beaten = front.beaten_by(row)
            told += f" (control, {f'beaten by {beaten}' if beaten else 'not beaten'})"
        cells = [row["trial_id"], _metric(row, front.cost), *values, told]
        table.add_row(*([row["sweep"]] if several else []), *cells)
    console.print(table)
    line = (
        f"{len(front.trials)} of {len(front.trials) + len(front.others)} completed trials are on "
        f"the front of final_val_accuracy against {front.cost}"
    )
    if front.cost.startswith("run_"):
        line += ": that of a configuration's own run of T, without the rungs before it"
    console.print(f"{line}.", markup=False, highlight=False, soft_wrap=True)


def print_listings(console: Console, listings: Sequence[SweepListing]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("sweep", "trials", "controls", "best val accuracy", "outcomes", "updated"):
        left = name in ("sweep", "outcomes", "updated")
        table.add_column(name, justify="left" if left else "right", overflow="fold")
    for each in listings:
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in each.outcomes.items())
        updated = each.updated.strftime("%Y-%m-%d %H:%M") if each.updated else ""
        table.add_row(
            each.name, str(each.trials), str(each.controls), _number(each.best), outcomes, updated
        )
    console.print(table)


def print_trial(console: Console, row: dict[str, Any], curve: Sequence[dict[str, Any]]) -> None:
    """One trial: its row, and its curves over the epochs."""
    head = f"{row['trial_id']} of {row['sweep']}: {row['family']}, {row['outcome']}"
    head += f" after {row['epochs']} epochs, T = {row['total_epochs']}"
    lines = [head, describe_trial(row)]
    lines += [row[name] for name in ("message", "traceback") if row[name]]
    for name in ("final_val_accuracy", "best_val_accuracy", "test_accuracy"):
        if row[name] is not None:
            lines.append(f"{name:28} {row[name]:.4f}")
    runs = [list(run) for _, run in groupby(curve, key=lambda epoch: epoch["rung"])]
    if len(runs) > 1:
        lines += [_rung_line(run) for run in runs]
    curve = runs[-1] if runs else []
    for name in ("val_accuracy", "train_loss", "val_loss", "loss_rise", "radius", "scale", "lr"):
        values = [epoch[name] for epoch in curve]
        if any(value is not None for value in values):
            lines.append(f"{name:14} {_ends(values):>20}  {sparkline(values)}")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _rung_line(run: Sequence[dict[str, Any]]) -> str:
    """A rung of one trial: its T, its final value (or its value so far), when the trigger fired."""
    last, accuracies = run[-1], [epoch["val_accuracy"] for epoch in run]
    final = tail_mean(accuracies, last["total_epochs"])
    fired = last["trigger_epoch"]
    trigger = "trigger not fired" if fired is None else f"trigger fired at epoch {fired}"
    return (
        f"rung {last['rung']}: epoch {last['epoch']} of T = {last['total_epochs']}, final "
        f"val_accuracy {final:.4f}, {trigger}  {sparkline(accuracies)}"
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


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if abs(value) < 1000 else _count(value)


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def print_rows(console: Console, names: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Any query's answer."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in names:
        numeric = all(isinstance(row[name], int | float | None) for row in rows)
        table.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(row[name])) for name in names))  # no markup
    console.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
