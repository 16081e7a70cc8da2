"""Checkpoints in the sweep's folder, on a local disk or an object store."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import socket
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyarrow import fs

logger = logging.getLogger(__name__)
STATE, WEIGHTS = "state.pt", "weights.pt"
TRUNKS = "trunks"  # the folder of a sweep's trunks
LEFT = re.compile(r".*\.(pt|npz)\..+-\d+\.part")  # there, by a worker that was killed
FILES = (STATE, WEIGHTS, f"{STATE}.part", f"{WEIGHTS}.part")  # all that a trial's folder holds


def unpack(content: bytes) -> dict[str, Any]:
    """A file's content, on the CPU; no code of it is run. Raises ValueError, in one line, for what
    is no whole checkpoint."""
    import torch  # here, for most of what a driver does needs none of it

    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if (damaged := archive.testzip()) is not None:  # torch does not look
                raise ValueError(f"{damaged} is damaged")
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes of torch and pickle
        raise ValueError(one_line(error)) from None
    if not isinstance(loaded, dict):
        raise ValueError(f"it holds a {type(loaded).__name__}")
    return loaded


def read_file(filesystem: fs.FileSystem, path: str) -> bytes:
    """A file's content as it is. Raises ValueError where no file is: a FIFO would be waited for,
    without end; FileNotFoundError where nothing is."""
    if filesystem.get_file_info(path).type not in (fs.FileType.File, fs.FileType.NotFound):
        raise ValueError(f"{path} is no file")
    with filesystem.open_input_stream(path, compression=None) as stream:
        return bytes(stream.read())


def left_aside(path: str, reason: str | Exception) -> None:
    """Say in the worker's log what is not used."""
    reason = one_line(reason) if isinstance(reason, Exception) else reason
    logger.warning("%s is left aside: %s", path, reason)


def one_line(error: Exception) -> str:
    """Its kind and what it says."""
    return " ".join([type(error).__name__, *str(error).split()])[:200]


def pack(content: Mapping[str, Any]) -> bytes:
    """The inverse of `unpack`."""
    import torch

    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    return buffer.getvalue()


def weights_of(run: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a completed run, of what `TrainingState.state_dict` or its checkpoint holds,
    as tensors and plain values (`weights_only` loads it).

    State dicts `final` and `best` (of the epoch with the best validation accuracy), what it takes
    to use them on images, and the epochs of the run. Raises KeyError for a checkpoint of an earlier
    version.
    """
    return {
        "config": run["config"],
        "final": run["model"],
        "best": run["best_weights"],
        **run["facts"],
        "history": run["history"],
    }


def weights_from(checkpoint: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The weights of a completed run from its last checkpoint, with all that this holds besides;
    None if that is no such thing."""
    try:
        held = dict(checkpoint or {})
        run = held.pop("run")
        return weights_of(run) | held if run["history"][-1]["test"] else None  # only at the end
    except (KeyError, IndexError, TypeError):
        return None


class CheckpointFolder:
    """One trial's checkpoints: `state.pt` while it is unfinished, `weights.pt` when completed.

    `uri` is a local path or any `pyarrow.fs` URI. A file is written aside and renamed (or put
    whole on an object store), so that a reader never sees half of one. `claim` is where it is
    written who drives the sweep, and the key of the driver that this process works for. `shared`
    is a folder in it where other processes may write the same file at the same time.
    """

    def __init__(
        self, uri: str, claim: Sequence[str] | None = None, shared: str | None = None
    ) -> None:
        self.filesystem, self.path = fs.FileSystem.from_uri(uri)
        self.aside = ".part"
        if shared is not None:
            self.path += f"/{shared}"
            self.aside = f".{socket.gethostname()}-{os.getpid()}.part"
        self.claim: tuple[fs.FileSystem, str, str] | None = None
        if claim is not None:
            self.claim = *fs.FileSystem.from_uri(claim[0]), claim[1]

    def save(self, name: str, content: Mapping[str, Any]) -> None:
        """As `write`, what `load` gives again."""
        self.write(name, pack(content))

    def write(self, name: str, data: bytes) -> None:
        """Raises OSError if it cannot be written, or if the sweep is gone or another driver's."""
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
        _write_aside(Path(path), data, self.aside)

    def exists(self, name: str) -> bool:
        found = self.filesystem.get_file_info(f"{self.path}/{name}").type
        return bool(found != fs.FileType.NotFound)

    def read(self, name: str) -> bytes:
        """As `read_file`."""
        return read_file(self.filesystem, f"{self.path}/{name}")

    def load(self, name: str) -> dict[str, Any] | None:
        """The file's content, or None if there is none; one that cannot be read counts as none, and
        a warning says so."""
        path = f"{self.path}/{name}"
        try:
            return unpack(self.read(name))
        except FileNotFoundError:
            return None
        except ValueError as error:
            left_aside(path, error)
            return None

    def delete(self, name: str) -> None:
        if self.exists(name):
            self.filesystem.delete_file(f"{self.path}/{name}")

    def _check_claim(self) -> None:
        """Workers live some seconds longer than the driver that they lost the sweep with."""
        if self.claim is None:
            return
        filesystem, path, key = self.claim
        try:
            held = json.loads(read_file(filesystem, path))["key"] == key
        except (ValueError, TypeError, KeyError):
            held = False
        if not held:
            raise PermissionError(f"{path} is not of the driver that this trial was begun by")


def _write_aside(path: Path, content: bytes, ending: str) -> None:
    """Write a local file beside `path` and rename it: of what was there before nothing is written
    through, a link least of all."""
    aside = Path(f"{path}{ending}")
    with suppress(FileNotFoundError):
        aside.unlink()  # of a worker that was killed
    try:
        with open(aside, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the new name with no content
        os.replace(aside, path)
    except OSError:
        aside.unlink(missing_ok=True)  # half a file takes room where there is none
        raise
