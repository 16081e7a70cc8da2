"""Modules that hide others: one line that names the file, before anything breaks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import rts_search.optim
import trainables.optim
from rts_search.cluster.session import prepare_environment
from rts_search.shadows import check_here
from tests.rts_search.cli.test_app import cli

ROOT = Path(__file__).parents[2]


def make(path: Path) -> Path:
    """A module, or a package."""
    if path.suffix != ".py":
        path.mkdir(parents=True)
        path = path / "__init__.py"
    path.write_text("x = 1\n")
    return path


@pytest.mark.parametrize("name", ["queue.py", "profile.py", "click.py", "ray", "results", "yaml"])
def test_a_module_where_one_stands_that_hides_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / name)
    with pytest.raises(ValueError, match=rf"^{tmp_path / name} hides the module ") as error:
        prepare_environment(None, verbose=False)
    assert "\n" not in str(error.value)
    monkeypatch.setattr(sys, "path", [*sys.path])  # the command adds where one stands
    dry = cli("sweep", "--preset", "demo", "--dry-run")
    assert (dry.code, dry.out, dry.err) == (2, "", f"rts-search: {error.value}\n")


def test_a_module_beside_the_script_that_hides_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "script.py")])
    make(tmp_path / "queue.py")
    with pytest.raises(ValueError, match=r"queue\.py hides"):
        check_here()


def test_other_modules_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mymodel.py", "sys.py", "my_package", "test"):
        make(tmp_path / name)
    (tmp_path / "ray").mkdir()  # no package: it hides nothing
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "notes.txt").write_text("")
    check_here()
    monkeypatch.chdir(ROOT)  # our own, which are the very ones
    check_here()


@pytest.mark.parametrize("name", ["results", "trainables", "search_spaces", "results.py"])
@pytest.mark.parametrize(
    "arguments", [["-m", "rts_search.cli", "list"], ["-c", "import rts_search"]]
)
def test_another_package_of_our_name_is_one_line(
    tmp_path: Path, name: str, arguments: list[str]
) -> None:
    make(tmp_path / name)
    done = subprocess.run(
        [sys.executable, *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,  # Python looks here first
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        f"rts-search: {tmp_path / name} hides the package '{name.split('.')[0]}'"
    )


def test_a_script_needs_one_name_for_the_optimizer() -> None:
    for name in trainables.optim.__all__:
        assert getattr(rts_search.optim, name) is getattr(trainables.optim, name)
    assert rts_search.optim.Schedule(strategy="constant")(0.5) == 1.0
    assert rts_search.optim.GapTrigger().name == "gap"
