"""Sends a prepared dataset to machines that lack its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainables.config import DataConfig
from trainables.data.cache import KEY_FIELDS, adopt, prepared_folder

Contents = Mapping[str, NDArray[np.uint8]]


@dataclass(frozen=True)
class SharedData:
    """`fetch` gives the contents of the files in `folder`, a name in the cache of prepared data."""

    config: DataConfig
    folder: str
    fetch: Callable[[], Contents]

    def folder_for(self, config: DataConfig) -> Path | None:
        """The prepared folder on this machine, fetched if need be; None for other data."""
        if config.model_dump(include=KEY_FIELDS) != self.config.model_dump(include=KEY_FIELDS):
            return None
        return adopt(self.folder, self.fetch)


def share(config: DataConfig, offer: Callable[[Contents], Callable[[], Contents]]) -> SharedData:
    """The dataset as this machine has prepared it; `offer` makes its contents fetchable.

    The contents are memory-mapped: they are read when they are sent, and held by no process.
    """
    folder = prepared_folder(config)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    contents = {path.name: np.asarray(np.memmap(path, np.uint8, mode="r")) for path in files}
    return SharedData(config, folder.name, offer(contents))
