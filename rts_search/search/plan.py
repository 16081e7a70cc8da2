"""The sweep's trials in the order in which they run."""

from __future__ import annotations

from collections.abc import Iterator

from results.storage import SweepFolder
from rts_search.driver.lock import journal_path
from rts_search.search.checks import search_space
from rts_search.search.study import Proposal, SearchStudy
from rts_search.spec.model import SweepSpec
from rts_search.trials.trial import LiveTrial, controls
from search_spaces.registry import start_points


def open_study(spec: SweepSpec, folder: SweepFolder) -> SearchStudy:
    """The searcher's memory, new or reopened; start points are enqueued when it is new."""
    space = search_space(spec)
    study = SearchStudy.open(
        journal_path(folder),
        space,
        spec.base,
        spec.search.sampler,
        spec.search.seed,
        spec.search.objective,
        spec.direction,
        against=spec.search.against,
    )
    if spec.search.start_from != "none":
        study.enqueue(start_points(space, spec.search.start_from))
    return study


def trial_name(number: int) -> str:
    """The name of an Optuna trial in the ledger."""
    return f"t{number:04d}"


def plan(spec: SweepSpec, study: SearchStudy, done: set[str]) -> Iterator[LiveTrial | None]:
    """The trials still to run, in order: unfinished ones, controls, new proposals.

    `done` are the ids of trials that have ended. A proposal is only asked of the sampler when
    it is taken, so that it knows all results until then. None means: not now, for the journal
    cannot be written at the moment.
    """
    while (proposal := study.resume_next()) is not None:
        yield _proposed(proposal)
    if spec.search.controls:
        yield from (c for c in controls(spec.base) if c.trial_id not in done)
    while study.count() < spec.search.trials:
        try:
            new = study.ask()
        except OSError:
            yield None
            continue
        if new is None:
            return  # the grid, or the space, is exhausted
        yield _proposed(new)


def _proposed(proposal: Proposal) -> LiveTrial:
    return LiveTrial(
        trial_name(proposal.number), proposal.config, proposal.number, dict(proposal.params)
    )
