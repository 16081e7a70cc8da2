"""`query` reads `trials` and `epochs` of the storage given, and nothing else.

That statements other than SELECT are refused, and functions that read files: test_database.py.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from results.database import query
from results.ledger import Ledger
from results.parts.reading import LedgerWarning
from results.storage import SweepFolder, sweep_names
from tests.results.builders import epoch_row, trial_row


def fill(storage: str | Path, sweep: str) -> SweepFolder:
    folder = SweepFolder(storage, sweep)
    with Ledger(folder) as ledger:
        ledger.put_trial(trial_row(f"{sweep}-t0", sweep=sweep))
        ledger.add_epoch(epoch_row(f"{sweep}-t0", 1, sweep=sweep))
    return folder


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """A storage with the sweep `mine`, beside another one with `theirs`."""
    fill(tmp_path / "there", "theirs")
    fill(tmp_path / "here", "mine")
    return tmp_path / "here"


def trials(storage: str | Path, sweeps: str | None = None) -> list[str]:
    tables = ("trials", "epochs")
    rows = [query(storage, f"SELECT trial_id FROM {table}", sweeps) for table in tables]
    assert rows[0].equals(rows[1])
    return rows[0]["trial_id"].to_pylist()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT getenv('HOME')",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM read_blob('/proc/self/environ')",
        "SELECT * FROM read_parquet('{there}')",
        "SELECT * FROM parquet_metadata('{there}')",
        "SELECT * FROM sniff_csv('/etc/passwd')",
        "SELECT * FROM glob('{there}/*')",
        "SELECT * FROM 'https://example.com/x.parquet'",
        "SELECT * FROM duckdb_secrets()",
        "SELECT * FROM enable_logging()",
        "FROM query('SELECT 1')",
        "WITH query(a) AS (SELECT 1) FROM query('SELECT 1')",
        "WITH query(a) AS (FROM query('SELECT 1')) FROM query",
        "FROM query(a) AS materialized",
        "FROM json_execute_serialized_sql('x')",
        "FROM python_map_function((SELECT 1), 140000, 2)",  # DuckDB takes it, and crashes
        'FROM "Python_Map_Function"((SELECT 1), 140000, 2)',
        "INSERT INTO trials VALUES (1)",
        "UPDATE trials SET sweep = 'x'",
        "CREATE OR REPLACE VIEW epochs AS SELECT 1",
        "SELECT 1 INTO OUTFILE '{new}'",
        "WITH x AS (SELECT 1) INSERT INTO trials SELECT 1",
        "COPY (SELECT 1) TO '{new}'; SELECT 1",
        "PREPARE x AS SELECT 1",
        "SET VARIABLE x = 1",
    ],
)
def test_refused_in_one_line(storage: Path, sql: str) -> None:
    new, there = storage / "new", storage.parent / "there"
    with pytest.raises(ValueError, match="SQL: ") as error:
        query(storage, sql.format(new=new, there=there))
    assert "\n" not in str(error.value)
    assert not new.exists()
    assert trials(storage) == ["mine-t0"]


@pytest.mark.parametrize("name", ["../there/theirs", "/etc", "..", ".", "mine/../../there/theirs"])
def test_names_that_lead_out(storage: Path, name: str) -> None:
    with pytest.raises(ValueError, match="unknown sweep"):
        query(storage, "FROM trials", name)
    with pytest.raises(ValueError, match="must be letters"):
        SweepFolder(storage, name)


def test_a_sweep_that_is_a_link(storage: Path) -> None:
    (storage / "link").symlink_to(storage.parent / "there" / "theirs")
    with pytest.raises(ValueError, match=r"here/link is a link that leads out") as error:
        query(storage, "FROM trials", "link")
    assert "\n" not in str(error.value)
    with pytest.warns(LedgerWarning, match=r"here/link is left aside: a link that leads out"):
        found = query(storage, "SELECT trial_id FROM trials")["trial_id"].to_pylist()
    assert found == ["mine-t0"]
    assert trials(storage, "mine") == ["mine-t0"]


def test_links_that_stay_inside_and_a_storage_that_is_one(storage: Path) -> None:
    alias = storage.parent / "alias"
    alias.symlink_to(storage)
    assert trials(alias) == ["mine-t0"]
    (storage / "latest").symlink_to("mine")
    assert trials(alias, "latest") == ["mine-t0"]


@pytest.mark.parametrize("whole_table", [False, True])
def test_parts_that_are_links(storage: Path, whole_table: bool) -> None:
    theirs = SweepFolder(storage.parent / "there", "theirs").path_of("epochs")
    mine = storage / "mine" / "epochs"
    if whole_table:
        shutil.rmtree(mine)
        mine.symlink_to(theirs)
    else:
        (mine / "part-9.parquet").symlink_to(next(Path(theirs).glob("part-*")))
    with pytest.warns(LedgerWarning, match="a link that leads out of the storage"):
        found = query(storage, "SELECT trial_id FROM epochs")["trial_id"].to_pylist()
    assert found == ([] if whole_table else ["mine-t0"])


def test_a_prefix_of_a_bucket(s3_storage: str) -> None:
    other = s3_storage.replace("deep/sweeps", "deep/other")
    fill(other, "theirs")
    fill(s3_storage, "mine")
    assert sweep_names(s3_storage) == ["mine"]
    assert trials(s3_storage) == ["mine-t0"]
    for name in ("../other/theirs", "theirs"):
        with pytest.raises(ValueError, match="unknown sweep"):
            query(s3_storage, "FROM trials", name)
    with pytest.raises(ValueError, match="SQL: "):
        query(s3_storage, f"FROM read_parquet('{other}/theirs/trials/*')")


@pytest.mark.parametrize("form", ["AS", "AS MATERIALIZED", "AS NOT MATERIALIZED"])
@pytest.mark.parametrize("name", ["query", '"Query"', "arrow_scan"])
def test_a_with_query_may_have_the_name_of_a_function(storage: Path, name: str, form: str) -> None:
    sql = f"WITH {name} (a, b) {form} (SELECT 1, 2) SELECT a + b AS c FROM {name}"
    assert query(storage, sql).to_pylist() == [{"c": 3}]
