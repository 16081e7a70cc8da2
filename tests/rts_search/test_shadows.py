"""Modules that hide others: one line that names the file, before anything breaks."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name as plain

import rts_search.optim
import trainables.optim
from rts_search.cluster.package import PACKAGES
from rts_search.cluster.session import prepare_environment
from rts_search.shadows import AGAIN, check_here
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
    main = sys.modules["__main__"]
    monkeypatch.delattr(main, "__file__", raising=False)  # as in a notebook, which is no script
    check_here()
    monkeypatch.setattr(main, "__file__", str(tmp_path / "script.py"), raising=False)
    with pytest.raises(ValueError, match=r"queue\.py hides"):
        check_here()


def test_what_a_package_installs_as_a_script_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As optuna-dashboard's bottle.py, beside rts-search itself."""
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "rts-search")])
    monkeypatch.setattr(sys.modules["__main__"], "__file__", sys.argv[0], raising=False)
    make(tmp_path / "queue.py")
    monkeypatch.setattr(sysconfig, "get_path", {"scripts": str(tmp_path)}.get)
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
    assert all(hasattr(rts_search.optim, name) for name in rts_search.optim.__all__)
    assert not hasattr(rts_search.optim, "Nothing")


STEP = """
import sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder

class Only(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        top = name.split(".")[0]
        allowed = top in ALLOWED or top.startswith("_sysconfigdata")  # Python's own as well
        return super().find_spec(name, path, target) if allowed else None

ALLOWED = {*sys.stdlib_module_names, *sys.argv[1:]}
sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Only]
import torch
from IMPORTED import ASAM, RTS, SAM, GradientMonitor, LossScale, PerturbedSGD
w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
optimizer = RTS([w], lr=0.1)
optimizer.step(lambda: (w**2).sum().backward())
print(f"{w.norm().item():.4f}")  # lr shorter
try:
    from rts_search.optim import Schedule
except ModuleNotFoundError as error:
    print(error)
"""


@pytest.mark.parametrize("module", ["rts_search.optim", "trainables.optim"])
def test_the_optimizer_needs_torch_and_numpy_only(module: str) -> None:
    needed, todo = {"torch", "numpy"}, ["torch", "numpy"]
    while todo:  # and what they need
        try:
            lines = metadata.requires(todo.pop()) or []
        except metadata.PackageNotFoundError:  # of another platform
            continue
        new = {plain(Requirement(line).name) for line in lines if "extra ==" not in line}
        todo += new - needed
        needed |= new
    assert not needed & {"pydantic", "ray", "optuna", "pyarrow", "pandas", "duckdb"}
    owners = metadata.packages_distributions().items()
    theirs = [name for name, by in owners if needed & {plain(each) for each in by}]
    done = subprocess.run(
        [sys.executable, "-c", STEP.replace("IMPORTED", module), *theirs, *PACKAGES],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["4.9000", "No module named 'pydantic'"]


DOCTOR = ("-c", "from rts_search.shadows import check_installed; print(check_installed())")


def install(folder: Path, name: str, files: list[Path], version: str = "0.1.0") -> None:
    """As pip leaves a wheel's files: with their hashes."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = []
    for path in files:
        digest = hashlib.sha256(path.read_bytes()).digest()
        value = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        lines.append(f"{path.relative_to(folder)},sha256={value},{path.stat().st_size}\n")
    (info / "RECORD").write_text("".join(lines))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Our packages, installed by a wheel."""
    folder = tmp_path / "site"
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    install(folder, "rts-search", sorted(folder.rglob("*.*")))
    return folder


def python(site: Path, *arguments: str, before: str = "") -> tuple[int, str, str]:
    path = f"{before}{os.pathsep}{site}" if before else str(site)
    done = subprocess.run(
        [sys.executable, *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=site.parent,
        env={"PYTHONPATH": path, "PATH": "", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    return done.returncode, done.stdout.strip(), done.stderr.strip()


def test_an_installation_is_told(site: Path) -> None:
    assert python(site, *DOCTOR) == (0, f"rts-search 0.1.0, at {site}", "")
    assert python(site, "-m", "rts_search.cli", "--version") == (0, "rts-search 0.1.0", "")


def test_a_package_that_was_installed_over_ours_is_one_line(site: Path) -> None:
    (site / "results/__init__.py").write_text("from results.rows import Rows\n")
    (site / "results/rows.py").write_text("Rows = list\n")
    theirs = [site / "results/__init__.py", site / "results/rows.py"]
    install(site, "someones-results", theirs, "2.0")
    assert python(site, "-m", "rts_search.cli", "doctor") == (
        1,
        "",
        f"rts-search: {site / 'results'} is not that of rts-search any more: someones-results was "
        f"installed over it; pip uninstall someones-results, then {AGAIN}",
    )
    for path in theirs:  # as pip uninstalls it
        path.unlink()
    shutil.rmtree(site / "someones_results-2.0.dist-info")
    assert python(site, "-S", "-c", "import rts_search") == (  # no other one is found
        1,
        "",
        f"rts-search: {site / 'results'} is not that of rts-search any more: {AGAIN}",
    )


def test_a_file_that_was_overwritten_is_one_line(site: Path) -> None:
    changed = site / "results/storage.py"
    changed.write_text("class Storage: ...\n")
    said = f"{changed}: not as rts-search 0.1.0 installed it: {AGAIN}"
    assert python(site, "-m", "rts_search.cli", "best") == (2, "", f"rts-search: {said}")
    assert python(site, "-c", "import rts_search.cli.doctor")[0] == 0  # it can say so itself
    (site / "results/query.py").unlink()
    install(site, "someones-results", [changed], "2.0")
    code, _, error = python(site, *DOCTOR)
    assert code == 1
    assert error.splitlines()[-1] == (
        f"ValueError: {site / 'results/query.py'} and 1 more: not as rts-search 0.1.0 installed "
        f"it: someones-results was installed over it; pip uninstall someones-results, then {AGAIN}"
    )


def test_packages_of_two_installations_are_one_line(site: Path, tmp_path: Path) -> None:
    older = tmp_path / "older"
    shutil.copytree(site / "trainables", older / "trainables")
    code, _, error = python(site, *DOCTOR, before=str(older))
    assert code == 1
    assert f"{older}/trainables and {site}/rts_search are of two installations" in error
    for package in PACKAGES:  # a checkout that comes before the installation
        shutil.copytree(site / package, older / package, dirs_exist_ok=True)
    code, _, error = python(site, *DOCTOR, before=str(older))
    assert code == 1
    assert f"{site}/rts_search and {older}/rts_search are of two installations" in error
