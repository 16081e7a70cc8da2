"""What every sampler keeps to on every space that suits it. Subclasses give the fixtures
`sampler` and `space`."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rts_search.search.known import Known, Told
from rts_search.search.study import Proposal, SearchStudy
from search_spaces.space import Params, Space, check_point
from trainables.config import TrialConfig

CONCURRENT = 3
_NONE: Mapping[int, float] = {}


class Search:
    """A search and its ledger: `known` is what a new driver reads there."""

    def __init__(
        self,
        sampler: str,
        space: Space,
        seed: int = 7,
        objectives: int = 1,
        points: Sequence[Mapping[str, Any]] = (),
        earlier: Sequence[Known] = (),
    ) -> None:
        self.asked_for = (space, TrialConfig(), sampler, seed, "maximize")
        self.settings: dict[str, Any] = {
            "objectives": objectives, "points": points, "earlier": earlier
        }  # fmt: skip
        self.known: dict[int, Known] = {}
        self.reopen()

    def reopen(self) -> None:
        """As the next driver does."""
        known = list(self.known.values())
        self.study = SearchStudy(*self.asked_for, **self.settings, known=known)  # type: ignore[arg-type]

    def ask(self) -> Proposal:
        proposal = self.ask_or_none()
        assert proposal is not None
        return proposal

    def ask_or_none(self) -> Proposal | None:
        proposal = self.study.ask()
        if proposal is not None:
            name = f"t{proposal.number:04d}"
            begun = Known(
                name, proposal.params, proposal.config, None, proposal.number, proposal.memory
            )
            self.known[proposal.number] = begun
        return proposal

    def end(self, number: int, told: Told) -> None:
        self.known[number] = replace(self.known[number], told=told)
        self.study.end(number, told)

    def complete(
        self, number: int, *values: float, steps: Mapping[int, float] | None = None
    ) -> None:
        self.end(number, Told("complete", list(values), steps or {}))


def objective(params: Params) -> float:
    """Any smooth function of the numbers, with its optimum inside."""
    numbers = [v for v in params.values() if isinstance(v, float)]
    return -sum((math.log10(n + 1e-3) + 0.5) ** 2 for n in numbers)


def cost(params: Params) -> float:
    """Another one, which the objective's optimum does not minimise."""
    return sum(v for v in params.values() if isinstance(v, float)) + len(params)


def tell(search: Search, proposal: Proposal) -> None:
    """Most trials complete; some are stopped, diverge, or break."""
    value = objective(proposal.params)
    paid = [cost(proposal.params)] * (search.settings["objectives"] - 1)
    steps = {step: value - 1 / step for step in (1, 2)}
    match proposal.number % 6:
        case 1 if not paid:
            search.end(proposal.number, Told("pruned", steps=steps))
        case 1 | 5:
            search.end(proposal.number, Told("fail"))
        case 3:
            search.end(proposal.number, Told("fail", repeats=False))
        case _:
            search.complete(proposal.number, value, *paid, steps=steps)


def run(search: Search, trials: int, reopen_after: Container[int] = ()) -> list[Proposal]:
    """Trials in parallel; the driver dies after some of them."""
    proposals: list[Proposal] = []
    running: deque[Proposal] = deque()
    while len(proposals) < trials:
        if len(running) == CONCURRENT:
            tell(search, running.popleft())
        proposal = search.ask()
        proposals.append(proposal)
        running.append(proposal)
        if proposal.number in reopen_after:
            search.reopen()
            for expected in running:
                assert search.study.resume_next() == replace(expected, resumed=True)
            assert search.study.resume_next() is None
    return proposals


class SamplerContract:
    trials = 26
    objectives = 1

    def test_proposals_lie_in_the_space(self, sampler: str, space: Space) -> None:
        proposals = run(Search(sampler, space, objectives=self.objectives), self.trials)
        numbers = [p.number for p in proposals]
        assert numbers == sorted(set(numbers))
        for proposal in proposals:
            assert check_point(space, proposal.params) == proposal.params
        assert len({str(p.params) for p in proposals}) == self.trials  # no duplicates

    def test_a_resumed_search_proposes_the_same(self, sampler: str, space: Space) -> None:
        whole = run(Search(sampler, space, objectives=self.objectives), self.trials)
        every_fifth = range(0, 2 * self.trials, 5)
        search = Search(sampler, space, objectives=self.objectives)
        resumed = run(search, self.trials, every_fifth)
        assert [p.params for p in resumed] == [p.params for p in whole]  # bit by bit
        assert [p.config for p in resumed] == [p.config for p in whole]
