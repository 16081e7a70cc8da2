"""What needs torch is called in a process of its own, and does there as it would here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from rts_search.apart import apart
from rts_search.spec.provenance import gpus, hardware

ROOT = Path(__file__).parents[2]
MINE = """
import os, signal, sys, time, warnings
from pathlib import Path

def told(*arguments):
    import torch  # in that process only
    print("the user's own line")
    warnings.warn("mind this", UserWarning, stacklevel=2)
    return arguments, os.getpid(), sys.path[0]

def mistaken(value):
    raise ValueError(f"value {value!r} is not allowed")

def killed():
    os.kill(os.getpid(), signal.SIGKILL)

def slow(file):
    Path(file).write_text(str(os.getpid()))
    time.sleep(60)
"""


def script(tmp_path: Path, lines: str) -> list[str]:
    """A command that has not loaded torch, and finds the module `mine`."""
    (tmp_path / "mine.py").write_text(MINE)
    begin = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom rts_search.apart import apart"
    return [sys.executable, "-c", f"{begin}\n{lines}\nassert 'torch' not in sys.modules"]


def run(tmp_path: Path, lines: str) -> tuple[str, str]:
    done = subprocess.run(
        script(tmp_path, lines), cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout, done.stderr


def test_the_result_the_warnings_and_the_path_are_those_of_a_call(tmp_path: Path) -> None:
    out, err = run(
        tmp_path, "print(apart('mine:told', {'lr': 0.1}, None))\nprint(__import__('os').getpid())"
    )
    told, own = out.splitlines()
    arguments, pid, path = eval(told)
    assert (arguments, path) == (({"lr": 0.1}, None), str(tmp_path))
    assert pid != int(own)
    assert err.count("the user's own line") == 1  # not among the answers
    assert err.count("UserWarning: mind this") == 1


def test_an_error_is_raised_here(tmp_path: Path) -> None:
    lines = "try: apart('mine:mistaken', 3)\nexcept ValueError as error: raised = error"
    out, err = run(tmp_path, f"{lines}\nprint(raised)\nprint(raised.__cause__)")
    assert out.startswith("value 3 is not allowed\n")
    assert ", in mistaken\n" in out  # for --verbose
    assert err == ""


def test_a_process_that_is_killed_is_one_line(tmp_path: Path) -> None:
    lines = "try: apart('mine:killed')\nexcept ValueError as error: print(error)"
    out, err = run(tmp_path, lines)
    assert out.startswith("mine:killed ended its process (exit code -9; below 0: it was killed)")
    assert (out.count("\n"), err) == (1, "")


def test_ctrl_c_ends_both_without_a_word_of_the_other(tmp_path: Path) -> None:
    started = tmp_path / "started"
    process = subprocess.Popen(
        script(tmp_path, f"apart('mine:slow', {str(started)!r})"),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 30
    while not (started.exists() and started.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, err = process.communicate(timeout=10)
    assert err.count("KeyboardInterrupt") == 1
    child = int(started.read_text())
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_where_torch_is_loaded_it_is_called_here() -> None:
    import torch  # noqa: F401

    assert apart("os:getpid") == os.getpid()


def test_gpus_are_named_by_torch(tmp_path: Path) -> None:
    lines = """
from rts_search.spec import provenance
provenance.GPU_DEVICES = ("null",)  # one that the kernel has
print(provenance.hardware())"""
    out, err = run(tmp_path, lines)
    assert (out.strip(), err) == (hardware(), "")
    assert hardware().endswith(", ".join(["GiB", *gpus()]))
