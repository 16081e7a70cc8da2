"""What a run came to on the test set: its accuracy, and which images it told right."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from results.meanings import Outcome
from results.trials import Row
from trainables.guard import lucky

Hits = dict[tuple[str, int], npt.NDArray[np.bool_]]  # by arm and seed


def final_accuracy(row: Row) -> float:
    """Of the final weights on the test set; of a run that diverged the validation accuracy that it
    ended at."""
    for name in ("test_accuracy", "final_val_accuracy"):
        if row[name] is not None and math.isfinite(row[name]):
            return float(row[name])
    return 0.0


def collapsed(row: Row) -> bool:
    """Whether a run came to nothing: it diverged, or ended no better than guessing."""
    if row["outcome"] == Outcome.DIVERGED or not row["test_hits"]:
        return bool(row["outcome"] == Outcome.DIVERGED)
    images = 8 * len(base64.b64decode(row["test_hits"]))
    return final_accuracy(row) <= lucky(images, 1 / (row["classes"] or 2)) / images


def hits_of(rows: Iterable[Row]) -> Hits:
    """Of the runs that were tested. Of the last byte's bits some may stand for no image: they are
    equal in all runs."""
    return {(row["arm"], row["seed"]): _bits(row["test_hits"]) for row in rows if row["test_hits"]}


def _bits(text: str) -> npt.NDArray[Any]:
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8)).astype(bool)
