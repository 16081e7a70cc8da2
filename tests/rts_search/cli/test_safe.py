"""The commands that write, on folders with damage or links: one line, and nothing is written."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from results.ledger import Ledger
from results.storage import SweepFolder
from rts_search.driver.control import Control
from rts_search.driver.lock import hold_lock
from rts_search.spec.changes import resumed_spec
from rts_search.spec.folder import read_spec, write_spec
from rts_search.spec.reading import load_spec
from tests.rts_search.cli.calling import CONFIG, SPEC, cli, spec_file
from tests.rts_search.cli.test_resume import begun
from tests.sweeps.harness import ROOT

pytestmark = pytest.mark.usefixtures("surroundings")


def content(root: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    begun(tmp_path / "sweeps")
    (tmp_path / "scratch" / "t0000").mkdir(parents=True)
    (tmp_path / "scratch" / "t0000" / "state.pt").write_bytes(b"precious")
    (tmp_path / "sweeps" / "tiny" / "checkpoints").symlink_to(tmp_path / "scratch")
    return tmp_path / "sweeps"


@pytest.mark.parametrize(
    "command",
    [
        "resume tiny --storage {storage}",
        "sweep {spec} --resume --name tiny",
        "sweep {spec} --overwrite",
        "train {config} --name single --storage {storage}",
    ],
)
def test_a_driver_refuses_a_folder_with_a_link_that_leads_out(
    storage: Path, tmp_path: Path, command: str
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    (storage / "single").mkdir()
    (storage / "single" / "checkpoints").symlink_to(tmp_path / "scratch")
    before = content(tmp_path)
    spec = spec_file(tmp_path)
    done = cli(*command.format(spec=spec, config=config, storage=storage).split())
    name = "single" if "single" in command else "tiny"
    link, target = storage / name / "checkpoints", tmp_path / "scratch"
    assert done.code == 2
    assert done.err.startswith(f"rts-search: {link} is a link that leads out, to {target}: ")
    assert done.err.count("\n") == 1
    spec.unlink()
    assert content(tmp_path) == before


def test_a_stop_is_not_written_through_a_link(storage: Path, tmp_path: Path) -> None:
    folder = SweepFolder(storage, "tiny")
    (storage / "tiny" / "checkpoints").unlink()
    with hold_lock(folder), Control(folder):
        (storage / "tiny" / "control").rename(tmp_path / "control")
        (storage / "tiny" / "control").symlink_to(tmp_path / "control")
        done = cli("stop", "tiny", "--no-wait", "--storage", storage)
        (storage / "tiny" / "control").unlink()
        (tmp_path / "control").rename(storage / "tiny" / "control")
    assert done.code == 1
    assert done.err.endswith("is behind a link that leads out of the sweep's folder\n")
    assert done.err.count("\n") == 1


def test_links_are_followed_where_the_spec_says_so(storage: Path) -> None:
    folder = SweepFolder(storage, "tiny")
    assert not resumed_spec(folder).folder.follow_links
    spec = resumed_spec(folder, ["storage.follow_links=true"])
    assert (spec.storage_path, spec.folder.follow_links) == (str(storage), True)
    with hold_lock(spec.folder):
        write_spec(spec.folder, spec)
    assert read_spec(folder) == spec
    assert "storage.follow_links" in (storage / "tiny" / "spec.yaml").read_text()  # its history
    moved = storage / "tiny"
    moved.rename(storage.parent / "moved")
    again = read_spec(SweepFolder(storage.parent, "moved"))
    assert (again.storage_path, again.follow_links) == (str(storage.parent), True)


@pytest.mark.parametrize(
    ("text", "overrides", "path"),
    [
        ("storage: here", ["storage.follow_links=true"], "here"),
        ("storage: {path: here, follow_links: yes}", [], "here"),
        ("storage: {follow_links: true}", ["storage.path=010"], "010"),
        ("name: x", ["storage.follow_links=on"], "sweeps"),
        ("storage: {path: $HERE, follow_links: true}", [], "there"),
    ],
)
def test_storage_is_a_path_or_a_group(
    text: str, overrides: list[str], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERE", "there")
    spec = load_spec(text, overrides)
    assert (spec.storage_path, spec.follow_links) == (path, True)


@pytest.mark.parametrize(
    ("storage", "line"),
    [
        ("{path: x, follow_link: true}", "unknown setting in storage 'follow_link': did you mean"),
        ("{path: s3://a:b@c/d}", "storage.path: this s3:// URI holds credentials before the @"),
        ("{follow_links: 3}", "storage.follow_links: 3: input should be a valid boolean"),
        ("[a]", "storage: ['a']: input should be a valid string"),
    ],
)
def test_mistakes_in_storage(storage: str, line: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        load_spec(f"storage: {storage}")
    assert str(refused.value).startswith(line)


def test_overwrite_deletes_what_a_sweep_wrote_and_nothing_else(tmp_path: Path) -> None:
    from rts_search.cli.launch import settle_name

    folder = SweepFolder(tmp_path / "sweeps", "tiny")
    begun(tmp_path / "sweeps")
    folder.write("notes.md", b"mine")
    folder.write("set-aside/trials/part-000001.parquet.1", b"")
    settle_name(load_spec(SPEC.replace("STORAGE", f"{tmp_path}/sweeps")), True, True, False)
    assert folder.list() == ["notes.md"]


def test_a_damaged_part_is_set_aside_by_the_command_that_the_error_names(tmp_path: Path) -> None:
    begun(tmp_path)
    part = tmp_path / "tiny" / "trials" / "part-000001.parquet"
    good = part.read_bytes()
    part.write_bytes(good[:900])
    with pytest.raises(ValueError, match="cannot be read") as refused:
        Ledger(SweepFolder(tmp_path, "tiny"))
    command = str(refused.value).partition("rts-search ")[2].partition(" (")[0]
    # another mistake behind it, so that nothing is trained here
    done = cli(*shlex.split(command), "--address", "nowhere:1")
    aside = tmp_path / "tiny" / "set-aside" / "trials" / "part-000001.parquet.1"
    assert f"trials/part-000001.parquet is set aside: {aside}\n" in done.out
    assert (aside.read_bytes(), part.exists()) == (good[:900], False)
    part.write_bytes(good)
    done = cli(*shlex.split(command))
    assert (done.code, done.err) == (
        *(2, f"rts-search: {part} can be read: it stays where it is\n"),
    )


def test_a_file_that_is_left_aside_is_named_once_by_a_command(tmp_path: Path) -> None:
    begun(tmp_path)
    folder = SweepFolder(tmp_path, "tiny")
    folder.write("epochs/part-1.parquet", b"no part")
    command = [sys.executable, "-m", "rts_search.cli", "status", "tiny", "--storage"]
    told = subprocess.run([*command, folder.storage], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0
    (line,) = told.stderr.splitlines()
    assert line.startswith(f"rts-search: ledger: {folder.uri}/epochs/part-1.parquet is left aside")
