"""The searcher's journal file: Optuna's own format, with one writer."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend

START = b'{"op_code":'  # of every record


class Journal(BaseJournalBackend):  # type: ignore[misc]
    """The journal file of one writer: JSON lines, as Optuna's own file backend writes them.

    What is written inside `together()` reaches the disk at once, so that a kill cannot leave a
    trial with half of its parameters. A line torn by a kill is dropped at the next opening; a file
    with any other fault is left as it is (ValueError). If the disk fails (OSError) the search has
    what it was told, and the file gets it with the next write.
    """

    def __init__(self, path: Path) -> None:
        whole = path.read_bytes() if path.exists() else b""
        self._path = path
        self._size = whole.rfind(b"\n") + 1  # of what is known to be whole
        self._line = 0  # the last that was read
        self._unread = [_record(path, i, line) for i, line in _lines(whole[: self._size])]
        torn = whole[self._size :]
        if torn[: len(START)] != START[: len(torn)]:
            raise _unreadable(path, len(self._unread) + 1, "no record of an Optuna journal")
        self._unwritten = b""
        self._held = 0
        self._write()

    def storage(self) -> JournalStorage:
        """Optuna's storage over this file. Raises ValueError if its records make no search."""
        try:
            return JournalStorage(self)
        except Exception as error:  # whatever a foreign record leads to
            why = f"{type(error).__name__}: {error}"
            raise _unreadable(self._path, self._line, why) from error

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The records since the last call; the storage that owns this reads each once."""
        unread, self._unread = self._unread, []
        for record in unread:
            self._line += 1
            yield record

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        for log in logs:
            line = json.dumps(log, separators=(",", ":"))
            self._unread.append(json.loads(line))  # as a later reader will see it
            self._unwritten += line.encode() + b"\n"
        if not self._held:
            self._write()

    @contextmanager
    def together(self) -> Iterator[None]:
        """One write for all that is recorded inside; those nested in it wait for the outermost."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            if not self._held:
                self._write()

    def _write(self) -> None:
        with self._path.open("ab") as file:
            file.truncate(self._size)  # what a kill or a full disk has torn
            file.write(self._unwritten)
            file.flush()
            os.fsync(file.fileno())
        self._size += len(self._unwritten)
        self._unwritten = b""


def _lines(whole: bytes) -> Iterator[tuple[int, bytes]]:
    return enumerate(whole.splitlines(), start=1)


def _record(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:  # not JSON, not UTF-8
        raise _unreadable(path, number, str(error)) from None
    if not isinstance(record, dict) or not {"op_code", "worker_id"} <= record.keys():
        raise _unreadable(path, number, "no record of an Optuna journal")
    return record


def _unreadable(path: Path, line: int, why: str) -> ValueError:
    return ValueError(
        f"journal {str(path)!r} cannot be read: line {line}: {' '.join(why.split())}; put the file "
        "right, or move it away: the search is then made again from the ledger"
    )
