"""The recorded tables of benchmarks/recorded, what they say of perturbation, and their script."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow.parquet as pq
import pytest

from rts_search.replay.sources import from_files
from rts_search.spec.reading import load_spec
from trainables.loop import train

RECORDED = Path(__file__).parents[3] / "benchmarks" / "recorded"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("record_tables", RECORDED / "record.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["record_tables"] = module  # where dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("table", "configurations", "epochs"),
    [("fashion_rts", 120, 27), ("digits_noise_rts", 96, 81), ("fashion_clean_rts", 96, 27)],
)
def test_each_table_loads_whole(table: str, configurations: int, epochs: int) -> None:
    curves = from_files([RECORDED / f"{table}.parquet"])
    searched = [name for name in curves.configs if name != "sgd"]
    assert (len(searched), curves.epochs, curves.notes) == (configurations, epochs, [])
    assert curves.seeds() == [42, 43, 44, 45]
    assert all(curves.params[curves.configs.index(name)] for name in searched)


@pytest.mark.parametrize("table", ["digits_noise_rts", "fashion_clean_rts"])
def test_what_never_fires_is_the_recorded_sgd(table: str) -> None:
    rows = pq.read_table(RECORDED / f"{table}.parquet").to_pylist()
    curves: dict[tuple[str, int], list[float | None]] = {}
    fires = set()
    for row in rows:
        curves.setdefault((row["config"], row["seed"]), []).append(row["val_accuracy"])
        if row["trigger_epoch"] is not None:
            fires.add((row["config"], row["seed"]))
    never = curves.keys() - fires
    assert len(never) > 4
    assert all(curves[name, seed] == curves["sgd", seed] for name, seed in never)


def test_with_label_noise_perturbation_beats_sgd_at_its_own_best_lr(script: ModuleType) -> None:
    sgd = script.ends(RECORDED / "digits_noise_rts_sgd.parquet")
    found = script.ends(RECORDED / "digits_noise_rts.parquet")
    perturbed = found.values[found.best(found.perturbed)]
    top = sgd.best()
    assert 0 < top < len(sgd.names) - 1  # lower and higher learning rates were tried
    reruns = max(perturbed.std(ddof=1), sgd.values[top].std(ddof=1))
    assert perturbed.mean() - sgd.values[top].mean() > reruns


def test_the_tables_stay_small() -> None:
    assert sum(file.stat().st_size for file in RECORDED.glob("*.parquet")) < 5e6


def test_a_table_is_recorded_through_the_trunk_and_gone_on_with(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [
        "data.train_size=600",
        "train.epochs=6",
        "train.lr=0.1",
        "search.trials=5",
        "search.seed=1",
    ]
    spec = load_spec(RECORDED / "digits_noise_rts.yaml", settings)
    job = script.Job(6, (1,), (0.1,))
    script.record("table", (job,), spec, tmp_path, tmp_path)
    rows = pq.read_table(tmp_path / "table.parquet").to_pylist()
    columns = ("val_accuracy", "trigger_epoch", "gradient_evaluations")
    whole = set()
    for name, _, config in script.configurations(spec):
        own = [tuple(row[column] for column in columns) for row in rows if row["config"] == name]
        alone = list(train(script.fit(config, job, 1)))
        told = [tuple(getattr(metrics, column) for column in columns) for metrics in alone]
        assert own == [(np.float32(value), *rest) for value, *rest in told[: len(own)]]
        if len(own) == 6:  # else it has collapsed
            whole.add(alone[-1].trigger_epoch)
    assert {None} < whole  # and some have fired

    def again(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(script, "train", again)
    script.record("table", (job,), spec, tmp_path, tmp_path)
    assert pq.read_table(tmp_path / "table.parquet").to_pylist() == rows
    assert pq.read_table(tmp_path / "table_sgd.parquet")["config"].unique().to_pylist() == [
        "lr 0.1"
    ]
