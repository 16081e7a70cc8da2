"""Checkpoints in the sweep's folder, on a local disk or an object store."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pyarrow import fs

STATE, WEIGHTS = "state.pt", "weights.pt"
FILES = (STATE, WEIGHTS, f"{STATE}.part", f"{WEIGHTS}.part")  # all that a trial's folder holds
# what torch.load raises for a file that is no whole checkpoint
UNREADABLE = (EOFError, KeyError, RuntimeError, ValueError, pickle.UnpicklingError)


def unpack(content: bytes) -> dict[str, Any]:
    """A file's content, on the CPU; no code of it is run. Raises one of `UNREADABLE`."""
    loaded: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return loaded


class CheckpointFolder:
    """One trial's checkpoints: `state.pt` while it is unfinished, `weights.pt` when completed.

    `uri` is a local path or any `pyarrow.fs` URI. A file is written aside and renamed (or put
    whole on an object store), so that a reader never sees half of one.
    """

    def __init__(self, uri: str) -> None:
        self.filesystem, self.path = fs.FileSystem.from_uri(uri)

    def save(self, name: str, content: Mapping[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(dict(content), buffer)
        self.filesystem.create_dir(self.path, recursive=True)
        path = f"{self.path}/{name}"
        if isinstance(self.filesystem, fs.LocalFileSystem):
            aside = Path(f"{path}.part")
            aside.unlink(missing_ok=True)  # of a worker that was killed
            with open(aside, "xb") as file:  # never through a link
                file.write(buffer.getbuffer())
            os.replace(aside, path)
            return
        with self.filesystem.open_output_stream(path) as stream:
            stream.write(buffer.getbuffer())

    def load(self, name: str) -> dict[str, Any] | None:
        """The file's content, or None if there is none; unreadable ones count as none."""
        try:
            with self.filesystem.open_input_stream(f"{self.path}/{name}") as stream:
                content = stream.read()
        except FileNotFoundError:
            return None
        try:
            return unpack(content)
        except UNREADABLE:
            return None

    def delete(self, name: str) -> None:
        if self.filesystem.get_file_info(f"{self.path}/{name}").type != fs.FileType.NotFound:
            self.filesystem.delete_file(f"{self.path}/{name}")
