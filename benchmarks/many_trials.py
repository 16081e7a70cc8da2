"""A sweep of many trials: trials a second, CPU and memory of the driver, part by part.

Run: python benchmarks/many_trials.py [--trials 1500] [--samplers random tpe] [--stock]
The whole driver with the trivial trainable of driver_cost.py, which it also describes; `--stock`
adds stock Tune, with its own random search. Nothing may grow: of the sweep's second and last
quarter, the last may take 1.4 times the CPU of the other (with TPE once it sees as many trials as
it ever will, from 2,000 on), and the driver may take 100 MiB more at its end than at its start, and
15 KiB for what is known of a trial; 800 MB in all.
"""

from __future__ import annotations

import argparse
import sys
from itertools import pairwise

from driver_cost import Cost, apart

from rts_search.search.tpe import OBSERVATIONS

MOST_SLOWER, MOST_GROWN, MOST = 1.4, 100.0, 8e8 / 2**20
OF_A_TRIAL = 0.015  # MiB, beside: what the search and the stopper know of it
ROWS = 10  # of the table, at most


def show(arm: str, cost: Cost) -> None:
    marks = cost["marks"]
    step = max(1, (len(marks) - 1) // ROWS)
    for before, after in zip(marks[::step], marks[step::step], strict=False):
        trials, wall, cpu = (b - a for a, b in zip(before[:3], after[:3], strict=True))
        print(
            f"| {arm} | {before[0]:.0f} to {after[0]:.0f} | {trials / wall:.1f} "
            f"| {1e3 * cpu / trials:.1f} | {after[3]:.0f} |",
            flush=True,
        )


def slower(cost: Cost) -> float:
    """The CPU of a trial in the last quarter over that in the second."""
    marks = cost["marks"]
    ends = [marks[(len(marks) - 1) * quarter // 4] for quarter in range(5)]
    each = [(b[2] - a[2]) / (b[0] - a[0]) for a, b in pairwise(ends)]
    return float(each[3] / each[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=1500)
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe"])
    parser.add_argument("--stock", action="store_true")
    asked = parser.parse_args()
    arms = [("ours", sampler) for sampler in asked.samplers]
    print("| arm | trials | trials a second | CPU ms a trial | MiB resident |\n" + "|---" * 5 + "|")
    failed = []
    for kind, sampler in arms + [("stock", "none")] * asked.stock:
        cost = apart(kind, asked.trials, sampler)
        arm = f"rts-search, {sampler}" if kind == "ours" else "stock Tune, its random search"
        show(arm, cost)
        grown, ratio = cost["peak"] - cost["before"], slower(cost)
        print(f"| {arm} | peak {cost['peak']:.0f} MiB, grown {grown:.0f}; last quarter {ratio:.2f}")
        large = grown > MOST_GROWN + OF_A_TRIAL * asked.trials or cost["peak"] > MOST
        settled = sampler != "tpe" or asked.trials >= 2 * OBSERVATIONS
        if kind == "ours" and ((settled and ratio > MOST_SLOWER) or large):
            failed.append(arm)
    if failed:
        sys.exit(f"over the limits: {', '.join(failed)}")


if __name__ == "__main__":
    main()
