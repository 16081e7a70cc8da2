"""SQL over the ledgers: what it sees, and that it sees nothing else."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from results.database import connect, query
from results.ledger import Ledger
from results.parts.reading import LedgerWarning
from results.query import list_sweeps
from results.schema import records
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


RUNAWAYS = {
    "a join": "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range * b.range = 7",
    "what DuckDB does not end": "SELECT levenshtein(repeat('a', 400000), repeat('b', 400000))",
}
ROOT = Path(__file__).parents[2]


def start_query(storage: Path, *arguments: str) -> subprocess.Popen[str]:
    """A process that has loaded all it needs, and asks now."""
    code = (
        "import sys, duckdb, results.export, rts_search.show.tables\n"
        "from rts_search.cli.app import main\n"
        "print('ready', flush=True)\n"
        "main(['query', *sys.argv[1:]])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments, "--storage", str(storage)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("sql", RUNAWAYS.values(), ids=RUNAWAYS)
def test_ctrl_c_ends_any_query_in_silence(storage: Path, sql: str) -> None:
    process = start_query(storage, sql)
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    assert process.communicate(timeout=20) == ("", "")
    assert process.returncode == 130
    assert time.monotonic() - began < 5  # 1.1 s where nothing else runs


@pytest.mark.parametrize(
    ("sql", "limit", "reason"),
    [
        (RUNAWAYS["a join"], "--timeout", "no answer within 1 s: ask for less"),
        (RUNAWAYS["what DuckDB does not end"], "--timeout", "no answer within 1 s: ask for"),
        ("SELECT list(range) FROM range(1000000000)", "--memory", "needs more than 1 GB of memory"),
        # not counted by DuckDB
        ("SELECT len(range(1, 1000000000))", "--memory", "needs more than 1 GB of memory"),
    ],
)
def test_limits_of_a_query(storage: Path, sql: str, limit: str, reason: str) -> None:
    process = start_query(storage, sql, limit, "1")
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out, error.count("\n")) == (2, "", 1)
    assert reason in error


def test_columns_of_one_name_are_numbered(storage: Path) -> None:
    table = query(storage, "SELECT 1 AS x, 2 AS x, 3 AS x_1, 4 AS y")
    assert table.to_pylist() == [{"x": 1, "x_1": 2, "x_1_1": 3, "y": 4}]


def test_times_that_python_has_no_date_for(storage: Path) -> None:
    far = "SELECT DATE '20000-01-01' AS far, 'infinity'::TIMESTAMP AS ever"
    (row,) = records(query(storage, f"{far}, TIMESTAMPTZ '2026-01-01' AS t"))
    assert row == {"far": "20000-01-01", "ever": "infinity", "t": datetime(2026, 1, 1, tzinfo=UTC)}


@pytest.fixture(params=["small", "merged"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> SweepFolder:
    """A sweep whose parts are as they were written, or merged; on a path that DuckDB would take for
    a pattern."""
    folder = SweepFolder(tmp_path / "a[b]c'*", "s")
    with Ledger(folder) as store:
        for trial in ("t0", "t1"):
            store.put_trial(trial_row(trial, final_val_accuracy=0.5))
            store.add_epoch(epoch_row(trial, 1))
            store.flush()
        if request.param == "merged":
            store.compact()
    if request.param == "merged":  # as of a sweep of many trials
        part = part_of(folder, "trials")
        part.rename(part.with_stem(f"{part.stem}-m1"))
    return folder


def part_of(folder: SweepFolder, table: str) -> Path:
    return Path(folder.path_of(f"{table}/{folder.files(table)[0]}"))


def rewrite(path: Path, name: str, cells: pa.Array, nullable: bool) -> None:
    table = pq.read_table(path)
    field = pa.field(name, cells.type, nullable=nullable)
    pq.write_table(table.set_column(table.column_names.index(name), field, cells), path)


def test_dates_out_of_range_are_unknown(folder: SweepFolder) -> None:
    far = pa.array([2**62, 2**62], pa.timestamp("us", tz="UTC"))
    rewrite(part_of(folder, "trials"), "updated", far, nullable=False)
    assert query(folder.storage, "SELECT updated FROM trials")["updated"].to_pylist() == [None] * 2
    (listing,) = list_sweeps(folder.storage)
    assert (listing.trials, listing.best, listing.updated) == (2, 0.5, None)


@pytest.mark.parametrize("table", ["trials", "epochs"])
def test_a_part_where_a_trial_may_have_no_name_is_left_aside(
    folder: SweepFolder, table: str
) -> None:
    part = part_of(folder, table)
    held, before = pq.read_metadata(part).num_rows, query(folder.storage, f"FROM {table}").num_rows
    rewrite(part, "trial_id", pa.array([None] * held, pa.string()), nullable=True)
    with pytest.warns(LedgerWarning, match="trial_id may be null"):
        assert query(folder.storage, f"FROM {table}").num_rows == before - held


def test_a_damaged_page_is_found_when_it_is_read(folder: SweepFolder) -> None:
    part = part_of(folder, "epochs")
    content, held = bytearray(part.read_bytes()), pq.read_metadata(part).num_rows
    content[4:60] = b"x" * 56
    part.write_bytes(content)
    with pytest.warns(
        LedgerWarning, match="is left aside: (not a whole Parquet file|its bytes are not)"
    ):
        assert query(folder.storage, "FROM epochs").num_rows == 2 - held


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
        "SELECT 1 AS query, 'python_x(1)' AS \"arrow_scan\" -- query(1)",
        "WITH query AS (SELECT 1 AS a) SELECT query.a FROM query",
        "PIVOT trials ON outcome USING count(*)",
        "WITH p AS (PIVOT trials ON outcome USING count(*)) FROM p",
        "SELECT 'COPY x; DROP TABLE trials; é' AS query",
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
        ("COPY (PIVOT trials ON outcome USING count(*)) TO '{new}'", "only SELECT"),
        ("CREATE TABLE x AS PIVOT trials ON outcome USING count(*)", "only SELECT"),
        ("FROM (PIVOT trials ON outcome USING count(*)), query('SELECT 1')", "query is not"),
        ("SELECT 'é' FROM system.main.\"Query\" /* ( */ ('SELECT 1')", "query is not allowed"),
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
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
