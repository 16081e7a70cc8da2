"""Rows that a ledger has lost come back from checkpoints; what does not is never replaced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from results.ledger import Ledger
from results.parts.reading import LedgerWarning
from results.storage import SweepFolder
from results.trials import StoredTrial, read_trials
from rts_search.driver.lock import DRIVER, this_driver
from rts_search.runner import make_stopper
from rts_search.search.lost import Lost, bring_back
from rts_search.search.plan import open_study, plan
from rts_search.spec.model import SweepSpec
from rts_search.spec.reading import load_spec
from rts_search.trials.assign import make_assign
from rts_search.trials.recorder import Recorder
from rts_search.trials.rows import epoch_row, trial_row
from tests.results.test_damage import flip_in_page
from trainables.checkpoint import STATE, WEIGHTS, CheckpointFolder
from trainables.tune import TrialRunner

TEXT = """
name: s
data: {name: digits, train_size: 200, test_size: 50}
model: {name: mlp, args: {width: 8}}
train: {epochs: 2, batch_size: 100, device: cpu}
search: {trials: 4, start_from: paper}
stop: {policy: none}
checkpoint: {every_seconds: 0}
"""


@pytest.fixture
def spec(tmp_path: Path) -> SweepSpec:
    return load_spec(TEXT, [f"storage={tmp_path}"])


def run(spec: SweepSpec, epochs: dict[str, int]) -> list[dict[str, Any]]:
    """Train trials for so many epochs in this process, and record them: rows and checkpoints as a
    sweep leaves them when it is killed."""
    folder = spec.folder
    study, _ = open_study(spec)
    driver = this_driver()
    folder.write(DRIVER, driver.content(0.0, ended=True))
    claim = folder.uri_of(DRIVER), driver.key
    assign = make_assign(spec, folder, claim, make_stopper(spec), 1, 0, lambda trial: "")
    with Ledger(folder) as ledger:
        for trial in plan(spec, study, set()):
            ledger.put_trial(trial_row(trial))
            runner = TrialRunner({"assignment": vars(assign(trial))})
            for _ in range(epochs.get(trial.trial_id, 0)):
                result = runner.step()
                trial.history.append(result["epochs"][-1])
                ledger.add_epoch(epoch_row(trial.trial_id, result["epochs"][-1]))
                trial.outcome = type(trial.outcome)(result["outcome"])
                for name in ("classes", "validation_images", "device", "threads", "precision"):
                    setattr(trial, name, result[name])
                trial.host = result["host"]
            ledger.put_trial(trial_row(trial))
            if trial.number is not None and not trial.outcome.finished:
                study.end(trial.number, open_end())
        return ledger.trials()


def open_end() -> Any:
    from rts_search.search.known import Told

    return Told("fail")


def lose(folder: SweepFolder, table: str) -> None:
    for name in folder.files(table):
        folder.delete(f"{table}/{name}")


def reopened(spec: SweepSpec) -> tuple[Ledger, Lost]:
    ledger = Ledger(spec.folder)
    return ledger, bring_back(spec, spec.folder, ledger)


COMPARED = (
    *("number", "control", "family", "outcome", "params", "seed", "epochs", "final_val_accuracy"),
    *("test_accuracy", "config_json", "started", "device", "classes", "git_commit", "objective"),
    *("final_objective", "gradient_evaluations", "searcher", "host", "precision", "threads"),
)


@pytest.mark.parametrize("tables", [["trials"], ["trials", "epochs"]])
def test_completed_trials_come_back_whole_and_others_go_on(
    spec: SweepSpec, tables: list[str]
) -> None:
    before = run(spec, {"t0000": 2, "t0001": 1, "sgd": 2, "pugd": 1})
    epochs = {t.trial_id: [dict(row) for row in t.epochs] for t in read_trials(spec.folder)}
    for table in tables:
        lose(spec.folder, table)
    files = everything(spec.folder, "checkpoints")
    resumed = spec.data.model_copy(update={"residence": "stream"})  # which changes no bit
    ledger, lost = reopened(spec.model_copy(update={"data": resumed}))
    assert everything(spec.folder, "checkpoints") == files
    assert lost.lines[:2] == [
        "rows that the ledger had lost came back from weights.pt: sgd, t0000",
        "rows that the ledger had lost came back from state.pt: pugd, t0001",
    ]
    assert lost.numbers == frozenset()
    back = {row["trial_id"]: row for row in ledger.trials()}
    for row in before:
        if row["trial_id"] in back:
            mine = back[row["trial_id"]]
            again = row | {"outcome": mine["outcome"]} if row["outcome"] == "running" else row
            assert {key: mine[key] for key in COMPARED} == {key: again[key] for key in COMPARED}
    assert {name: row["outcome"] for name, row in back.items()} == {
        "t0000": "completed",
        "sgd": "completed",
        "t0001": "interrupted",
        "pugd": "interrupted",
    }
    for trial in read_trials(spec.folder):
        kept = [dict(row) | {"time": None} for row in trial.epochs]
        assert kept == [row | {"time": None} for row in epochs[trial.trial_id]]
    again, nothing = reopened(spec)
    assert nothing.lines == []
    assert len(again.trials()) == 4


def test_epochs_in_a_damaged_part_come_back_once_for_any_reader(spec: SweepSpec) -> None:
    """Readers that check nothing, or look at other columns, still make something of the part."""
    run(spec, {"t0000": 2, "sgd": 2})
    with Ledger(spec.folder) as ledger:
        ledger.compact()
    (name,) = spec.folder.files("epochs")
    flip_in_page(Path(spec.folder.path_of(f"epochs/{name}")), "val_accuracy")
    damaged = spec.folder.read(f"epochs/{name}")
    with pytest.warns(LedgerWarning, match=name):
        ledger, lost = reopened(spec)
    ledger.close()
    there = f"set-aside/epochs/{name}.1"
    assert lost.lines[0] == f"damaged epochs are set aside: {spec.folder.uri_of(there)}"
    assert spec.folder.read(there) == damaged
    rows = pq.read_table(spec.folder.path_of("epochs"), columns=["trial_id", "epoch"]).to_pylist()
    assert sorted((row["trial_id"], row["epoch"]) for row in rows) == [
        *(("sgd", 1), ("sgd", 2), ("t0000", 1), ("t0000", 2)),
    ]


def everything(folder: SweepFolder, path: str) -> dict[str, bytes]:
    root = Path(folder.path_of(path))
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_numbers_of_trials_that_stay_lost_are_never_given_again(spec: SweepSpec) -> None:
    run(spec, {"t0000": 2, "t0001": 2, "t0003": 1})
    folder = spec.folder
    lose(folder, "trials")
    folder.delete("checkpoints/t0000")  # its epochs are there
    folder.write(f"checkpoints/t0001/{WEIGHTS}", b"damaged")
    folder.delete(f"checkpoints/t0001/{STATE}")
    before = everything(folder, "checkpoints")
    for _ in range(2):  # said, and kept to, at every resume
        ledger, lost = reopened(spec)
        assert lost.numbers == {0, 1}
        assert lost.lines[-1] == (
            "rows lost for good: t0000 (no whole weights.pt or state.pt), t0001 (no whole "
            "weights.pt or state.pt); what is there of these trials stays, and no new trial gets "
            "their numbers; controls begin again"
        )
        stored = read_trials(folder)
        study, _ = open_study(spec, stored, lost.numbers)
        ids = [trial.trial_id for trial in plan(spec, study, set()) if trial.number is not None]
        assert ids == ["t0003", "t0002", "t0004", "t0005"]  # four in all, as asked for
        Recorder(spec, folder, ledger, make_stopper(spec), stored).tidy()
        after = everything(folder, "checkpoints")
        assert after == {name: before[name] for name in after}
        assert f"t0001/{WEIGHTS}" in after
    assert {row["trial_id"] for row in ledger.trials()} == {"t0003"}


def test_a_start_point_whose_trial_is_lost_is_tried_under_another_number(spec: SweepSpec) -> None:
    whole, _ = open_study(spec)
    points = [whole.ask() for _ in whole.points]
    study, _ = open_study(spec, (), taken={0})
    found = [study.ask() for _ in points]
    assert [each and each.params for each in found] == [
        each and each.params for each in (*points[1:], points[0])
    ]
    assert [each and each.number for each in found] == list(range(1, len(points) + 1))


def test_a_number_that_no_trial_reaches_costs_nothing(spec: SweepSpec) -> None:
    study, _ = open_study(spec, (), taken={10**12, *range(6, 9)})
    found = [study.ask() for _ in range(8)]
    assert [each and each.number for each in found] == [*range(6), 9, 10]


def test_a_grid_still_has_all_its_points(spec: SweepSpec) -> None:
    spec = load_spec(
        TEXT,
        [
            *("search.sampler=grid", "search.start_from=none", "space=radius"),
            f"storage={spec.storage_path}",
        ],
    )
    whole, _ = open_study(spec)
    points = {each.config.model_dump_json() for each in iter(whole.ask, None)}
    study, _ = open_study(spec, (), taken={1, 5})
    found = list(iter(study.ask, None))
    assert not {1, 5} & {each.number for each in found}
    assert {each.config.model_dump_json() for each in found} == points


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"row": "{}"}, "'started'"),
        ({"row": None}, "the JSON object must be"),
        ({"history": "no"}, "."),
        ({"trial_id": "t0009"}, "it is of another sweep or trial"),
        ({"number": 7}, "its number is 7"),
        ({"params": '{"lr": 1}'}, "."),
        ({"data": "mnist"}, "it is of another sweep or trial"),
        ({"old": True}, "of an older rts-search, which did not keep"),
    ],
)
def test_weights_of_something_else_do_not_come_in(
    spec: SweepSpec, change: dict[str, Any], reason: str
) -> None:
    run(spec, {"t0000": 2})
    lose(spec.folder, "trials")
    place = CheckpointFolder(spec.folder.uri_of("checkpoints/t0000"))
    content = place.load(WEIGHTS)
    assert content is not None
    if "row" in change or "history" in change:
        content |= change
    elif "old" in change:
        content = {key: content[key] for key in ("config", "final", "history")}
    else:
        row = json.loads(content["row"])
        if "data" in change:
            row["config_json"] = row["config_json"].replace('"digits"', '"mnist"')
        content["row"] = json.dumps(row | {k: v for k, v in change.items() if k != "data"})
    place.save(WEIGHTS, content)
    ledger, lost = reopened(spec)
    assert ledger.trials() == []
    assert lost.numbers == {0}
    with pytest.raises(AssertionError, match=f"weights.pt: .*({reason})"):
        raise AssertionError(lost.lines[0])


def test_an_older_control_comes_back_since_the_spec_says_what_it_is(spec: SweepSpec) -> None:
    run(spec, {"sgd": 2})
    lose(spec.folder, "trials")
    place = CheckpointFolder(spec.folder.uri_of("checkpoints/sgd"))
    content = place.load(WEIGHTS) or {}
    place.save(WEIGHTS, {key: content[key] for key in ("config", "final", "best", "history")})
    ledger, _ = reopened(spec)
    (row,) = ledger.trials()
    assert (row["trial_id"], row["control"], row["epochs"], row["outcome"]) == (
        *("sgd", "sgd", 2, "completed"),
    )


def test_lost_epochs_of_trials_that_ended(spec: SweepSpec) -> None:
    """Those with weights have them there; of others they are gone, and their ends still count."""
    run(spec, {"t0000": 2, "t0001": 2, "t0002": 1})
    folder = spec.folder
    lose(folder, "epochs")
    for name in (WEIGHTS, STATE):
        folder.delete(f"checkpoints/t0001/{name}")
    _, lost = reopened(spec)
    assert lost.lines == ["epochs lost for good: 2 of trials that have ended: t0001"]
    stored = {trial.trial_id: trial for trial in read_trials(folder)}
    assert len(stored["t0000"].epochs) == 2
    study, _ = open_study(spec, list(stored.values()))
    final = stored["t0001"].row["final_objective"]
    assert study.trials()[1].values == [final]
    ended = [trial for trial in stored.values() if trial.outcome.finished]
    folder.write(f"checkpoints/t0001/{WEIGHTS}", b"")  # one without holds no place
    recorder = Recorder(spec, folder, Ledger(folder), make_stopper(spec), ended)
    assert sorted(kept for _, kept in recorder.kept[False]) == ["t0000", "t0001"]


def test_weights_whose_epochs_are_lost_stay(spec: SweepSpec) -> None:
    run(spec, {"t0000": 2})
    (trial,) = (t for t in read_trials(spec.folder) if t.trial_id == "t0000")
    unknown = StoredTrial({**trial.row, "final_objective": None}, ())
    Recorder(spec, spec.folder, Ledger(spec.folder), make_stopper(spec), [unknown])
    assert WEIGHTS in spec.folder.list("checkpoints/t0000")


def test_files_of_others_among_checkpoints_stay(spec: SweepSpec) -> None:
    folder = spec.folder
    for name in ("state.pt", "state.pt.part", "weights.pt", "notes.md"):
        folder.write(f"checkpoints/t0000/{name}", b"")
    folder.write("checkpoints/t0001/state.pt", b"")
    with Ledger(folder) as ledger:
        for name in ("t0000", "t0001"):
            ledger.put_trial({"trial_id": name, "number": int(name[1:]), "outcome": "stopped"})
        Recorder(spec, folder, ledger, make_stopper(spec)).tidy()
    assert folder.list("checkpoints") == ["t0000"]
    assert folder.list("checkpoints/t0000") == ["notes.md"]
