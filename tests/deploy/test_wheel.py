"""The wheel, installed into an empty environment, does the whole job outside the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from rts_search.cluster.package import PACKAGES

ROOT = Path(__file__).parents[2]
SWEEP = (
    "sweep --preset quick --set data.name=digits --set data.train_size=200 --set model.name=mlp "
    "--set train.epochs=1 --set stop.policy=none --set search.trials=1 --set search.controls=false "
    "--set resources.concurrent=1"
)
OPTIMIZER = "import rts_search.optim as o; print(o.__file__, o.RTS.__name__, o.GapTrigger().mu)"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    subprocess.run(
        [*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT], check=True
    )
    (found,) = folder.glob("rts_search-*.whl")
    return found


@pytest.mark.slow
def test_what_the_wheel_holds(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (info,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
        head = archive.read(f"{info}/METADATA").decode().split("\n\n")[0].splitlines()
    files = {name for name in names if not name.startswith(info)}
    assert {name.split("/")[0] for name in files} == set(PACKAGES)
    assert {f"{package}/py.typed" for package in PACKAGES} <= files
    here = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.*")
        if "__pycache__" not in path.parts and path.is_file()
    }
    assert files == here  # presets and dashboards too, and nothing else
    assert f"{info}/licenses/LICENSE" in names
    assert {"License-Expression: Apache-2.0", "Classifier: Typing :: Typed"} <= {*head}


@pytest.mark.slow
def test_the_wheel_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """Empty, but for the packages that the wheel asks for: those of this environment."""
    home = tmp_path / "venv"
    venv.create(home)
    python = home / "bin/python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel],
        check=True,
    )
    (site,) = home.glob("lib/python*/site-packages")
    needed = [path for path in sys.path if path.endswith("site-packages")]
    (site / "needed.pth").write_text("\n".join(needed))
    (tmp_path / "work").mkdir()

    def run(*command: str) -> str:
        done = subprocess.run(
            [home / "bin" / command[0], *command[1:]],
            cwd=tmp_path / "work",
            env={k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    version = metadata.version("rts-search")
    assert run("rts-search", "--version") == f"rts-search {version}\n"
    told = run("python", "-c", "from rts_search.shadows import check_installed as c; print(c())")
    assert told == f"rts-search {version}, at {site}\n"
    assert run("python", "-c", OPTIMIZER) == f"{site}/rts_search/optim.py RTS 2.0\n"
    assert "t0000 is the best of 1 trial" in run("rts-search", *SWEEP.split())
    (ranking,) = json.loads(run("rts-search", "best", "quick", "--json"))["rankings"]
    assert [trial["trial_id"] for trial in ranking["trials"]] == ["t0000"]
