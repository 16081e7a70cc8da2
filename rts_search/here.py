"""A sweep that is run in this process before a person, on the command line or in a notebook."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from rich.console import Console

from results.parts.files import SET_ASIDE
from results.ranking import Ranking
from rts_search.driver.lock import CONTROL, hold_lock
from rts_search.spec.claim import CLAIMS
from rts_search.spec.folder import SPEC
from rts_search.spec.model import SweepSpec
from rts_search.sweep import Sweep

if TYPE_CHECKING:
    from rts_search.runner import SweepResult

# all that a sweep writes into its folder
OWN = (SPEC, "epochs", "trials", "checkpoints", "trunks", CLAIMS, CONTROL, SET_ASIDE, "tensorboard")


def delete_sweep(spec: SweepSpec) -> None:
    """Make room for a sweep of this name, if it can run, but not under a running driver. Other
    files in its folder are somebody's, and stay."""
    from rts_search.search.checks import check_spec

    check_spec(spec)
    folder = spec.folder
    with hold_lock(folder):
        for entry in OWN:
            folder.delete(entry)


def run_here(
    spec: SweepSpec,
    address: str | None = None,
    verbose: bool = False,
    accept_changes: bool = False,
    new: bool = False,
    thawed: Collection[str] = (),
) -> SweepResult:
    """Run or resume a sweep; how it ended, also where a signal ended it outside of Tune's loop.

    Raises what `run_sweep` does, and KeyboardInterrupt before anything was begun.
    """
    from rts_search.cluster.session import prepare_environment

    prepare_environment(address, verbose)
    # loading torch and Ray, the data and Ray's start take ten seconds and more
    print(f"sweep {spec.name}: checks the spec, loads the data, starts Ray …", flush=True)
    from rts_search.runner import SweepResult, run_sweep
    from rts_search.show.console import make_console

    try:
        return run_sweep(spec, make_console(), address, verbose, accept_changes, new, thawed)
    except KeyboardInterrupt as signal:
        if not spec.folder.exists(SPEC):
            raise
        return SweepResult(spec.folder, interrupted=str(signal) or "interrupted by SIGINT")


def print_found(sweep: Sweep, console: Console) -> Ranking:
    """The best configurations against the controls, what was spent, and what the audit says."""
    from rts_search.answers.audit import print_in_short
    from rts_search.answers.standing import print_without_weights, without_weights
    from rts_search.show.ranking import print_ranking
    from rts_search.show.tables import print_spent

    # where a configuration takes lines of its own, fewer
    ranking = sweep.ranking(top=5 if console.width >= 120 else 2)
    print_ranking(console, ranking)
    print_spent(console, sweep.summary())
    print_in_short(console, sweep)
    print_without_weights(console, sweep, without_weights(sweep))
    return ranking
