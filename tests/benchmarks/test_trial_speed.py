"""`make gpu-check` on the CPU, as far as that goes."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"
TINY = "--table --device cpu --models mlp --images 100 --batch-size 32 --rounds 1 --epochs 1"
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")


@pytest.fixture
def speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("RTS_SEARCH_CACHE", str(tmp_path))
    monkeypatch.syspath_prepend(str(FOLDER))
    module = import_module("trial_speed")
    monkeypatch.setattr(module, "TURN", 0.0)
    return module


@no_gpu
def test_without_a_gpu_one_line_says_so(speed: ModuleType) -> None:
    with pytest.raises(
        SystemExit, match=r"^gpu-check needs a CUDA GPU, and torch sees none[^\n]*$"
    ):
        speed.main(["--table"])


def rows(text: str) -> dict[str, list[list[str]]]:
    """The tables' cells, by the first column's title."""
    tables: dict[str, list[list[str]]] = {}
    for line in text.splitlines():
        if line.startswith("|---"):
            continue
        if not line.startswith("|"):
            title = None
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if title is None:
            title = tables.setdefault(line, [])
        else:
            title.append(cells)
    return tables


@no_gpu
def test_the_table_has_all_its_parts(
    speed: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started = iter((1.5, 2.0))
    monkeypatch.setattr(speed.Table, "at_once", lambda *_: next(started))
    speed.main(TINY.split())
    families, ways, accuracy, residence, together = rows(capsys.readouterr().out).values()
    assert [row[:2] for row in families] == [["mlp", family] for family in speed.FAMILIES]
    assert all(float(row[2]) > 0 and row[5:] == ["needs CUDA"] * 2 for row in families)
    assert [re.fullmatch(r"[\d.]+ \([\d.]+ to [\d.]+\)", row[3]) for row in families[1:]]
    assert [row[2] == "needs CUDA" for row in ways] == [False, False, True, True]
    assert [row[0] for row in accuracy] == ["fp32", "bf16"]
    assert [row[0] for row in residence] == ["mlp"]
    assert residence[0][-1] == "yes"
    assert together == [["mlp", "1.500", "2.000", "1.50"]]


def test_a_ratio_is_that_of_an_epoch_to_two_of_sgd(speed: ModuleType) -> None:
    found = [{"sgd": 1.0, "pugd": 2.06}, {"sgd": 2.0, "pugd": 4.0}, {"sgd": 1.0, "pugd": 3.0}]
    assert speed.ratios(found, "pugd") == pytest.approx([1.0, 1.03, 1.5])
    assert speed.spread(speed.ratios(found, "pugd")) == "1.030 (1.000 to 1.500)"


@pytest.mark.slow
@pytest.mark.very_slow
@no_gpu
def test_the_script_with_two_trials_at_once() -> None:
    command = [sys.executable, str(FOLDER / "trial_speed.py"), *TINY.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    ((model, one, two, faster),) = list(rows(done.stdout).values())[-1]
    assert model == "mlp"
    assert 0 < float(one) < 60
    assert 0 < float(two) < 60
    assert float(faster) > 0
