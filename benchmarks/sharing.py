"""What sharing plain SGD saves: gradient evaluations of the same sweep with it and without.

Run: python benchmarks/sharing.py [--arms demo timing late] [--trials 48] [--sampler tpe]
`demo` is the preset as it is; the others are it with that space and so many trials. Each runs
twice, with `search.share` auto and false. Goals for the ratio of gradients are 0.78, 0.70, 0.40.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time

from results.query import sweep_summary

GOALS = {"demo": 0.78, "timing": 0.70, "late": 0.40}


def run(
    arm: str, share: str, asked: argparse.Namespace, storage: str
) -> tuple[int, float, dict[str, int]]:
    """Gradient evaluations spent, seconds, and the trials by outcome."""
    name = f"{arm}-{share}"
    settings = [f"search.share={share}", f"search.sampler={asked.sampler}"]
    if arm != "demo":
        settings += [f"space={arm}", f"search.trials={asked.trials}"]
    command = [sys.executable, "-m", "rts_search.cli", "sweep", "--preset", "demo", "--name", name]
    command += ["--storage", storage, *(part for one in settings for part in ("--set", one))]
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    found = sweep_summary(storage, name)
    return found.spent_gradient_evaluations, seconds, found.listing.outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arms", nargs="+", default=["demo"], choices=list(GOALS))
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--sampler", default="tpe")
    asked = parser.parse_args()
    print("| sweep | gradients alone | shared | ratio | goal | seconds alone | shared | outcomes |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as storage:
        for arm in asked.arms:
            alone, before, _ = run(arm, "false", asked, storage)
            shared, after, outcomes = run(arm, "auto", asked, storage)
            told = ", ".join(f"{many} {outcome}" for outcome, many in outcomes.items())
            print(
                f"| {arm} | {alone:,} | {shared:,} | {shared / alone:.2f} | {GOALS[arm]:.2f} "
                f"| {before:.0f} | {after:.0f} | {told} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
