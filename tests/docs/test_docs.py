"""The docs do not lie: their commands run, their tables match the code, their links resolve."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from optuna.trial import FixedTrial

from docs.tree import PAGE, tree
from results.schema import EPOCHS, TRIALS
from rts_search.search.checks import check_spec, search_space
from rts_search.spec.model import SweepSpec
from rts_search.spec.reading import load_spec, parse
from search_spaces.registry import start_points
from search_spaces.space import apply

ROOT = Path(__file__).parents[2]
HEAD = [ROOT / f"{name}.md" for name in ("README", "BENCHMARKS", "CONTRIBUTING", "CHANGELOG")]
PAGES = [*HEAD, *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text("utf-8"), re.DOTALL)


def write_files(page: Path, folder: Path) -> None:
    """The files of a page: blocks that begin with a file's name, as in `# my_task.py`."""
    for block in blocks(page, r"(?:python|yaml)"):
        if name := re.match(r"# (\w+\.(?:py|yaml))\n", block):
            with (folder / name[1]).open("a", encoding="utf-8") as file:
                file.write(block)


@pytest.mark.docs
def test_the_commands_run_in_order(tmp_path: Path) -> None:
    for page in PAGES:
        write_files(page, tmp_path)
    commands = [
        line.removeprefix("$ ")
        for page in PAGES
        for block in blocks(page, "console")
        for line in block.splitlines()
        if line.startswith("$ ")
    ]
    assert len(commands) > 15
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in commands:
        done = subprocess.run(
            shlex.split(command),
            cwd=tmp_path,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def test_the_make_targets_exist() -> None:
    named = {
        t
        for page in PAGES
        for t in re.findall(r"(?:`|^ {4})make ([a-z-]+)", page.read_text("utf-8"), re.M)
    }
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    targets = set(re.findall(r"make ([a-z-]+)", listed.stdout))
    assert {"demo", "test"} <= named & targets
    assert named <= targets, named - targets


def test_the_spec_page_has_every_setting_and_its_default() -> None:
    rows = dict(
        re.findall(
            r"^\| `([a-z_.]+)` \| `(.*?)` \|", (ROOT / "docs/spec.md").read_text("utf-8"), re.M
        )
    )
    defaults = {}
    for key, value in SweepSpec().model_dump(mode="json").items():
        if isinstance(value, dict):
            defaults |= {f"{key}.{inner}": json.dumps(v) for inner, v in value.items()}
        else:
            defaults[key] = json.dumps(value)
    assert rows == defaults


def test_the_ledger_page_names_only_columns_that_exist() -> None:
    text = (ROOT / "docs/ledger.md").read_text("utf-8")
    named = {
        name
        for row in re.findall(r"^\| (`.*?) \|", text, re.M)
        for name in re.findall(r"`(\w+)`", row)
    }
    assert named <= {*EPOCHS.names, *TRIALS.names}
    assert set(EPOCHS.names) <= named


def test_the_readme_spec_is_valid() -> None:
    (example,) = blocks(ROOT / "README.md", "yaml")
    assert parse(SweepSpec, yaml.safe_load(example)).search.trials == 48


def test_a_model_a_dataset_and_a_space_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainables.loop import train

    write_files(ROOT / "docs/your-own.md", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    spec = load_spec(tmp_path / "stripes.yaml", ["train.epochs=1"])
    shared, note = check_spec(spec)
    assert shared.startswith("nothing is shared: lr searched, ")
    assert note.startswith("the controls keep the spec's lr, which the trials search: ")
    (point,) = start_points(search_space(spec))
    config = apply(search_space(spec), FixedTrial(point), spec.base)
    assert (config.data.name, config.model.name) == ("my_task:stripes", "my_task:net")
    (epoch,) = train(config)
    assert epoch.val_accuracy > 0.9  # of two classes


@pytest.mark.parametrize(
    ("task", "objective", "better"), [("diabetes", "val_mse", min), ("tumours", "val_auc", max)]
)
def test_training_loops_of_ones_own(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    task: str,
    objective: str,
    better: Callable[[list[float]], float],
) -> None:
    from trainables.own.start import new_run, train_run

    write_files(ROOT / "docs/your-own.md", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    changes = [f"task.name=my_loops:{task}", f"task.objective={objective}", "train.device=cpu"]
    direction = "minimize" if better is min else "maximize"
    spec = load_spec(tmp_path / "diabetes.yaml", [*changes, f"task.direction={direction}"])
    check_spec(spec)
    assert spec.direction == direction
    epochs = list(train_run(new_run(spec.base)))
    values = [epoch.value for epoch in epochs if epoch.value is not None]
    assert better(values) != values[0]  # it learns
    assert len(values) == 12
    assert epochs[-1].test is not None
    assert epochs[-1].test.test_value is not None


def test_the_file_tree_is_up_to_date() -> None:
    assert f"<!-- tree -->\n```text\n{tree()}```" in PAGE.read_text("utf-8"), "run make tree"


def test_the_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= 120
    assert any("    t0003 is the best of" in line for line in lines[:25])  # as `make demo` prints


def test_one_version_and_one_licence() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert str(citation["version"]) == project["version"]
    assert citation["license"] == project["license"]
    assert [author["name"] for author in citation["authors"]] == [
        author["name"] for author in project["authors"]
    ]
    newest, *_ = re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert newest == project["version"]


def test_links_resolve() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
