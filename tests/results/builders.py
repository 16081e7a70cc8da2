"""Rows of the ledger, and the ledger as three unrelated Parquet readers see it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow.dataset as ds

Rows = list[dict[str, Any]]


def epoch_row(trial_id: str, epoch: int, rung: int = 0, **columns: Any) -> dict[str, Any]:
    return {"trial_id": trial_id, "rung": rung, "epoch": epoch, "total_epochs": 20, **columns}


def trial_row(trial_id: str, outcome: str = "completed", **columns: Any) -> dict[str, Any]:
    return {"trial_id": trial_id, "outcome": outcome, **columns}


def _pandas(folder: Path, table: str) -> Rows:
    return pd.read_parquet(folder / table).to_dict("records")


def _pyarrow(folder: Path, table: str) -> Rows:
    return ds.dataset(folder / table).to_table().to_pylist()


def _duckdb(folder: Path, table: str) -> Rows:
    sql = f"SELECT * FROM read_parquet('{folder}/{table}/*.parquet')"
    return duckdb.sql(sql).to_arrow_table().to_pylist()


READERS: dict[str, Callable[[Path, str], Rows]] = {
    "pandas": _pandas,
    "pyarrow": _pyarrow,
    "duckdb": _duckdb,
}


def raw_rows(folder: Path, table: str, reader: str = "pyarrow") -> Rows:
    """A table's rows, with nothing of ours in between; none if it has no part."""
    if not list((folder / table).glob("part-*.parquet")):
        return []
    return READERS[reader](folder, table)
