"""What a resume may change, and the files of a sweep: whole, truncated, foreign."""

from __future__ import annotations

import os
import re
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from results.ledger import Ledger
from results.storage import SweepFolder
from rts_search.spec.changes import _check, resumed_spec
from rts_search.spec.folder import SPEC, SpecWarning, changed, read_spec, sources_at, write_spec
from rts_search.spec.model import SweepSpec
from rts_search.spec.provenance import fingerprints
from rts_search.spec.reading import load_preset, load_spec, presets
from tests.results.builders import trial_row

ASKED = """
data: {name: digits, train_size: 400}
model: {name: mlp, args: {width: 8}}
train: {epochs: 9, batch_size: 50}
space: radius
search: {trials: 6, also: {lr: [0.01, 1.0]}}
budget: {hours: 2}
"""


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    """A sweep of six trials, of which four have begun, and a control."""
    folder = SweepFolder(tmp_path, "s")
    write_spec(folder, load_spec(f"name: s\nstorage: {tmp_path}\n{ASKED}"))
    with Ledger(folder) as ledger:
        ledger.put_trial(trial_row("sgd", control="sgd"))
        for number in range(4):
            ledger.put_trial(trial_row(f"t{number:04d}", number=number))
    return folder


@pytest.mark.parametrize(
    ("override", "change"),
    [
        ("search.trials=10", {"search.trials": (6, 10)}),
        ("search.trials=4", {"search.trials": (6, 4)}),  # none of those that have begun
        ("search.trials=6", {}),
        ("budget.hours=5", {"budget.hours": (2.0, 5.0)}),
        ("budget={target: 0.9}", {"budget.hours": (2.0, None), "budget.target": (None, 0.9)}),
        ("resources.concurrent=1", {"resources.concurrent": (None, 1)}),
        ("checkpoint.keep_top=0", {"checkpoint.keep_top": (3, 0)}),
        ("loggers=[tensorboard]", {"loggers": ([], ["tensorboard"])}),
        ("train.device=cpu", {"train.device": ("auto", "cpu")}),
        ("data.residence=stream", {"data.residence": ("auto", "stream")}),
        ("data.name=digits", {}),
    ],
)
def test_what_can_change(folder: SweepFolder, override: str, change: dict[str, Any]) -> None:
    before = read_spec(folder)
    wanted = resumed_spec(folder, [override])
    assert changed(before, wanted) == change
    assert read_spec(folder) == before  # the driver writes it, when it has the sweep

    write_spec(folder, wanted)
    assert read_spec(folder) == wanted


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "data.name=mnist",
            "data.name cannot change: earlier trials were trained with 'digits', and their values "
            "could not be compared; begin a new sweep",
        ),
        ("data.train_size=300", "data.train_size cannot change: earlier trials were trained with "),
        ("model.args={width: 9}", "model.args cannot change: earlier trials were trained with "),
        ("train.epochs=27", "train.epochs cannot change: earlier trials were trained with 9, and"),
        ("train.precision=bf16", "train.precision cannot change: earlier trials were trained "),
        ("optimizer={family: sgd}", "optimizer.family cannot change: earlier trials were trained "),
        (
            "search.objective=val_loss",
            "search.objective cannot change: earlier trials were judged by 'val_accuracy'; begin",
        ),
        ("search.against=train_seconds", "search.against cannot change: earlier trials were "),
        ("search.sampler=random", "search.sampler cannot change: the trials so far were proposed"),
        ("search.seed=1", "search.seed cannot change: the trials so far were proposed from 0; "),
        ("search.controls=false", "search.controls cannot change: it says how a sweep begins"),
        ("search.start_from=paper", "search.start_from cannot change: it says how a sweep begins"),
        (
            "search.also={lr: [0.1, 0.5]}",
            "search.also cannot change: the trials so far were proposed within {'lr': [0.01, "
            "1.0]}; search other bounds in a new sweep, with search.warm_start naming this one",
        ),
        ("space=rts", "space cannot change: the trials so far were proposed within 'radius'; "),
        ("stop.eta=2", "stop.eta cannot change: earlier trials were stopped, or not, by 4.0; "),
        ("name=other", "name cannot change here: move the sweep's folder instead"),
        ("storage=/elsewhere", "storage cannot change here: move the sweep's folder instead"),
        ("search.trials=3", "search.trials 3 is below the 4 trials that have begun; give the num"),
        ("search.trials=0", "search.trials: 0: input should be greater than or equal to 1"),
        ("budget.hour=1", "unknown setting in budget 'hour': did you mean 'hours'"),
        ("budget.hours", "--set 'budget.hours' is not of the form a.b=c"),
    ],
)
def test_what_cannot_change_is_refused_with_the_reason(
    folder: SweepFolder, override: str, line: str
) -> None:
    before = folder.read(SPEC)
    with pytest.raises(ValueError, match=f"^{re.escape(line)}") as caught:
        resumed_spec(folder, ["budget.hours=3", override])
    assert "\n" not in str(caught.value)
    assert folder.read(SPEC) == before


def test_every_setting_can_change_or_has_a_reason(folder: SweepFolder) -> None:
    """A setting that is added to the spec must be thought of here."""
    spec = read_spec(folder)
    settings = {
        f"{group}.{key}" if isinstance(value, dict) else group
        for group, value in spec.model_dump(exclude={"name", "storage"}).items()
        for key in (value if isinstance(value, dict) else [group])
    }
    refused = set()
    for setting in settings:
        try:
            _check(setting, None)
        except ValueError:
            refused.add(setting.partition(".")[0])
    assert refused == {"data", "model", "train", "optimizer", "search", "space", "stop"}


def test_a_resume_without_changes_writes_nothing(folder: SweepFolder) -> None:
    before = folder.read(SPEC)
    write_spec(folder, resumed_spec(folder))
    assert folder.read(SPEC) == before


def test_changes_are_written_with_their_history(folder: SweepFolder) -> None:
    origin = yaml.safe_load(folder.read(SPEC))["provenance"]
    write_spec(folder, resumed_spec(folder, ["search.trials=10", "budget.hours=4"]))
    write_spec(folder, resumed_spec(folder, ["search.trials=12"]))
    content = yaml.safe_load(folder.read(SPEC))
    assert content["provenance"].pop("checksum") != origin.pop("checksum")
    assert content["provenance"] == origin
    assert [entry["changes"] for entry in content["history"]] == [
        {"search.trials": {"from": 6, "to": 10}, "budget.hours": {"from": 2.0, "to": 4.0}},
        {"search.trials": {"from": 10, "to": 12}},
    ]
    assert all(entry["time"].endswith("+00:00") for entry in content["history"])
    assert read_spec(folder).search.trials == 12
    assert folder.files() == [SPEC]  # nothing written aside is left


def test_a_sweep_that_was_moved_is_not_a_change(folder: SweepFolder, tmp_path: Path) -> None:
    before = folder.read(SPEC)
    assert folder.local_path is not None
    folder.local_path.rename(tmp_path / "t")
    moved = SweepFolder(tmp_path, "t")
    spec = resumed_spec(moved)
    assert (spec.name, spec.storage) == ("t", str(tmp_path))
    write_spec(moved, spec)
    assert moved.read(SPEC) == before


# Files that are edited, truncated, foreign, or from elsewhere


def test_a_spec_that_was_edited_is_told_until_that_is_accepted(folder: SweepFolder) -> None:
    folder.write(SPEC, folder.read(SPEC).replace(b"lr: 0.1\n", b"lr: 0.3\n"))
    for _ in range(2):
        with pytest.warns(SpecWarning, match="not as rts-search wrote it: a") as told:
            edited = resumed_spec(folder)
        assert len(told) == 1
        assert edited.train.lr == 0.3
        write_spec(folder, edited)
    write_spec(folder, edited, accept_changes=True)
    (entry,) = yaml.safe_load(folder.read(SPEC))["history"]
    assert list(entry["changes"]) == [SPEC]
    assert read_spec(folder) == edited


def test_comments_and_an_earlier_version_are_no_edit(folder: SweepFolder) -> None:
    text = folder.read(SPEC).decode()
    folder.write(SPEC, f"# mine\n{text}".encode())
    read_spec(folder)
    folder.write(SPEC, re.sub("checksum: .*", "spec_hash: 0123456789ab", text).encode())
    write_spec(folder, resumed_spec(folder, ["search.trials=10"]))
    assert list(yaml.safe_load(folder.read(SPEC))["provenance"])[-1] == "checksum"
    read_spec(folder)


def test_a_truncated_spec_is_never_taken_for_a_whole_one(folder: SweepFolder) -> None:
    """It would be valid YAML, and mean other data, at the end of each line."""
    whole = folder.read(SPEC)
    end = whole.index(b"checksum: ") + len(b"checksum: ")
    for length in [*range(0, end, 7), end - len(b"checksum: "), end - 1, end]:
        folder.write(SPEC, whole[:length])
        with pytest.raises(ValueError, match=r"s/spec\.yaml is not as rts-search wrote it") as e:
            read_spec(folder)
        assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "content", [b"\x89PNG\r\n\x1a\n", b"a: [", b"- 1", b"", b"7", b"provenance: 3"]
)
def test_a_foreign_spec_is_one_line(folder: SweepFolder, content: bytes) -> None:
    folder.write(SPEC, content)
    with pytest.raises(ValueError, match=r"is not as rts-search wrote it") as caught:
        resumed_spec(folder)
    assert "\n" not in str(caught.value)


def test_a_spec_that_a_user_broke_says_where(folder: SweepFolder) -> None:
    folder.write(SPEC, folder.read(SPEC).replace(b"epochs: 9", b"epochs: nine"))
    with pytest.raises(ValueError, match=r"spec\.yaml is not as .* train\.epochs: 'nine': input"):
        read_spec(folder)


def test_files_of_others_in_the_folder_are_ignored(folder: SweepFolder) -> None:
    spec = read_spec(folder)
    for path in ("notes.txt", "plots/a.png", ".DS_Store", "control/x.json", "spec.yaml~"):
        folder.write(path, b"\x00\xff")
    assert resumed_spec(folder) == spec


def test_the_specs_that_come_with_the_package_are_read_back(tmp_path: Path) -> None:
    for name in presets():
        folder = SweepFolder(tmp_path, name)
        spec = load_preset(name, [f"name={name}", f"storage={tmp_path}"])
        write_spec(folder, spec)
        assert read_spec(folder) == spec
        assert resumed_spec(folder) == spec


def test_a_spec_is_written_by_settings(folder: SweepFolder) -> None:
    assert changed(SweepSpec(), SweepSpec(name="x", storage="y")) == {}
    assert changed(SweepSpec(), SweepSpec(space="radius")) == {"space": ("rts", "radius")}


# What changes under its name: the user's code and data

MODULE = """
import own_layers
from own_layers import layer
def net(num_classes, image_shape): return layer(num_classes, image_shape)
def space(trial): return {"train": {"lr": trial.suggest_float("lr", 0.1, 0.2)}}
def data(root):
    import numpy as np
    y = np.arange(40) % 2
    return np.load(root / "x.npy"), y, np.zeros((4, 1, 8, 8), np.uint8), y[:4]
"""
LAYERS = """
import json, torch
def layer(num_classes, image_shape): return torch.nn.Sequential()
"""
OWN = """
data: {name: "own_task:data", root: ROOT}
model: {name: "own_task:net", pretrained: ROOT/w.pt}
space: own_task:space
"""


class Own:
    """A user's files, and what a new process finds in them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "files").mkdir()
        (folder / "own_task.py").write_text(MODULE)
        (folder / "own_layers.py").write_text(LAYERS)
        (folder / "files/w.pt").write_bytes(b"weights")
        self.images(0)
        self.spec = load_spec(f"storage: {folder}\n{OWN.replace('ROOT', str(folder / 'files'))}")

    def images(self, level: int) -> None:
        np.save(self.folder / "files/x.npy", np.full((40, 1, 8, 8), level, np.uint8))

    def found(self) -> dict[str, str]:
        for name in ("own_task", "own_layers"):
            sys.modules.pop(name, None)
        return fingerprints(self.spec)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Own:
    monkeypatch.setenv("RTS_SEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    return Own(tmp_path)


def test_what_a_spec_names_has_fingerprints(own: Own) -> None:
    before = own.found()
    weights = f"weights {own.folder}/files/w.pt"
    assert list(before) == ["data own_task:data", "module own_task", weights]
    (own.folder / "unrelated.py").write_text("1")
    os.utime(own.folder / "files/x.npy", (1, 1))  # copied, or fetched again
    assert own.found() == before

    def changed_by(file: str, content: bytes) -> set[str]:
        path = own.folder / file
        kept = path.read_bytes()
        path.write_bytes(content)
        after = own.found()
        path.write_bytes(kept)
        return {name for name in before if after[name] != before[name]}

    assert changed_by("own_task.py", f"{MODULE}\nx = 1".encode()) == {"module own_task"}
    assert changed_by("own_layers.py", f"{LAYERS}\nx = 1".encode()) == {"module own_task"}
    assert changed_by("files/w.pt", b"other") == {weights}
    own.images(1)
    assert [k for k, v in own.found().items() if v != before[k]] == ["data own_task:data"]


def test_changed_sources_are_refused_unless_they_are_accepted(own: Own) -> None:
    folder = SweepFolder(own.folder, "mine")
    write_spec(folder, own.spec, own.found())
    written = folder.read(SPEC)
    write_spec(folder, own.spec, own.found())
    assert folder.read(SPEC) == written  # nothing has changed

    own.images(1)
    line = "^data own_task:data changed since mine began: .* add --accept-changes$"
    with pytest.raises(ValueError, match=line):
        write_spec(folder, own.spec, own.found())
    assert folder.read(SPEC) == written
    write_spec(folder, own.spec, now := own.found(), accept_changes=True)
    content = yaml.safe_load(folder.read(SPEC))
    origin = content["provenance"]["sources"]
    key = "data own_task:data"
    assert origin == yaml.safe_load(written)["provenance"]["sources"]
    (entry,) = content["history"]
    assert entry["changes"] == {key: {"from": origin[key], "to": now[key]}}
    accepted = datetime.fromisoformat(entry["time"])
    assert sources_at(folder, accepted - timedelta(seconds=1)) == origin  # of the trials so far
    assert sources_at(folder, accepted) == now

    write_spec(folder, own.spec, own.found())  # what was accepted is known,
    own.images(0)
    with pytest.raises(ValueError, match=line):  # and the way back is another change
        write_spec(folder, own.spec, own.found())


def test_a_sweep_begun_before_there_were_fingerprints_goes_on(own: Own) -> None:
    folder = SweepFolder(own.folder, "old")
    write_spec(folder, own.spec)
    content = yaml.safe_load(folder.read(SPEC))
    del content["provenance"]["sources"]
    folder.write(SPEC, yaml.safe_dump(content, sort_keys=False).encode())
    write_spec(folder, own.spec, own.found())
    assert yaml.safe_load(folder.read(SPEC)) == content


def test_a_sweep_that_searched_its_space_alone_says_so(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path, "plain")
    write_spec(folder, SweepSpec(name="plain", storage=str(tmp_path)))
    with pytest.raises(ValueError, match=r"^search\.also cannot .* within the space alone; search"):
        resumed_spec(folder, ["search.also=[lr]"])
