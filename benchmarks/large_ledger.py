"""The reading commands on large ledgers: seconds and memory of whole processes, beside raw DuckDB.

One sweep of many long trials, and many sweeps of a usual size, in the layout that drivers leave:
merged parts, sorted by trial. The goals are of the full size, `--trials 100000 --sweeps 300`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa

from results.parts.files import encode
from results.parts.merging import FULL
from results.parts.names import epoch_part, new_writer
from results.schema import EPOCHS, TRIALS, conform
from results.storage import SweepFolder
from rts_search.spec.folder import write_spec
from rts_search.spec.reading import asked_spec
from rts_search.trials.rows import config_columns

EPOCHS_EACH = 100
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = ["data.name=digits", "data.train_size=1000", "model.name=mlp", "search.controls=false"]
MEASURE = (
    "import runpy, sys, time; start = time.perf_counter(); sys.argv = sys.argv[1:]\n"
    "try: runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)\n"
    "except SystemExit as end: assert not end.code, end\n"
    "finally: print(time.perf_counter() - start, time.process_time(), "
    # not ru_maxrss, which a process inherits from its parent
    "next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')), "
    "file=sys.stderr)"
)


def make_sweep(storage: str, name: str, trials: int, epochs: int, seed: int = 0) -> SweepFolder:
    """A sweep with its spec, whose trials all completed, one in twenty audited; its values are
    drawn at random, its columns filled as a real sweep's."""
    folder, rng = SweepFolder(storage, name), np.random.default_rng(seed)
    if folder.exists():  # kept from an earlier run
        return folder
    asked = [f"name={name}", f"storage={storage}", f"train.epochs={epochs}", *SETTINGS]
    spec = asked_spec(None, "quick", [*asked, f"search.trials={trials}"])
    write_spec(folder, spec, {})
    ids = pa.array([f"t{number:06d}" for number in range(trials)])
    best = rng.random(trials)
    rows = _trials(name, ids, spec.base, best, epochs, rng)
    for number, begin in enumerate(range(0, trials, FULL["trials"]), 1):
        part = encode(rows.slice(begin, FULL["trials"]))
        folder.write(f"trials/part-{number:06d}-m1.parquet", part)
    writer, step = new_writer([]), -(-FULL["epochs"] // epochs)
    for begin in range(0, trials, step):
        own = slice(begin, begin + step)
        part = encode(_epochs(name, ids[own], best[own], epochs, rng))
        folder.write(f"epochs/{epoch_part(writer, level=1)}", part)
    return folder


def _table(columns: dict[str, Any], count: int, schema: pa.Schema) -> pa.Table:
    arrays = {
        name: pa.array(value, schema.field(name).type)
        if isinstance(value, pa.Array | np.ndarray | list)
        else pa.repeat(pa.scalar(value, schema.field(name).type), count)
        for name, value in columns.items()
    }
    return conform(pa.table(arrays), schema)


def _trials(
    sweep: str, ids: pa.Array, base: Any, best: np.ndarray, epochs: int, rng: np.random.Generator
) -> pa.Table:
    count, fixed = len(ids), config_columns(base)
    lr = rng.random(count)
    text = fixed.pop("config_json").split('"lr":', 1)
    rest = text[1][text[1].index(",") :]
    times = np.datetime64(BEGAN.replace(tzinfo=None), "us") + np.arange(count) * 1_000_000
    return _table(
        {
            **{name: value for name, value in fixed.items() if value is not None},
            "sweep": sweep,
            "trial_id": ids,
            "number": np.arange(count, dtype=np.int32),
            "family": "rts",
            "outcome": "completed",
            "rung": 0,
            "rungs": 1,
            "audited": rng.random(count) < 0.05,
            "seed": 42,
            "total_epochs": epochs,
            "epochs": epochs,
            "gradient_evaluations": rng.integers(1_000, 2_000, count),
            "final_val_accuracy": best,
            "best_val_accuracy": best,
            "best_epoch": epochs,
            "objective": "val_accuracy",
            "final_objective": best,
            "classes": 10,
            "validation_images": 100,
            "test_loss": 1 - best,
            "test_accuracy": best * 0.9,
            "train_seconds": rng.random(count),
            "eval_seconds": rng.random(count),
            "started": times,
            "ended": times + 1_000_000,
            "updated": times + 1_000_000,
            "retries": 0,
            "params": [json.dumps({"lr": value}) for value in lr.tolist()],
            "config_json": [f'{text[0]}"lr":{value}{rest}' for value in lr.tolist()],
            "config_lr": lr,
            "host": "node",
            "device": "cpu",
            "threads": 1,
            "versions": "{}",
            "hardware": "2 cores",
            "precision": "fp32",
        },
        count,
        TRIALS,
    )


def _epochs(
    sweep: str, ids: pa.Array, best: np.ndarray, epochs: int, rng: np.random.Generator
) -> pa.Table:
    count = len(ids) * epochs
    epoch = np.tile(np.arange(1, epochs + 1, dtype=np.int32), len(ids))
    value = np.repeat(best, epochs) * epoch / epochs
    losses = {name: 1 - value + 0.01 * rng.random(count) for name in ("train_loss", "val_loss")}
    seconds = {name: rng.random(count) for name in ("train_seconds", "eval_seconds")}
    began = np.datetime64((BEGAN + timedelta(days=1)).replace(tzinfo=None), "us")
    return _table(
        {
            "sweep": sweep,
            "trial_id": ids.take(np.repeat(np.arange(len(ids)), epochs)),
            "rung": 0,
            "epoch": epoch,
            "total_epochs": epochs,
            "lr": 0.1 / epoch,
            **losses,
            "val_accuracy": value,
            "train_accuracy": value + 0.01,
            "perturbed_loss": losses["train_loss"] * 1.1,
            "loss_rise": 0.1 * rng.random(count),
            "generalization_gap": 0.01 * rng.random(count),
            "radius": 1 / epoch,
            "scale": 1.0,
            "perturbing": epoch > epochs // 2,
            "trigger_epoch": epochs // 2,
            "gradient_evaluations": 15,
            **seconds,
            "epoch_seconds": rng.random(count),
            "images_per_second": 1000 * rng.random(count),
            "time": began + np.arange(count) * 10_000,
        },
        count,
        EPOCHS,
    )


@dataclass(frozen=True)
class Cost:
    seconds: float
    of_cpu: float
    megabytes: float


def process(*arguments: str, runs: int = 3) -> Cost:
    """Of a module that runs as a process of its own: the median of the runs, the start of Python
    left out, of the CPUs with it; and the most memory."""
    measured = []
    for _ in range(runs):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", MEASURE, *arguments],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"{arguments}: {done.stderr}")
        measured.append([float(word) for word in done.stderr.splitlines()[-1].split()])
    seconds, of_cpu, kilobytes = zip(*measured, strict=True)
    return Cost(median(seconds), median(of_cpu), max(kilobytes) / 1024)


def timed(work: Callable[[], object], runs: int = 5) -> float:
    """Median seconds in this process, after one run that is not counted."""
    work()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def raw(sql: str, **paths: str) -> Callable[[], object]:
    import duckdb

    return lambda: duckdb.connect().sql(sql.format(**paths)).to_arrow_table()


def line(what: str, cost: Cost, goal: str) -> None:
    took = f"{cost.seconds:6.2f} s, {cost.of_cpu:5.2f} s of CPU, {cost.megabytes:5,.0f} MB"
    print(f"{what:44} {took}   goal {goal}")


def ratio(what: str, ours: Callable[[], object], theirs: Callable[[], object], goal: str) -> None:
    a, b = timed(ours), timed(theirs)
    print(f"{what:44} {a:6.3f} s, raw DuckDB {b:6.3f} s: {a / b:4.2f}   goal {goal}")


AGGREGATE = "SELECT epoch, avg(val_accuracy) AS a, max(val_loss) AS l FROM {} GROUP BY epoch"
TOP = "SELECT * FROM read_parquet('{trials}') ORDER BY final_val_accuracy DESC LIMIT 10"


def one_sweep(storage: str, trials: int) -> None:
    from results.database import query
    from results.ranking import rankings

    start = time.perf_counter()
    folder = make_sweep(storage, "large", trials, EPOCHS_EACH)
    sizes = [os.path.getsize(folder.path_of(f"epochs/{name}")) for name in folder.files("epochs")]
    print(
        f"one sweep of {trials:,} × {EPOCHS_EACH} epochs, made in {time.perf_counter() - start:.0f}"
        f" s: {sum(sizes) / trials / EPOCHS_EACH:.1f} bytes an epoch"
    )
    epochs, rows = folder.path_of("epochs/*.parquet"), folder.path_of("trials/*.parquet")
    ask = ("rts_search.cli", "--storage", storage)

    def command(name: str, *arguments: str) -> Cost:
        return process(ask[0], name, *arguments, *ask[1:])

    line("status", command("status", "large"), "≤ 3 s, ≤ 1,000 MB")
    line("best", command("best", "large"), "≤ 3 s")
    line("show", command("show", f"t{trials // 2:06d}", "--sweep", "large"), "≤ 2 s")
    sql = AGGREGATE.format("epochs")
    line("query: an aggregate over epochs", command("query", sql), "≤ 1.5 × raw DuckDB")
    ratio("best, in process", lambda: rankings(storage, "large"), raw(TOP, trials=rows), "≤ 1.3")
    aggregate = raw(AGGREGATE.format(f"read_parquet('{epochs}')"))
    ratio("the aggregate, in process", lambda: query(storage, sql), aggregate, "≤ 1.5")


def many_sweeps(storage: str, sweeps: int, trials: int = 203) -> None:
    for number in range(sweeps):
        make_sweep(storage, f"s{number:03d}", trials, 9, number)
    print(f"{sweeps} sweeps of {trials} trials")
    names = [f"s{number:03d}" for number in range(sweeps)]
    line("list", process("rts_search.cli", "list", "--storage", storage), "≤ 1.5 s, ≤ 500 MB")
    of_all = process("rts_search.cli", "best", *names, "--storage", storage)
    line("best of all", of_all, "≤ 1.5 s, ≤ 500 MB")
    for table in ("trials", "epochs"):
        sql = f"SELECT count(*) FROM {table}"
        counted = process("rts_search.cli", "query", sql, "--storage", storage)
        line(f"count(*) of {table}", counted, "≤ 1.5 s, ≤ 500 MB")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=5_000)
    parser.add_argument("--sweeps", type=int, default=50)
    parser.add_argument("--storage", help="keep the ledgers there (a folder); default: temporary")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        base = os.path.abspath(asked.storage or scratch)
        one_sweep(f"{base}/one", asked.trials)
        many_sweeps(f"{base}/many", asked.sweeps)


if __name__ == "__main__":
    main()
