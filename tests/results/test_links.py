"""Links in a sweep's folder: its driver neither writes nor deletes where they lead out."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from results.storage import SweepFolder


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"mine")
    return outside


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    folder = SweepFolder(tmp_path / "sweeps", "s")
    folder.write("spec.yaml", b"")
    folder.write("checkpoints/t0000/state.pt", b"")
    return folder


PLACES = (
    *("spec.yaml", "epochs", "trials", "checkpoints", "control", ".aside", ".driver.lock"),
    *("checkpoints/t0001", "checkpoints/t0001/state.pt", "checkpoints/t0001/weights.pt"),
    *("checkpoints/t0001/state.pt.part", "tensorboard", "set-aside", "control/driver.json"),
    *("trials/part-000001.parquet", "epochs/part-1.parquet"),
)


@pytest.mark.parametrize("kind", ["folder", "file", "nothing", "another sweep"])
@pytest.mark.parametrize("place", PLACES)
def test_a_link_that_leads_out_is_refused(
    folder: SweepFolder, outside: Path, place: str, kind: str
) -> None:
    here = Path(folder.path_of(place))
    here.parent.mkdir(parents=True, exist_ok=True)
    if here.is_dir():
        here.rename(outside / "was here")
    here.unlink(missing_ok=True)
    target = {
        "folder": outside,
        "file": outside / "precious",
        "nothing": outside / "not there",
        "another sweep": Path(folder.storage) / "other",
    }[kind]
    here.symlink_to(target)
    with pytest.raises(ValueError, match="is a link that leads out") as refused:
        folder.refuse_links()
    assert f"{here} is a link that leads out, to {target}:" in str(refused.value)
    assert "\n" not in str(refused.value)
    SweepFolder(folder.storage, "s", follow_links=True).refuse_links()


def test_links_within_the_folder_and_a_storage_that_is_one_are_fine(
    folder: SweepFolder, tmp_path: Path
) -> None:
    (tmp_path / "alias").symlink_to(folder.storage)
    Path(folder.path_of("newest")).symlink_to("checkpoints/t0000")
    for storage in (folder.storage, tmp_path / "alias"):
        there = SweepFolder(storage, "s")
        there.refuse_links()
        there.write("control/driver.json", b"{}")
    SweepFolder(folder.storage, "not-begun").refuse_links()


def test_a_folder_that_is_a_link_is_refused(folder: SweepFolder, outside: Path) -> None:
    Path(folder.storage, "alias").symlink_to(outside)
    with pytest.raises(ValueError, match="alias is a link that leads out"):
        SweepFolder(folder.storage, "alias").refuse_links()


def test_a_link_that_came_later_leads_nowhere(folder: SweepFolder, outside: Path) -> None:
    """Planted while a sweep runs."""
    Path(folder.path_of("trials")).symlink_to(outside)
    Path(folder.path_of("checkpoints/t0001")).symlink_to(outside)
    for write in (
        lambda: folder.write("trials/precious", b"overwritten"),
        lambda: folder.delete("trials/precious"),
        lambda: folder.move("trials/precious", "spec.yaml"),
        lambda: folder.move("spec.yaml", "trials/precious"),
    ):
        with pytest.raises(OSError, match="is behind a link that leads out"):
            write()
    folder.delete("checkpoints/t0001")  # the link itself
    assert not os.path.lexists(folder.path_of("checkpoints/t0001"))
    Path(folder.path_of("checkpoints/t0000/weights.pt")).symlink_to(outside / "precious")
    folder.write("checkpoints/t0000/weights.pt", b"new")
    assert [file.read_bytes() for file in outside.iterdir()] == [b"mine"]


def test_leftovers_are_files_of_ours_only(folder: SweepFolder, outside: Path) -> None:
    aside = Path(folder.path_of(".aside"))
    (aside / "old").write_bytes(b"")
    (aside / "folder").mkdir()
    (aside / "link").symlink_to(outside / "precious")
    for path in (aside / "old", outside / "precious"):
        os.utime(path, (time.time() - 7200,) * 2)
    folder.remove_leftovers()
    assert sorted(path.name for path in aside.iterdir()) == ["folder", "link"]
    assert (outside / "precious").exists()


def test_following_is_as_it_was_asked_for(folder: SweepFolder, outside: Path) -> None:
    following = SweepFolder(folder.storage, "s", follow_links=True)
    Path(folder.path_of("trials")).symlink_to(outside)
    assert following.files("trials") == ["precious"]
    assert not following.leads_out("trials")
    assert folder.leads_out("trials")
    following.write("trials/part-000001.parquet", b"x")
    assert (outside / "part-000001.parquet").read_bytes() == b"x"


SAYS = b"name: s\nstorage:\n  path: sweeps\n  follow_links: true\ndata:\n  name: digits\n"


@pytest.mark.parametrize(
    ("spec", "followed"),
    [
        (SAYS, True),
        (SAYS.replace(b"true", b"false"), False),
        (b"storage: sweeps\nsearch:\n  follow_links: true\n", False),
        (b"", False),
    ],
)
def test_readers_follow_where_the_spec_says_so(
    folder: SweepFolder, outside: Path, spec: bytes, followed: bool
) -> None:
    folder.write("spec.yaml", spec)
    Path(folder.path_of("epochs")).symlink_to(outside)
    assert folder.leads_out("epochs") is not followed
    with pytest.raises(ValueError, match="is a link that leads out"):
        folder.refuse_links()  # a driver goes by the spec that it was asked for
    with pytest.raises(OSError, match="behind a link"):
        folder.write("epochs/part-1.parquet", b"")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
@pytest.mark.parametrize("theirs", ["spec.yaml", "epochs"])
def test_readers_follow_no_link_or_spec_of_another_user(
    folder: SweepFolder, outside: Path, theirs: str
) -> None:
    folder.write("spec.yaml", SAYS)
    Path(folder.path_of("epochs")).symlink_to(outside)
    os.chown(folder.path_of(theirs), 12345, -1, follow_symlinks=False)
    assert folder.leads_out("epochs")
