"""SQL over the ledgers: what it sees, and that it sees nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.dataset as ds
import pytest

from results.database import connect, query
from results.ledger import Ledger
from results.schema import EPOCHS
from results.storage import SweepFolder
from tests.results.builders import epoch_row, trial_row


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("storage")
    for sweep in ("first", "second"):
        with Ledger(SweepFolder(path, sweep)) as store:
            for trial in ("t0", "t1"):
                store.put_trial(trial_row(trial, final_val_accuracy=0.5))
                store.add_epoch(epoch_row(trial, 1, val_loss=float("nan")))
    return path


def count(storage: Path, sql: str, sweeps: str | list[str] | None = None) -> int:
    return int(query(storage, f"SELECT count(*) AS n FROM ({sql})", sweeps)["n"][0].as_py())


def test_one_several_and_all_sweeps(storage: Path) -> None:
    assert count(storage, "FROM trials") == count(storage, "FROM epochs") == 4
    assert count(storage, "FROM trials", "first") == 2
    assert count(storage, "FROM trials JOIN epochs USING (sweep, trial_id)", ["second"]) == 2
    assert query(storage, "SELECT DISTINCT sweep FROM trials", "second")["sweep"].to_pylist() == [
        "second"
    ]


def test_unknown_sweeps_and_empty_storages(storage: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown sweep in .* 'frist': did you mean 'first'\?"):
        query(storage, "FROM trials", "frist")
    with pytest.raises(ValueError, match="no sweeps in"):
        query(tmp_path, "FROM trials")


class Interrupted(ds.FileSystemDataset):
    """Ctrl-C comes while DuckDB asks for its rows."""

    def scanner(self, *arguments: Any, **options: Any) -> Any:
        raise KeyboardInterrupt


@pytest.mark.parametrize("sql", ["FROM epochs", "FROM epochs WHERE trial_id IN ('t0', 't1')"])
def test_ctrl_c_in_a_query_is_no_error_of_its_sql(
    storage: Path, monkeypatch: pytest.MonkeyPatch, sql: str
) -> None:
    interrupted = Interrupted([], EPOCHS, ds.ParquetFileFormat(), None)
    monkeypatch.setattr("results.database.epoch_dataset", lambda folders, whole: interrupted)
    with pytest.raises(KeyboardInterrupt):
        query(storage, sql)


def test_a_sweep_with_no_rows_yet_has_both_tables(tmp_path: Path) -> None:
    SweepFolder(tmp_path, "new").write("spec.yaml", b"")
    assert count(tmp_path, "FROM trials") == count(tmp_path, "FROM epochs") == 0


@pytest.mark.parametrize(
    "sql",
    [
        "WITH x AS (SELECT 1 AS a) SELECT a FROM x",
        "FROM trials SELECT trial_id",
        "VALUES (1)",
        "DESCRIBE trials",
        "SUMMARIZE epochs",
        "SHOW TABLES",
        "SELECT 1; -- a remark",
    ],
)
def test_statements_that_read(storage: Path, sql: str) -> None:
    assert query(storage, sql).num_rows >= 1


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret.csv"
    path.write_text("a,b\n1,2\n")
    return path


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("COPY trials TO '{new}'", "only SELECT"),
        ("COPY trials FROM '{secret}'", "only SELECT"),
        ("EXPORT DATABASE '{new}'", "only SELECT"),
        ("ATTACH '{new}' AS other", "only SELECT"),
        ("INSTALL httpfs", "only SELECT"),
        ("LOAD httpfs", "only SELECT"),
        ("PRAGMA database_list", "only SELECT"),
        ("SET enable_external_access = true", "only SELECT"),
        ("RESET lock_configuration", "only SELECT"),
        ("CREATE TABLE x AS SELECT 1", "only SELECT"),
        ("DELETE FROM trials", "only SELECT"),
        ("DROP TABLE trials", "only SELECT"),
        ("CALL pragma_version()", "only SELECT"),
        ("EXPLAIN ANALYZE COPY trials TO '{new}'", "only SELECT"),
        ("SELECT 1; SELECT 2", "one statement at a time, not 2"),
        ("SELECT 1; COPY trials TO '{new}'", "one statement at a time, not 2"),
        ("", "one statement at a time, not 0"),
        ("SELECT * FROM read_csv('{secret}')", "disabled by configuration"),
        ("SELECT * FROM '{secret}'", "disabled by configuration"),
        ("SELECT * FROM read_text('{secret}')", "disabled by configuration"),
        ("SELECT * FROM glob('{secret}')", "disabled by configuration"),
        ("SELECT * FROM query('COPY trials TO ''{new}''')", "SELECT"),
        ("SELECT * FROM folders", "Table with name folders does not exist"),  # a Python variable
    ],
)
def test_all_else_is_refused(storage: Path, secret: Path, sql: str, reason: str) -> None:
    new = secret.with_name("new")
    with pytest.raises(ValueError, match=reason) as refusal:
        query(storage, sql.format(new=new, secret=secret))
    assert "\n" not in str(refusal.value)
    assert not new.exists()


def test_the_connection_itself_is_confined(storage: Path, secret: Path) -> None:
    with connect(storage) as connection:
        for sql in (
            f"SELECT * FROM read_csv('{secret}')",
            f"COPY trials TO '{secret.with_name('new')}'",
            f"ATTACH '{secret.with_name('new')}'",
            "SET enable_external_access = true",
            "SET lock_configuration = false",
            "INSTALL httpfs",
        ):
            with pytest.raises(duckdb.Error):
                connection.execute(sql)


def test_a_users_error_is_one_line_with_what_is_near(storage: Path) -> None:
    with pytest.raises(ValueError, match='"val_los" not found') as error:
        query(storage, "SELECT val_los FROM epochs")
    assert "val_loss" in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"^SQL: Parser Error: syntax error at or near \"SELEC\"$"):
        query(storage, "SELEC 1")


def test_best_needs_no_heavy_import(storage: Path) -> None:
    code = (
        "import sys\n"
        "from results import export, query, ranking, statistics\n"
        f"assert ranking.best({str(storage)!r}).ranked == 4\n"
        f"assert len(query.list_sweeps({str(storage)!r})) == 2\n"
        "heavy = {'torch', 'ray', 'pandas', 'scipy', 'pyarrow.dataset'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
