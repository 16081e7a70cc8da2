"""Calls what needs torch in a process of its own: in a driver it would be most of its memory."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import traceback
import warnings
from typing import Any

from trainables.names import import_named


class RemoteError(Exception):
    """The traceback of an error, in the process that raised it."""


def apart(path: str, *arguments: Any) -> Any:
    """What the function at `package.module:name` returns or raises, and its warnings. Where torch
    is loaded already, it is called here. Raises ValueError if its process is killed."""
    if "torch" in sys.modules:
        return import_named("function", path)(*arguments)
    code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import answer; answer()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        input=pickle.dumps((path, arguments)),
        stdout=subprocess.PIPE,
        check=False,
        process_group=0,  # a Ctrl-C is for this process, which then ends that one
    )
    if done.returncode:
        raise ValueError(
            f"{path} ended its process (exit code {done.returncode}; below 0: it was killed): is "
            "there too little memory?"
        )
    result, error, where, told = pickle.loads(done.stdout)
    for message, category in told:
        warnings.warn(message, category, stacklevel=2)
    if error is not None:
        raise error from RemoteError(where)
    return result


def answer() -> None:
    """In that process: what it is asked for is on its standard input, the answer on its output."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the user's code prints is no answer
    path, arguments = pickle.load(sys.stdin.buffer)
    result, error, where = None, None, ""
    with warnings.catch_warnings(record=True) as told:
        try:
            result = import_named("function", path)(*arguments)
        except Exception as raised:
            error, where = raised, f"\n{traceback.format_exc()}"
    with out:
        pickle.dump((result, error, where, [(str(w.message), w.category) for w in told]), out)
