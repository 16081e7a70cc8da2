"""A trial trained again: equal to the bit, or where it parts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from results.ledger import Ledger
from results.meanings import Outcome
from results.query import find_trial
from results.storage import SweepFolder
from rts_search.spec.folder import write_spec
from rts_search.spec.model import SweepSpec
from rts_search.train import as_trained
from rts_search.trials.rows import epoch_row, trial_row
from rts_search.trials.trial import LiveTrial
from tests.rts_search.cli.calling import cli
from tests.trainables.test_tune import config, results, runner
from trainables.config import TrialConfig


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def write(
    folder: SweepFolder, trained: TrialConfig, told: TrialConfig | None = None, **columns: Any
) -> LiveTrial:
    """A trial as its worker trains it, climbing three rungs, in a ledger that may tell another, or
    other `columns` of its epochs."""
    trial = LiveTrial("t0000", told or trained, number=0, threads=1, precision="fp32", device="cpu")
    for result in results(runner(Path(str(folder.local_path)) / "work", trained)):
        trial.history.append(result["epochs"][-1])
    trial.outcome = Outcome.COMPLETED
    with Ledger(folder) as ledger:
        ledger.put_trial(trial_row(trial))
        for metrics in trial.history:
            ledger.add_epoch(epoch_row("t0000", metrics) | columns)
    return trial


def test_every_epoch_of_every_rung_is_equal(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path, "s")
    rule = {"trigger": {"name": "epoch", "epoch": 3}, "radius": {"alpha_start": 2, "alpha_end": 1}}
    write(folder, config(**rule))
    before = sorted(folder.list("epochs") + folder.list("trials"))
    done = cli("reproduce", "s/t0000", "--storage", tmp_path)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert len(lines) == 8
    assert lines[1].startswith("epoch 1 of 2 at rung 1: equal")
    assert lines[7] == (
        "s/t0000: 7 epochs and the test set equal to the bit "
        "(device cpu, threads 1, precision fp32)"
    )
    assert sorted(folder.list("epochs") + folder.list("trials")) == before  # nothing is recorded


@pytest.mark.parametrize("shared", [True, None])
def test_who_trained_an_epoch_is_not_compared(tmp_path: Path, shared: bool | None) -> None:
    """True: taken from the sweep's trunk; None: written by a version without trunks."""
    write(SweepFolder(tmp_path, "s"), config(), shared=shared)
    done = cli("reproduce", "s/t0000", "--storage", tmp_path)
    assert (done.code, done.err) == (0, "")
    assert "7 epochs and the test set equal to the bit" in done.out


def test_the_first_column_that_parts_is_named_with_what_has_changed(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path, "s")
    write_spec(folder, SweepSpec(name="s", storage=str(tmp_path)), {"data digits": "others"})
    other = config(radius={"alpha_start": 0.5, "alpha_end": 0.5})
    write(folder, config(), told=other)
    done = cli("reproduce", "s/t0000", "--storage", tmp_path)
    assert done.out == ""
    line = str(done.code)  # SystemExit: printed to standard error, and exit code 1
    assert line.startswith("rts-search: s/t0000 parts at epoch 1 of 1: train_loss ")
    assert "in the ledger, " in line
    assert line.endswith("now; changed since: data digits")


def test_a_stopped_trial_is_trained_as_far_as_it_got(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path, "s")
    trial = LiveTrial("t0000", config(), number=0)  # by an earlier version: threads unknown
    for result in results(runner(tmp_path / "work", config(), climb=[[0, 4]])):
        trial.history.append(result["epochs"][-1])
    del trial.history[2:]
    trial.outcome = Outcome.STOPPED
    with Ledger(folder) as ledger:
        ledger.put_trial(trial_row(trial))
        for metrics in trial.history:
            ledger.add_epoch(epoch_row("t0000", metrics))
    done = cli("reproduce", "s/t0000", "--storage", tmp_path)
    assert done.out.splitlines()[-1].startswith("s/t0000: 2 epochs equal to the bit (")


def test_a_trial_that_never_began_is_one_line(tmp_path: Path) -> None:
    with Ledger(SweepFolder(tmp_path, "s")) as ledger:
        ledger.put_trial(trial_row(LiveTrial("t0000", config())))
    done = cli("reproduce", "s/t0000", "--storage", tmp_path)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("rts-search: s/t0000 has no epochs in the ledger")


def test_train_uses_the_threads_of_the_trial(tmp_path: Path) -> None:
    write(SweepFolder(tmp_path, "s"), config())
    train = ("train", "--trial", "s/t0000", "--storage", tmp_path)
    assert cli(*train).code == 0
    assert cli(*train, "--threads", "2").code == 0
    same, other = (find_trial(tmp_path, name, "train") for name in ("run0000", "run0001"))
    first = find_trial(tmp_path, "t0000", "s")
    assert (same["threads"], other["threads"]) == (1, 2)
    assert (same["precision"], same["device"]) == ("fp32", "cpu")
    for name in ("test_loss", "best_test_loss", "final_val_accuracy"):
        assert same[name] == first[name]


def test_auto_is_what_it_was_for_the_trial() -> None:
    row = {"trial_id": "t0000", "device": "cpu", "precision": "bf16", "threads": 1}
    assert as_trained(config(), row).train.precision == "bf16"
    row |= {"precision": "fp32"}
    auto = as_trained(config(), row).train
    assert auto.precision in ("auto", "fp32")
    assert auto.device == ("cpu" if torch.cuda.is_available() else "auto")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_trial_of_a_gpu_is_not_taken_for_one_of_the_cpu() -> None:
    row = {"trial_id": "t0000", "device": "cuda:0", "precision": "bf16", "threads": 1}
    with pytest.raises(ValueError, match=r"t0000 was trained on cuda, .* --set train.device=cpu"):
        as_trained(config(), row)
    asked = config().model_copy(
        update={"train": config().train.model_copy(update={"device": "cpu"})}
    )
    assert as_trained(asked, row).train.precision == "auto"
