"""The folder of a sweep on a local disk."""

import os
import pickle
import shlex
import time
from pathlib import Path

import pytest

from results.storage import ASIDE, SweepFolder, open_storage, sweep_names


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    return SweepFolder(tmp_path, "sweep")


def test_files_are_written_read_listed_and_deleted(folder: SweepFolder) -> None:
    assert not folder.exists()
    folder.write("checkpoints/t1/state.pt", b"one")
    folder.write("checkpoints/t1/state.pt", b"two")
    folder.write("spec.yaml.gz", b"not gzip")  # content is never unpacked by its name
    assert folder.read("checkpoints/t1/state.pt") == b"two"
    assert folder.read("spec.yaml.gz") == b"not gzip"
    assert folder.list() == ["checkpoints", "spec.yaml.gz"]
    assert folder.files() == ["spec.yaml.gz"]
    assert folder.list("nothing") == []
    folder.delete("checkpoints/t1")
    folder.delete("checkpoints/t1")
    assert not folder.exists("checkpoints/t1")
    assert folder.exists("checkpoints")
    with pytest.raises(FileNotFoundError):
        folder.read("checkpoints/t1/state.pt")


def test_a_failed_write_leaves_the_old_file_and_nothing_aside(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write("spec.yaml", b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        folder.write("spec.yaml", b"new")
    assert folder.read("spec.yaml") == b"old"
    assert os.listdir(Path(folder.root) / ASIDE) == []


def test_old_leftovers_go_and_fresh_ones_stay(folder: SweepFolder) -> None:
    folder.write("spec.yaml", b"")
    old, fresh = Path(folder.root) / ASIDE / "old", Path(folder.root) / ASIDE / "fresh"
    for path in (old, fresh):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    folder.remove_leftovers()
    assert not old.exists()
    assert fresh.exists()


def test_local_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    relative = SweepFolder("sweeps", "a")
    assert relative.uri == str(tmp_path / "sweeps" / "a")
    assert relative.local_path == tmp_path / "sweeps" / "a"
    assert relative.uri_of("spec.yaml") == str(tmp_path / "sweeps" / "a" / "spec.yaml")
    assert SweepFolder(f"file://{tmp_path}/sweeps", "a").uri == relative.uri
    monkeypatch.chdir("/")
    assert pickle.loads(pickle.dumps(relative)).uri == relative.uri


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "a b", "x" * 200])
def test_sweep_names_are_plain(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="must be letters"):
        SweepFolder(tmp_path, name)


@pytest.mark.parametrize("path", ["../other/spec.yaml", "/etc/passwd", "a/../../b"])
def test_paths_stay_in_the_sweep(folder: SweepFolder, path: str) -> None:
    with pytest.raises(ValueError, match="leads out of"):
        folder.read(path)


@pytest.mark.parametrize("path", ["", ".", "/", "./"])
def test_a_whole_sweep_is_not_deleted(folder: SweepFolder, path: str) -> None:
    with pytest.raises(ValueError, match="inside the sweep"):
        folder.delete(path)


def test_an_unknown_scheme_is_named() -> None:
    with pytest.raises(ValueError, match=r"storage 'ftp2://host/x' is not a local path or a URI"):
        open_storage("ftp2://host/x")


def test_sweeps_are_folders_with_a_spec_or_a_ledger(tmp_path: Path) -> None:
    SweepFolder(tmp_path, "b").write("spec.yaml", b"")
    SweepFolder(tmp_path, "a").write("trials/part-000001.parquet", b"")
    SweepFolder(tmp_path, "c").write("notes.txt", b"")
    (tmp_path / "file").write_bytes(b"")
    assert sweep_names(tmp_path) == ["a", "b"]
    assert sweep_names(tmp_path / "nothing") == []


@pytest.mark.parametrize(
    ("sweep", "uri"),
    [
        ("demo", "{here}/sweeps/demo"),  # without a slash, a name in the storage
        ("sweeps/demo", "{here}/sweeps/demo"),  # with one, a path from where one stands
        ("./demo", "{here}/demo"),
        ("demo/", "{here}/demo"),
        ("../a/./b//demo/", "{here.parent}/a/b/demo"),
        ("/abs/demo", "/abs/demo"),
        ("file:///abs/demo/", "/abs/demo"),
        ("file:///demo", "/demo"),
        (Path("/abs/demo"), "/abs/demo"),
        ("s3://bucket/demo?endpoint_override=h:1", "s3://bucket/demo?endpoint_override=h:1"),
        ("s3://b/p/demo/?endpoint_override=h:1", "s3://b/p/demo?endpoint_override=h:1"),
    ],
)
def test_a_sweep_by_name_path_or_uri(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sweep: str | Path, uri: str
) -> None:
    monkeypatch.chdir(tmp_path)
    found = SweepFolder.at(sweep)
    assert (found.name, found.uri) == ("demo", uri.format(here=tmp_path))
    (argument,) = shlex.split(found.argument())
    assert SweepFolder.at(argument).uri == found.uri
    assert (argument == "demo") == (found.storage == f"{tmp_path}/sweeps")
    (trial,) = shlex.split(found.argument("t0"))
    assert trial == (found.uri_of("t0") if argument != "demo" else "demo/t0")


def test_a_name_lies_in_the_storage_given_and_a_path_does_not(tmp_path: Path) -> None:
    assert SweepFolder.at("demo", tmp_path).uri == f"{tmp_path}/demo"
    assert SweepFolder.at("/a/demo", tmp_path).uri == "/a/demo"


@pytest.mark.parametrize("sweep", ["", ".", "..", "/", "a b", "./a b", "s3://bucket", "s3://b?x=y"])
def test_what_names_no_sweep(sweep: str) -> None:
    with pytest.raises(ValueError, match=r"must be letters|is no sweep's folder") as error:
        SweepFolder.at(sweep)
    assert "\n" not in str(error.value)
