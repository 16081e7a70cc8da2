"""Who else could write a file, on real files with real permissions."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from trainables.config import DataConfig
from trainables.data import prepare, sources
from trainables.data.trust import TrustWarning, others_write, warn_if_others_write


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that others may enter and not write, in one that has the sticky bit."""
    before = os.umask(0o022)
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
    os.umask(before)


def reasons(path: Path, home: Path) -> list[str]:
    found = dict.fromkeys(others_write(path))  # a folder may be passed twice
    return [reason.replace(str(home), "~") for reason in found]


@pytest.mark.parametrize(
    ("folder_mode", "file_mode", "expected"),
    [
        (0o755, 0o644, []),
        (0o755, 0o666, ["~/data/batch is writable by everyone"]),
        (0o755, 0o664, ["~/data/batch is writable by its group"]),
        (0o777, 0o644, ["~/data is writable by everyone"]),
        (0o775, 0o644, ["~/data is writable by its group"]),
        (0o1777, 0o644, []),  # the sticky bit: others may add files, and not replace ours
        (0o1777, 0o666, ["~/data/batch is writable by everyone"]),
        (0o700, 0o666, []),  # nobody else gets there
        (0o770, 0o644, ["~/data is writable by its group"]),
        (0o710, 0o666, ["~/data/batch is writable by everyone"]),  # the group does
    ],
)
def test_permissions(home: Path, folder_mode: int, file_mode: int, expected: list[str]) -> None:
    file = home / "data" / "batch"
    file.parent.mkdir()
    file.touch()
    file.chmod(file_mode)
    file.parent.chmod(folder_mode)
    assert reasons(file, home) == expected


def test_a_folder_far_above(home: Path) -> None:
    file = home / "open" / "a" / "b" / "batch"
    file.parent.mkdir(parents=True, mode=0o755)
    file.touch(0o644)
    (home / "open").chmod(0o777)
    assert reasons(file, home) == ["~/open is writable by everyone"]


@pytest.mark.parametrize("relative", [False, True])
def test_links_are_followed_and_the_folders_on_both_sides_count(home: Path, relative: bool) -> None:
    (home / "shared").mkdir()
    (home / "shared" / "batch").touch(0o644)
    (home / "mine").mkdir(mode=0o700)
    target = "../shared" if relative else home / "shared"
    (home / "mine" / "data").symlink_to(target)
    batch = home / "mine" / "data" / "batch"
    assert reasons(batch, home) == []
    (home / "shared").chmod(0o777)
    assert reasons(batch, home) == ["~/shared is writable by everyone"]
    (home / "shared").chmod(0o755)
    (home / "mine").chmod(0o777)  # where the link could be replaced
    assert reasons(batch, home) == ["~/mine is writable by everyone"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_files_of_another_user(home: Path) -> None:
    file = home / "batch"
    file.touch(0o644)
    os.chown(file, 12345, 12345)
    assert reasons(file, home) == ["~/batch belongs to user 12345"]
    closed = home / "closed"
    closed.mkdir(mode=0o700)
    file.rename(closed / "batch")  # it is open in their process, perhaps
    assert reasons(closed / "batch", home) == ["~/closed/batch belongs to user 12345"]
    os.chown(closed, 12345, 12345)
    assert len(reasons(closed / "batch", home)) == 2


def test_what_is_not_there_is_nobodys(home: Path) -> None:
    assert reasons(home / "missing", home) == []
    (home / "loop").symlink_to("loop")
    assert reasons(home / "loop", home) == []


def test_one_line_for_many_files(home: Path) -> None:
    files = [home / f"batch{i}" for i in range(5)]
    for file in files:
        file.touch()
        file.chmod(0o666)
    with pytest.warns(TrustWarning) as caught:
        warn_if_others_write(files, "cifar10 unpickles files")
    assert [str(warning.message) for warning in caught] == [
        "cifar10 unpickles files, and another user could change them: "
        f"{files[0]} is writable by everyone; use a private folder"
    ]


def test_cifar_warns_before_it_unpickles(home: Path) -> None:
    """The files are none of torchvision's: what it refuses must have been warned of before."""
    batches = home / "cifar-10-batches-py"
    batches.mkdir()
    for path in sources._CIFAR10:
        (home / path).touch()
    batches.chmod(0o777)
    source = sources.open_source(DataConfig(name="cifar10", root=str(home)))
    with (
        pytest.warns(TrustWarning, match=r"unpickles files in .*cifar-10-batches-py is writable"),
        pytest.raises(ValueError, match="is damaged"),
    ):
        source.load()


def test_a_cache_that_others_may_write(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = home / "cache"
    cache.mkdir()
    monkeypatch.setenv("RTS_SEARCH_CACHE", str(cache))
    prepare(DataConfig())
    cache.chmod(0o777)
    with pytest.warns(TrustWarning, match="cache is writable by everyone"):
        data = prepare(DataConfig())
    assert np.prod(data.train_images.shape) > 0
