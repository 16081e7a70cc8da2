"""Sweeps with one thing changed in their folder: what each command says, and what it did to them.

As a program, `judging BASES SCRATCH FIRST END`: prints what is wrong of each mutant, as JSON.
"""

from __future__ import annotations

import faulthandler
import hashlib
import io
import json
import os
import re
import shutil
import stat
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from results.parts.merging import KEYS
from results.parts.reading import read_parts
from results.storage import SweepFolder
from results.trials import read_trials
from rts_search.driver import lock
from rts_search.notebook import load_model
from rts_search.spec.folder import read_spec
from rts_search.stopping.stopper import make_stopper
from rts_search.trials.assign import make_assign
from rts_search.trials.trial import LiveTrial
from tests.faults.cuts import NAME
from tests.faults.mutations import mutate
from tests.faults.opening import resume_until_ray
from tests.rts_search.cli.calling import Outcome, cli
from trainables.config import TrialConfig
from trainables.models.nets import mlp
from trainables.tune import TrialRunner

UNFINISHED = "t0006"  # in the base `interrupted`
LIMIT_SECONDS = 120.0  # many times what a mutant takes, also on a machine that is busy
MOST_TEXT = 2000  # characters of a refusal
VERBS = [
    f"best {NAME}",
    f"best {NAME} --all --json",
    f"best {NAME} --pareto --json",
    f"audit {NAME}",
    f"status {NAME}",
    f"status {NAME} --json",
    "list",
    "list --json",
    f"show {NAME}/t0000",
    f"show {NAME}/t0000 --json",
    f"export trials --sweep {NAME} --format json",
    f"export epochs --sweep {NAME}",
    f"query --sweep {NAME} --json",
    f"stop {NAME} --no-wait",
]
SQL = "SELECT trial_id, rung, epoch, val_loss, outcome FROM epochs JOIN trials USING (trial_id)"
# in a terminal these do more than print
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")
TABLE_FILE = r"(epochs|trials)/\S+"
RELATIVE = re.compile(r"\d+ (s|min|h|d|seconds?|minutes?|hours?|days?) ago|heard of \d+")

Tree = dict[str, tuple[str, object]]


def tree_of(folder: Path) -> Tree:
    """All that is in a folder: its kind, and its content or where it leads."""
    found: Tree = {}
    for root, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(root, name)
            mode = path.lstat().st_mode
            content: object = None
            if stat.S_ISLNK(mode):
                content = os.readlink(path)
            elif stat.S_ISREG(mode):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path.relative_to(folder))] = (stat.filemode(mode), content)
    return found


def changes(before: Tree, after: Tree, allowed: Callable[[str], bool]) -> list[str]:
    """What was there and is not, or is another one; what was set aside is there."""
    aside = [content for path, content in after.items() if "/set-aside/" in path]
    return [
        f"{'changed' if path in after else 'deleted'} {path!r}"
        for path in before
        if after.get(path) != before[path] and not allowed(path) and before[path] not in aside
    ]


def run_verb(verb: str, storage: Path) -> Outcome:
    words = verb.split()
    if words[0] == "query":
        words.insert(1, SQL)
    return cli(*words, "--storage", storage)


def complaints(told: Outcome) -> Iterator[str]:
    """What no command may say."""
    lines = [line for line in told.err.splitlines() if line.strip()]
    if "Traceback" in told.out + told.err:
        yield "a traceback"
    elif told.code not in (0, None) and not lines:
        yield f"code {told.code} and no word"
    elif other := [line for line in lines if not line.startswith("rts-search: ")]:
        yield f"a line that is not ours: {other[0][:200]!r}"
    elif long := next((line for line in lines if len(line) > MOST_TEXT), None):
        yield f"a line of {len(long)} characters: {long[:200]!r}"
    if found := CONTROLS.search(told.out + told.err):
        yield f"a control character: {found[0]!r}"


def assignment(folder: SweepFolder, trial_id: str) -> dict[str, Any]:
    """What the worker of an unfinished trial is told when its sweep goes on."""
    spec = read_spec(folder)
    (stored,) = read_trials(folder, where=lambda row: row["trial_id"] == trial_id)
    config = TrialConfig.model_validate_json(stored.row["config_json"])
    trial = LiveTrial(trial_id, config, stored.number, stored.params)
    driver = lock.read_driver(folder)
    assert driver is not None
    claim = folder.uri_of(lock.DRIVER), driver.key
    return asdict(make_assign(spec, folder, claim, make_stopper(spec), 1, 0.0, lambda _: "")(trial))


class Judge:
    """`bases` holds sweeps; each mutant is made of one of them, in `scratch`."""

    def __init__(self, bases: Path, scratch: Path) -> None:
        self.bases = sorted(bases.iterdir())
        self.scratch = scratch
        self.storage = scratch / "sweeps"
        self.folder = self.storage / NAME
        self.right: dict[tuple[str, str], Outcome] = {}
        self.lay_out(bases / "interrupted")
        self.assignment = assignment(SweepFolder(self.storage, NAME), UNFINISHED)

    def lay_out(self, base: Path) -> None:
        for path in self.folder.rglob("*"):
            if not path.is_symlink():
                path.chmod(0o700)
        shutil.rmtree(self.scratch, ignore_errors=True)
        shutil.copytree(base, self.folder)

    def judge(self, seed: int) -> tuple[str, str, list[str]]:
        """The mutant's kind, words for it, and what is wrong."""
        rng = Random(seed)
        base = rng.choice(self.bases)
        verbs = rng.sample(VERBS, 3)
        for verb in verbs:
            if (base.name, verb) not in self.right:
                self.lay_out(base)
                self.right[base.name, verb] = run_verb(verb, self.storage)
        self.lay_out(base)
        kind, words = mutate(rng, self.folder)
        wrong: list[str] = []
        for verb in verbs:
            expected = self.right[base.name, verb]
            wrong += [f"{verb}: {each}" for each in self.read(verb, expected, kind, words)]
        wrong += [f"resume: {each}" for each in self.open(kind)]
        if kind in ("checkpoint_of", "bytes_of"):
            wrong += [f"checkpoints: {each}" for each in self.checkpoints()]
        return kind, f"{base.name} {words}", wrong

    def read(self, verb: str, expected: Outcome, kind: str, words: str) -> Iterator[str]:
        before = tree_of(self.scratch)
        try:
            told = run_verb(verb, self.storage)
        except Exception as error:
            yield f"raises {where(error)}"
            return
        yield from complaints(told)
        stop = verb.startswith("stop")
        yield from changes(before, tree_of(self.scratch), lambda path: stop and "control/" in path)
        # a damaged table is named; of other values in it nobody can say which answer is right
        damaged = kind in ("bytes_of", "place_of", "name_of") and re.search(TABLE_FILE, words)
        if damaged and told.code == 0 and not told.err and plain(told.out) != plain(expected.out):
            yield "another answer, and no word of it"

    def rows(self) -> set[tuple[object, ...]]:
        """What a reader finds: the keys of all rows."""
        folder, found = SweepFolder(self.storage, NAME), set[tuple[object, ...]]()
        for table, keys in KEYS.items():
            with suppress(OSError):
                for part in read_parts(folder, table, keys).values():
                    found.update(zip(*(part[key].to_pylist() for key in keys), strict=True))
        return found

    def stale(self) -> Iterator[str]:
        """The weights of completed trials that another is better than: `keep_top` is 1."""
        found = read_trials(SweepFolder(self.storage, NAME))
        done = [t for t in found if t.outcome.value == "completed" and t.row["final_objective"]]
        done.sort(key=lambda t: (t.row["control"] is None, -t.row["final_objective"], t.trial_id))
        for better, trial in pairwise(done):
            if (better.row["control"] is None) == (trial.row["control"] is None):
                place = f"sweeps/{NAME}/checkpoints/{trial.trial_id}"
                yield from (place, f"{place}/weights.pt")

    def open(self, kind: str) -> Iterator[str]:
        before, rows = tree_of(self.scratch), self.rows()
        refused = False
        with warnings.catch_warnings(record=True):
            try:
                resume_until_ray(SweepFolder(self.storage, NAME))
            except (ValueError, ConnectionError, OSError) as error:
                refused = True
                if "\n" in str(error) or not str(error) or len(str(error)) > MOST_TEXT:
                    yield f"no line: {str(error)[:300]!r}"
                if bare(error):
                    yield f"a bare {where(error)}"
            except Exception as error:
                refused = True
                yield f"raises {where(error)}"

        def ours(path: str) -> bool:
            """What a driver may write: its own record; and of what is known, what is stale."""
            own = "/control" in path or path.endswith((".driver.lock", ".aside"))
            known = path.endswith(("state.pt", "spec.yaml")) or path in stale
            return own or (not refused and known)

        stale = set() if refused else set(self.stale())
        lost = changes(before, tree_of(self.scratch), ours)
        if not refused and rows <= self.rows():  # parts of rows that were there twice are merged
            lost = [each for each in lost if not re.search(TABLE_FILE, each)]
        # by a table that says other things of trials, other rows and weights are stale
        told = kind == "table_of" and not refused
        yield from (w for w in lost if not (told and ("checkpoints/" in w or "changed" in w)))

    def checkpoints(self) -> Iterator[str]:
        """A worker goes on from another epoch, or begins anew; weights load or are refused."""
        for path in sorted(self.folder.glob("checkpoints/*/weights.pt")):
            try:
                load_model(path, model=mlp)
            except ValueError as error:
                if "\n" in str(error):
                    yield f"no line: {str(error)[:300]!r}"
            except Exception as error:
                yield f"load_model raises {where(error)}"
        state = self.folder / "checkpoints" / UNFINISHED / "state.pt"
        if os.path.lexists(state):
            try:
                with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                    TrialRunner({"assignment": self.assignment}).begin()
            except Exception as error:
                yield f"the worker raises {where(error)}"
        if Path("/tmp/owned").exists():
            Path("/tmp/owned").unlink()
            yield "code of a file was run"


def plain(text: str) -> str:
    return RELATIVE.sub("", text)


def bare(error: Exception) -> bool:
    """A message that Python made, which names no file and no value: `'x'`, `1`."""
    return isinstance(error, ValueError) and error.__traceback__ is not None and not _ours(error)


def _ours(error: BaseException) -> bool:
    """Whether it was raised in our code."""
    *_, last = traceback.extract_tb(error.__traceback__)
    return any(
        f"/{name}/" in last.filename
        for name in ("results", "rts_search", "trainables", "search_spaces")
    )


def where(error: BaseException) -> str:
    """An exception and the frames of ours that it went through last."""
    frames = [
        f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
        if "/site-packages/" not in frame.filename and "/tests/" not in frame.filename
    ]
    return f"{type(error).__name__}: {str(error)[:200]!r} at {' > '.join(frames[-3:])}"


def main(bases: str, scratch: str, first: str, end: str) -> None:
    lock.LOST_SECONDS = 1.0  # for which a driver elsewhere is waited for
    warnings.simplefilter("always")  # each mutant is another command's
    judge = Judge(Path(bases), Path(scratch))
    for seed in range(int(first), int(end)):
        faulthandler.dump_traceback_later(LIMIT_SECONDS, exit=True)
        kind, words, wrong = judge.judge(seed)
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps({"seed": seed, "kind": kind, "words": words, "wrong": wrong}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
