"""The best configurations on a terminal: the verdict first, then a table that fits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from results.meanings import in_points, metric_of
from results.pareto import Front
from results.ranking import Ranking, arms, setting
from results.statistics import sampling_deviation
from rts_search.show.console import Told, print_told, prose
from rts_search.show.tables import count, describe_trial, never_perturbed, number

Row = dict[str, Any]
ON_TEST = (
    "Its validation set is the test set, on which epochs and settings were chosen: the figures are "
    "too good to be compared with others."
)


def print_rankings(console: Console, rankings: Sequence[Ranking]) -> None:
    """Each with a heading of its own, if there are several."""
    for place, ranking in enumerate(rankings):
        if len(rankings) > 1:
            gap = "\n" if place else ""
            prose(console, f"{gap}{setting(ranking)}: {', '.join(ranking.sweeps)}")
        print_ranking(console, ranking)


def print_ranking(console: Console, ranking: Ranking) -> None:
    """The verdict, and the ranked trials with the controls below them."""
    for line in verdict(ranking):
        prose(console, line)
    titles, groups = ranked_cells(ranking)
    if any(groups):
        prose(console, "")
        print_told(console, titles, groups, left=titles.index("trial") + 1)


def ranked_cells(ranking: Ranking) -> tuple[list[str], list[list[Told]]]:
    """Titles, and below them two groups of rows: the ranked trials, and the best of each arm of
    controls."""
    baselines = [arm[0] for arm in arms(ranking.controls)]
    several = len({row["sweep"] for row in (*ranking.trials, *baselines)}) > 1
    metrics = {ranking.metric: _label(ranking.metric)}
    if not any(row["test_value"] is not None for row in (*ranking.trials, *baselines)):
        metrics |= {"final_val_accuracy": _final_val(ranking), "test_accuracy": "test"}
    else:  # a task of one's own has what it has
        metrics |= {"test_value": "test"}
    metrics |= {"gradient_evaluations": "gradients"}
    titles = [*(["sweep"] if several else []), "trial", *metrics.values(), "configuration"]

    def told(row: Row) -> Told:
        outcome = "" if row["outcome"] == "completed" else f" ({row['outcome']})"
        cells = [row["sweep"]] if several else []
        cells += [row["trial_id"] + outcome, *(_metric(row, name) for name in metrics)]
        if row["seeds"] > 1:
            at = titles.index(metrics[ranking.metric])
            cells[at] = f"{row['mean']:.4f} ± {row['deviation']:.4f} ({row['seeds']} seeds)"
        return cells, describe_trial(row)

    return titles, [list(map(told, ranking.trials)), list(map(told, baselines))]


def _label(metric: str) -> str:
    return metric_of(metric).replace("_", " ")


def _final_val(found: Ranking | Front) -> str:
    return "final val (on test)" if found.on_test else "final val"


def arm_in_words(arm: Sequence[Row]) -> str:
    """As in `sgd (best of 8)` or `sgd (untuned)`."""
    name = str(arm[0]["control"])
    if len(arm) > 1:
        return f"{name} (best of {len(arm)})"
    return f"{name} (untuned)" if arm[0]["untuned"] else name


def verdict(ranking: Ranking) -> list[str]:
    """Which trial is the best and by how much, in one sentence, and how far that can be trusted."""
    plural = "" if ranking.ranked == 1 else "s"
    compared = f"{ranking.ranked} trial{plural} by {metric_of(ranking.metric)}"
    if not ranking.trials:
        why = "no trial has completed its whole schedule yet (--all shows others)"
        return [f"{why}: {compared}."]
    top = ranking.trials[0]
    value = _number_of(ranking.metric, top["mean"])
    value += f" on {top['seeds']} seeds" if top["seeds"] > 1 else ""
    line = f"{top['trial_id']} is the best of {compared}, {value}"
    if never_perturbed(top):
        line += ", and plain sgd: it was never perturbed"
    elif gains := _gains(ranking):
        line += f": {', '.join(gains)}"
        line += ", in points" if in_points(ranking.metric) else ""
    return [f"{line}.", *([ON_TEST] if ranking.on_test else []), *_trust(ranking)]


def _gains(ranking: Ranking) -> list[str]:
    """The best trial against the best of each control arm of its sweep, by the objective."""
    if ranking.objective is None:
        return []
    top = ranking.trials[0]
    return [
        _difference(ranking.objective, top["mean"] - arm[0]["mean"], arm_in_words(arm))
        for arm in arms(ranking.controls)
        if arm[0]["sweep"] == top["sweep"]
    ]


def _difference(objective: str, difference: float, to: str) -> str:
    """As in `+0.83 to sgd`, in points, or `0.0123 below sgd` of a loss."""
    if in_points(objective):
        return f"{100 * difference:+.2f} to {to}"
    return f"{abs(difference):.4f} {'below' if difference < 0 else 'above'} {to}"


def _trust(ranking: Ranking) -> list[str]:
    """What is measured of chance here: by the size of the validation split, and by reruns."""
    row, known = ranking.trials[0], []
    accuracy, images = row["final_val_accuracy"], row["validation_images"]
    if ranking.metric == "final_val_accuracy" and images:
        # one image more of either kind: all right, or all wrong, is not certain either
        likely = (accuracy * images + 1) / (images + 2)
        points = 100 * sampling_deviation(likely, images)
        known.append(
            f"{images:,} validation images measure it to ± {points:.2f} points (one standard "
            f"deviation); less than {2 * math.sqrt(2) * points:.1f} may be chance"
        )
    if reruns := ranking.reruns:
        spread, of = reruns.deviation, reruns.configurations
        unit = f"{100 * spread:.2f} points" if "accuracy" in ranking.metric else f"{spread:.4f}"
        several = "one configuration" if of == 1 else f"{of} configurations"
        known.append(f"{reruns.runs} runs of {several} on other seeds deviate by {unit}")
    else:
        known.append("no second seed has run")
    line = "; ".join(known)
    return [f"{line[0].upper()}{line[1:]}. The best of many is lucky."]


def _metric(row: Row, name: str) -> str:
    return _number_of(name, row[name])


def _number_of(name: str, value: float | None) -> str:
    return count(value) if name.endswith("gradient_evaluations") else number(value)


def print_front(console: Console, front: Front) -> None:
    """The trials that no other one beats in both objective and cost, and the controls among them,
    by cost."""
    completed = len(front.trials) + len(front.others)
    line = (
        f"{len(front.trials)} of {completed} completed trials are on "
        f"the front of {metric_of(front.metric)} against {front.cost}"
    )
    if front.cost.startswith("run_"):
        line += ": that of a configuration's own run of T, without the rungs before it"
    prose(console, f"{line}.")
    if front.on_test:
        prose(console, ON_TEST)
    rows = sorted((*front.trials, *front.controls), key=lambda row: float(row[front.cost]))
    if not rows:
        return
    several = len({row["sweep"] for row in rows}) > 1
    value = _label(front.metric)
    if front.metric == "final_val_accuracy":
        value = _final_val(front)
    titles = [*(["sweep"] if several else []), "trial", front.cost.replace("_", " "), value]

    def told(row: Row) -> tuple[list[str], str]:
        words = describe_trial(row)
        if row["control"]:
            beaten = front.beaten_by(row)
            words += f" (control, {f'beaten by {beaten}' if beaten else 'not beaten'})"
        test = "test_accuracy" if row["test_value"] is None else "test_value"
        names = (front.cost, front.metric, test)
        cells = [row["sweep"]] if several else []
        return [*cells, row["trial_id"], *(_metric(row, name) for name in names)], words

    prose(console, "")
    left = titles.index("trial") + 1
    print_told(console, [*titles, "test", "configuration"], [list(map(told, rows))], left)
