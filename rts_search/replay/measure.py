"""Policies compared over many replays: cost, regret, and intervals over configurations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rts_search.replay.curves import Floats, RecordedCurves
from rts_search.replay.policies import Policy, check_recorded
from rts_search.replay.searchers import InOrder, Nearest, Search
from rts_search.replay.simulate import Draw, Outcome, Simulation

POINTS = 100.0  # a fraction of 1 in points of accuracy
NEAR = (0.1, 0.2, 0.3)  # points

Stats = dict[str, float]


@dataclass(frozen=True)
class Settings:
    """How policies are replayed. `trials`: how many configurations a search tries, None: all.

    `search` is `random` or, with the name of the recorded `space`, one of Optuna's samplers.
    """

    replays: int = 200
    seed: int = 0
    workers: int = 1
    trials: int | None = None
    search: str = "random"
    space: str = "rts"
    bootstrap: int = 0
    bootstrap_replays: int = 20


@dataclass(frozen=True)
class Measured:
    """One policy's means over its replays, and 95 % intervals where there was a bootstrap."""

    policy: Policy
    stats: Stats
    intervals: dict[str, tuple[float, float]]


def measure(
    curves: RecordedCurves, policies: Sequence[Policy], settings: Settings
) -> list[Measured]:
    """Every policy on the same draws. Raises ValueError if the curves lack what one trains.

    Intervals: configurations are drawn with replacement, `bootstrap` times, and everything is
    replayed `bootstrap_replays` times on each draw; differences are taken within a draw.
    """
    check_recorded(curves, policies)
    _check(curves, settings)
    found = replay(curves, policies, settings.replays, settings)
    rng = np.random.default_rng([settings.seed, 1])
    count = len(curves.configs)
    resampled = [
        replay(
            curves.take(rng.integers(count, size=count)),
            policies,
            settings.bootstrap_replays,
            settings,
        )
        for _ in range(settings.bootstrap)
    ]
    return [
        Measured(policy, found[i], _intervals([stats[i] for stats in resampled]))
        for i, policy in enumerate(policies)
    ]


def _check(curves: RecordedCurves, settings: Settings) -> None:
    if settings.replays < 1 or settings.bootstrap < 0 or settings.bootstrap_replays < 1:
        raise ValueError("replays must be at least 1, and bootstrap draws 0 or more")
    count = len(curves.configs)
    if settings.trials is not None and not 1 <= settings.trials <= count:
        raise ValueError(f"trials {settings.trials} must be in 1–{count}, the configurations")
    if settings.search != "random" and not all(curves.params):
        raise ValueError(
            f"search {settings.search!r} needs the configurations' parameters, and the curves have "
            "none: give a column params (JSON), or use random"
        )


def _intervals(resampled: Sequence[Stats]) -> dict[str, tuple[float, float]]:
    if not resampled:
        return {}
    low_high = {}
    for name in resampled[0]:
        values = np.array([stats[name] for stats in resampled])
        if np.isfinite(values).all():
            low, high = np.quantile(values, [0.025, 0.975])
            low_high[name] = float(low), float(high)
    return low_high


def replay(
    curves: RecordedCurves, policies: Sequence[Policy], replays: int, settings: Settings
) -> list[Stats]:
    """Each policy's means over the replays.

    `regret` (points) is to the best configuration by the mean over the seeds that no policy
    compared has seen in that replay. `random_…` is random search over complete runs that cost as
    many epochs, `full_…` the same with all trials; both exactly, not by replays.
    """
    draws = draw_all(curves, replays, settings)
    truths = [truth(curves, policies, draw) for draw in draws]
    trials = settings.trials or len(curves.configs)
    full = _random(curves, draws, truths, trials)
    found = []
    for policy in policies:
        simulation = Simulation(curves, policy, settings.workers)
        outcomes = [simulation.run(draw, _search(curves, settings, draw)) for draw in draws]
        picks = zip(truths, (outcome.pick for outcome in outcomes), strict=True)
        stats = _summary(np.array([_regret(true, pick) for true, pick in picks]))
        stats |= _cost(curves, draws, outcomes, trials)
        equal = _random(curves, draws, truths, max(1, round(stats["share"] * trials)))
        stats |= {f"random_{name}": value for name, value in equal.items()}
        stats |= {f"full_{name}": value for name, value in full.items()}
        stats |= {f"{name}_minus_full": stats[name] - full[name] for name in full}
        found.append(stats)
    return found


def _cost(
    curves: RecordedCurves, draws: Sequence[Draw], outcomes: Sequence[Outcome], trials: int
) -> Stats:
    """Means; `share` is that of the epochs of as many complete runs with the same seed."""
    whole = {
        seed: trials * curves.runs[curves.epochs, seed].length.mean() for seed in curves.seeds()
    }
    shares = [o.epochs / whole[d.seeds[0]] for o, d in zip(outcomes, draws, strict=True)]
    return {
        "epochs": float(np.mean([outcome.epochs for outcome in outcomes])),
        "share": float(np.mean(shares)),
        "gradients": float(np.mean([outcome.gradients for outcome in outcomes])),
        "hours": float(np.mean([outcome.makespan for outcome in outcomes])) / 3600,
        "completed": float(np.mean([outcome.completed for outcome in outcomes])),
    }


def draw_all(curves: RecordedCurves, replays: int, settings: Settings) -> list[Draw]:
    """The draws of all replays; every recorded seed is the search's own equally often."""
    seeds, count = curves.seeds(), len(curves.configs)
    others = sorted({seed for _, seed in curves.runs} - set(seeds))
    draws = []
    for i in range(replays):
        rng = np.random.default_rng([settings.seed, 0, i])
        order = rng.permutation(count)[: settings.trials].tolist()
        mixed = rng.permutation(seeds).tolist()
        own = seeds[i % len(seeds)]
        mixed.sort(key=lambda seed, own=own: seed != own)
        draws.append(Draw(order, [*mixed, *others], int(rng.integers(2**31))))
    return draws


def _search(curves: RecordedCurves, settings: Settings, draw: Draw) -> Search:
    if settings.search == "random":
        return InOrder(draw.order)
    trials = len(draw.order)
    return Nearest(curves, settings.space, settings.search, draw.stopper_seed, trials)


def truth(curves: RecordedCurves, policies: Sequence[Policy], draw: Draw) -> Floats:
    """Each configuration's mean over the seeds that none of the policies sees in this draw.

    Where that leaves none, over those of which none sees the run of T; with one seed recorded, it
    is that seed's own value. Raises ValueError if the policies train T with all seeds.
    """
    seeds = curves.seeds()
    if len(seeds) > 1:
        at_top = {seed for policy in policies for seed in draw.at_top(curves, policy)}
        below = {seed for policy in policies for seed in draw.below(curves, policy)}
        left = [seed for seed in seeds if seed not in at_top]
        if not left:
            raise ValueError(
                f"T = {curves.epochs} is recorded with {len(seeds)} seeds, and the policies train "
                "it with all: none is left to judge them by; record another, or leave out finalists"
            )
        seeds = [seed for seed in left if seed not in below] or left
    total: Floats = np.mean([curves.runs[curves.epochs, seed].filled for seed in seeds], axis=0)
    return total


def _regret(true: Floats, pick: int | None) -> float:
    """In points; a search that completed no trial is taken to end with the worst."""
    return float(true.max() - (true.min() if pick is None else true[pick])) * POINTS


def _summary(regrets: Floats) -> Stats:
    within = {f"within_{near}": float((regrets <= near + 1e-9).mean()) for near in NEAR}
    return {"regret": float(regrets.mean()), **within}


def _random(
    curves: RecordedCurves, draws: Sequence[Draw], truths: Sequence[Floats], trials: int
) -> Stats:
    """What random search over this many complete runs comes to, exactly."""
    known: dict[tuple[int, bytes], Stats] = {}
    each = []
    for draw, true in zip(draws, truths, strict=True):
        key = draw.seeds[0], true.tobytes()
        if key not in known:
            own = curves.runs[curves.epochs, draw.seeds[0]].final
            known[key] = random_search(own, true, trials)
        each.append(known[key])
    return {name: float(np.mean([stats[name] for stats in each])) for name in each[0]}


def random_search(own: Floats, true: Floats, trials: int) -> Stats:
    """The expected regret, and chances to be near the best, of the best by `own` of a random
    set of `trials` configurations: the i-th best is picked if it is in the set and no better
    one is. Lost runs (NaN) are never picked."""
    ranked = np.argsort(np.where(np.isnan(own), -np.inf, own), kind="stable")[::-1]
    whole = int(np.isfinite(own).sum())
    count, chances, none_better = len(own), np.zeros(len(own)), 1.0
    for i in range(whole):
        in_set = min(1.0, trials / (count - i))  # given that none of the i better ones is
        chances[i] = none_better * in_set
        none_better *= 1 - in_set
    regrets = (true.max() - true[ranked]) * POINTS
    near: Callable[[float], float] = lambda n: float(chances @ (regrets <= n + 1e-9))  # noqa: E731
    worst = float(true.max() - true.min()) * POINTS
    regret = float(chances[:whole] @ regrets[:whole]) + none_better * worst
    return {"regret": regret, **{f"within_{n}": near(n) for n in NEAR}}


def random_curve(
    curves: RecordedCurves, policies: Sequence[Policy], settings: Settings
) -> list[tuple[float, float]]:
    """Random search over complete runs at every cost: (share of full search, regret in points)."""
    draws = draw_all(curves, len(curves.seeds()), settings)
    truths = [truth(curves, policies, draw) for draw in draws]
    trials = settings.trials or len(curves.configs)
    return [(k / trials, _random(curves, draws, truths, k)["regret"]) for k in range(1, trials + 1)]
