"""Policies compared over many replays: cost, regret, and intervals over configurations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rts_search.replay.curves import Floats, Ints, RecordedCurves
from rts_search.replay.policies import Policy, check_recorded
from rts_search.replay.simulate import Draw, Outcome, Simulation

POINTS = 100.0  # a fraction of 1 in points of accuracy
NEAR = (0.1, 0.2, 0.3)  # points

Stats = dict[str, float]


@dataclass(frozen=True)
class Settings:
    """How policies are replayed. `trials`: how many configurations a search tries, None: all."""

    replays: int = 200
    seed: int = 0
    workers: int = 1
    trials: int | None = None
    bootstrap: int = 0
    bootstrap_replays: int = 20


@dataclass(frozen=True)
class Measured:
    """One policy's means over its replays, and 95 % intervals where there was a bootstrap."""

    policy: Policy
    stats: Stats
    intervals: dict[str, tuple[float, float]]


def measure(
    curves: RecordedCurves,
    policies: Sequence[Policy],
    settings: Settings,
    track: Callable[[Sequence[Ints]], Iterable[Ints]] = iter,
) -> list[Measured]:
    """Every policy on the same draws. Raises ValueError if the curves lack what one trains.

    Intervals: configurations are drawn with replacement, `bootstrap` times, and everything is
    replayed `bootstrap_replays` times on each draw; differences are taken within a draw. `track`
    is handed the draws, all configurations first, and may show how far it has come.
    """
    check_recorded(curves, policies)
    _check(curves, settings)
    simulations = [Simulation(curves, policy, settings.workers) for policy in policies]
    rng, count = np.random.default_rng([settings.seed, 1]), len(curves.configs)
    # not scipy.stats.bootstrap: its statistic is a function of data, and here each draw is
    # replayed, for all policies together and fewer times than the configurations that there are
    resampled = [rng.integers(count, size=count) for _ in range(settings.bootstrap)]
    replays = [settings.replays, *[settings.bootstrap_replays] * settings.bootstrap]
    found, *drawn = [
        replay(curves, simulations, rows, times, settings)
        for rows, times in zip(track([np.arange(count), *resampled]), replays, strict=True)
    ]
    return [
        Measured(policy, found[i], _intervals([stats[i] for stats in drawn]))
        for i, policy in enumerate(policies)
    ]


def _check(curves: RecordedCurves, settings: Settings) -> None:
    if settings.replays < 1 or settings.bootstrap < 0 or settings.bootstrap_replays < 1:
        raise ValueError("replays must be at least 1, and bootstrap draws 0 or more")
    count = len(curves.configs)
    if settings.trials is not None and not 1 <= settings.trials <= count:
        raise ValueError(f"trials {settings.trials} must be in 1–{count}, the configurations")


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
    curves: RecordedCurves,
    simulations: Sequence[Simulation],
    rows: Ints,
    replays: int,
    settings: Settings,
) -> list[Stats]:
    """Each policy's means over the replays of searches among these configurations.

    `regret` (points) is to the best configuration by the mean over the seeds that no policy
    compared has seen in that replay. `random_…` is random search over complete runs that cost as
    much, `full_…` the same with all trials; both exactly, not by replays. Cost is gradients spent,
    where they are recorded, with a trunk that random search shares too; else epochs.
    """
    draws = draw_all(curves, rows, replays, settings)
    truths = truth_all(curves, [simulation.policy for simulation in simulations], draws)
    trials = settings.trials or len(rows)
    full = _random(curves, rows, draws, truths, trials)
    found = []
    for simulation in simulations:
        outcomes = [simulation.run(draw) for draw in draws]
        picks = zip(truths, (outcome.pick for outcome in outcomes), strict=True)
        stats = _summary(np.array([_regret(true[rows], true, pick) for true, pick in picks]))
        stats |= _cost(curves, rows, draws, outcomes, trials)
        equal = _random(curves, rows, draws, truths, max(1, round(stats.pop("equal"))))
        stats |= {f"random_{name}": value for name, value in equal.items()}
        stats |= {f"full_{name}": value for name, value in full.items()}
        stats |= {f"{name}_minus_full": stats[name] - full[name] for name in full}
        found.append(stats)
    return found


def _cost(
    curves: RecordedCurves,
    rows: Ints,
    draws: Sequence[Draw],
    outcomes: Sequence[Outcome],
    trials: int,
) -> Stats:
    """Means; `share` is that of what as many complete runs with the same seed cost, and `equal`
    how many of them cost as much."""
    costs = {seed: _run_cost(curves, rows, seed) for seed in curves.seeds()}
    shares, equal = [], []
    for outcome, draw in zip(outcomes, draws, strict=True):
        trunk, each = costs[draw.seeds[0]]
        paid = outcome.epochs if math.isnan(outcome.spent) else outcome.spent
        shares.append(paid / (trunk + trials * each))
        equal.append((paid - trunk) / each if each else trials)
    return {
        "epochs": float(np.mean([outcome.epochs for outcome in outcomes])),
        "share": float(np.mean(shares)),
        "equal": float(np.mean(equal)),
        "gradients": float(np.mean([outcome.gradients for outcome in outcomes])),
        "spent": float(np.mean([outcome.spent for outcome in outcomes])),
        "hours": float(np.mean([outcome.makespan for outcome in outcomes])) / 3600,
        "completed": float(np.mean([outcome.completed for outcome in outcomes])),
    }


def _run_cost(curves: RecordedCurves, rows: Ints, seed: int) -> tuple[float, float]:
    """What random search pays once, for the trunk, and for each complete run on the mean: in
    gradients, or epochs where these are not recorded."""
    key = curves.epochs, seed
    runs = curves.runs[key].take(rows)
    spent = runs.spent[np.arange(len(rows)), runs.length - 1].mean()
    if math.isnan(spent):
        return 0.0, float(runs.length.mean())
    return curves.trunks[key].gradients if key in curves.trunks else 0.0, float(spent)


def draw_all(curves: RecordedCurves, rows: Ints, replays: int, settings: Settings) -> list[Draw]:
    """The draws of all replays among these configurations; every recorded seed is the search's own
    equally often."""
    seeds = curves.seeds()
    others = sorted({seed for _, seed in curves.runs} - set(seeds))
    draws = []
    for i in range(replays):
        rng = np.random.default_rng([settings.seed, 0, i])
        order = rows[rng.permutation(len(rows))[: settings.trials]].tolist()
        mixed = rng.permutation(seeds).tolist()
        own = seeds[i % len(seeds)]
        mixed.sort(key=lambda seed, own=own: seed != own)
        draws.append(Draw(order, [*mixed, *others], int(rng.integers(2**31))))
    return draws


def truth_all(
    curves: RecordedCurves, policies: Sequence[Policy], draws: Sequence[Draw]
) -> list[Floats]:
    """For each draw the configurations' means over the seeds that none of the policies sees in it.

    Where that leaves none, over those of which none sees the run of T; with one seed recorded, it
    is that seed's own value.
    """
    seeds, top = curves.seeds(), curves.epochs
    filled = {seed: curves.runs[top, seed].filled for seed in seeds}
    stoppers = [policy.stopper(top, 0) for policy in policies]
    below = {total for each in stoppers if each.by_schedule for total in each.rungs[:-1]}

    def truth(draw: Draw) -> Floats:
        seen = {seed for _, seed in draw.legs(curves, sorted(below))}
        left = [seed for seed in seeds if seed != draw.seeds[0]] or seeds
        unseen = [seed for seed in left if seed not in seen] or left
        total: Floats = np.mean([filled[seed] for seed in unseen], axis=0)
        return total

    return [truth(draw) for draw in draws]


def _regret(true: Floats, all_true: Floats, pick: int | None) -> float:
    """In points; a search that completed no trial is taken to end with the worst."""
    return float(true.max() - (true.min() if pick is None else all_true[pick])) * POINTS


def _summary(regrets: Floats) -> Stats:
    within = {f"within_{near}": float((regrets <= near + 1e-9).mean()) for near in NEAR}
    return {"regret": float(regrets.mean()), **within}


def _random(
    curves: RecordedCurves,
    rows: Ints,
    draws: Sequence[Draw],
    truths: Sequence[Floats],
    trials: int,
) -> Stats:
    """What random search over this many complete runs comes to, exactly."""
    known: dict[tuple[int, bytes], Stats] = {}
    each = []
    for draw, true in zip(draws, truths, strict=True):
        key = draw.seeds[0], true.tobytes()
        if key not in known:
            own = curves.runs[curves.epochs, draw.seeds[0]].final
            known[key] = random_search(own[rows], true[rows], trials)
        each.append(known[key])
    return {name: float(np.mean([stats[name] for stats in each])) for name in each[0]}


def random_search(own: Floats, true: Floats, trials: int) -> Stats:
    """The expected regret, and chances to be near the best, of the best by `own` of a random
    set of `trials` configurations: the i-th best is picked if it is in the set and no better
    one is; of equal ones any. Lost runs (NaN) are never picked."""
    whole = int(np.isfinite(own).sum())
    ranked = np.argsort(np.where(np.isnan(own), -np.inf, own), kind="stable")[::-1][:whole]
    # that the i-th best is in the set, given that none of the i better ones is
    in_set = np.minimum(1.0, trials / (len(own) - np.arange(whole)))
    none_better = np.cumprod([1.0, *(1 - in_set)])
    chances = none_better[:-1] * in_set
    regrets = (true.max() - true[ranked]) * POINTS
    worst = float(true.max() - true.min()) * POINTS
    _, equal, many = np.unique(own[ranked], return_inverse=True, return_counts=True)
    chances = (np.bincount(equal, chances) / many)[equal]
    near = {f"within_{n}": float(chances @ (regrets <= n + 1e-9)) for n in NEAR}
    return {"regret": float(chances @ regrets + none_better[-1] * worst), **near}


def random_curve(
    curves: RecordedCurves, policies: Sequence[Policy], settings: Settings
) -> list[tuple[float, float]]:
    """Random search over complete runs at every cost: (share of full search, regret in points)."""
    rows = np.arange(len(curves.configs))
    draws = draw_all(curves, rows, len(curves.seeds()), settings)
    truths = truth_all(curves, policies, draws)
    trials = settings.trials or len(rows)
    trunk, each = np.mean([_run_cost(curves, rows, seed) for seed in curves.seeds()], axis=0)

    def share(runs: int) -> float:
        return float((trunk + runs * each) / (trunk + trials * each))

    return [
        (share(k), _random(curves, rows, draws, truths, k)["regret"]) for k in range(1, trials + 1)
    ]
