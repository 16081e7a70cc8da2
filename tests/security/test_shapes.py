"""Specs of any kind, size and depth: refused in one line, and soon."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from results.storage import SweepFolder
from rts_search.driver.lock import DRIVER, read_driver
from rts_search.spec.folder import SPEC, write_spec
from rts_search.spec.model import SweepSpec
from tests.rts_search.cli.calling import cli

BOMB = "a: &a [x, x]\n" + "".join(
    f"{after}: &{after} [*{before}, *{before}]\n"
    for before, after in zip("abcdefghijklmnopqrstuvwxy", "bcdefghijklmnopqrstuvwxyz", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{after}: &{after} {{<<: [*{before}, *{before}]}}\n"
    for before, after in zip("abcdefghijklmnopqrstuvwxy", "bcdefghijklmnopqrstuvwxyz", strict=True)
)


def a_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # its name may not be long
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


KINDS: dict[str, Callable[[Path], object]] = {
    "is a pipe, not a file": os.mkfifo,
    "is a device, not a file": lambda path: path.symlink_to("/dev/zero"),
    "is a folder, not a file": Path.mkdir,
    "is a socket, not a file": a_socket,
    "has 33,792 KiB, above 512": lambda path: path.write_bytes(b"a" * (33 << 20)),
    "in more than 50 levels": lambda path: path.write_text("a: " + "[" * 10_000 + "]" * 10_000),
    "than 100,000 values": lambda path: path.write_text(BOMB),
    "than 100,000 values, its": lambda path: path.write_text(MERGES),
    "an *alias is within its &anchor": lambda path: path.write_text("train: &a {x: *a}"),
}


@pytest.mark.parametrize("why", KINDS)
def test_a_file_that_is_no_spec(tmp_path: Path, why: str) -> None:
    path, began = tmp_path / "spec.yaml", time.monotonic()
    KINDS[why](path)
    for words in (["sweep", path], ["train", path], ["estimate", path]):
        done = cli(*words)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
        assert why in done.err
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("why", KINDS)
def test_a_sweep_whose_spec_is_none(tmp_path: Path, why: str) -> None:
    """Another's, which is only read: what needs no spec is told."""
    folder = SweepFolder(tmp_path, "s")
    write_spec(folder, SweepSpec())
    folder.delete(SPEC)
    KINDS[why](tmp_path / "s" / SPEC)
    for verb in ("status", "audit", "best", "resume"):
        done = cli(verb, "s", "--storage", tmp_path)
        assert "Traceback" not in done.err, done
        assert verb == "best" or (done.code == 2 and why in done.err), done


@pytest.mark.parametrize("why", [why for why in KINDS if "file" in why])
def test_a_drivers_file_that_is_none(tmp_path: Path, why: str) -> None:
    folder = SweepFolder(tmp_path, "s")
    (tmp_path / "s" / "control").mkdir(parents=True)
    KINDS[why](tmp_path / "s" / DRIVER)
    assert read_driver(folder) is None


@pytest.mark.parametrize("value", ["[" * 2000 + "]" * 2000, "{a: " * 60 + "1" + "}" * 60])
def test_a_deep_argument(value: str) -> None:
    done = cli("sweep", "--preset", "quick", "--set", f"model.args={value}", "--dry-run")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "nested too deeply, in more than 50 levels" in done.err


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("history: 5", "its history or its sources"),
        ("history: [5]", "its history or its sources"),
        ("history: [{time: 2024-99-99, changes: {}}]", "not as rts-search wrote it"),
        ("history: [{time: '9999-99-01', changes: {}}]", "its history or its sources"),
        ("history: [{time: 2024-01-01, changes: {}}]", "its history or its sources"),
    ],
)
def test_a_stored_history_of_another_form(tmp_path: Path, text: str, why: str) -> None:
    folder = SweepFolder(tmp_path, "s")
    write_spec(folder, SweepSpec())
    folder.write(SPEC, f"{text}\n".encode() + folder.read(SPEC))
    for verb in ("status", "resume"):
        done = cli(verb, "s", "--storage", tmp_path)
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert why in done.err
