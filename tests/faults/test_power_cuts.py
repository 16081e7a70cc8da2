"""The folder of a running sweep after every write, and in the midst of each: a power cut's.

All of them go on, and end as the sweep that was not cut off: no epoch is lost or doubled.
"""

from __future__ import annotations

import copy
import os
import random
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from results.meanings import Outcome
from results.storage import SweepFolder
from results.trials import StoredTrial, read_trials
from rts_search.spec.model import SweepSpec
from rts_search.spec.reading import load_spec
from rts_search.trials.trial import trials_in
from tests.faults.cuts import NAME, SPEC, Files, Recorded, contents, cuts, lay_out
from tests.faults.opening import resume_until_ray
from tests.rts_search.cli.calling import cli
from tests.sweeps.harness import ROOT, check_equal

pytestmark = pytest.mark.slow
KEYS = {"trials": ["trial_id"], "epochs": ["trial_id", "rung", "epoch"]}
FEW = 2  # real resumes in `make test`


def test_the_record_is_complete(recorded: Recorded) -> None:
    """Else a cut would not be one: all its steps together make the folder as it is."""
    sweep, log = recorded
    *_, (_, last) = cuts(log)
    assert last == contents(sweep.folder)


@pytest.mark.parametrize("share", [40, pytest.param(1, marks=pytest.mark.very_slow)])
def test_every_cut_is_opened_with_nothing_lost(
    tmp_path: Path, recorded: Recorded, share: int
) -> None:
    """By its driver until Ray would start, and by those who read; each, or every fortieth."""
    sweep, log = recorded
    begun = load_spec((sweep.home / "spec.yaml").read_text())
    for number, (moment, files) in enumerate(cuts(log)):
        if number % share == 0:
            check_opening(lay_out(files, tmp_path / str(number)), files, begun, moment)


def check_opening(path: Path, files: Files, begun: SweepSpec, moment: str) -> None:
    folder = SweepFolder(path.parent, NAME)
    before = read_trials(folder)
    for table, keys in KEYS.items():
        if any(file.startswith(f"{table}/part-") for file in files):
            rows = pd.read_parquet(path / table)  # as any user's pandas reads it
            assert not rows.duplicated(keys).any(), (moment, table)
    if "spec.yaml" in files:
        for verb in (["list"], ["best", NAME, "--all"], ["status", NAME]):
            told = cli(*verb, "--storage", path.parent)
            assert (told.code, told.err) == (0, ""), (moment, told)
    assert contents(path) == {p: c for p, c in files.items() if c is not None}, moment
    spec = None if "spec.yaml" in files else begun.model_copy(update={"storage": folder.storage})
    left = resume_until_ray(folder, spec)
    assert left == (len(before) < trials_in(begun) or any(not t.outcome.finished for t in before))
    assert read_trials(folder) == before, moment
    gone = {file for file in files if not (path / file).exists()}
    assert not [file for file in gone if file in needed(before, files)], moment


def needed(trials: list[StoredTrial], files: Files) -> set[str]:
    """The checkpoints of trials that go on, and the weights of the best one and of the control."""
    unfinished = {t.trial_id for t in trials if not t.outcome.finished}
    completed = [t for t in trials if t.outcome is Outcome.COMPLETED]
    completed.sort(key=lambda t: (-t.row["final_objective"], t.trial_id))
    best = {t.trial_id for t in completed if t.number is None}
    best |= {t.trial_id for t in [t for t in completed if t.number is not None][:1]}
    kept = {f"checkpoints/{trial_id}/weights.pt" for trial_id in best}
    return {f for f in files if f in kept or Path(f).parent.name in unfinished}


@pytest.mark.parametrize("few", [True, pytest.param(False, marks=pytest.mark.very_slow)])
def test_a_sweep_that_was_cut_off_ends_as_one_that_was_not(
    tmp_path: Path, recorded: Recorded, few: bool
) -> None:
    """Really resumed: each cut in the midst of a step, or a few of them."""
    whole, log = recorded
    moments = {str(n): cut for n, cut in enumerate(cuts(log)) if cut[0].startswith("in")}
    if few:
        seed = int(os.environ.get("RTS_CUT_SEED", random.randrange(10**6)))
        print(f"seed {seed}")
        chosen = sorted(random.Random(seed).sample(sorted(moments), FEW))
        moments = {name: moments[name] for name in chosen}
    for name, (_, files) in moments.items():
        lay_out(files, tmp_path / name)
    (tmp_path / "spec.yaml").write_text((whole.home / "spec.yaml").read_text())
    resume_all([tmp_path / name for name in moments])
    for name, (moment, _) in moments.items():
        print(moment)
        sweep = copy.copy(whole)
        sweep.folder = tmp_path / name / NAME
        check_equal(sweep, whole, SPEC["search"]["trials"], controls=1)


def resume_all(storages: list[Path]) -> None:
    """In one of Ray's sessions, or where they are many in two at once."""
    command = [sys.executable, "-m", "tests.faults.cuts"]
    processes = 2 if len(storages) > FEW else 1
    shares = [storages[n::processes] for n in range(processes)]
    running = [
        subprocess.Popen(
            [*command, *map(str, share)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for share in shares
    ]
    for process in running:
        output, _ = process.communicate(timeout=2400)
        assert process.returncode == 0, output
