"""What an earlier driver knew is known again, wherever it died."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest

from results.ledger import Ledger
from results.storage import SweepFolder
from rts_search.run import take_up
from rts_search.search.plan import open_study, plan
from rts_search.spec.model import SweepSpec
from rts_search.spec.reading import parse
from rts_search.stopping.stopper import make_stopper
from rts_search.trials.recorder import Recorder
from rts_search.trials.rows import epoch_row, trial_row
from rts_search.trials.trial import LiveTrial

RUNGS = [2, 6]


@pytest.fixture
def spec(tmp_path: Path) -> SweepSpec:
    content = {
        "name": "s",
        "storage": str(tmp_path),
        "train": {"epochs": RUNGS[-1]},
        "search": {"trials": 4, "controls": False},
        "stop": {"fidelity": "schedule", "first_rung": 2, "audit": 0},
    }
    return parse(SweepSpec, content)


def recorder_of(spec: SweepSpec) -> Recorder:
    folder = SweepFolder(spec.storage, spec.name)
    Path(str(folder.local_path)).mkdir(exist_ok=True)
    return Recorder(spec, folder, Ledger(folder), open_study(spec, folder), make_stopper(spec))


def metrics(rung: int, epoch: int, accuracy: float) -> dict[str, Any]:
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
    known = {"epoch": epoch, "total_epochs": RUNGS[rung], "rung": rung, "val_accuracy": accuracy}
    rest = {"perturbing": False, "gradient_evaluations": epoch, "peak_memory_bytes": None}
    return {**numbers, **nothing, **known, **rest, "test": None}


def climb(level: float) -> list[dict[str, Any]]:
    """All epochs of a trial: each rung is better, and each epoch."""
    return [
        metrics(rung, epoch, level + rung / 10 + epoch / 100)
        for rung, epochs in enumerate(RUNGS)
        for epoch in range(1, epochs + 1)
    ]


def result(
    rows: list[dict[str, Any]], held: int = 0, done: bool = False, outcome: str = "running"
) -> dict[str, Any]:
    """The newest of `rows` is reported, with the last `held` before it."""
    earlier = rows[-1 - held : -1] if held else []
    return {
        "metrics": rows[-1],
        "earlier": earlier,
        "device": "cpu",
        "host": "node1",
        "done": done,
        "outcome": outcome,
    }


def next_trial(spec: SweepSpec, recorder: Recorder) -> LiveTrial:
    trial = next(plan(spec, recorder.study, set()))
    assert trial is not None
    recorder.start(trial)
    return trial


def run(recorder: Recorder, trial: LiveTrial, rows: list[dict[str, Any]], outcome: str) -> None:
    for count in range(1, len(rows) + 1):
        recorder.result(trial, result(rows[:count], done=count == len(rows)))
    recorder.end(trial, outcome)


@pytest.mark.parametrize(
    ("outcome", "epochs", "state", "value"),
    [("completed", 8, "complete", 0.46), ("stopped", 2, "pruned", 0.32)],
)
def test_an_end_is_told_at_once_and_again_if_only_the_ledger_knows(
    spec: SweepSpec, outcome: str, epochs: int, state: str, value: float
) -> None:
    rows = climb(0.3)[:epochs]
    whole = recorder_of(spec)
    run(whole, next_trial(spec, whole), rows, outcome)
    first_known = whole.study.trials()

    other = spec.model_copy(update={"name": "other"})
    first = recorder_of(other)
    trial = next_trial(other, first)
    for row in rows:  # the driver dies between the ledger and the journal
        trial.history.append(row)
        first.ledger.add_epoch(epoch_row(trial.trial_id, row))
    started = first.started[trial.trial_id]
    first.ledger.put_trial(trial_row(trial, outcome, None, started=started, device="cpu"))
    first.ledger.flush()
    second = recorder_of(other)
    assert [row["trial_id"] for row in take_up(second)] == [trial.trial_id]
    for (known,) in (first_known, second.study.trials()):
        assert known.state == state
        assert known.intermediates == pytest.approx(
            {2: 0.32, 6: 0.46} if epochs == 8 else {2: 0.32}
        )
        assert known.value == pytest.approx(value)
    assert second.stopper.seen == {0: RUNGS[rows[-1]["rung"]]}
    assert next(plan(other, second.study, {trial.trial_id})).number == 1


def test_a_verdict_is_never_lost_between_a_value_and_an_end(spec: SweepSpec) -> None:
    """A value that is told of a running trial means that it goes on."""
    recorder = recorder_of(spec)
    trial = next_trial(spec, recorder)
    rows = climb(0.3)
    recorder.result(trial, result(rows[:1]))
    recorder.result(trial, result(rows[:2], done=True))  # the stopper's verdict
    assert recorder.study.trials()[0].intermediates == {}  # the driver dies here
    again = recorder_of(spec)
    assert take_up(again) == []
    assert again.stopper.seen == {}
    trial = next_trial(spec, again)
    again.result(trial, result(rows[:2], held=1))  # from the checkpoint: judged now
    assert again.study.trials()[0].intermediates == pytest.approx({2: 0.32})


def test_epochs_that_a_checkpoint_held_are_recorded_once(spec: SweepSpec) -> None:
    rows = climb(0.1)
    first = recorder_of(spec)
    trial = next_trial(spec, first)
    first.result(trial, result(rows[:1]))
    first.result(trial, result(rows[:2]))
    first.ledger.flush()

    second = recorder_of(spec)
    assert take_up(second) == []
    again = next_trial(spec, second)
    assert (again.trial_id, again.params) == (trial.trial_id, trial.params)
    second.result(again, result(rows[:4], held=3))  # two known, one that died unreported
    second.end(again, "stopped")
    row = second.ledger.trials()[0]
    assert (row["epochs"], row["rung"], row["rungs"]) == (4, 1, 2)
    assert (row["stopped_epoch"], row["stopped_rung"], row["gradient_evaluations"]) == (2, 1, 4)
    assert row["started"] == first.started[trial.trial_id]
    assert second.ledger.add_epoch(epoch_row(trial.trial_id, rows[3])) is False
    assert sorted(second.study.trials()[0].intermediates) == [2]


def test_while_the_storage_fails_rows_and_ends_wait(spec: SweepSpec) -> None:
    recorder = recorder_of(spec)
    trial = next_trial(spec, recorder)
    recorder.tick()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))  # no file may be longer than that
    try:
        run(recorder, trial, climb(0.3), "completed")
        assert "too large" in recorder.failure
        assert recorder.given_up() is None  # not yet
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    recorder.tried = 0.0
    recorder.tick()
    assert recorder.failing_since is None
    assert recorder.study.trials()[0].state == "complete"
    again = recorder_of(spec)
    assert [row["outcome"] for row in take_up(again)] == ["completed"]
    assert len(again.ledger.trials()) == 1


def test_the_best_weights_are_kept_and_all_other_checkpoints_go(spec: SweepSpec) -> None:
    spec = spec.model_copy(
        update={"checkpoint": spec.checkpoint.model_copy(update={"keep_top": 2})}
    )
    recorder = recorder_of(spec)
    for accuracy in (0.5, 0.9, 0.1, 0.7):
        trial = next_trial(spec, recorder)
        for name in ("state.pt", "weights.pt"):
            recorder.folder.write(f"checkpoints/{trial.trial_id}/{name}", b"")
        run(recorder, trial, climb(accuracy), "completed")
    assert recorder.folder.list("checkpoints") == ["t0001", "t0003"]
    assert recorder.folder.list("checkpoints/t0001") == ["weights.pt"]
    again = recorder_of(spec)
    take_up(again)
    assert again.kept == recorder.kept
    assert again.folder.list("checkpoints") == ["t0001", "t0003"]


def test_what_a_worker_left_that_was_cut_off_goes(spec: SweepSpec) -> None:
    recorder = recorder_of(spec)
    trial = next_trial(spec, recorder)
    run(recorder, trial, climb(0.3), "completed")
    recorder.folder.write(f"checkpoints/{trial.trial_id}/weights.pt", b"the best")
    recorder.folder.write(f"checkpoints/{trial.trial_id}/state.pt", b"too late")
    recorder.folder.write("checkpoints/t0099/state.pt", b"too late")
    recorder.tidy()
    assert recorder.folder.list("checkpoints") == [trial.trial_id]
    assert recorder.folder.list(f"checkpoints/{trial.trial_id}") == ["weights.pt"]
