"""An epoch of PUGD against two of SGD; with --table, all that decides a trial's speed on a GPU.

Run: python benchmarks/trial_speed.py [--rounds 15]     on one thread of this CPU; goal: 1.03
     make gpu-check                                     (--table) needs a CUDA GPU
Each round trains SGD, PUGD, and SGD again, in one process; a ratio is that of an epoch of PUGD to
two of SGD (in CPU seconds but for the table), and the median over the rounds counts. `--table
--device cpu` shows what can be measured without a GPU. docs/gpu.md says how to read the table.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainables.config import TrialConfig
from trainables.data import epoch_batches
from trainables.loop import evaluate, train, train_epoch
from trainables.state import TrainingState

GOAL = 1.03
TURN = 0.3  # seconds
FAMILIES = ("sgd", "pugd", "rts", "sam", "asam")
MODELS = ("mlp", "cnn", "resnet18", "upanets16")
DIGITS = {"name": "digits"}
FASHION = {"name": "fashion_mnist", "train_size": 2000, "test_size": 500}
RATIOS = [  # data, model, batch size
    ("digits", DIGITS, {"name": "mlp"}, 128),
    ("digits", DIGITS, {"name": "mlp"}, 32),
    ("digits", DIGITS, {"name": "cnn"}, 128),
    ("Fashion-MNIST, 1,800 images", FASHION, {"name": "cnn", "args": {"width": 16}}, 128),
    ("digits at 16×16, 180 images", DIGITS | {"train_size": 200, "image_size": 16},
     {"name": "resnet18"}, 60),
    ("digits at 16×16, 256 images", DIGITS | {"train_size": 284, "image_size": 16},
     {"name": "resnet18"}, 128),
    ("digits at 16×16, 180 images", DIGITS | {"train_size": 200, "image_size": 16},
     {"name": "upanets16"}, 60),
]  # fmt: skip
NEEDS_CUDA = "needs CUDA"


def images() -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]:
    """The table's data: 14,000 images of CIFAR-10's form, in ten colours."""
    rng = np.random.default_rng(0)

    def part(count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        pixels = rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        labels = np.arange(count) % 10
        pixels[:, :, :8] = 25 * labels[:, None, None, None]
        return pixels, labels

    return (*part(14_000), *part(1_000))


def make(
    data: dict[str, Any], model: dict[str, Any], family: str, device: str, **train: Any
) -> TrialConfig:
    return TrialConfig.model_validate(
        {
            "data": data,
            "model": model,
            "train": {"epochs": 10_000, "lr": 0.01, "device": device, **train},
            "optimizer": {"family": family},
        }
    )


class Timed:
    """A run whose epochs are timed, until the device has done them; `clock` counts seconds."""

    def __init__(
        self,
        config: TrialConfig,
        graphs: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.run, self.epochs, self.clock = TrainingState(config), 0, clock
        if graphs:
            self.run.forward = torch.compile(self.run.model, mode="reduce-overhead")

    def epoch(self, count: int = 1) -> float:
        """Seconds of one, the mean of so many."""
        self.wait()
        started = self.clock()
        for _ in range(count):
            self.epochs += 1
            train_epoch(self.run, self.epochs)
        self.wait()
        return (self.clock() - started) / count

    def wait(self) -> None:
        if self.run.device.type == "cuda":
            torch.cuda.synchronize(self.run.device)


def in_turns(arms: dict[str, Timed], rounds: int) -> list[dict[str, float]]:
    """Seconds of an epoch of each arm, round by round: of short epochs, the mean of some; SGD's is
    that of some before the others and some after. One epoch each comes first, and does not count.
    """
    counts = {name: max(1, round(TURN / arm.epoch())) for name, arm in arms.items()}
    found = []
    for _ in range(rounds):
        seconds = {name: arm.epoch(counts[name]) for name, arm in arms.items()}
        if "sgd" in arms:
            seconds["sgd"] = (seconds["sgd"] + arms["sgd"].epoch(counts["sgd"])) / 2
        found.append(seconds)
    return found


def ratios(rounds: list[dict[str, float]], family: str) -> list[float]:
    """Of an epoch to two of SGD; of SGD's own, to one."""
    return sorted(each[family] / each["sgd"] / (1 + (family != "sgd")) for each in rounds)


def spread(values: list[float]) -> str:
    """Median, and the quartiles."""
    quarter = len(values) // 4
    return f"{statistics.median(values):.3f} ({values[quarter]:.3f} to {values[-1 - quarter]:.3f})"


def compare(rounds: int) -> None:
    print("| data | model | batch | SGD, CPU ms a step | PUGD / 2 SGD (quartiles) | goal |")
    print("|---|---|---|---|---|---|")
    for title, data, model, size in RATIOS:
        arms = {
            family: Timed(
                make(data, model, family, "cpu", batch_size=size), clock=time.process_time
            )
            for family in ("sgd", "pugd")
        }
        found = in_turns(arms, rounds)
        step = 1000 * statistics.median(each["sgd"] for each in found)
        step /= arms["sgd"].run.steps_per_epoch
        told = spread(ratios(found, "pugd"))
        print(f"| {title} | {model['name']} | {size} | {step:.2f} | {told} | {GOAL} |", flush=True)


class Table:
    """What `make gpu-check` prints, part by part."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked, self.device = asked, torch.device(asked.device)
        self.cuda = self.device.type == "cuda"
        self.data = {"name": "trial_speed:images", "train_size": asked.images}

    def config(self, model: str, family: str = "pugd", **train: Any) -> TrialConfig:
        options = {"batch_size": self.asked.batch_size, **train}
        return make(self.data, {"name": model}, family, self.asked.device, **options)

    def show(self) -> None:
        name = torch.cuda.get_device_name(self.device) if self.cuda else "the CPU"
        print(f"# {name}, torch {torch.__version__}, {torch.get_num_threads()} CPU threads")
        for part in (self.families, self.ways, self.accuracy, self.residence, self.together):
            print(flush=True)
            part()

    def families(self) -> None:
        print("| model | family | s an epoch | / 2 SGD | images/s | syncs an epoch | peak MiB |")
        print("|---|---|---|---|---|---|---|")
        for model in self.asked.models:
            alone = {family: self.alone(self.config(model, family)) for family in FAMILIES}
            arms = {family: Timed(self.config(model, family)) for family in FAMILIES}
            found = in_turns(arms, self.asked.rounds)
            for family, (syncs, peak) in alone.items():
                seconds = statistics.median(each[family] for each in found)
                speed = arms[family].run.images_per_epoch / seconds
                told = spread(ratios(found, family)) if family != "sgd" else ""
                row = f"{seconds:.3f} | {told} | {speed:,.0f} | {syncs} | {peak}"
                print(f"| {model} | {family} | {row} |", flush=True)

    def alone(self, config: TrialConfig) -> tuple[str, str]:
        """How often the host waits for the device in an epoch, and the most memory that the run
        and its evaluation take."""
        gc.collect()  # of the run before
        timed = Timed(config)
        timed.epoch()
        if not self.cuda:
            return NEEDS_CUDA, NEEDS_CUDA
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                train_epoch(timed.run, 2)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        syncs = sum("called a synchronizing" in str(each.message) for each in caught)
        data = timed.run.data
        evaluate(timed.run, data.validation_images, data.validation_labels)
        return str(syncs), f"{torch.cuda.max_memory_allocated(self.device) / 2**20:,.0f}"

    def ways(self) -> None:
        print("| model | PUGD | s an epoch | times as fast as fp32 |")
        print("|---|---|---|---|")
        ways: dict[str, tuple[dict[str, Any], bool]] = {
            "fp32": ({"precision": "fp32"}, False),
            "bf16": ({"precision": "bf16"}, False),
            "bf16, train.compile": ({"precision": "bf16", "compile": True}, False),
            "bf16, CUDA graphs (not a setting)": ({"precision": "bf16"}, True),
        }
        for model in self.asked.models:
            base = None
            for name, (settings, graphs) in ways.items():
                if not self.cuda and (graphs or "compile" in settings):
                    print(f"| {model} | {name} | {NEEDS_CUDA} | |")
                    continue
                try:
                    arm = Timed(self.config(model, **settings), graphs)
                    times = in_turns({name: arm}, self.asked.rounds)
                except Exception as error:  # a model may not compile
                    print(f"| {model} | {name} | failed: {' '.join(str(error).split())[:80]} | |")
                    continue
                seconds = statistics.median(each[name] for each in times)
                base = base or seconds
                print(f"| {model} | {name} | {seconds:.3f} | {base / seconds:.2f} |", flush=True)

    def accuracy(self) -> None:
        print("| digits, cnn, PUGD | validation accuracy, % (3 seeds) | s a run |")
        print("|---|---|---|")
        for precision in ("fp32", "bf16"):
            values, seconds = [], []
            for seed in (42, 43, 44):
                options = {"epochs": self.asked.epochs, "seed": seed, "precision": precision}
                config = make(DIGITS, {"name": "cnn"}, "pugd", self.asked.device, **options)
                started = time.perf_counter()
                *_, last = train(config)
                seconds.append(time.perf_counter() - started)
                values.append(100 * last.val_accuracy)
            mean, deviation = statistics.mean(values), statistics.stdev(values)
            print(
                f"| {precision} | {mean:.2f} ± {deviation:.2f} | {statistics.median(seconds):.1f} |"
            )

    def residence(self) -> None:
        print("| model | images on the device, s an epoch | streaming | ratio | the same batches |")
        print("|---|---|---|---|---|")
        for model in self.asked.models:
            arms = {
                where: Timed(self.config(model, "sgd").placed(self.asked.device, where))
                for where in ("device", "stream")
            }
            found = in_turns(arms, self.asked.rounds)
            seconds = {name: statistics.median(each[name] for each in found) for name in arms}
            told = " | ".join(f"{value:.3f}" for value in seconds.values())
            ratio = seconds["stream"] / seconds["device"]
            same = "yes" if self.same(arm.run for arm in arms.values()) else "NO"
            print(f"| {model} | {told} | {ratio:.2f} | {same} |", flush=True)

    def same(self, runs: Iterable[TrainingState]) -> bool:
        """Whether all get the same images, to the bit."""
        epochs = [
            epoch_batches(run.data, self.asked.batch_size, torch.Generator().manual_seed(1))
            for run in runs
        ]
        return all(torch.equal(x[0], y[0]) for x, y in zip(*epochs, strict=True))

    def together(self) -> None:
        print("| model, PUGD | one trial, s an epoch | two at once | together, times as fast |")
        print("|---|---|---|---|")
        for model in self.asked.models:
            one, two = (self.at_once(self.config(model), count) for count in (1, 2))
            row = f"{one:.3f} | {two:.3f} | {2 * one / two:.2f}"
            print(f"| {model} | {row} |", flush=True)

    def at_once(self, config: TrialConfig, count: int) -> float:
        """Seconds of an epoch in the slowest of so many processes, which begin together."""
        rounds = self.asked.rounds
        command = [sys.executable, __file__, "--worker", config.model_dump_json()]
        command += ["--rounds", str(rounds), "--threads", str(self.asked.threads)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        workers = [subprocess.Popen(command, **pipes) for _ in range(count)]
        for worker in workers:
            worker.stdout.readline()  # it is warm
        for worker in workers:
            worker.stdin.write("\n")
            worker.stdin.flush()
        answers = [worker.communicate()[0] for worker in workers]
        if any(worker.returncode for worker in workers):
            sys.exit("a process of those that train at once failed")
        return max(json.loads(answer) for answer in answers) / rounds


def work(config: str, rounds: int) -> None:
    """One of the processes that train at once."""
    timed = Timed(TrialConfig.model_validate_json(config))
    timed.epoch()
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(sum(timed.epoch() for _ in range(rounds))))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--table", action="store_true", help="the whole table")
    table = parser.add_argument_group("of the table")
    table.add_argument("--device", default="cuda")
    table.add_argument("--models", nargs="+", default=MODELS, metavar="MODEL")
    table.add_argument("--images", type=int, default=14_000)
    table.add_argument("--batch-size", type=int, default=128)
    table.add_argument("--epochs", type=int, default=27, help="of the runs for the accuracy")
    table.add_argument("--worker", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    if asked.worker:
        work(asked.worker, asked.rounds)
    elif not asked.table:
        compare(asked.rounds)
    elif asked.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit(
            "gpu-check needs a CUDA GPU, and torch sees none here: run it where there is one "
            "(python benchmarks/trial_speed.py --table --device cpu shows the rest)"
        )
    else:
        Table(asked).show()


if __name__ == "__main__":
    main()
