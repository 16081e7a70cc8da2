"""The audit's report, and whether the best lie on the edge of the space."""

from __future__ import annotations

from rich.console import Console

from results.query import best
from results.soundness import Soundness, soundness
from results.storage import SweepFolder
from rts_search.show.tables import print_soundness
from rts_search.spec.folder import SPEC, read_spec
from rts_search.stopping.rungs import rungs


def audit_of(storage: str, sweep: str) -> Soundness | None:
    """The audit's report; None if nothing is ever stopped. Raises ValueError without a spec."""
    spec = read_spec(SweepFolder(storage, sweep))
    if spec.stop.policy == "none":
        return None
    inside = rungs(spec.stop, spec.train.epochs)[:-1] if spec.stop.fidelity == "epoch" else None
    return soundness(storage, sweep, milestones=inside, objective=spec.search.objective)


def print_audit(console: Console, storage: str, sweep: str) -> None:
    """The audit's report. Raises ValueError for an unknown sweep."""
    report = audit_of(storage, sweep)
    if report is not None:
        print_soundness(console, report)
        return
    line = f"{sweep} has stop.policy none: nobody was stopped, there is nothing to audit"
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def print_edges(console: Console, storage: str, sweep: str) -> None:
    """Warnings where the best configurations, by the objective, lie on the edge of the space."""
    folder = SweepFolder(storage, sweep)
    if not folder.exists(SPEC):  # a ledger of single runs has no space
        return
    from rts_search.search.edges import edges, top_of  # loads Optuna
    from search_spaces.registry import also, get_space

    try:
        spec = read_spec(folder)
        space = also(get_space(spec.space), spec.search.also)
        ranking = best(storage, sweep, top=1_000_000, metric=f"final_{spec.search.objective}")
        found = edges(space, spec.base, top_of(ranking.trials), list(spec.search.also))
        lines = [f"edge of the space: {warning}" for warning in found]
    except ValueError as error:  # a user's space that is not here, a spec that is damaged
        lines = [f"whether the best lie on the edge of the space is not checked: {error}"]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
