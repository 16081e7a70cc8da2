"""The command in this process, and a small spec for it."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

from rts_search.cli.app import main

CONFIG = """
data: {name: digits, train_size: 200, test_size: 50, validation_fraction: 0.25}
model: {name: mlp, args: {width: 8, depth: 1}}
train: {epochs: 3, batch_size: 60, seed: 1, device: cpu}
optimizer: {family: pugd}
"""
SPEC = f"""
name: tiny
storage: STORAGE
{CONFIG.replace("epochs: 3", "epochs: 9")}
search: {{trials: 4, start_from: paper}}
"""


class Outcome(NamedTuple):
    code: int | str | None
    out: str
    err: str


def cli(*arguments: str | Path) -> Outcome:
    """The command in this process, as its console script would call it."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    code: int | str | None = 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
    texts = [stream.buffer.getvalue().decode() for stream in (out, err)]  # type: ignore[attr-defined]
    return Outcome(code, *texts)


def spec_file(tmp_path: Path, text: str = SPEC) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(text.replace("STORAGE", f"{tmp_path}/sweeps"))
    return path
