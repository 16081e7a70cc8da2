"""What the driver costs a trial and a report, with 100, 300 and 1,000 trials of no training.

Run: python benchmarks/driver_cost.py [--trials 100 300] [--sampler random] [--profile]
Sweeps are whole: Tune, searcher, stopper, study, journal and ledger are the real ones; only the
trainable is trivial. Beside each, stock Tune with actor reuse runs as many trials of the same
trainable with as many reports a trial (FIFO, random search, its loggers off). Each in a fresh
process. Wall clock and CPU are those of Tune's loop since the first trial's end; a report's
include its share of the trial's.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from rts_search.cluster.session import prepare_environment, ray_session

prepare_environment(None, verbose=False)

from ray import tune  # noqa: E402

from trainables.metrics import EpochMetrics  # noqa: E402

SPEC = {
    "name": "bench",
    "model": {"name": "mlp", "args": {"width": 8, "depth": 1}},
    "train": {"epochs": 21, "device": "cpu"},
    "stop": {"first_rung": 7, "eta": 3},  # one judgement below T
    "resources": {"gpu": 0},
}


class Trivial(tune.Trainable):  # type: ignore[misc]
    """Reports as `TrialRunner` does, and trains nothing."""

    def setup(self, config: dict[str, Any]) -> None:
        self.assignment = config["assignment"]
        self.epochs = iter(climb(self.assignment["climb"], self.assignment["trial_id"]))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        metrics = next(self.epochs)
        completed = [metrics.rung, metrics.epoch] == self.assignment["climb"][-1]
        return {
            "metrics": asdict(metrics),
            "earlier": [],
            "trial": self.assignment["trial_id"],
            "objective": metrics.val_accuracy,
            "outcome": "completed" if completed else "running",
            "message": None,
            "device": "cpu",
            "done": completed,
        }


class Clock(tune.Callback):  # type: ignore[misc]
    """Notes when the first trial has ended: the start of workers is not the driver's cost."""

    began: tuple[float, float] | None = None

    def on_trial_complete(self, *arguments: Any, **info: Any) -> None:
        self.began = self.began or (time.perf_counter(), time.process_time())


def climb(rungs: list[list[int]], seed: str) -> Iterator[EpochMetrics]:
    """The epochs of complete schedules, with random values."""
    rng = random.Random(seed)
    for rung, total in rungs:
        for epoch in range(1, total + 1):
            yield EpochMetrics(
                epoch=epoch,
                total_epochs=total,
                rung=rung,
                lr=0.1,
                train_loss=1.0,
                train_accuracy=0.5,
                perturbed_loss=None,
                loss_rise=None,
                val_loss=1.0,
                val_accuracy=rng.random(),
                generalization_gap=0.0,
                radius=1.0,
                scale=1.0,
                perturbing=False,
                trigger_statistic=None,
                trigger_threshold=None,
                trigger_epoch=None,
                gradient_evaluations=epoch,
                train_seconds=0.001,
                eval_seconds=0.001,
                epoch_seconds=0.002,
                images_per_second=1e6,
                peak_memory_bytes=None,
            )


def ours(trials: int, sampler: str, profile: bool) -> dict[str, float]:
    """A sweep of so many trials; what its Tune loop cost."""
    import trainables.tune
    from results.query import query
    from rts_search import run as sweep
    from rts_search.show.console import make_console
    from rts_search.spec.model import SweepSpec
    from rts_search.spec.reading import parse

    trainables.tune.TrialRunner = Trivial  # type: ignore[misc]
    cost: dict[str, float] = {}
    whole = sweep.tune_trials

    def timed(*arguments: Any) -> None:
        clock = Clock()
        arguments[5].append(clock)  # with the trackers
        cost.update(measure(lambda: whole(*arguments), clock, profile))

    sweep.tune_trials = timed  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as storage:
        search = {"trials": trials, "sampler": sampler, "controls": False}
        spec = parse(SweepSpec, SPEC | {"storage": storage, "search": search})
        console = make_console()
        console.quiet = True
        sweep.run_sweep(spec, console)
        sql = "SELECT (SELECT count(*) FROM trials WHERE ended IS NOT NULL), count(*) FROM epochs"
        (row,) = query(storage, sql).to_pylist()
        ended, reports = row.values()
    assert ended == trials, f"{ended} of {trials} trials have ended"
    return cost | {"reports": reports}


def stock(trials: int, reports: int, profile: bool) -> dict[str, float]:
    """Stock Tune with actor reuse."""
    param_space = {
        "assignment": {"trial_id": tune.uniform(0, 1), "climb": [[0, reports]]},
    }
    clock = Clock()
    with tempfile.TemporaryDirectory() as storage, ray_session(None) as session:
        tuner = tune.Tuner(
            tune.with_resources(Trivial, {"cpu": 1}),
            param_space=param_space,
            tune_config=tune.TuneConfig(
                num_samples=trials, max_concurrent_trials=int(session.cpus), reuse_actors=True
            ),
            run_config=tune.RunConfig(
                storage_path=storage,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                callbacks=[clock],
                verbose=0,
            ),
        )
        found: list[Any] = []
        cost = measure(lambda: found.append(tuner.fit()), clock, profile)
    assert not found[0].errors, found[0].errors[0]
    return cost | {"reports": trials * reports}


def measure(work: Callable[[], object], clock: Clock, profile: bool) -> dict[str, float]:
    """Wall and CPU seconds since the first trial's end, and the process's peak MiB before and
    after."""
    profiler, before = cProfile.Profile(), peak()
    if profile:
        profiler.runcall(work)
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(40)
    else:
        work()
    assert clock.began is not None
    wall, cpu = clock.began
    spent = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    return spent | {"before": before, "peak": peak()}


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def apart(*arguments: object) -> dict[str, float]:
    """Run this script's `--one` in a process of its own."""
    command = [sys.executable, __file__, "--one", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--profile", action="store_true", help="the driver's hot spots, on stderr")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        kind, trials, other = asked.one
        if kind == "ours":
            print(json.dumps(ours(int(trials), other, asked.profile)))
        else:
            print(json.dumps(stock(int(trials), int(other), asked.profile)))
        return
    option = ["--profile"] if asked.profile else []
    columns = ("", "trials", "s/trial", "CPU s/trial", "ms/report", "CPU ms/report", "peak MiB")
    print("| " + " | ".join((*columns, "MiB grown")) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for trials in asked.trials:
        sweep = apart("ours", trials, asked.sampler, *option)
        base = apart("stock", trials, max(1, round(sweep["reports"] / trials)), *option)
        show(f"rts-search, {asked.sampler}", trials, sweep)
        show("stock Tune, random", trials, base)
        ratios = (sweep[key] / base[key] for key in ("wall", "cpu"))
        print("| ratio | | {:.2f} | {:.2f} | | | | |".format(*ratios), flush=True)


def show(name: str, trials: int, cost: dict[str, float]) -> None:
    wall, cpu, reports = cost["wall"], cost["cpu"], cost["reports"]
    cells = f"{trials} | {wall / trials:.3f} | {cpu / trials:.3f} | {1e3 * wall / reports:.1f}"
    cells += f" | {1e3 * cpu / reports:.1f} | {cost['peak']:.0f}"
    print(f"| {name} | {cells} | {cost['peak'] - cost['before']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
