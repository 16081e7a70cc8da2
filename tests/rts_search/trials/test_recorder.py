"""What an earlier driver knew is known again, wherever it died."""

from __future__ import annotations

import resource
import time
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from results.storage import SweepFolder
from results.trials import read_trials
from rts_search.answers.standing import print_standing, without_weights
from rts_search.spec.folder import write_spec
from rts_search.spec.model import SweepSpec
from rts_search.spec.reading import parse
from rts_search.stopping.stopper import Look
from rts_search.sweep import Sweep
from rts_search.trials.rows import epoch_row
from rts_search.trials.tune import PlanSearcher
from tests.rts_search.trials.drivers import RUNGS, Driver, climb, result
from trainables.checkpoint import STATE, WEIGHTS, CheckpointFolder
from trainables.config import TrialConfig
from trainables.loop import train
from trainables.state import TrainingState


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


def known(driver: Driver) -> list[tuple[str, Any, Any]]:
    """The search's trials: state, value, steps."""
    return [(t.state.name, t.value, t.intermediate_values) for t in driver.study.trials()]


@pytest.mark.parametrize(
    ("outcome", "epochs", "state", "value"),
    [("completed", 8, "COMPLETE", 0.46), ("running", 2, "PRUNED", 0.32)],
)
def test_an_end_is_told_at_once_and_again_by_the_ledger(
    spec: SweepSpec, outcome: str, epochs: int, state: str, value: float
) -> None:
    rows = climb(0.3)[:epochs]
    first = Driver(spec)
    first.run(first.begin(), rows, outcome)
    second = Driver(spec)
    assert [row["trial_id"] for row in second.ended] == ["t0000"]
    for driver in (first, second):
        ((found, final, steps),) = known(driver)
        assert found == state
        assert steps == pytest.approx({2: 0.32, 6: 0.46} if epochs == 8 else {2: 0.32})
        assert final == pytest.approx(value)
    assert second.stopper.seen == {0: RUNGS[rows[-1]["rung"]]}
    assert second.begin().number == 1


def test_a_verdict_is_never_lost_between_a_value_and_an_end(spec: SweepSpec) -> None:
    """What an unfinished trial reported is known, up to its last epoch."""
    rows = climb(0.3)
    for reported, refilled in ((1, {}), (2, {0: 2}), (3, {0: 2})):
        sweep = spec.model_copy(update={"name": f"s{reported}"})
        first = Driver(sweep)
        trial = first.begin()
        for count in range(1, reported + 1):
            first.result(trial, result(rows[:count]))
        first.recorder.ledger.flush()  # the driver dies here, before a verdict is told
        again = Driver(sweep)
        assert again.ended == []
        assert again.stopper.seen == refilled
        assert known(again) == [("RUNNING", None, {})]


def test_a_trial_is_on_disk_before_it_begins(spec: SweepSpec) -> None:
    driver = Driver(spec)
    trial = driver.begin()
    (stored,) = read_trials(driver.recorder.folder)
    assert (stored.trial_id, stored.outcome, stored.params) == ("t0000", "running", trial.params)


def test_epochs_that_a_checkpoint_held_are_recorded_once(spec: SweepSpec) -> None:
    rows = climb(0.1)
    first = Driver(spec)
    trial = first.begin()
    first.result(trial, result(rows[:1]))
    first.result(trial, result(rows[:2]))
    first.recorder.ledger.flush()

    second = Driver(spec)
    assert second.ended == []
    again = second.begin()
    assert (again.trial_id, again.params) == (trial.trial_id, trial.params)
    # two known, one that died unreported, and the stopper's verdict
    second.result(again, result(rows[:4], held=3, done=True))
    (row,) = second.recorder.ledger.trials()
    assert (row["outcome"], row["epochs"], row["rung"], row["rungs"]) == ("stopped", 4, 1, 2)
    assert (row["stopped_epoch"], row["stopped_rung"], row["gradient_evaluations"]) == (2, 1, 4)
    assert row["started"] == trial.started
    assert second.recorder.ledger.add_epoch(epoch_row(trial.trial_id, rows[3])) is False
    ((_, _, steps),) = known(second)
    assert sorted(steps) == [2]


@pytest.mark.parametrize("fidelity", ["schedule", "epoch"])
def test_what_an_audited_trial_lost_is_known_if_only_its_checkpoint_is_left(
    spec: SweepSpec, fidelity: str
) -> None:
    """Its worker reports all of it at once, with its end."""
    content = spec.model_dump()
    spec = parse(
        SweepSpec, content | {"stop": content["stop"] | {"fidelity": fidelity, "audit": 1}}
    )
    driver = Driver(spec)
    rows = [row for row in climb(0) if fidelity == "schedule" or row["rung"] == 1]
    for level in (0.9, 0.1):
        run = [row | {"val_accuracy": level, "rung": row["rung"]} for row in rows]
        trial = driver.begin()
        if level == 0.1:
            driver = Driver(spec)
            trial = driver.begin()
        driver.result(trial, result(run, held=len(run), done=True, outcome="completed"))
        driver.recorder.settle()
    assert [row["lost_rung"] for row in driver.recorder.ledger.trials()] == [None, 0]


def test_while_the_storage_fails_rows_and_ends_wait(spec: SweepSpec) -> None:
    driver = Driver(spec)
    recorder, trial = driver.recorder, driver.begin()
    recorder.tick()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))  # no file may be longer than that
    try:
        driver.run(trial, climb(0.3), "completed", settle=False)
        with pytest.raises(OSError, match="too large"):
            driver.begin()
        assert "too large" in recorder.failure
        assert recorder.given_up() is None  # not yet
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    recorder.tried = 0.0
    recorder.tick()
    assert recorder.failing_since is None
    assert known(driver)[0][0] == "COMPLETE"
    again = Driver(spec)
    assert [row["outcome"] for row in again.ended] == ["completed"]


def test_a_storage_that_fails_for_good_ends_the_sweep_while_no_trial_runs(
    spec: SweepSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune then waits for a trial, and asks nobody but the searcher whether there is one."""
    driver = Driver(spec)
    recorder, told = driver.recorder, list[str]()

    def ends() -> bool:
        return bool(told or recorder.given_up())

    searcher = PlanSearcher(driver.plan, lambda trial: pytest.fail("it began"), driver.seam, ends)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        assert searcher.suggest("a") is None  # Tune asks again
        told.append("interrupted by SIGINT")
        assert searcher.suggest("a") == "FINISHED"
        began = time.monotonic()
        assert not recorder.settle(patience=1)
        assert time.monotonic() - began < 5
        told.clear()
        assert searcher.suggest("a") is None
        monkeypatch.setattr("rts_search.trials.recorder.GIVE_UP_SECONDS", 0.1)
        assert searcher.suggest("a") == "FINISHED"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "too large" in recorder.cannot_write


def test_the_best_weights_are_kept_and_all_other_checkpoints_go(spec: SweepSpec) -> None:
    spec = spec.model_copy(
        update={"checkpoint": spec.checkpoint.model_copy(update={"keep_top": 2})}
    )
    driver = Driver(spec)
    folder = driver.recorder.folder
    for accuracy in (0.5, 0.9, 0.1, 0.7):
        trial = driver.begin()
        for name in ("state.pt", "weights.pt"):
            folder.write(f"checkpoints/{trial.trial_id}/{name}", b"")
        driver.run(trial, climb(accuracy), "completed")
    assert folder.list("checkpoints") == ["t0001", "t0003"]
    assert folder.list("checkpoints/t0001") == ["weights.pt"]
    again = Driver(spec)
    assert again.recorder.kept == driver.recorder.kept
    assert folder.list("checkpoints") == ["t0001", "t0003"]


def last_checkpoint(folder: SweepFolder, trial_id: str, epochs: int = 2) -> TrainingState:
    """What a worker saved that then found no room for weights, after so many of two epochs."""
    content = {
        "data": {"name": "digits", "train_size": 200},
        "model": {"name": "mlp", "args": {"width": 256}},
        "train": {"epochs": 2, "batch_size": 50},
    }
    state = TrainingState(config := parse(TrialConfig, content))
    list(islice(train(config, state), epochs))
    to = CheckpointFolder(folder.uri_of(f"checkpoints/{trial_id}"))
    to.save(STATE, {"run": state.state_dict()})
    return state


def test_weights_that_found_no_room_are_made_from_the_last_checkpoint(spec: SweepSpec) -> None:
    driver = Driver(spec)
    write_spec(driver.recorder.folder, spec)
    folder, trial = driver.recorder.folder, driver.begin()
    state = last_checkpoint(folder, trial.trial_id)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    driver.run(trial, climb(0.3), "completed", settle=False)
    resource.setrlimit(resource.RLIMIT_FSIZE, (80_000, hard))  # rows have room, weights have not
    try:
        assert driver.recorder.settle()
        assert folder.list(f"checkpoints/{trial.trial_id}") == ["state.pt"]
        assert without_weights(Sweep(folder)) == [trial.trial_id]
        driver.recorder.tidy()  # still no room
        assert folder.list(f"checkpoints/{trial.trial_id}") == ["state.pt"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    again = Driver(spec)  # a resume
    assert folder.list(f"checkpoints/{trial.trial_id}") == ["weights.pt"]
    assert again.recorder.kept[False][0][1] == trial.trial_id
    assert without_weights(Sweep(folder)) == []
    kept = CheckpointFolder(folder.uri_of(f"checkpoints/{trial.trial_id}")).load(WEIGHTS)
    assert kept is not None
    assert torch.equal(kept["final"]["1.weight"], state.model.state_dict()["1.weight"])


def test_a_trial_without_weights_holds_no_place_and_is_told(
    spec: SweepSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = spec.model_copy(
        update={"checkpoint": spec.checkpoint.model_copy(update={"keep_top": 1})}
    )
    driver = Driver(spec)
    write_spec(driver.recorder.folder, spec)
    folder = driver.recorder.folder
    for accuracy in (0.5, 0.7, 0.9):
        trial = driver.begin()
        if accuracy == 0.9:  # of an earlier epoch: there is nothing to make its weights from
            last_checkpoint(folder, trial.trial_id, epochs=1)
        else:
            folder.write(f"checkpoints/{trial.trial_id}/weights.pt", b"")
        driver.run(trial, climb(accuracy), "completed")
    assert folder.list("checkpoints") == ["t0001"]
    assert without_weights(Sweep(folder)) == ["t0002"]
    print_standing(Sweep(folder))
    said = " ".join(capsys.readouterr().out.split())
    assert (
        f"but without weights: t0002; to have them: rts-search train --trial {folder.uri}/t0002"
        in said
    )


def test_as_many_controls_keep_their_weights(spec: SweepSpec) -> None:
    spec = spec.model_copy(
        update={
            "checkpoint": spec.checkpoint.model_copy(update={"keep_top": 2}),
            "search": spec.search.model_copy(update={"controls": True}),
        }
    )
    driver = Driver(spec)
    folder = driver.recorder.folder
    accuracies = {"sgd": 0.6, "pugd": 0.2, "sgd-2x": 0.4}
    for _ in range(6):
        trial = driver.begin()
        folder.write(f"checkpoints/{trial.trial_id}/weights.pt", b"")
        driver.run(trial, climb(accuracies.get(trial.trial_id, 0.1)), "completed")
    assert folder.list("checkpoints") == ["sgd", "sgd-2x", "t0000", "t0001"]
    again = Driver(spec)
    again.recorder.tidy()
    assert folder.list("checkpoints") == ["sgd", "sgd-2x", "t0000", "t0001"]


def test_checkpoints_go_after_the_end_is_on_disk(
    spec: SweepSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(spec)
    recorder, trial = driver.recorder, driver.begin()
    recorder.folder.write(f"checkpoints/{trial.trial_id}/state.pt", b"")
    driver.run(trial, climb(0.3)[:2], "running", settle=False)
    for _ in range(2):
        recorder.tick()  # the end has not waited long enough
        assert recorder.folder.list("checkpoints") == [trial.trial_id]
        assert [t.outcome for t in read_trials(recorder.folder)] == ["running"]
    driver.begin()  # on disk at once, and nothing else
    assert recorder.folder.list("checkpoints") == [trial.trial_id]
    assert [t.outcome for t in read_trials(recorder.folder)] == ["running", "running"]
    monkeypatch.setattr("rts_search.trials.recorder.END_SECONDS", 0.01)
    time.sleep(0.02)
    recorder.tick()
    assert recorder.folder.list("checkpoints") == []
    assert [t.outcome for t in read_trials(recorder.folder)] == ["stopped", "running"]


def test_what_a_worker_left_that_was_cut_off_goes(spec: SweepSpec) -> None:
    driver = Driver(spec)
    recorder, trial = driver.recorder, driver.begin()
    recorder.folder.write(f"checkpoints/{trial.trial_id}/weights.pt", b"the best")
    driver.run(trial, climb(0.3), "completed")
    stopped = driver.begin()
    driver.run(stopped, climb(0.2)[:2], "running")
    recorder.folder.write(f"checkpoints/{trial.trial_id}/state.pt", b"too late")
    for name in ("at-3.pt", "at-4.pt.node-7-123.part", "mine.part"):
        recorder.folder.write(f"trunks/T9-ab-cpu-fp32/{name}", b"half")
    recorder.folder.write(f"checkpoints/{stopped.trial_id}/state.pt", b"too late")
    recorder.folder.write("checkpoints/mine/weights.pt", b"of somebody else")
    recorder.tidy()
    assert recorder.folder.list("checkpoints") == ["mine", trial.trial_id]
    assert recorder.folder.list(f"checkpoints/{trial.trial_id}") == ["weights.pt"]
    assert recorder.folder.list("trunks/T9-ab-cpu-fp32") == ["at-3.pt", "mine.part"]


@pytest.mark.parametrize("theirs", ["", "state.pt", "state.pt/mine", "plots"])
def test_folders_that_stand_where_checkpoints_would_are_left(spec: SweepSpec, theirs: str) -> None:
    driver = Driver(spec)
    recorder, trial = driver.recorder, driver.begin()
    place = Path(recorder.folder.path_of(f"checkpoints/{trial.trial_id}/{theirs}"))
    place.mkdir(parents=True)
    driver.run(trial, climb(0.3), "completed")
    recorder.tidy()
    assert place.is_dir()


def test_the_weights_that_stay_are_the_best_by_the_objective(spec: SweepSpec) -> None:
    """With its direction, and after a resume too: the accuracy here is misleading."""
    groups = {"search": {"objective": "val_loss"}, "checkpoint": {"keep_top": 1}}
    content = spec.model_dump()
    spec = parse(SweepSpec, {**content, **{k: content[k] | v for k, v in groups.items()}})
    driver = Driver(spec)
    folder = driver.recorder.folder
    for loss in (0.5, 0.2, 0.9):
        trial = driver.begin()
        folder.write(f"checkpoints/{trial.trial_id}/weights.pt", b"")
        driver.run(trial, [{**row, "val_loss": loss} for row in climb(loss)], "completed")
    assert folder.list("checkpoints") == ["t0001"]
    again = Driver(spec)
    assert again.recorder.kept == driver.recorder.kept == {False: [(-0.2, "t0001")], True: []}
    assert folder.list("checkpoints") == ["t0001"]
    rows = driver.recorder.ledger.trials()
    assert {row["objective"] for row in rows} == {"val_loss"}
    assert [row["final_objective"] for row in rows] == [0.5, 0.2, 0.9]
    assert {(row["classes"], row["validation_images"]) for row in rows} == {(10, 100)}


@pytest.mark.filterwarnings("ignore::results.parts.reading.LedgerWarning")
@pytest.mark.parametrize("content", [b"", b"noise"])
def test_damaged_epochs_cost_no_weights(spec: SweepSpec, content: bytes) -> None:
    """A trial's row tells how good it is."""
    driver = Driver(spec)
    folder = driver.recorder.folder
    for level in (0.1, 0.2):
        trial = driver.begin()
        folder.write(f"checkpoints/{trial.trial_id}/weights.pt", b"mine")
        driver.run(trial, climb(level), "completed")
    for part in folder.files("epochs"):
        folder.write(f"epochs/{part}", content)
    again = Driver(spec)
    assert again.recorder.kept == driver.recorder.kept
    assert folder.list("checkpoints") == ["t0000", "t0001"]


def test_the_ledger_says_why_a_trial_was_stopped(spec: SweepSpec) -> None:
    driver = Driver(spec)
    for level in (0.9, 0.1):
        trial, rows = driver.begin(), climb(level)[:2]
        assert trial.number is not None
        if driver.stopper.judge(trial.number, Look(2, 2, rows[-1]["val_accuracy"], 2)):
            driver.run(trial, rows, "running")  # Tune ends it
    (row,) = (row for row in driver.recorder.ledger.trials() if row["outcome"] == "stopped")
    assert row["message"] == "rank 2 of 2 at rung 0 (T = 2): 0.1200, cutoff 0.9200"
