"""What a sweep says of itself: did its stopper keep the winners, was its space large enough?"""

from __future__ import annotations

from rich.console import Console

from results.query import best
from results.soundness import soundness
from results.storage import SweepFolder
from rts_search.rungs import rungs
from rts_search.sweep_files import read_spec
from rts_search.tables import print_soundness


def print_audit(console: Console, storage: str, sweep: str) -> None:
    """The audit's report. Raises ValueError for an unknown sweep."""
    spec = read_spec(SweepFolder(storage, sweep))
    if spec.stop.policy == "none":
        line = f"{sweep} has stop.policy none: nobody was stopped, there is nothing to audit"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
        return
    inside = rungs(spec.stop, spec.train.epochs)[:-1] if spec.stop.fidelity == "epoch" else None
    report = soundness(storage, sweep, milestones=inside, objective=spec.search.objective)
    print_soundness(console, report)


def print_edges(console: Console, storage: str, sweep: str) -> None:
    """Warnings where the best configurations lie on the edge of the space."""
    from rts_search.boundary import edges, top_of  # loads Optuna
    from search_spaces.registry import also, get_space

    folder = SweepFolder(storage, sweep)
    try:
        spec = read_spec(folder)
        space = get_space(spec.space)
        space = also(space, spec.search.also) if spec.search.also else space
    except ValueError:
        return  # a ledger without its spec, or a user's space that is not here, has no edges
    ranking = best(storage, sweep, top=1_000_000)
    for warning in edges(space, top_of(ranking.trials)):
        console.print(
            f"edge of the space: {warning}", markup=False, highlight=False, soft_wrap=True
        )
