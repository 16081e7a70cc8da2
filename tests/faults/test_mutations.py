"""Sweeps of which a file or a folder was changed: each command says one line, or gives a right
answer; never a traceback, never a deletion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.faults.cuts import Recorded, contents, cuts, lay_out
from tests.faults.judging import LIMIT_SECONDS, UNFINISHED
from tests.sweeps.harness import ROOT

pytestmark = pytest.mark.slow
CORES = 2


@pytest.fixture(scope="module")
def bases(recorded: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep that has ended, and one that was cut off after a trial's second checkpoint."""
    sweep, log = recorded
    folder, state = tmp_path_factory.mktemp("bases"), f"checkpoints/{UNFINISHED}/state.pt"
    saved = [files for moment, files in cuts(log) if moment.startswith("after") and state in files]
    for name, files in (("finished", contents(sweep.folder)), ("interrupted", saved[1])):
        lay_out(files, folder).rename(folder / name)
    return folder


def judged(bases: Path, scratch: Path, first: int, end: int) -> list[dict[str, Any]]:
    """Mutants by the numbers of their seeds, each judged within a time limit."""
    found: list[dict[str, Any]] = []
    while first < end:
        process = subprocess.run(
            [sys.executable, "-m", "tests.faults.judging"]
            + [str(argument) for argument in (bases, scratch, first, end)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        done = [json.loads(line) for line in process.stdout.splitlines()]
        found += done
        first += len(done)
        if process.returncode != 0:  # it was ended by its own watchdog
            why = f"not within {LIMIT_SECONDS:g} s: {process.stderr[-3000:]}"
            found.append({"seed": first, "kind": "hangs", "words": "", "wrong": [why]})
            first += 1
    return found


@pytest.mark.parametrize("count", [6, pytest.param(2000, marks=pytest.mark.very_slow)])
def test_a_mutant_is_one_line_or_a_right_answer(bases: Path, tmp_path: Path, count: int) -> None:
    """Seeds from RTS_MUTANT_SEED on, by default 0."""
    from concurrent.futures import ThreadPoolExecutor

    seed = int(os.environ.get("RTS_MUTANT_SEED", "0"))
    bounds = [seed + count * n // CORES for n in range(CORES + 1)]
    with ThreadPoolExecutor(CORES) as pool:
        shares = pool.map(
            lambda n: judged(bases, tmp_path / str(n) / "scratch", bounds[n], bounds[n + 1]),
            range(CORES),
        )
        found = [each for share in shares for each in share]
    print(f"{len(found)} mutants from seed {seed}: {dict(Counter(m['kind'] for m in found))}")
    wrong = [mutant for mutant in found if mutant["wrong"]]
    assert not wrong, "\n".join(
        f"{m['seed']} {m['kind']} {m['words']}\n    " + "\n    ".join(m["wrong"]) for m in wrong
    )
