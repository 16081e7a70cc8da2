"""The command line: what it prints, what it writes, and one line for each mistake."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from importlib import metadata
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from results.ledger import Ledger
from results.query import find_trial
from results.storage import SweepFolder
from rts_search.cli.app import main
from rts_search.spec.folder import write_spec
from rts_search.spec.model import SweepSpec
from tests.rts_search.cli.calling import CONFIG, cli
from trainables.checkpoint import WEIGHTS, CheckpointFolder
from trainables.config import TrialConfig

pytestmark = pytest.mark.usefixtures("surroundings")
SCRIPT = Path(sys.executable).with_name("rts-search")


@pytest.fixture(scope="module")
def storage(surroundings: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger of two runs and one that diverged."""
    folder = tmp_path_factory.mktemp("storage")
    config = folder / "config.yaml"
    config.write_text(CONFIG)
    train = ("train", config, "--storage", folder, "--name", "runs")
    first, second = cli(*train), cli(*train, "--set", "optimizer.family=rts", "--set", "train.lr=1")
    assert (first.code, first.err) == (second.code, second.err) == (0, "")
    lines = first.out.splitlines()
    assert [line.split()[:2] for line in lines[:3]] == [["epoch", f"{e}/3"] for e in (1, 2, 3)]
    assert lines[0].endswith("perturbing")
    assert lines[3].startswith("test accuracy 0.")
    lost = cli(*train, "--set", "optimizer.family=sgd", "--set", "train.lr=1e30")
    assert str(lost.code).startswith("rts-search: diverged: ")
    return folder


def test_train_records_trials_and_keeps_their_weights(storage: Path) -> None:
    rows = [find_trial(storage, name, "runs") for name in ("run0000", "run0001", "run0002")]
    assert [row["outcome"] for row in rows] == ["completed", "completed", "diverged"]
    assert [row["family"] for row in rows] == ["pugd", "rts", "sgd"]
    assert [row["config_lr"] for row in rows] == [0.1, 1.0, 1e30]
    assert [row["epochs"] for row in rows[:2]] == [3, 3]
    assert rows[0]["gradient_evaluations"] == 18  # three steps an epoch, two gradients each
    assert rows[2]["message"].endswith("at epoch 1")
    for row in rows[:2]:
        assert 0 <= row["test_accuracy"] <= 1
        kept = CheckpointFolder(f"{storage}/runs/checkpoints/{row['trial_id']}").load(WEIGHTS)
        assert kept is not None
        assert kept["config"] == row["config_json"]
        assert kept["final"].keys() == kept["best"].keys()
    assert not (storage / "runs/checkpoints/run0002").exists()


def test_train_repeats_a_trial_with_changes(storage: Path) -> None:
    again = ("train", "--storage", storage, "--name", "again", "--trial", "runs/run0000")
    assert cli(*again).out.endswith("\nnext: rts-search best runs again\n")
    assert cli(*again, "--set", "train.seed=2").code == 0
    first, same, other = (
        find_trial(storage, name, sweep)
        for name, sweep in (("run0000", "runs"), ("run0000", "again"), ("run0001", "again"))
    )
    assert TrialConfig.model_validate_json(other["config_json"]).train.seed == 2
    assert same["config_json"] == first["config_json"]
    assert same["best_test_loss"] == first["best_test_loss"]
    assert other["best_test_loss"] != first["best_test_loss"]


def test_a_repeated_trial_keeps_its_objective(storage: Path) -> None:
    with Ledger(SweepFolder(storage, "loss")) as ledger:
        row = find_trial(storage, "run0000", "runs")
        ledger.put_trial({**row, "sweep": "loss", "objective": "val_loss"})
    at = ("train", "--storage", storage, "--name", "more")
    assert cli(*at, "--trial", "loss/run0000").code == 0
    again = find_trial(storage, "run0000", "more")
    assert again["objective"] == "val_loss"
    assert again["final_objective"] != again["final_val_accuracy"]


def test_train_is_no_part_of_a_sweep(storage: Path, tmp_path: Path) -> None:
    write_spec(SweepFolder(tmp_path, "mine"), SweepSpec(name="mine", storage=str(tmp_path)))
    done = cli("train", storage / "config.yaml", "--storage", tmp_path, "--name", "mine")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"rts-search: 'mine' is a sweep in {tmp_path}, whose trials are its own: give --name "
        "another\n"
    )


def test_train_takes_a_model_of_ones_own_from_here(storage: Path) -> None:
    Path("my_own_net.py").write_text(
        "from torch import nn\n"
        "def build(num_classes, image_shape, width):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))\n"
    )
    done = cli(
        *("train", storage / "config.yaml", "--storage", storage, "--name", "own"),
        *("--set", "model={name: 'my_own_net:build', args: {width: 3}}", "--set", "train.epochs=1"),
    )
    assert (done.code, done.err) == (0, "")
    assert find_trial(storage, "run0000", "own")["config_model"] == "my_own_net:build"


def test_an_error_in_ones_own_code_is_one_line_and_its_traceback_is_shown_on_demand(
    storage: Path,
) -> None:
    Path("my_late_net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Linear):\n"
        "    def forward(self, x):\n"
        "        assert not self.training, 'only while\\n training'\n"
        "        return super().forward(x.flatten(1))\n"
        "def build(num_classes, image_shape): return Net(64, num_classes)\n"
    )
    train = ("train", storage / "config.yaml", "--storage", storage, "--name", "late")
    model = ("--set", "model={name: 'my_late_net:build'}")
    done = cli(*train, *model)
    line = "model 'my_late_net:build' failed with AssertionError: only while training ("
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"rts-search: {line}")
    assert done.err.endswith("my_late_net.py, line 4)\n")
    shown = cli(*train, *model, "-v").err
    assert shown.startswith("Traceback (most recent call last):")
    assert shown.endswith(done.err)


def test_best(storage: Path) -> None:
    done = cli("best", "runs", "--storage", storage)
    assert (done.code, done.err) == (0, "")
    assert "run0000" in done.out
    assert "run0001" in done.out
    assert "run0002" not in done.out
    assert "2 trials by final_val_accuracy" in done.out
    top = cli("best", "runs", "--storage", storage, "--top", "1", "--metric", "train_seconds")
    assert ("run0000" in top.out) != ("run0001" in top.out)
    some = cli("best", "runs", "--storage", storage, "--where", "family = 'rts'")
    assert "run0000" not in some.out
    assert "run0001" in some.out


def test_query(storage: Path) -> None:
    sql = "SELECT trial_id, count(*) AS n FROM epochs GROUP BY 1 ORDER BY 1"
    ask = ("query", sql, "--sweep", "runs", "--storage", storage)
    table = [line.split() for line in cli(*ask).out.splitlines() if "run" in line]
    assert table == [["run0000", "3"], ["run0001", "3"], ["run0002", "1"]]
    rows = json.loads(cli(*ask, "--format", "json").out)
    assert rows[0] == {"trial_id": "run0000", "n": 3}
    lines = list(csv.DictReader(io.StringIO(cli(*ask, "--format", "csv").out)))
    assert lines[2] == {"trial_id": "run0002", "n": "1"}


def test_show(storage: Path) -> None:
    done = cli("show", "runs/run0001", "--storage", storage)
    assert done.out.splitlines()[0] == "run0001 of runs: rts, completed after 3 epochs, T = 3"
    assert done.out.splitlines()[1] == "rts radius 1 · scale 1 · always"
    assert "val_accuracy" in done.out
    assert cli("show", "run0001", "--sweep", "runs", "--storage", storage).out == done.out


def test_list_and_status(storage: Path) -> None:
    listed = [line.split() for line in cli("list", "--storage", storage).out.splitlines()]
    assert ["runs", "3", "0"] in [words[:3] for words in listed]
    done = cli("status", "runs", "--storage", storage)
    assert done.out.splitlines()[0] == ("runs: 3 trials (2 completed, 1 diverged) and 0 controls")
    assert cli("status", "--storage", storage).code == 0


@pytest.mark.parametrize("table", ["trials", "epochs"])
def test_export(storage: Path, tmp_path: Path, table: str) -> None:
    count = {"trials": 3, "epochs": 7}[table]
    out = cli("export", table, "--sweep", "runs", "--storage", storage).out
    assert len(list(csv.DictReader(io.StringIO(out)))) == count
    path = tmp_path / "out.parquet"
    options = ("--format", "parquet", "--sweep", "runs", "--storage", storage)
    done = cli("export", table, "-o", path, *options)
    assert done.out == f"{count} rows of {table} in {path}\n"
    assert pq.read_table(path).num_rows == count


def test_what_there_is() -> None:
    assert "radius_scale" in cli("spaces").out
    rts = cli("spaces", "rts").out
    assert "radius_alpha_start" in rts
    assert "0.01 to 100 (log)" in rts
    assert "conditional" in rts
    models, datasets = (cli(name).out.split() for name in ("models", "datasets"))
    assert {"mlp", "cnn", "upanets16", "resnet18", "vit_b_16"} <= set(models)
    assert {"digits", "cifar10", "fashion_mnist", "imagefolder"} <= set(datasets)


def test_the_version() -> None:
    done = cli("--version")
    assert (done.code, done.out, done.err) == (
        0,
        f"rts-search {metadata.version('rts-search')}\n",
        "",
    )


def test_help_names_the_commands() -> None:
    done = cli("--help")
    assert done.code == 0
    commands = "sweep resume train best query list status show export spaces models datasets doctor"
    for command in commands.split():
        assert f" {command} " in done.out
    assert cli("best", "--help").code == 0


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("best", "no sweeps in 'sweeps'; begin one: rts-search sweep --preset demo"),
        ("status", "no sweeps in 'sweeps'; begin one: rts-search sweep --preset demo"),
        ("show t0000", "no sweeps in sweeps"),
        ("export", "no sweeps in sweeps"),
        ("best run --storage STORAGE", "unknown sweep in STORAGE 'run': did you mean 'runs'?"),
        ("status run --storage STORAGE", "unknown sweep in STORAGE 'run': did you mean 'runs'?"),
        ("show run0 --sweep runs --storage STORAGE", "trial 'run0' may be run0000 in runs"),
        ("show t1 --sweep runs --storage STORAGE", "unknown trial 't1': known: run0000"),
        ("best --metric test_accuracy --storage STORAGE", "trials are not ranked by test_accura"),
        ("best --metric val_loss --storage STORAGE", "unknown metric 'val_loss': did you mean"),
        ("best --top 0 --storage STORAGE", "top must be at least 1, not 0"),
        ("export trialss --storage STORAGE", "unknown table 'trialss': did you mean 'trials'?"),
        ("export --format xml --storage STORAGE", "unknown format 'xml'"),
        ("query SELEC --storage STORAGE", "SQL: "),
        ("query DROP.TABLE.trials --storage STORAGE", "SQL: "),
        ("best --storage foo://bar", "storage 'foo://bar' is not a local path or a URI"),
        ("resume nix", "no sweeps in HERE/sweeps"),
        ("resume ./nix --trials 9 --hours 2", "no sweeps in HERE"),
        ("stop nix", "no sweeps in HERE/sweeps"),
        ("resume STORAGE/run", "unknown sweep in STORAGE 'run': did you mean 'runs'?"),
        ("resume STORAGE/runs", "no sweep at STORAGE/runs: it has no spec.yaml"),
        ("audit STORAGE/runs/", "no sweep at STORAGE/runs: it has no spec.yaml"),
        ("stop STORAGE/run", "unknown sweep in STORAGE 'run': did you mean 'runs'?"),
        ("best runs STORAGE/runs", "no sweeps in HERE/sweeps"),
        ("replay STORAGE/run", "unknown sweep in STORAGE 'run': did you mean 'runs'?"),
        ("train --trial STORAGE/run/x", "unknown sweep in STORAGE 'run': did you mean 'runs'?"),
        ("train --trial STORAGE/runs/x", "unknown trial 'x'"),
        ("stop runs --storage STORAGE", "no sweep at STORAGE/runs: it has no spec.yaml"),
        ("sweep", "give either a SPEC.yaml or --preset NAME (demo, paper, paper-100, "),
        ("sweep a.yaml --preset demo", "give either a SPEC.yaml or --preset NAME"),
        (
            "sweep --preset dem",
            "unknown preset 'dem': did you mean 'demo'? known: demo, paper, paper-100, ",
        ),
        ("sweep none.yaml", "spec 'none.yaml' cannot be read: No such file or directory"),
        ("sweep --preset demo --set trials", "--set 'trials' is not of the form a.b=c"),
        (
            "sweep --preset demo --set train.lrr=1",
            "unknown setting in train 'lrr': did you mean 'lr'",
        ),
        ("sweep --preset demo --name a/b", "name: 'a/b': string should match"),
        ("train", "give either a CONFIG.yaml or --trial SWEEP/TRIAL"),
        ("train none.yaml", "spec 'none.yaml' cannot be read: No such file or directory"),
        ("train --trial runs", "trial 'runs' is not of the form SWEEP/TRIAL"),
        ("train --trial runs/x --storage STORAGE", "unknown trial 'x'"),
        (
            "train STORAGE/config.yaml --set train.lrr=1",
            "unknown setting in train 'lrr': did you mean",
        ),
        ("train STORAGE/config.yaml --set data.name=digit", "unknown dataset 'digit': did you"),
        ("train STORAGE/config.yaml --set model.name=cn", "unknown model 'cn': did you mean"),
        ("train STORAGE/config.yaml --set train.device=gpu", "device 'gpu' is not one of auto"),
        (
            "train STORAGE/config.yaml --set data.residence=gpu",
            "unknown data.residence 'gpu': known: auto, device, stream",
        ),
        ("train STORAGE/config.yaml --name a:b", "sweep 'a:b' must be letters, digits"),
        (
            "spaces rst",
            "unknown space 'rst': did you mean 'rts'? known: package.module:function, radius, ",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(storage: Path, arguments: str, line: str) -> None:
    words = [word.replace("STORAGE", str(storage)) for word in arguments.split()]
    done = cli(*(word.replace(".", " ") if word.startswith("DROP") else word for word in words))
    assert (done.code, done.out) == (2, "")
    expected = line.replace("STORAGE", str(storage)).replace("HERE", str(Path.cwd()))
    assert done.err.startswith(f"rts-search: {expected}")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("arguments", ["bestt", "best --topp 3", "sweep --preset", "query"])
def test_a_misused_option_is_no_traceback(arguments: str) -> None:
    done = cli(*arguments.split())
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err
    assert "Error" in done.err


def test_the_installed_command_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [SCRIPT, "best"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "rts-search: no sweeps in 'sweeps'; begin one: rts-search sweep --preset demo\n"
    )


def test_a_reader_that_has_gone_is_no_traceback() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [SCRIPT, "spaces"], stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


QUESTIONS = """
import sys
from rts_search.cli.app import main

for command in {commands}:
    try:
        main(command)
    except SystemExit as end:
        assert end.code == 0, command
loaded = [name for name in ("torch", "torchvision", "ray") if name in sys.modules]
print("loaded", loaded, file=sys.stderr)
"""


def test_questions_to_the_ledger_load_neither_torch_nor_ray(storage: Path) -> None:
    at = ["--storage", str(storage)]
    commands = [
        ["--help"],
        ["best", *at],
        ["list", *at],
        ["status", *at],
        ["show", "runs/run0000", *at],
        ["query", "SELECT count(*) FROM trials", *at],
        ["export", *at],
    ]
    code = QUESTIONS.format(commands=commands)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "loaded []\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("list",),
        ("best", "runs"),
        ("best", "runs", "--pareto"),
        ("status", "runs"),
        ("show", "runs/run0000"),
        ("query", "SELECT 'β–→' AS x FROM trials"),
        ("spaces", "rts"),
        ("sweep", "--help"),
        ("sweep", "--preset", "quick", "--dry-run"),
        ("best", "nösuch"),
    ],
)
def test_a_terminal_of_ascii_takes_every_verb(
    storage: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    asks = {"list", "best", "status", "show", "query"} & set(arguments)
    out, err = (io.TextIOWrapper(io.BytesIO(), "ascii", write_through=True) for _ in range(2))
    code: object = 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main([*arguments, *(("--storage", str(storage)) if asks else ())])
        except SystemExit as end:
            code = end.code
    said = out.buffer.getvalue() + err.buffer.getvalue()  # type: ignore[attr-defined]
    assert said.isascii()
    assert code == (2 if "nösuch" in arguments else 0), said


def test_many_rows_ask_before_they_fill_a_terminal(
    storage: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = ["query", "SELECT range AS n FROM range(1001)", "--storage", str(storage)]

    def lines(*more: str) -> tuple[int, str]:
        with pytest.raises(SystemExit):
            main([*asked, *more])
        out, err = capsys.readouterr()
        return out.count("\n"), err

    assert lines()[0] > 1_000  # to a pipe
    monkeypatch.setattr(
        "rts_search.show.console.make_console", lambda: Console(force_terminal=True, width=80)
    )
    count, told = lines()
    assert count == 0
    assert told.startswith("rts-search: 1,001 rows are many for a terminal: show them with --all")
    assert lines("--all")[0] > 1_000
    assert lines("--output", str(tmp_path / "rows.csv")) == (0, "")
    assert (tmp_path / "rows.csv").read_text().count("\n") == 1_002
