"""How the command line begins a sweep: its name, its plan, what is refused before it starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from results.storage import SweepFolder
from rts_search.cli.launch import settle_name
from rts_search.driver.lock import TakenError, hold_lock
from rts_search.spec.folder import read_spec, write_spec
from rts_search.spec.model import SweepSpec
from rts_search.spec.reading import parse
from tests.rts_search.cli.calling import cli, spec_file

pytestmark = pytest.mark.usefixtures("surroundings")


def test_a_dry_run_tells_the_plan_and_creates_nothing(tmp_path: Path) -> None:
    done = cli("sweep", spec_file(tmp_path), "--dry-run", "--set", "train.lr=0.05")
    assert (done.code, done.err) == (0, "")
    assert "  lr: 0.05\n" in done.out
    assert [line for line in done.out.splitlines() if line.startswith("#")] == [
        "# 4 configurations of rts by tpe, at most 36 epochs",
        "# controls, never stopped: sgd T=9, pugd T=9, sgd-2x T=18",
        "# asha at epochs 2, 9 of one schedule",
        f"# ledger {tmp_path}/sweeps/tiny",
        "# SGD epochs before triggers fire are trained once, and shared",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["spec.yaml"]
    assert list(Path.cwd().glob("*sweeps*")) == []


def test_a_dry_run_tells_that_no_snapshots_are_kept(tmp_path: Path) -> None:
    done = cli("sweep", spec_file(tmp_path), "--dry-run", "--set", "checkpoint.trunk_mb=0")
    assert "# SGD epochs are trained by each trial, for checkpoint.trunk_mb 0 keeps no" in done.out
    assert "trained once" not in done.out


def test_the_storage_is_an_option_as_of_the_verbs_that_read(tmp_path: Path) -> None:
    done = cli("sweep", spec_file(tmp_path), "--dry-run", "--storage", tmp_path / "elsewhere")
    assert f"# ledger {tmp_path}/elsewhere/tiny\n" in done.out


def test_a_dry_run_downloads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path / "hub"))
    done = cli("sweep", "--preset", "paper-cifar100", "--dry-run")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "# The preset paper on CIFAR-100."
    assert lines[-1] == "# data cifar100 would be downloaded; they and the model are not checked"
    digits = ("--set", "data={name: digits}", "--set", "train.batch_size=100")
    weights = ("--set", "model={name: squeezenet1_1, pretrained: true}")
    enlarged = ("--set", "data.image_size=32")
    done = cli("sweep", "--preset", "paper", "--dry-run", *digits, *weights, *enlarged)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[-1] == (
        f"# torchvision's weights of squeezenet1_1 are not in {tmp_path}/hub: they would be "
        "downloaded; the model is not checked"
    )
    assert list(tmp_path.iterdir()) == []
    absent = cli("sweep", "--preset", "paper", "--dry-run", "--set", "data.download=false")
    assert absent.code == 2
    assert absent.err.startswith("rts-search: cifar10 is not there: looked for ")


@pytest.mark.parametrize(
    ("overrides", "lines"),
    [
        (["stop.policy=none"], ["at most 36 epochs", "# every trial to T = 9"]),
        (
            ["stop.fidelity=schedule"],
            ["at most 44 epochs", "# asha over complete schedules of 2, 9 epochs"],
        ),
        (["budget={hours: 2, target: 0.9}"], ["# ends early at hours 2 or target 0.9"]),
    ],
)
def test_a_dry_run_tells_stopper_and_budgets(
    tmp_path: Path, overrides: list[str], lines: list[str]
) -> None:
    done = cli("sweep", spec_file(tmp_path), "--dry-run", *(f"--set={each}" for each in overrides))
    assert (done.code, done.err) == (0, "")
    assert all(line in done.out for line in lines)


def test_a_dry_run_names_a_module_that_would_break_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queue.py").write_text("")
    monkeypatch.chdir(tmp_path)
    done = cli("sweep", spec_file(tmp_path), "--dry-run")
    assert (done.code, done.out) == (2, "")
    assert f"{tmp_path / 'queue.py'} hides the module 'queue'" in done.err


def test_a_dry_run_looks_at_what_it_would_begin_with(tmp_path: Path) -> None:
    asked = ("sweep", spec_file(tmp_path), "--dry-run", "--set", "search.warm_start=[gone]")
    done = cli(*asked)
    assert (done.code, done.out) == (2, "")
    assert "gone" in done.err


def test_a_dry_runs_plan_is_a_spec(tmp_path: Path) -> None:
    first = cli("sweep", spec_file(tmp_path), "--dry-run").out
    assert cli("sweep", spec_file(tmp_path, first), "--dry-run").out == first


def test_a_name_that_exists_is_numbered_refused_or_replaced(tmp_path: Path) -> None:
    taken = tmp_path / "sweeps/tiny/spec.yaml"
    taken.parent.mkdir(parents=True)
    taken.write_text("name: tiny")
    spec = spec_file(tmp_path)
    assert "\nname: tiny-2\n" in "\n" + cli("sweep", spec, "--dry-run").out
    assert cli("sweep", spec, "--dry-run", "--name", "tiny") == (
        2,
        "",
        f"rts-search: sweep 'tiny' exists in {tmp_path}/sweeps; go on with it: rts-search resume "
        f"{tmp_path}/sweeps/tiny; or replace it: add --overwrite\n",
    )
    replaced = cli("sweep", spec, "--dry-run", "--overwrite").out
    assert "\nname: tiny\n" in "\n" + replaced
    assert taken.exists()  # nothing is replaced by a dry run


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("space=rst", "unknown space 'rst': "),
        ("search.sampler=tpee", "unknown sampler 'tpee': did you mean 'tpe'? known: "),
        ("search.sampler=cmaes", "sampler cmaes moves one fixed set of parameters, and space"),
        ("stop.first_rung=9", "stop.first_rung 9 leaves no rung below train.epochs 9"),
        ("search.start_from=[{x: 1}]", "start point for space 'rts' lacks "),
        (
            "search.also=[lrr]",
            "unknown training parameter in `also` 'lrr': did you mean 'lr'? known: ",
        ),
        ("data.name=digit", "unknown dataset 'digit': did you mean 'digits'?"),
        ("data.train_size=5000", "train_size 5000 is above digits's 1438 train images"),
        ("model.name=mpl", "unknown model 'mpl': did you mean 'mlp'?"),
        ("model.args.depht=2", "model 'mlp' takes no argument 'depht'; it takes width, depth"),
        ("train={drop_last: true, batch_size: 999}", "batch_size 999 is above the 150 training"),
    ],
)
def test_what_cannot_run_is_known_before_it_starts(
    tmp_path: Path, override: str, line: str
) -> None:
    done = cli("sweep", spec_file(tmp_path), "--dry-run", "--set", override)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"rts-search: {line}")
    assert done.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["spec.yaml"]


def test_a_name_is_free_unless_begun_or_being_begun(tmp_path: Path) -> None:
    spec = SweepSpec(name="demo", storage=str(tmp_path))

    def settled(**asked: bool) -> str:
        options = {"by_name": False, "overwrite": False, "dry_run": False} | asked
        return settle_name(spec, **options).name

    assert settled() == settled(by_name=True) == "demo"
    with hold_lock(SweepFolder(tmp_path, "demo")):  # another command begins it just now
        assert settled() == "demo-2"
        assert settled(by_name=True) == "demo"  # and then it is refused, by the lock
        with hold_lock(SweepFolder(tmp_path, "demo-2")):
            assert settled() == "demo-3"
    assert settled() == "demo"
    write_spec(SweepFolder(tmp_path, "demo"), spec)
    assert settled() == "demo-2"
    with pytest.raises(ValueError, match="sweep 'demo' exists in"):
        settled(by_name=True)


def test_a_new_sweep_never_goes_on_with_one_that_was_begun_meanwhile(tmp_path: Path) -> None:
    from rts_search.runner import run_sweep

    spec = parse(SweepSpec, {"storage": str(tmp_path), "data": {"train_size": 100}})
    write_spec(SweepFolder(tmp_path, "sweep"), spec)
    with pytest.raises(TakenError, match="sweep 'sweep' was begun meanwhile; follow it with"):
        run_sweep(spec, Console(), new=True)
    assert read_spec(SweepFolder(tmp_path, "sweep")) == spec


def test_a_sweep_speaks_before_it_loads_torch_and_ray(tmp_path: Path) -> None:
    code = (
        "import builtins, sys\n"
        "from rts_search.cli.app import main\n"
        "def show(*words, **more):\n"
        "    loaded = [name for name in ('torch', 'ray', 'optuna') if name in sys.modules]\n"
        "    sys.stderr.write(f'{words[0]} {loaded}\\n')\n"
        "builtins.print = show\n"
        "main(['sweep', '--preset', 'demo', '--set', 'model.name=cn'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    first = done.stderr.splitlines()[0]
    assert first == "sweep demo: checks the spec, loads the data, starts Ray … []"


def test_nothing_is_replaced_by_a_sweep_that_cannot_run(tmp_path: Path) -> None:
    taken = tmp_path / "sweeps/tiny/spec.yaml"
    taken.parent.mkdir(parents=True)
    taken.write_text("name: tiny")
    done = cli("sweep", spec_file(tmp_path), "--overwrite", "--set", "model.name=cn")
    assert done.code == 2
    assert done.err.startswith("rts-search: unknown model 'cn'")
    assert taken.exists()
