"""Checkpoints in the sweep's folder, on a local disk or an object store."""

from __future__ import annotations

import io
import json
import os
import pickle
from collections.abc import Mapping, Sequence
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


def pack(content: Mapping[str, Any]) -> bytes:
    """The inverse of `unpack`."""
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    return buffer.getvalue()


class CheckpointFolder:
    """One trial's checkpoints: `state.pt` while it is unfinished, `weights.pt` when completed.

    `uri` is a local path or any `pyarrow.fs` URI. A file is written aside and renamed (or put
    whole on an object store), so that a reader never sees half of one. `claim` is where it is
    written who drives the sweep, and the key of the driver that this process works for.
    """

    def __init__(self, uri: str, claim: Sequence[str] | None = None) -> None:
        self.filesystem, self.path = fs.FileSystem.from_uri(uri)
        self.claim: tuple[fs.FileSystem, str, str] | None = None
        if claim is not None:
            self.claim = *fs.FileSystem.from_uri(claim[0]), claim[1]

    def save(self, name: str, content: Mapping[str, Any]) -> None:
        """Raises OSError if it cannot be written, or if the sweep is gone or another driver's."""
        data = pack(content)
        self._check_claim()
        path = f"{self.path}/{name}"
        if not isinstance(self.filesystem, fs.LocalFileSystem):
            self.filesystem.create_dir(self.path, recursive=True)
            with self.filesystem.open_output_stream(path) as stream:
                stream.write(data)
            return
        if self.claim is not None:  # a sweep that was moved just now is not made again
            self.filesystem.create_dir(self.path.rpartition("/")[0], recursive=False)
        self.filesystem.create_dir(self.path, recursive=self.claim is None)
        aside = Path(f"{path}.part")
        aside.unlink(missing_ok=True)  # of a worker that was killed
        try:
            with open(aside, "xb") as file:  # never through a link
                file.write(data)
            os.replace(aside, path)
        except OSError:
            aside.unlink(missing_ok=True)  # half a file takes room where there is none
            raise

    def exists(self, name: str) -> bool:
        found = self.filesystem.get_file_info(f"{self.path}/{name}").type
        return bool(found != fs.FileType.NotFound)

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
        if self.exists(name):
            self.filesystem.delete_file(f"{self.path}/{name}")

    def _check_claim(self) -> None:
        """Workers live some seconds longer than the driver that they lost the sweep with."""
        if self.claim is None:
            return
        filesystem, path, key = self.claim
        with filesystem.open_input_stream(path) as stream:
            content = stream.read()
        try:
            held = json.loads(content)["key"] == key
        except (ValueError, TypeError, KeyError):
            held = False
        if not held:
            raise PermissionError(f"{path} is not of the driver that this trial was begun by")
