"""Sends a prepared dataset to machines that lack its files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainables.config import DataConfig
from trainables.data.cache import KEY_FIELDS, Piece, adopt, prepared_folder

PIECE = 2**28  # bytes: what is held in memory at once

Content = NDArray[np.uint8]


@dataclass(frozen=True)
class SharedData:
    """`pieces` are those of the files in `folder`, a name in the cache of prepared data."""

    config: DataConfig
    folder: str
    pieces: list[Piece]

    def folder_for(self, config: DataConfig) -> Path | None:
        """The prepared folder on this machine, fetched if need be; None for other data."""
        if config.model_dump(include=KEY_FIELDS) != self.config.model_dump(include=KEY_FIELDS):
            return None
        return adopt(self.folder, self.pieces)


def share(config: DataConfig, offer: Callable[[Content], Callable[[], Content]]) -> SharedData:
    """The dataset as this machine has prepared it; `offer` makes a piece of a file fetchable.

    Files are memory-mapped: they are read as they are sent, and held by no process.
    """
    folder = prepared_folder(config)
    pieces: list[Piece] = []
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        content = np.asarray(np.memmap(path, np.uint8, mode="r"))
        parts = (content[i : i + PIECE] for i in range(0, len(content), PIECE))
        pieces += [(path.name, offer(part)) for part in parts]
    return SharedData(config, folder.name, pieces)
