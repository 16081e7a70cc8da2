"""The schemas as text, and the check of rows."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from results.database import query
from results.ledger import Ledger
from results.parts.files import encode
from results.schema import EPOCHS, SCHEMAS, TRIALS, VERSION, check_row, conform, mismatch, to_table
from results.storage import SweepFolder

NOW = datetime(2026, 1, 2, tzinfo=UTC)
EPOCH = {"sweep": "s", "trial_id": "t", "rung": 0, "epoch": 1}
TRIAL = {"sweep": "s", "trial_id": "t", "outcome": "running", "updated": NOW}


def test_schemas_change_on_purpose_only() -> None:
    lines = [f"version {VERSION}"]
    for table, schema in SCHEMAS.items():
        lines += ["", table]
        lines += [f"  {f.name}: {f.type}{'' if f.nullable else ' not null'}" for f in schema]
    golden = Path(__file__).with_name("golden_schema.txt").read_text()
    assert "\n".join(lines) + "\n" == golden, "changed on purpose? raise VERSION and the golden"


def test_a_row_gets_every_column_and_numpy_numbers_fit() -> None:
    row = {**EPOCH, "rung": np.int64(2), "val_loss": np.float32(0.5), "lr": 1, "train_loss": np.nan}
    table = to_table([check_row(row, EPOCHS)], EPOCHS)
    assert table.schema.equals(EPOCHS, check_metadata=True)
    (read,) = table.to_pylist()
    assert (read["rung"], read["val_loss"], read["lr"], read["val_accuracy"]) == (2, 0.5, 1.0, None)
    assert np.isnan(read["train_loss"])


def _values(schema: pa.Schema) -> dict[str, st.SearchStrategy[Any]]:
    values: dict[pa.DataType, st.SearchStrategy[Any]] = {
        pa.string(): st.text(max_size=3),
        pa.bool_(): st.booleans(),
        pa.int32(): st.integers(-(2**31), 2**31 - 1),
        pa.int64(): st.integers(-(2**63), 2**63 - 1),
        pa.float64(): st.floats(allow_nan=False) | st.integers(-9, 9),
    }
    return {f.name: values.get(f.type, st.just(NOW)) for f in schema}


@given(st.data(), st.sampled_from([(EPOCHS, EPOCH), (TRIALS, TRIAL)]))
@settings(max_examples=30, deadline=None)
def test_rows_of_any_columns_in_any_order_make_the_table_that_pyarrow_makes_by_name(
    data: st.DataObject, of: tuple[pa.Schema, dict[str, Any]]
) -> None:
    schema, needed = of
    optional = {k: v for k, v in _values(schema).items() if k not in needed}
    some = st.fixed_dictionaries({}, optional=optional)
    rows = [
        dict(data.draw(st.permutations(list((row | needed).items()))))
        for row in data.draw(st.lists(some, min_size=1, max_size=3))
    ]
    table = to_table([check_row(row, schema) for row in rows], schema)
    assert table.equals(pa.Table.from_pylist(rows, schema=schema), check_metadata=True)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("val_acuracy", 0.5, "unknown column of trials 'val_acuracy': did you mean"),
        ("sweep", None, "a row of trials needs sweep"),
        ("epochs", 1.5, r"epochs of trials must be int32, not 1.5 \(float\)"),
        ("epochs", True, "epochs of trials must be int32"),
        ("epochs", 2**31, "epochs of trials must be int32"),
        ("seed", 2**63, "seed of trials must be int64"),
        ("config_lr", "0.1", "config_lr of trials must be double, not '0.1'"),
        ("git_dirty", 1, "git_dirty of trials must be bool"),
        ("params", {"lr": 1}, "params of trials must be string"),
        ("updated", NOW.replace(tzinfo=None), "updated of trials must be timestamp"),
        ("outcome", "complete", "unknown outcome 'complete': did you mean 'completed'"),
    ],
)
def test_unfit_rows_are_refused_by_name(column: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_row({**TRIAL, column: value}, TRIALS)


def test_files_of_an_older_version_are_read_and_others_are_not() -> None:
    table = to_table([check_row(EPOCH, EPOCHS)], EPOCHS)
    older = table.drop_columns(["val_loss"])
    assert mismatch(older.schema, EPOCHS) is None
    assert conform(older, EPOCHS).equals(table)
    metadata = {**EPOCHS.metadata, b"rts_version": str(VERSION + 1).encode()}
    assert "newer than" in str(mismatch(EPOCHS.with_metadata(metadata), EPOCHS))
    assert "not a part of" in str(mismatch(pa.schema([("x", pa.int32())]), EPOCHS))
    assert "not a part of" in str(mismatch(TRIALS, EPOCHS))
    assert mismatch(table.drop_columns(["rung"]).schema, EPOCHS) == "no column rung"
    retyped = EPOCHS.set(EPOCHS.get_field_index("lr"), pa.field("lr", pa.string()))
    assert mismatch(retyped, EPOCHS) == "lr is string, not double"


def test_a_ledger_of_version_1_is_read_and_written_on(tmp_path: Path) -> None:
    """Its trials knew no rungs and no audit: these columns are null."""
    since = ["rung", "rungs", "audited", "lost_rung"]
    folder = SweepFolder(tmp_path, "s")
    for name, row in (("epochs", EPOCH), ("trials", {**TRIAL, "outcome": "completed"})):
        schema = SCHEMAS[name]
        table = to_table([check_row(row, schema)], schema)
        if name == "trials":
            table = table.drop_columns(since)
        metadata = {**schema.metadata, b"rts_version": b"1"}
        folder.write(f"{name}/part-000000.parquet", encode(table.replace_schema_metadata(metadata)))
    with Ledger(folder) as ledger:
        (old,) = ledger.trials()
        assert [old[column] for column in since] == [None] * 4
        ledger.put_trial({"trial_id": "u", "outcome": "stopped", "rung": 1, "audited": False})
        ledger.add_epoch({"trial_id": "u", "rung": 1, "epoch": 1})
    found = query(tmp_path, f"SELECT trial_id, {', '.join(since)} FROM trials ORDER BY 1")
    assert [tuple(row.values()) for row in found.to_pylist()] == [
        ("t", None, None, None, None),
        ("u", 1, None, False, None),
    ]
    assert query(tmp_path, "SELECT count(*) AS n FROM epochs")["n"].to_pylist() == [2]
