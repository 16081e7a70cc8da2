"""What the tests of `rts-search import` share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from results.storage import SweepFolder
from results.trials import StoredTrial, read_trials
from tests.rts_search.cli.calling import Outcome, cli


def run_import(storage: Path, *arguments: str | Path, name: str = "old") -> Outcome:
    return cli("import", *arguments, "--name", name, "--storage", storage)


def trials(storage: Path, name: str = "old", stage: str | None = None) -> dict[str, StoredTrial]:
    return {each.trial_id: each for each in read_trials(SweepFolder(storage, name), stage=stage)}


def author_file(
    folder: Path, name: str, accuracies: Sequence[float], images: int = 50_000, **more: Any
) -> Path:
    """A run as the author writes it, whose accuracies are shares of so many images."""
    folder.mkdir(parents=True, exist_ok=True)
    count = len(accuracies)
    train = [round(value * images / 3) / images for value in accuracies]
    content = {
        "train": {"loss": [2 - 0.1 * i for i in range(count)], "acc": train},
        "valid": {"loss": [1 - 0.01 * i for i in range(count)], "acc": list(accuracies)},
        "bast_acc": max(accuracies),
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content | more))
    return path
