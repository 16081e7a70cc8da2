"""Checkpoints in the sweep's folder, on a local disk or an object store."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from pyarrow import fs

logger = logging.getLogger(__name__)
STATE, WEIGHTS = "state.pt", "weights.pt"
FILES = (STATE, WEIGHTS, f"{STATE}.part", f"{WEIGHTS}.part")  # all that a trial's folder holds


def unpack(content: bytes) -> dict[str, Any]:
    """A file's content, on the CPU; no code of it is run. Raises ValueError, in one line, for what
    is no whole checkpoint."""
    try:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes of torch and pickle
        raise ValueError(_line(error)) from None
    if not isinstance(loaded, dict):
        raise ValueError(f"it holds a {type(loaded).__name__}")
    return loaded


def left_aside(path: str, reason: str | Exception) -> None:
    """Say in the worker's log what is not used."""
    reason = _line(reason) if isinstance(reason, Exception) else reason
    logger.warning("%s is left aside: %s", path, reason)


def _line(error: Exception) -> str:
    return " ".join([type(error).__name__, *str(error).split()])[:200]


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
            _write_aside(Path(path), buffer.getbuffer())
            return
        with self.filesystem.open_output_stream(path) as stream:
            stream.write(buffer.getbuffer())

    def load(self, name: str) -> dict[str, Any] | None:
        """The file's content, or None if there is none; one that cannot be read counts as none, and
        a warning says so."""
        path = f"{self.path}/{name}"
        kind = self.filesystem.get_file_info(path).type
        if kind == fs.FileType.NotFound:
            return None
        if kind != fs.FileType.File:  # a FIFO would be waited for, without end
            left_aside(path, "it is no file")
            return None
        try:
            with self.filesystem.open_input_stream(path, compression=None) as stream:
                return unpack(stream.read())
        except FileNotFoundError:
            return None
        except ValueError as error:
            left_aside(path, error)
            return None

    def delete(self, name: str) -> None:
        if self.filesystem.get_file_info(f"{self.path}/{name}").type != fs.FileType.NotFound:
            self.filesystem.delete_file(f"{self.path}/{name}")


def _write_aside(path: Path, content: memoryview) -> None:
    """Write a local file beside `path` and rename it: of what was there before nothing is written
    through, a link least of all."""
    aside = Path(f"{path}.part")
    with suppress(FileNotFoundError):
        aside.unlink()
    try:
        with open(aside, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the new name with no content
        os.replace(aside, path)
    except OSError:
        aside.unlink(missing_ok=True)  # half a file takes room where there is none
        raise
