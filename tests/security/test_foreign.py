"""Ledgers that another program made, with what the schema allows and we never write."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from results.schema import EPOCHS, TRIALS
from results.statistics import config_without_seed
from results.storage import SweepFolder
from results.trials import read_trials
from rts_search.replay.curves import from_rows
from rts_search.spec.folder import write_spec
from rts_search.spec.model import SweepSpec
from rts_search.spec.written import read_argument, read_stored, read_written
from tests.rts_search.cli.calling import cli

NOW = datetime(2026, 1, 2, tzinfo=UTC)
BEFORE_ALL, AFTER_ALL = -62135596800_000_001, 253402300800_000_000  # microseconds
READING = ["best", "status", "status --follow", "status --json", "replay", "audit", "show"]
NOT_OURS = [None, "{", "[1]", '{"train": []}', '{"train": {}}', "[" * 20_000]


def write(storage: Path, trials: list[dict[str, Any]], epochs: list[dict[str, Any]]) -> SweepFolder:
    folder = SweepFolder(storage, "s")
    spec = {"name": "s", "space": "rts", "data": {"name": "digits"}, "storage": str(storage)}
    write_spec(folder, SweepSpec.model_validate({**spec, "model": {"name": "mlp"}}))
    for name, rows, schema in (("trials", trials, TRIALS), ("epochs", epochs, EPOCHS)):
        arrays = [pa.array([row.get(f.name) for row in rows], f.type) for f in schema]
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_arrays(arrays, schema=schema), sink)
        folder.write(f"{name}/part-00000000-{'0' * 32}.parquet", bytes(sink.getvalue()))
    return folder


def trial(number: int, **columns: Any) -> dict[str, Any]:
    outcome = "completed" if number % 2 else "running"
    row = {"sweep": "s", "trial_id": f"t{number:04d}", "number": number, "outcome": outcome}
    return {**row, "updated": NOW, **columns}


def epoch(number: int, epoch: int, **columns: Any) -> dict[str, Any]:
    return {"sweep": "s", "trial_id": f"t{number:04d}", "rung": 0, "epoch": epoch, **columns}


def read_all(storage: Path) -> dict[str, str]:
    said = {}
    for words in READING:
        verb, *options = words.split()
        done = cli(verb, "s/t0000" if verb == "show" else "s", *options, "--storage", str(storage))
        assert done.code in (0, 2), (words, done)
        assert "Traceback" not in done.out + done.err, (words, done)
        said[words] = done.out + done.err
    return said


def test_columns_that_are_null(tmp_path: Path) -> None:
    write(tmp_path, [trial(n) for n in range(4)], [epoch(n, e) for n in range(4) for e in (1, 2)])
    said = read_all(tmp_path)
    assert "8 epochs, 0 gradient evaluations" in said["status"]
    assert "trial 't0000' of 's' has no configuration that can be read" in said["replay"]


def test_columns_of_json_that_are_not_ours(tmp_path: Path) -> None:
    trials = [
        trial(n, config_json=text, params=text, searcher=text, versions=text, started=NOW)
        for n, text in enumerate(NOT_OURS)
    ]
    folder = write(tmp_path, trials, [])
    read_all(tmp_path)
    for each in read_trials(folder):
        if each.row["params"] in ("{", "[1]", "[" * 20_000):  # a search would go by it
            with pytest.raises(ValueError, match=f"the parameters of trial {each.trial_id}: "):
                _ = each.params
    for text in filter(None, NOT_OURS):
        assert config_without_seed(text) in (text, '{"train": {}}')


def test_times_that_python_has_no_date_for(tmp_path: Path) -> None:
    trials = [
        trial(0, updated=BEFORE_ALL, started=AFTER_ALL, ended=BEFORE_ALL),
        trial(1, updated=AFTER_ALL, started=BEFORE_ALL, ended=NOW),
        trial(2, started=NOW, ended=NOW),
        trial(2, updated=BEFORE_ALL, started=NOW, outcome="failed"),
    ]
    folder = write(tmp_path, trials, [epoch(0, 1, time=AFTER_ALL), epoch(1, 1, time=BEFORE_ALL)])
    read_all(tmp_path)
    rows = [each.row for each in read_trials(folder)]
    assert [row["started"] for row in rows] == [None, None, NOW]
    assert rows[2]["outcome"] == "running"  # the row whose time is known


@pytest.mark.parametrize("column", ["config", "total_epochs", "epoch", "seed"])
def test_curves_without_a_key(column: str) -> None:
    columns = {name: [1, 2] for name in ("config", "total_epochs", "epoch", "seed", "value")}
    table = pa.table({**columns, column: [1, None]})
    with pytest.raises(ValueError, match=f"^1 rows of the recorded curves have no {column}: "):
        from_rows(dict(zip(table.column_names, table.columns, strict=True)))


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (read_written, "a: !!timestamp 99999-01-01"),
        (read_written, "a: !!int [a]"),
        (read_stored, "a: !!timestamp 99999-01-01"),
        (read_stored, "a: !!bool maybe"),
        (read_argument, "!!timestamp 99999-01-01"),
    ],
)
def test_a_value_that_is_not_what_its_tag_says(read: Callable[[str], Any], text: str) -> None:
    with pytest.raises(ValueError, match="a value is not what its tag says, !!") as caught:
        read(text)
    assert "\n" not in str(caught.value)
