"""The tables on early stopping in BENCHMARKS.md, in Markdown, from recorded curves.

python benchmarks/replay_tables.py [--recorded FILE …] [--authors FILE] [--bootstrap N]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from rts_search.replay.curves import RecordedCurves
from rts_search.replay.measure import Settings, measure
from rts_search.replay.policies import Policy, default_policies, recorded
from rts_search.replay.ranks import rank_rows, spread
from rts_search.replay.render import markdown, policy_table, rank_table, spread_line
from rts_search.replay.sources import from_files

RECORDED = sorted((Path(__file__).parent / "recorded").glob("*_rts.parquet"))
AUTHORS_COLUMNS = {"config": "source_file", "total_epochs": "epochs_total", "value": "valid_acc"}
AUTHORS_RUNS = "model = 'upanets16' AND epochs_total = 400 AND family <> 'sgd'"


def compared(curves: RecordedCurves) -> list[Policy]:
    """The defaults, and beside them the default of before, which judged trials that had not fired,
    first rungs at T/9 and other ladders, where recorded."""
    ninth, quarter = round(curves.epochs / 9), round(curves.epochs / 4.5)
    names = ["asha:judge_unfired=true", f"asha:epoch:3:{ninth}:judge_unfired=true"]
    names += [f"asha:{fidelity}:3:{ninth}" for fidelity in ("schedule", "epoch")]
    names += ["asha:epoch:3", "asha:epoch:4.5", f"asha:epoch:2:{quarter}"]
    return default_policies(curves) + recorded(curves, names)


def tables(title: str, curves: RecordedCurves, settings: Settings) -> None:
    print(f"### {title}\n")
    print(
        f"{len(curves.configs)} configurations, T = {curves.epochs}, seeds "
        f"{', '.join(map(str, curves.seeds()))}; {settings.replays} replays with "
        f"{settings.workers} workers; intervals from {settings.bootstrap} draws of configurations."
    )
    for note in curves.notes:
        print(f"{note}.")
    print(f"Nothing is shared: {curves.unshared}." if curves.unshared else "SGD is shared.")
    print(f"\n{spread_line(spread(curves))}\n")
    if rows := rank_rows(curves):
        print(markdown(rank_table(rows)), end="\n\n")
    print(markdown(policy_table(measure(curves, compared(curves), settings))), end="\n\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recorded", type=Path, nargs="+", default=RECORDED)
    parser.add_argument("--authors", type=Path, help="author_curves_cifar10.parquet")
    parser.add_argument("--replays", type=int, default=200)
    parser.add_argument("--bootstrap", type=int, default=60)
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    settings = Settings(
        replays=options.replays, workers=options.workers, bootstrap=options.bootstrap
    )
    began = time.monotonic()
    for file in options.recorded:
        tables(f"Recorded with this service: {file.stem}", from_files([file]), settings)
    if options.authors:
        authors = from_files([options.authors], AUTHORS_COLUMNS, AUTHORS_RUNS)
        tables("The author's CIFAR-10 runs", authors, settings)
    print(f"({time.monotonic() - began:.0f} s)")


if __name__ == "__main__":
    main()
