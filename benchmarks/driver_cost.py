"""What the driver costs a trial and a report, beside stock Tune that runs the same trials.

Run: python benchmarks/driver_cost.py [--trials 100 300 1000] [--repeats 3] [--sampler tpe]
Both arms train the same trivial trainable under ASHA (first rung 7 of 21 epochs), with actor reuse
and without loggers. Ours is the whole driver: plan, study, stopper, recorder, ledger. Stock Tune
proposes with OptunaSearch and the same sampler in the same space, unless `--stock-random` leaves
it its own random search over one parameter, the cheapest that it has. Repeats alternate between
the arms, each in a process of its own. Wall clock and CPU are those of the driver's process since
its first trial's end; a report's include its share of the trial's.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, asdict, fields
from itertools import count
from pathlib import Path
from typing import Any

from rts_search.cluster.session import prepare_environment, ray_session

prepare_environment(None, verbose=False)

from ray import tune  # noqa: E402

from search_spaces.registry import get_space  # noqa: E402
from trainables.metrics import EpochMetrics  # noqa: E402
from trainables.tune import EpochTrainable  # noqa: E402

FIRST, EPOCHS, ETA = 7, 21, 3  # ASHA judges once below T
SPEC = {
    "name": "bench",
    "model": {"name": "mlp", "args": {"width": 8, "depth": 1}},
    "train": {"epochs": EPOCHS, "device": "cpu"},
    "stop": {"first_rung": FIRST, "eta": ETA, "audit": 0},
    "resources": {"gpu": 0, "retries": 0},
}
# a worker's MISSING is another: it gets this file's code by value
ASKED = [field.name for field in fields(EpochMetrics) if field.default is MISSING]
MARK = 250  # trials between two entries of a cost's `marks`
Cost = dict[str, Any]


class Trivial(EpochTrainable):
    """Reports as `TrialRunner` does, and trains nothing."""

    def setup(self, config: dict[str, Any], shared: None = None) -> None:
        self.name = config["assignment"]["trial_id"] if "assignment" in config else self.trial_name
        self.epochs = climb(self.name)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        metrics = next(self.epochs)
        completed = metrics.epoch == EPOCHS
        return {
            "epochs": [asdict(metrics)],
            "trial": self.name,
            "objective": metrics.val_accuracy,
            "outcome": "completed" if completed else "running",
            "message": None,
            "classes": 10,
            "validation_images": 360,
            "device": "cpu",
            "threads": 1,
            "precision": "fp32",
            "host": "here",
            "done": completed,
        }


class Clock(tune.Callback):  # type: ignore[misc]
    """Counts trials and reports, from the first trial's end: the start of workers is no cost of
    the driver's."""

    def __init__(self) -> None:
        self.began: tuple[float, float] | None = None
        self.trials = self.reports = self.known = 0
        # trials that have ended, the seconds and CPU seconds that took, MiB
        self.marks: list[tuple[int, float, float, float]] = []

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_result(self, *arguments: Any, **info: Any) -> None:
        self.reports += self.began is not None

    def on_trial_complete(self, *arguments: Any, **info: Any) -> None:
        self.trials += self.began is not None
        self.known = max(self.known, len(info["trials"]))  # to Tune
        self.began = self.began or (time.perf_counter(), time.process_time())
        if self.trials % MARK == 0:
            wall, cpu = self.began
            took = time.perf_counter() - wall, time.process_time() - cpu
            self.marks.append((self.trials, *took, resident()))


def climb(seed: str) -> Iterator[EpochMetrics]:
    """The epochs of a run of T epochs, with random values around the trial's own."""
    rng = random.Random(seed)
    level = rng.random()
    blank: dict[str, Any] = dict.fromkeys(ASKED, 0.5)
    blank |= dict.fromkeys(("trigger_epoch", "peak_memory_bytes"))
    for epoch in range(1, EPOCHS + 1):
        counts = {"epoch": epoch, "gradient_evaluations": epoch, "total_epochs": EPOCHS, "rung": 0}
        value = 0.9 * level + 0.1 * rng.random()
        told = {"val_accuracy": value, "perturbing": False}
        yield EpochMetrics(**blank | counts | told)


def ours(trials: int, sampler: str) -> None:
    """A sweep of so many trials."""
    import trainables.tune
    from rts_search.runner import run_sweep
    from rts_search.show.console import make_console
    from rts_search.spec.model import SweepSpec
    from rts_search.spec.reading import parse

    trainables.tune.TrialRunner = Trivial  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as storage:
        search = {"trials": trials, "sampler": sampler, "controls": False}
        console = make_console()
        console.quiet = True
        run_sweep(parse(SweepSpec, SPEC | {"storage": storage, "search": search}), console)


def suggest(trial: Any) -> None:
    """The space of our arm, for OptunaSearch, which pickles it."""
    get_space("rts").suggest(trial)


def stock(trials: int, sampler: str) -> None:
    """Stock Tune with as many trials; `sampler` "none" is Tune's own random search."""
    import optuna
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    joint = {"multivariate": True, "group": True, "constant_liar": True}  # as ours
    chosen = {
        "tpe": lambda: optuna.samplers.TPESampler(seed=1, **joint),
        "random": lambda: optuna.samplers.RandomSampler(seed=1),
    }
    searcher, numbers = None, count()
    if sampler != "none":
        searcher = OptunaSearch(suggest, metric="objective", mode="max", sampler=chosen[sampler]())
    scheduler = ASHAScheduler(
        "training_iteration", max_t=EPOCHS, grace_period=FIRST, reduction_factor=ETA
    )
    with tempfile.TemporaryDirectory() as storage, ray_session(None) as session:
        tune.Tuner(
            tune.with_resources(Trivial, {"cpu": 1}),
            param_space={"x": tune.uniform(0, 1)} if searcher is None else None,
            tune_config=tune.TuneConfig(
                metric="objective",
                mode="max",
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=trials,
                max_concurrent_trials=int(sum(node.cpus for node in session.nodes)),
                reuse_actors=True,
                # those of our arm, for the seeds of the trials' values
                trial_name_creator=lambda trial: f"t{next(numbers):04d}",
            ),
            run_config=tune.RunConfig(
                storage_path=storage,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                callbacks=[],
                verbose=0,
            ),
        ).fit()


@contextmanager
def measured(cost: Cost, profile: bool) -> Iterator[None]:
    """Fills `cost` with what the Tune loop inside costs, seconds and peak MiB."""
    clock, profiler = Clock(), cProfile.Profile()
    plain_config, plain_fit = tune.RunConfig.__init__, tune.Tuner.fit

    def with_clock(config: Any, *, callbacks: list[Any], **options: Any) -> None:
        plain_config(config, callbacks=[*callbacks, clock], **options)

    def fit(tuner: Any) -> Any:
        cost["before"] = peak()
        found = profiler.runcall(plain_fit, tuner) if profile else plain_fit(tuner)
        assert clock.began is not None, "no trial has ended in order"
        cost["marks"] = clock.marks
        wall, cpu = clock.began
        cost.update(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu, peak=peak())
        return found

    tune.RunConfig.__init__, tune.Tuner.fit = with_clock, fit
    yield
    cost.update(trials=clock.trials, reports=clock.reports, known=clock.known)
    if profile:
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(60)


def resident() -> float:
    """MiB in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def apart(kind: str, trials: int, sampler: str, *options: str) -> Cost:
    """Run this script's `--one` in a process of its own."""
    command = [sys.executable, __file__, "--one", kind, str(trials), sampler, *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: Cost = json.loads(done.stdout.splitlines()[-1])
    # the first trial's end begins the clock
    assert found["trials"] == trials - 1, f"{found['trials'] + 1:g} of {trials} trials have ended"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sampler", choices=("tpe", "random"), default="tpe")
    parser.add_argument("--stock-random", action="store_true")
    parser.add_argument("--profile", action="store_true", help="the driver's hot spots, on stderr")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        kind, trials, sampler = asked.one
        cost: Cost = {}
        with measured(cost, asked.profile):
            (ours if kind == "ours" else stock)(int(trials), sampler)
        print(json.dumps(cost))
        return
    options = ["--profile"] if asked.profile else []
    base = "none" if asked.stock_random else asked.sampler
    columns = ("ms", "CPU ms") * 2
    print(f"rts-search ({asked.sampler}) beside stock Tune ({base}); median (min to max)\n")
    print("| trials | arm | " + " | ".join(columns) + " | MiB grown |")
    print("| | | a trial | a trial | a report | a report | |\n" + "|---" * 7 + "|")
    for trials in asked.trials:
        pairs = [
            (apart("ours", trials, asked.sampler, *options), apart("stock", trials, base, *options))
            for _ in range(asked.repeats)
        ]
        mine, theirs = zip(*pairs, strict=True)
        for name, costs in (("rts-search", mine), ("stock Tune", theirs)):
            show(
                trials, name, [[1e3 * figure for figure in figures(cost)] for cost in costs], costs
            )
        ratios = [
            [a / b for a, b in zip(figures(mine), figures(theirs), strict=True)]
            for mine, theirs in pairs
        ]
        show(trials, "ratio", ratios)


def figures(cost: Cost) -> list[float]:
    """Seconds and CPU seconds a trial, then a report."""
    return [cost[used] / cost[unit] for unit in ("trials", "reports") for used in ("wall", "cpu")]


def show(trials: int, name: str, rows: list[list[float]], costs: tuple[Cost, ...] = ()) -> None:
    cells = [
        f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"
        for values in zip(*rows, strict=True)
    ]
    cells += [f"{max(cost['peak'] - cost['before'] for cost in costs):.0f}" if costs else ""]
    print(f"| {trials} | {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
