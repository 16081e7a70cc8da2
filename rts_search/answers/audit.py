"""The audit's report, and whether the best lie on the edge of the space."""

from __future__ import annotations

from rich.console import Console

from results.soundness import Judged, Soundness, soundness
from rts_search.show.console import prose
from rts_search.show.tables import print_soundness, soundness_line
from rts_search.stopping.rungs import rungs
from rts_search.sweep import Sweep


def audit_of(sweep: Sweep) -> Soundness | None:
    """The audit's report; None if nothing is ever stopped. Raises ValueError without a spec."""
    spec = sweep.spec
    if spec.stop.policy == "none":
        return None
    inside = rungs(spec.stop, spec.train.epochs)[:-1] if spec.stop.fidelity == "epoch" else None
    judged: Judged = "all" if spec.stop.judge_unfired else "fired"
    return soundness(
        sweep.folder.storage,
        sweep.folder,
        milestones=inside,
        objective=spec.search.objective,
        judged="gain" if spec.stop.clock == "firing" else judged,
    )


def print_audit(console: Console, sweep: Sweep) -> None:
    """The audit's report."""
    report = audit_of(sweep)
    if report is not None:
        print_report(console, sweep, report)
        return
    line = f"{sweep.name} has stop.policy none: nobody was stopped, there is nothing to audit"
    prose(console, line)


def print_report(console: Console, sweep: Sweep, report: Soundness) -> None:
    firing = sweep.spec.stop.clock == "firing"
    print_soundness(console, report, "perturbed epochs" if firing else "epochs")


def print_in_short(console: Console, sweep: Sweep) -> None:
    """The audit and the edges of the space in a line each, where they have something to say."""
    report = audit_of(sweep)
    if report is not None:
        prose(console, soundness_line(report))
    if found := len(edges_of(sweep)):
        prose(console, f"edge of the space: {found} warnings; rts-search best tells them")


def print_edges(console: Console, sweep: Sweep) -> None:
    for line in edges_of(sweep):
        prose(console, line)


def edges_of(sweep: Sweep) -> list[str]:
    """Warnings where the best configurations, by the objective, lie on the edge of the space."""
    if not sweep.has_spec:  # a ledger of single runs has no space
        return []
    from rts_search.search.edges import edges, known_ranges, top_of  # loads Optuna

    try:
        spec = sweep.spec
        metric = f"final_{spec.search.objective}"
        ranking = sweep.ranking(top=50, metric=metric)
        if ranking.ranked > 50:  # only the rows that are looked at
            ranking = sweep.ranking(top=max(50, ranking.ranked // 10), metric=metric)
        ranges = known_ranges(sweep.folder, spec)
        found = edges(ranges, top_of(ranking.trials, ranking.ranked), list(spec.search.also))
        return [f"edge of the space: {warning}" for warning in found]
    except ValueError as error:  # a spec that is damaged, or of an earlier version
        return [f"whether the best lie on the edge of the space is not checked: {error}"]
