"""What an earlier driver knew is known again, wherever it died."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from results.ledger import Ledger
from results.storage import SweepFolder
from rts_search.recorder import Recorder
from rts_search.rows import epoch_row, trial_row
from rts_search.spec import SweepSpec, parse
from rts_search.stoppers import make_stopper
from rts_search.sweep import open_study, take_up
from rts_search.trials import LiveTrial, plan

EPOCHS = 6


@pytest.fixture
def spec(tmp_path: Path) -> SweepSpec:
    content = {
        "name": "s",
        "storage": str(tmp_path),
        "train": {"epochs": EPOCHS},
        "search": {"trials": 4, "controls": False},
        "stop": {"first_rung": 2},
    }
    return parse(SweepSpec, content)


def recorder_of(spec: SweepSpec) -> Recorder:
    folder = SweepFolder(spec.storage, spec.name)
    Path(str(folder.local_path)).mkdir(exist_ok=True)
    return Recorder(spec, folder, Ledger(folder), open_study(spec, folder), make_stopper(spec))


def metrics(epoch: int, accuracy: float) -> dict[str, Any]:
    numbers = dict.fromkeys(
        (
            *("lr", "train_loss", "train_accuracy", "val_loss", "generalization_gap"),
            *("radius", "scale", "train_seconds", "eval_seconds", "epoch_seconds"),
            "images_per_second",
        ),
        1.0,
    )
    nothing = dict.fromkeys(
        ("perturbed_loss", "loss_rise", "trigger_statistic", "trigger_threshold", "trigger_epoch")
    )
    known = {"epoch": epoch, "total_epochs": EPOCHS, "rung": 0, "val_accuracy": accuracy}
    rest = {"perturbing": False, "gradient_evaluations": epoch, "peak_memory_bytes": None}
    return {**numbers, **nothing, **known, **rest, "test": None}


def result(epoch: int, accuracy: float, earlier: int = 0) -> dict[str, Any]:
    return {
        "metrics": metrics(epoch, accuracy),
        "earlier": [metrics(e, accuracy) for e in range(1, earlier + 1)],
        "device": "cpu",
    }


def next_trial(spec: SweepSpec, recorder: Recorder) -> LiveTrial:
    trial = next(plan(spec, recorder.study, set()))
    recorder.start(trial)
    return trial


@pytest.mark.parametrize(("outcome", "state"), [("completed", "complete"), ("stopped", "pruned")])
def test_an_end_that_only_the_ledger_knows_is_told(
    spec: SweepSpec, outcome: str, state: str
) -> None:
    first = recorder_of(spec)
    trial = next_trial(spec, first)
    for epoch in range(1, EPOCHS + 1):  # the driver dies between the ledger and the journal
        trial.history.append(metrics(epoch, epoch / 10))
        first.ledger.add_epoch(epoch_row(trial.trial_id, trial.history[-1]))
    started = first.started[trial.trial_id]
    first.ledger.put_trial(trial_row(trial, outcome, None, started=started, device="cpu"))
    first.ledger.flush()

    second = recorder_of(spec)
    assert [row["trial_id"] for row in take_up(second)] == [trial.trial_id]
    (known,) = second.study.trials()
    assert known.state == state
    assert known.intermediates == {e: e / 10 for e in range(1, EPOCHS + 1)}
    assert known.value == pytest.approx(0.6)
    assert second.stopper.seen == {trial.trial_id: EPOCHS}
    assert next(plan(spec, second.study, {trial.trial_id})).number == 1


def test_epochs_that_a_checkpoint_held_are_recorded_once(spec: SweepSpec) -> None:
    first = recorder_of(spec)
    trial = next_trial(spec, first)
    first.result(trial, result(1, 0.1))
    first.result(trial, result(2, 0.1))
    first.ledger.flush()

    second = recorder_of(spec)
    assert take_up(second) == []
    again = next_trial(spec, second)
    assert (again.trial_id, again.params) == (trial.trial_id, trial.params)
    second.result(again, result(4, 0.1, earlier=3))  # two known, one that died unreported
    second.end(again, "stopped")
    row = second.ledger.trials()[0]
    assert (row["epochs"], row["stopped_epoch"], row["stopped_rung"]) == (4, 4, 0)
    assert row["started"] == first.started[trial.trial_id]
    assert second.ledger.add_epoch(epoch_row(trial.trial_id, metrics(4, 0.1))) is False
    assert sorted(second.study.trials()[0].intermediates) == [1, 2, 3, 4]


def test_the_best_weights_are_kept_and_all_other_checkpoints_go(spec: SweepSpec) -> None:
    spec = spec.model_copy(
        update={"checkpoint": spec.checkpoint.model_copy(update={"keep_top": 2})}
    )
    recorder = recorder_of(spec)
    for accuracy in (0.5, 0.9, 0.1, 0.7):
        trial = next_trial(spec, recorder)
        for name in ("state.pt", "weights.pt"):
            recorder.folder.write(f"checkpoints/{trial.trial_id}/{name}", b"")
        recorder.result(trial, result(EPOCHS, accuracy))
        recorder.end(trial, "completed")
    assert recorder.folder.list("checkpoints") == ["t0001", "t0003"]
    assert recorder.folder.list("checkpoints/t0001") == ["weights.pt"]
    again = recorder_of(spec)
    take_up(again)
    assert again.kept == recorder.kept
    assert again.folder.list("checkpoints") == ["t0001", "t0003"]
