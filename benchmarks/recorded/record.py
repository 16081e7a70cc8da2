"""Records the tables beside it: configurations of a space, each trained to its end for every seed.

python benchmarks/recorded/record.py TABLE [--work DIR]
python benchmarks/recorded/record.py [--work DIR]

TABLE.yaml is a sweep's spec: its space and its sampler propose the configurations. Plain SGD at the
spec's lr is one more, named sgd. Runs of one seed, T and lr share their trunk. TABLE_sgd.parquet is
plain SGD at other learning rates, to know SGD's own best one. What is in DIR is not trained again.
Without a table, SGD at its best lr and the best perturbed configuration of each are compared.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from rts_search.search.plan import open_study
from rts_search.spec.model import SweepSpec
from rts_search.spec.reading import load_spec
from trainables.config import OptimizerConfig, TrialConfig
from trainables.guard import chance, verdict
from trainables.loop import train
from trainables.metrics import tail_mean
from trainables.state import TrainingState
from trainables.trunk import Trunk, fork, trunk_prefix

HERE = Path(__file__).parent
SGD = "sgd"
SCHEMA = pa.schema(
    {
        "config": pa.string(),
        "seed": pa.int32(),
        "total_epochs": pa.int32(),
        "epoch": pa.int32(),
        "val_accuracy": pa.float32(),
        "gradient_evaluations": pa.int32(),
        "epoch_seconds": pa.float32(),
        "params": pa.string(),
        "trigger_epoch": pa.int32(),
        "test_accuracy": pa.float32(),  # with a run's last epoch
    }
)


@dataclass(frozen=True)
class Job:
    """What is recorded of one length; `lrs` are those of plain SGD alone."""

    epochs: int
    seeds: tuple[int, ...]
    lrs: tuple[float, ...] = ()


Named = tuple[str, dict[str, Any], TrialConfig]  # with its parameters
FOUR = (42, 43, 44, 45)
FRESH = tuple(range(46, 54))
TABLES = {
    "fashion_rts": (Job(3, (42, 43)), Job(9, (42, 43)), Job(27, FOUR)),
    "digits_noise_rts": (Job(81, FOUR, (0.001, 0.002, 0.003, 0.004, 0.005, 0.007, 0.01, 0.02)),),
    "fashion_clean_rts": (Job(27, FOUR, (0.01, 0.02, 0.03, 0.045, 0.06, 0.08, 0.1, 0.15)),),
}


def record(table: str, jobs: tuple[Job, ...], spec: SweepSpec, work: Path, out: Path) -> None:
    """Train what is not in `work` yet, and write the table to `out`."""
    searched, plain = [], []
    for job in jobs:
        for seed in job.seeds:
            searched += [once(work / table, each, job, seed) for each in configurations(spec)]
            plain += [once(work / table, each, job, seed) for each in rates(spec, job)]
            print(f"{table}: T = {job.epochs}, seed {seed}", flush=True)
    for name, parts in ((table, searched), (f"{table}_sgd", plain)):
        if parts:
            whole = pa.concat_tables(map(pq.read_table, parts))
            dictionaries = ["config", "params"]
            pq.write_table(
                whole, out / f"{name}.parquet", compression="zstd", use_dictionary=dictionaries
            )


def configurations(spec: SweepSpec) -> Iterator[Named]:
    """Plain SGD, and what the spec's search proposes first."""
    yield SGD, {}, plain_sgd(spec.base)
    study, _ = open_study(spec)
    for _ in range(spec.search.trials):
        if (found := study.ask()) is None:
            return
        yield f"c{found.number:03d}", found.params, found.config


def rates(spec: SweepSpec, job: Job) -> Iterator[Named]:
    """Plain SGD at each lr of its own."""
    for lr in job.lrs:
        train_at = spec.train.model_copy(update={"lr": lr})
        yield f"lr {lr:g}", {"lr": lr}, plain_sgd(spec.base.model_copy(update={"train": train_at}))


def plain_sgd(config: TrialConfig) -> TrialConfig:
    return config.model_copy(update={"optimizer": OptimizerConfig(family="sgd")})


def fit(config: TrialConfig, job: Job, seed: int) -> TrialConfig:
    there = config.at_length(job.epochs)
    return there.model_copy(update={"train": there.train.model_copy(update={"seed": seed})})


def once(work: Path, named: Named, job: Job, seed: int) -> Path:
    """The file of one run's rows, written when it has ended, as a sweep's guard ends it."""
    name, params, config = named[0], named[1], fit(named[2], job, seed)
    place = work.absolute() / f"T{job.epochs}-s{seed}"
    path = place / f"{name}.parquet"
    if path.exists():
        return path
    place.mkdir(parents=True, exist_ok=True)
    total = config.train.epochs
    trunk = Trunk(str(place), f"{trunk_prefix(config, 1, {})}cpu-fp32", 2e9)
    state = TrainingState(config, watch_all=True)
    luck = chance(state.data.validation_counts)
    fork(state, trunk, 0, luck)
    ended = verdict(state.history, luck) if state.history else None
    for _ in () if ended else train(config, state, trunk=trunk):
        if ended := verdict(state.history, luck):
            break
    rows = [
        {
            "config": name,
            "seed": config.train.seed,
            "total_epochs": total,
            "epoch": row.epoch,
            "val_accuracy": None if ended and row.epoch == total else row.val_accuracy,
            "gradient_evaluations": row.gradient_evaluations,
            "epoch_seconds": row.epoch_seconds,
            "params": json.dumps(params),
            "trigger_epoch": row.trigger_epoch,
            "test_accuracy": row.test.test_accuracy if row.test else None,
        }
        for row in state.history
    ]
    aside = path.with_suffix(".part")
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), aside)
    aside.rename(path)
    return path


@dataclass(frozen=True)
class Ends:
    """How the runs of the longest T end: configurations by seeds. A lost one has accuracy 0."""

    names: list[str]
    values: NDArray[np.float64]  # validation accuracy, the mean over the tail
    test: NDArray[np.float64]
    perturbed: NDArray[np.bool_]  # with every seed

    def best(self, among: NDArray[np.bool_] | None = None) -> int:
        """By the mean over the seeds."""
        means = self.values.mean(axis=1)
        return int(np.where(True if among is None else among, means, -1.0).argmax())

    def words(self, at: int) -> str:
        cells = (self.values[at], self.test[at])
        return " | ".join(f"{100 * c.mean():.2f} ± {100 * c.std(ddof=1):.2f}" for c in cells)


def ends(*files: Path) -> Ends:
    rows = pa.concat_tables(map(pq.read_table, files)).to_pylist()
    total = max(row["total_epochs"] for row in rows)
    runs: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        if row["total_epochs"] == total:
            runs.setdefault((row["config"], row["seed"]), []).append(row)
    names = list(dict.fromkeys(name for name, _ in runs))
    seeds = sorted({seed for _, seed in runs})

    def value(run: list[dict[str, Any]]) -> float:
        lost = len(run) < total or run[-1]["val_accuracy"] is None
        return 0.0 if lost else tail_mean([row["val_accuracy"] for row in run], total)

    table = [[runs[name, seed] for seed in seeds] for name in names]
    return Ends(
        names,
        np.array([[value(run) for run in line] for line in table]),
        np.array([[run[-1]["test_accuracy"] or 0.0 for run in line] for line in table]),
        np.array([all(run[-1]["trigger_epoch"] is not None for run in line) for line in table]),
    )


def compare(out: Path, work: Path) -> None:
    """SGD at its best lr and the best perturbed configuration, also on seeds that chose neither."""
    print("| table | the best | validation | test | validation, fresh seeds | test, fresh seeds |")
    print("|---|---|---|---|---|---|")
    for table, jobs in TABLES.items():
        job = jobs[-1]
        if not job.lrs:
            continue
        spec = load_spec(HERE / f"{table}.yaml")
        plain, found = ends(out / f"{table}_sgd.parquet"), ends(out / f"{table}.parquet")
        named = {each[0]: each for each in (*rates(spec, job), *configurations(spec))}
        for arm, top, words in (
            (plain, plain.best(), f"of SGD at {len(plain.names)} lrs"),
            (found, found.best(found.perturbed), f"of {found.perturbed.sum()} perturbed"),
        ):
            chosen = named[arm.names[top]]
            fresh = ends(*(once(work / table, chosen, job, seed) for seed in FRESH))
            cells = f"{arm.words(top)} | {fresh.words(0)}"
            print(f"| `{table}` | {words}: {chosen[0]} | {cells} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", nargs="?", choices=TABLES, help="none: they are compared")
    parser.add_argument("--work", type=Path, default=Path("build/recorded"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.table is None:
        compare(HERE, asked.work)
    else:
        spec = load_spec(HERE / f"{asked.table}.yaml")
        record(asked.table, TABLES[asked.table], spec, asked.work, HERE)


if __name__ == "__main__":
    main()
