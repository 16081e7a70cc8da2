"""Checkpoint files: whole or not there, on a disk and on a file system without renames."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import torch

from trainables.checkpoint import STATE, WEIGHTS, CheckpointFolder

CONTENT = {"weights": torch.arange(5.0), "epoch": 3, "names": ["a", None], "nested": {"x": 0.5}}


@pytest.fixture(params=["path", "odd path", "file URI", "object store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> CheckpointFolder:
    uris = {
        "path": f"{tmp_path}/sweep/checkpoints/t0001",
        "odd path": f"{tmp_path}/my sweep #1/100%/t0001",
        "file URI": f"file://{tmp_path}/sweep/t0001",
        "object store": "mock://bucket/sweep/t0001",  # pyarrow's own, in memory
    }
    return CheckpointFolder(uris[request.param])


def test_what_is_saved_is_loaded(folder: CheckpointFolder) -> None:
    folder.save(STATE, CONTENT)
    loaded = folder.load(STATE)
    assert loaded is not None
    assert torch.equal(loaded.pop("weights"), CONTENT["weights"])
    assert loaded == {key: value for key, value in CONTENT.items() if key != "weights"}


def test_a_file_that_is_not_there_is_none(folder: CheckpointFolder) -> None:
    assert folder.load(STATE) is None
    folder.save(WEIGHTS, CONTENT)
    assert folder.load(STATE) is None


def test_the_newest_counts_and_names_are_apart(folder: CheckpointFolder) -> None:
    folder.save(STATE, {"epoch": 1})
    folder.save(WEIGHTS, {"epoch": 9})
    folder.save(STATE, {"epoch": 2})
    assert (folder.load(STATE), folder.load(WEIGHTS)) == ({"epoch": 2}, {"epoch": 9})


def test_delete(folder: CheckpointFolder) -> None:
    folder.delete(STATE)  # none yet
    folder.save(STATE, CONTENT)
    folder.delete(STATE)
    folder.delete(STATE)
    assert folder.load(STATE) is None


def test_only_plain_values_and_tensors_load(tmp_path: Path) -> None:
    folder = CheckpointFolder(str(tmp_path))
    folder.save(STATE, {"code": Path("x")})
    assert folder.load(STATE) is None


def test_saving_leaves_one_file(tmp_path: Path) -> None:
    CheckpointFolder(str(tmp_path)).save(STATE, CONTENT)
    assert [path.name for path in tmp_path.iterdir()] == [STATE]


def test_what_a_killed_process_left_is_ignored_and_replaced(tmp_path: Path) -> None:
    folder = CheckpointFolder(str(tmp_path))
    (tmp_path / f"{STATE}.part").write_bytes(b"half of a checkpoint")
    assert folder.load(STATE) is None
    folder.save(STATE, {"epoch": 1})
    assert folder.load(STATE) == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == [STATE]


def test_nothing_is_written_through_what_lies_aside(tmp_path: Path) -> None:
    theirs, folder = tmp_path / "theirs", CheckpointFolder(str(tmp_path / "mine"))
    theirs.write_text("keep")
    folder.save(STATE, {"epoch": 0})
    part = tmp_path / "mine" / f"{STATE}.part"
    for put in (lambda: part.symlink_to(theirs), lambda: os.mkfifo(part)):
        put()
        folder.save(STATE, {"epoch": 1})
        assert folder.load(STATE) == {"epoch": 1}
    assert theirs.read_text() == "keep"


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut may leave the name with no content."""
    done: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, n=name, f=real: (done.append(n), f(*a)))
    CheckpointFolder(str(tmp_path)).save(STATE, CONTENT)
    assert done == ["fsync", "replace"]


def test_an_unreadable_file_counts_as_none(tmp_path: Path) -> None:
    folder = CheckpointFolder(str(tmp_path))
    folder.save(STATE, CONTENT)
    whole = (tmp_path / STATE).read_bytes()
    for content in (*(whole[:n] for n in range(0, len(whole), 97)), whole[:-1], b"junk " * 99):
        (tmp_path / STATE).write_bytes(content)
        assert folder.load(STATE) is None


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    folder = CheckpointFolder(str(tmp_path))
    folder.save(STATE, {"epoch": 1})
    with pytest.raises(Exception, match="pickle"):
        folder.save(STATE, {"function": lambda: None})
    assert folder.load(STATE) == {"epoch": 1}


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    writer, reader = CheckpointFolder(str(tmp_path)), CheckpointFolder(str(tmp_path))
    writer.save(STATE, {"value": torch.zeros(200_000)})

    def save() -> None:
        for number in range(1, 30):
            writer.save(STATE, {"value": torch.full((200_000,), float(number))})

    thread = threading.Thread(target=save)
    thread.start()
    seen = []
    while thread.is_alive() or not seen:
        loaded = reader.load(STATE)
        assert loaded is not None
        assert (loaded["value"] == loaded["value"][0]).all()
        seen.append(loaded["value"][0].item())
    thread.join()
    assert seen == sorted(seen)


def test_a_folder_that_was_moved_just_now_is_not_made_again(tmp_path: Path) -> None:
    """Between the look at whose it is and the write."""
    (tmp_path / "driver.json").write_text('{"key": "ours"}')
    claim = str(tmp_path / "driver.json"), "ours"
    folder = CheckpointFolder(f"{tmp_path}/s/checkpoints/t0001", claim)
    with pytest.raises(FileNotFoundError):
        folder.save(STATE, CONTENT)
    assert [path.name for path in tmp_path.iterdir()] == ["driver.json"]
    (tmp_path / "s").mkdir()
    folder.save(STATE, CONTENT)
    folder.save(STATE, CONTENT)
    assert folder.load(STATE) is not None
