"""Images/s of the batch pipeline, and seconds of ledger queries, on this machine."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from statistics import median

import torch

from results.database import query
from results.ledger import Ledger
from results.ranking import best
from results.storage import SweepFolder
from trainables.config import DataConfig
from trainables.data import epoch_batches, prepare

TRIALS, EPOCHS = 300, 50


def timed(work: Callable[[], object], runs: int = 5) -> float:
    """Median seconds over some runs, after one that is not counted."""
    seconds = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return median(seconds[1:])


def augmentation() -> None:
    torch.set_num_threads(1)
    data = prepare(DataConfig(name="digits"))
    generator = torch.Generator().manual_seed(0)
    count = len(data.train_labels)
    for batch in (64, 500):
        took = timed(lambda batch=batch: list(epoch_batches(data, batch, generator)))
        print(f"digits, batch {batch}: {count / took:,.0f} images/s, one thread")


def ledger() -> None:
    row = {"rung": 0, "total_epochs": EPOCHS, "val_accuracy": 0.5, "gradient_evaluations": 1}
    with tempfile.TemporaryDirectory() as storage:
        writer = Ledger(SweepFolder(storage, "bench"))
        start = time.perf_counter()
        for trial in range(TRIALS):
            for epoch in range(1, EPOCHS + 1):
                writer.add_epoch({"trial_id": f"t{trial:04d}", "epoch": epoch, **row})
            writer.put_trial(
                {
                    "trial_id": f"t{trial:04d}",
                    "number": trial,
                    "outcome": "completed",
                    "final_val_accuracy": trial / TRIALS,
                    "params": "{}",
                }
            )
            writer.flush()
        print(f"ledger: {(time.perf_counter() - start) / TRIALS * 1e3:.1f} ms a trial of 50 epochs")
        sql = "SELECT max(val_accuracy) FROM epochs"
        loose = timed(lambda: best(storage)), timed(lambda: query(storage, sql))
        writer.compact()
        merged = timed(lambda: best(storage)), timed(lambda: query(storage, sql))
        for name, took in ((f"{TRIALS} parts", loose), ("compacted", merged)):
            print(f"{name}: best {took[0] * 1e3:.0f} ms, over epochs {took[1] * 1e3:.0f} ms")


if __name__ == "__main__":
    augmentation()
    ledger()
