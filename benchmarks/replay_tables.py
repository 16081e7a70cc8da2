"""The tables on early stopping in BENCHMARKS.md, in Markdown, from recorded curves.

    python benchmarks/replay_tables.py [--recorded FILE] [--authors FILE] [--bootstrap N]

The policy is chosen on one half of the configurations and reported on the other. The goal: within
0.2 points of the best at least as often as full random search, at 35 % of its epochs or less.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rts_search.replay.curves import RecordedCurves
from rts_search.replay.measure import Measured, Settings, measure
from rts_search.replay.policies import Policy, check_recorded, default_policies, parse_policy
from rts_search.replay.ranks import rank_rows, spread
from rts_search.replay.render import markdown, policy_table, rank_table, spread_line
from rts_search.replay.sources import from_files

RECORDED = Path(__file__).parent / "recorded" / "fashion_rts.parquet"
GOAL_SHARE, GOAL_NEAR = 0.35, "within_0.2"
AUTHORS_COLUMNS = {"config": "source_file", "total_epochs": "epochs_total", "value": "valid_acc"}
AUTHORS_RUNS = "model = 'upanets16' AND epochs_total = 400 AND family <> 'sgd'"


def candidates(curves: RecordedCurves) -> list[Policy]:
    """What may be chosen: eta, first rung, two seeds at low rungs, finalists; if recorded."""
    first = sorted({max(1, round(curves.epochs / k)) for k in (27, 9, 3)})
    names = [
        f"{policy}:{fidelity}:{eta}:{rung}"
        for policy in ("asha", "hyperband", "median")
        for fidelity in ("schedule", "epoch")
        for eta in ((3,) if policy == "median" else (3, 9))
        for rung in first
    ]
    names += [f"{name}:seeds=2" for name in names if ":schedule:" in name and "median" not in name]
    if len(curves.seeds()) > 2:  # one is left to judge by
        names += [f"{name}:finalists=3" for name in names]
    found: dict[tuple[object, ...], Policy] = {}  # by what tells them apart
    for policy in map(parse_policy, names):
        try:
            check_recorded(curves, [policy])
            rungs = tuple(policy.stopper(curves.epochs, 0).rungs)
        except ValueError:
            continue  # its runs were not recorded, or nothing could stop
        stop = policy.stop.model_copy(update={"first_rung": rungs[0]})
        found.setdefault((stop.model_dump_json(), policy.seeds, policy.finalists), policy)
    return list(found.values())


def chosen(measured: Sequence[Measured]) -> Policy:
    """Of those that are cheap enough, the one most often near the best; else the cheapest."""
    cheap = [m for m in measured if m.stats["share"] <= GOAL_SHARE]
    if not cheap:
        return min(measured, key=lambda m: m.stats["share"]).policy
    return max(cheap, key=lambda m: (m.stats[GOAL_NEAR], -m.stats["regret"])).policy


def verdict(measured: Measured) -> str:
    stats = measured.stats
    reached = stats["share"] <= GOAL_SHARE and stats[f"{GOAL_NEAR}_minus_full"] >= 0
    near, full = 100 * stats[GOAL_NEAR], 100 * stats[f"full_{GOAL_NEAR}"]
    return (
        f"Goal {'reached' if reached else 'not reached'} by `{measured.policy.name}`: within 0.2 "
        f"points in {near:.0f} % against {full:.0f} % of full random search, at "
        f"{100 * stats['share']:.0f} % of its epochs."
    )


def tables(
    title: str, curves: RecordedCurves, settings: Settings, also: Sequence[Policy]
) -> Policy:
    """Print all about one set of curves; `also` are reported beside the policy chosen here."""
    print(f"## {title}\n")
    print(
        f"{len(curves.configs)} configurations, T = {curves.epochs}, seeds "
        f"{', '.join(map(str, curves.seeds()))}; {settings.replays} replays with "
        f"{settings.workers} workers; intervals from {settings.bootstrap} draws of configurations."
    )
    for note in curves.notes:
        print(f"{note}.")
    print(f"\n{spread_line(spread(curves))}\n")
    if rows := rank_rows(curves):
        print(markdown(rank_table(rows)), end="\n\n")
    print("### All configurations\n")
    print(markdown(policy_table(measure(curves, default_policies(curves), settings))), end="\n\n")
    quick = replace(settings, bootstrap=0)
    half = measure(curves.half("choose"), candidates(curves), quick)
    best = chosen(half)
    print("### The half to choose on\n")
    ranked = sorted(half, key=lambda m: (-m.stats[GOAL_NEAR], m.stats["regret"]))
    cheap = [m for m in ranked if m.stats["share"] <= GOAL_SHARE] or ranked
    print(markdown(policy_table(cheap[:8])), end="\n\n")
    print(f"### The other half, with the chosen `{best.name}`\n")
    compared = {p.name: p for p in (parse_policy("none"), *default_policies(curves), *also, best)}
    reported = measure(curves.half("report"), list(compared.values()), settings)
    print(markdown(policy_table(reported)), end="\n\n")
    for each in reported:
        if each.policy in (best, *also):
            print(verdict(each))
    print()
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recorded", type=Path, default=RECORDED)
    parser.add_argument("--authors", type=Path, help="author_curves_cifar10.parquet")
    parser.add_argument("--replays", type=int, default=200)
    parser.add_argument("--bootstrap", type=int, default=100)
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    settings = Settings(
        replays=options.replays, workers=options.workers, bootstrap=options.bootstrap
    )
    began = time.monotonic()
    best = tables("Recorded with this service", from_files([options.recorded]), settings, [])
    if options.authors:
        authors = from_files([options.authors], AUTHORS_COLUMNS, AUTHORS_RUNS)
        also = []
        try:
            check_recorded(authors, [best])
            also = [best]
        except ValueError as error:
            print(f"On the author's curves `{best.name}` cannot be tried: {error}\n")
        tables("The author's CIFAR-10 runs", authors, settings, also)
    print(f"({time.monotonic() - began:.0f} s)")


if __name__ == "__main__":
    main()
