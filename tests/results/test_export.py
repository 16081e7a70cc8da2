"""Tables in other formats."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from results.export import export, write_table
from results.ledger import Ledger
from results.storage import SweepFolder
from tests.results.builders import epoch_row, trial_row


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    with Ledger(SweepFolder(tmp_path / "sweeps", "s")) as ledger:
        for epoch in (2, 1):
            loss = [0.1 + 0.2, float("inf")][epoch - 1]
            ledger.add_epoch(epoch_row("t0", epoch, val_loss=loss, perturbing=True))
        ledger.put_trial(trial_row("t0", message='commas, "quotes"\nand lines'))
    return tmp_path / "sweeps"


def test_every_format_holds_the_same_rows(storage: Path, tmp_path: Path) -> None:
    for name in ("csv", "json", "parquet"):
        assert export(storage, "epochs", name, tmp_path / f"out.{name}", "s") == 2
    table = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["val_loss"] for row in table] == [0.1 + 0.2, float("inf")]
    objects = json.loads((tmp_path / "out.json").read_text())
    assert [row["val_loss"] for row in objects] == [0.1 + 0.2, None]
    assert objects[0] == {
        **table[0],
        "time": table[0]["time"].isoformat(),
    }
    with open(tmp_path / "out.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(row["epoch"], float(row["val_loss"])) for row in lines] == [
        ("1", 0.1 + 0.2),
        ("2", float("inf")),
    ]
    assert lines[0]["train_loss"] == ""
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        "out.csv",
        "out.json",
        "out.parquet",
    ]


def test_standard_output(storage: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    export(storage, "trials", "json")
    (row,) = json.loads(capsysbinary.readouterr().out)
    assert row["message"] == 'commas, "quotes"\nand lines'


def test_no_rows_and_nested_values(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    write_table(pa.table({"a": pa.array([], pa.int32())}), "json")
    assert json.loads(capsysbinary.readouterr().out) == []
    write_table(pa.table({"a": [[1, 2]]}), "json")
    assert json.loads(capsysbinary.readouterr().out) == [{"a": "[1, 2]"}]


def test_unknown_names(storage: Path) -> None:
    with pytest.raises(ValueError, match="unknown table 'epoch': did you mean 'epochs'"):
        export(storage, "epoch", "csv")
    with pytest.raises(ValueError, match="unknown format 'jsn': did you mean 'json'"):
        export(storage, "epochs", "jsn")
