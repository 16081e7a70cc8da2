"""The sweep's trials in the order in which they run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence

from results.meanings import Outcome
from results.trials import StoredTrial
from rts_search.search.checks import search_space
from rts_search.search.known import from_ledger, told, told_of, worst
from rts_search.search.study import Proposal, SearchStudy
from rts_search.search.trunks import Effects
from rts_search.search.warm_start import warm_start
from rts_search.spec.model import SweepSpec
from rts_search.trials.observer import Observer
from rts_search.trials.trial import LiveTrial, controls, trial_name
from search_spaces.registry import start_points
from trainables.config import TrialConfig

LAST = 10  # trials, of which most should come to something


def open_study(
    spec: SweepSpec, stored: Sequence[StoredTrial] = (), taken: Collection[int] = ()
) -> tuple[SearchStudy, list[str]]:
    """The search as its ledger's trials leave it, and what to tell the user of its warm start;
    `taken` as `SearchStudy` has it.

    Raises ValueError, in one line, if it cannot be made.
    """
    space = search_space(spec)
    start_from = spec.search.start_from
    points = [] if start_from == "none" else start_points(space, start_from)
    warm = warm_start(spec, space, begun=bool(stored))
    study = SearchStudy(
        space,
        spec.base,
        spec.search.sampler,
        spec.search.seed,
        spec.direction,
        objectives=2 if spec.search.against else 1,
        points=[*points, *warm.points],
        earlier=warm.known,
        known=from_ledger(spec, stored),
        taken=taken,
        worst=worst(spec),
    )
    return study, warm.lines


def plan(spec: SweepSpec, study: SearchStudy, done: set[str]) -> Iterator[LiveTrial]:
    """The trials still to run, in order: unfinished ones, controls, new proposals.

    `done` are the ids of trials that have ended. A proposal is only asked of the sampler when
    it is taken, so that it knows all results until then.
    """
    while (proposal := study.resume_next()) is not None:
        yield _proposed(proposal)
    yield from (control for control in controls(spec) if control.trial_id not in done)
    while study.handed_out < spec.search.trials:
        if (new := study.ask()) is None:
            return  # the grid, or the space, is exhausted
        yield _proposed(new)


def _proposed(proposal: Proposal) -> LiveTrial:
    return LiveTrial(
        trial_name(proposal.number),
        proposal.config,
        proposal.number,
        dict(proposal.params),
        memory=proposal.memory,
    )


def know_effects(
    spec: SweepSpec, study: SearchStudy, effects: Effects, ended: Sequence[StoredTrial]
) -> None:
    """Let the search tell proposals that are in effect what another trial or a control was."""
    study.effects = effects
    for trial in ended:
        if trial.row["total_epochs"] == spec.train.epochs:
            config = TrialConfig.model_validate_json(trial.row["config_json"])
            effect = effects.of_run(config, trial.epochs)
            study.know(effect, trial.number, told_of(spec, trial))


class Teller(Observer):
    """Tells the search how its trials ended, and once the user if most come to nothing."""

    def __init__(self, spec: SweepSpec, study: SearchStudy, say: Callable[[str], None]) -> None:
        self.spec, self.study, self.say = spec, study, say
        self.bad: deque[bool] = deque(maxlen=LAST)
        self.warned = False

    def ended(self, trial: LiveTrial) -> None:
        end = told(self.spec, trial.outcome, trial.history)
        if trial.number is not None:
            self.study.end(trial.number, end)
        effects = self.study.effects
        if effects is not None and trial.total_epochs == self.spec.train.epochs:
            effect = effects.of_run(trial.config, trial.history)
            self.study.know(effect, trial.number, end)
        if trial.number is None:
            return
        self.bad.append(trial.outcome in (Outcome.DIVERGED, Outcome.COLLAPSED))
        if len(self.bad) == LAST and sum(self.bad) > LAST // 2 and not self.warned:
            self.warned = True
            self.say(
                f"{sum(self.bad)} of the last {LAST} trials diverged or collapsed: most of the "
                "space may be of no use; lower its learning rates or radii, in a new sweep"
            )
