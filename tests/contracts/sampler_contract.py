"""What every sampler keeps to on every space that suits it. Subclasses give the fixtures
`sampler` and `space`."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Container
from pathlib import Path
from typing import Any

from rts_search.search.study import Proposal, SearchStudy
from search_spaces.space import Space, check_point
from trainables.config import TrialConfig

CONCURRENT = 3


def open_study(
    folder: Path, sampler: str, space: Space, seed: int = 7, against: str | None = None
) -> SearchStudy:
    folder.mkdir(exist_ok=True)
    return SearchStudy.open(
        folder / "optuna.journal", space, TrialConfig(), sampler, seed, "val_accuracy", "maximize",
        against=against,
    )  # fmt: skip


def objective(params: dict[str, Any]) -> float:
    """Any smooth function of the numbers, with its optimum inside."""
    numbers = [v for v in params.values() if isinstance(v, float)]
    return -sum((math.log10(n + 1e-3) + 0.5) ** 2 for n in numbers)


def cost(params: dict[str, Any]) -> float:
    """Another one, which the objective's optimum does not minimise."""
    return sum(v for v in params.values() if isinstance(v, float)) + len(params)


def tell(study: SearchStudy, proposal: Proposal, against: str | None = None) -> None:
    """Most trials complete; some are stopped, diverge, or break."""
    value = objective(proposal.params)
    paid = cost(proposal.params) if against else None
    for step in (1, 2):
        study.report(proposal.number, value - 1 / step, step)
    match proposal.number % 6:
        case 1:
            study.pruned(proposal.number)
        case 3:
            study.fail(proposal.number)
        case 5:
            study.complete(proposal.number, math.nan, cost=paid)
        case _:
            study.complete(proposal.number, value, cost=paid)


def search(
    folder: Path,
    sampler: str,
    space: Space,
    trials: int,
    reopen_after: Container[int] = (),
    against: str | None = None,
) -> list[Proposal]:
    """A search with trials in parallel; the driver dies after some of them."""
    study = open_study(folder, sampler, space, against=against)
    proposals: list[Proposal] = []
    running: deque[Proposal] = deque()
    while len(proposals) < trials:
        if len(running) == CONCURRENT:
            tell(study, running.popleft(), against)
        proposal = study.ask()
        assert proposal is not None
        proposals.append(proposal)
        running.append(proposal)
        if proposal.number in reopen_after:
            study = open_study(folder, sampler, space, against=against)
            for expected in running:
                resumed = study.resume_next()
                assert resumed is not None
                assert resumed.resumed
                assert (resumed.number, resumed.params) == (expected.number, expected.params)
                assert resumed.config == expected.config
            assert study.resume_next() is None
    return proposals


class SamplerContract:
    trials = 26
    against: str | None = None

    def test_proposals_lie_in_the_space(self, tmp_path: Path, sampler: str, space: Space) -> None:
        proposals = search(tmp_path, sampler, space, self.trials, against=self.against)
        numbers = [p.number for p in proposals]
        assert numbers == sorted(set(numbers))
        for proposal in proposals:
            assert check_point(space, proposal.params) == proposal.params
        assert len({str(p.params) for p in proposals}) == self.trials  # no duplicates

    def test_a_resumed_search_proposes_the_same(
        self, tmp_path: Path, sampler: str, space: Space
    ) -> None:
        whole = search(tmp_path / "whole", sampler, space, self.trials, (), self.against)
        every_fifth = range(0, 2 * self.trials, 5)
        resumed = search(
            tmp_path / "resumed", sampler, space, self.trials, every_fifth, self.against
        )
        assert [p.params for p in resumed] == [p.params for p in whole]  # bit by bit
        assert [p.config for p in resumed] == [p.config for p in whole]
