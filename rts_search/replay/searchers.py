"""Which recorded configuration a replayed search tries next."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from rts_search.replay.curves import RecordedCurves

SEARCHES = ("random", "tpe")


class Search(Protocol):
    """Asked for a configuration whenever a worker is free, told of every trial's end."""

    def ask(self) -> int | None:
        """A configuration's index, None when there are no more."""

    def tell(self, number: int, steps: Mapping[int, float], final: float | None) -> None:
        """Trial `number`, in the order of asking, has ended: with its final value, or stopped or
        lost, after these values by step (the T of a complete schedule, or the epoch)."""


class InOrder:
    """Random search: the configurations in the order that was drawn."""

    def __init__(self, order: Sequence[int]) -> None:
        self.waiting = list(reversed([int(config) for config in order]))

    def ask(self) -> int | None:
        return self.waiting.pop() if self.waiting else None

    def tell(self, number: int, steps: Mapping[int, float], final: float | None) -> None:
        """Nothing is learned."""


class Nearest:
    """Optuna's sampler over the space; of what was recorded and not yet tried, the configuration
    nearest to its proposal is taken, and the sampler told of that one's parameters."""

    def __init__(
        self, curves: RecordedCurves, space: str, sampler: str, seed: int, trials: int
    ) -> None:
        import optuna

        from rts_search.search.samplers import make_sampler
        from search_spaces.registry import get_space
        from search_spaces.space import check_point, describe

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space, self.params, self.trials = get_space(space), curves.params, trials
        for params in curves.params:
            check_point(self.space, params)
        self.study = optuna.create_study(
            direction="maximize", sampler=make_sampler(sampler, self.space, seed)
        )
        self.scales = {p.name: _scale(p.distribution) for p in describe(self.space)}
        self.left = set(range(len(curves.configs)))
        self.asked: list[Any] = []  # Optuna's trials, by our number

    def ask(self) -> int | None:
        from optuna.trial import TrialState

        if not self.left or len(self.asked) == self.trials:
            return None
        proposal = self.study.ask()
        self.space.suggest(proposal)
        self.study.tell(proposal, state=TrialState.FAIL)  # nothing is learned from it
        config = min(self.left, key=lambda i: (self._distance(proposal.params, i), i))
        self.left.remove(config)
        self.study.enqueue_trial(self.params[config])
        taken = self.study.ask()
        self.space.suggest(taken)
        self.asked.append(taken)
        return config

    def tell(self, number: int, steps: Mapping[int, float], final: float | None) -> None:
        from optuna.trial import TrialState

        trial = self.asked[number]
        for step, value in steps.items():
            trial.report(value, step)
        if final is not None:
            self.study.tell(trial, final)
        else:
            self.study.tell(trial, state=TrialState.PRUNED if steps else TrialState.FAIL)

    def _distance(self, params: Mapping[str, Any], config: int) -> float:
        theirs = self.params[config]
        return sum(
            (scale(params[name]) - scale(theirs[name])) ** 2
            if scale is not None and name in params and name in theirs
            else float(params.get(name) != theirs.get(name))
            for name, scale in self.scales.items()
        )


def _scale(distribution: Any) -> Callable[[float], float] | None:
    """To 0–1 between a number's bounds; None for choices."""
    if not hasattr(distribution, "low") or distribution.single():
        return None
    log = math.log if distribution.log else float
    low, high = log(distribution.low), log(distribution.high)
    return lambda value: (log(value) - low) / (high - low)
