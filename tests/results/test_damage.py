"""Parts of the ledger that are damaged: found, named, left where they are, and set aside."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from results.database import query
from results.ledger import Ledger, epoch_keys, history
from results.parts.files import BrokenPartError, encode, read_part, set_aside
from results.parts.names import hide
from results.parts.reading import LedgerWarning
from results.query import list_sweeps, sweep_summary, trial_curve
from results.schema import EPOCHS, VERSION, VERSION_KEY
from results.storage import SweepFolder
from results.trials import read_trials
from tests.results.builders import epoch_row, trial_row

TRIALS = ("t0000", "t0001", "t0002")


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    """Three trials of three epochs; a trial's epochs are a part, in their order."""
    folder = SweepFolder(tmp_path, "s")
    with Ledger(folder) as ledger:
        for number, trial_id in enumerate(TRIALS):
            for epoch in (1, 2, 3):
                row = epoch_row(trial_id, epoch, val_accuracy=epoch / 10, val_loss=0.5)
                ledger.add_epoch(row)
            ledger.put_trial(
                trial_row(trial_id, number=number, epochs=3, final_val_accuracy=number / 10)
            )
            ledger.flush()
    return folder


def part(folder: SweepFolder, table: str, number: int = 0) -> Path:
    return Path(folder.path_of(f"{table}/{folder.files(table)[number]}"))


def flip_in_page(file: Path, column: str = "val_accuracy") -> None:
    """A bit of a value."""
    groups = pq.ParquetFile(file).metadata.row_group(0)
    chunk = next(
        chunk
        for chunk in map(groups.column, range(groups.num_columns))
        if chunk.path_in_schema == column
    )
    content = bytearray(file.read_bytes())
    content[chunk.data_page_offset + chunk.total_compressed_size - 3] ^= 0x10
    file.write_bytes(content)


def flip_in_footer(file: Path) -> None:
    content = bytearray(file.read_bytes())
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    content[start : start + 4] = b"\xff\xff\xff\xff"
    file.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "a bit in a page": flip_in_page,
    "its footer": flip_in_footer,
    "its length": lambda file: file.write_bytes(file.read_bytes()[:-4] + b"\xff\xff\xff\x7f"),
    "empty": lambda file: file.write_bytes(b""),
    "half": lambda file: file.write_bytes(file.read_bytes()[:700]),
    "text": lambda file: file.write_bytes(b"trial_id,epoch\n"),
}
READERS: dict[str, Callable[[SweepFolder], Any]] = {
    "query": lambda f: sorted(set(query(f.storage, "FROM epochs")["trial_id"].to_pylist())),
    "show": lambda f: [t for t in TRIALS if trial_curve(f.storage, f, t).num_rows],
    "status": lambda f: TRIALS[:1] + TRIALS[4 - sweep_summary(f.storage, f).epochs // 3 :],
    "read_trials": lambda f: [trial.trial_id for trial in read_trials(f) if trial.epochs],
    "history": lambda f: [t for t in TRIALS if history(f, t)],
    "driver": lambda f: sorted(Ledger(f).epoch_counts()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_every_reader_names_a_damaged_part_and_answers_from_the_rest(
    folder: SweepFolder, damage: str
) -> None:
    file = part(folder, "epochs", 1)
    DAMAGE[damage](file)
    before = file.read_bytes()
    for name, reader in READERS.items():
        if (name, damage) == ("status", "a bit in a page"):
            continue  # it counts keys, whose pages are whole
        with pytest.warns(LedgerWarning, match=re.escape(str(file))):
            found = reader(folder)
        assert list(found) == ["t0000", "t0002"], name
    assert list_sweeps(folder.storage)[0].trials == 3
    with pytest.warns(LedgerWarning, match=re.escape(str(file))):
        Ledger(folder).compact()
    assert file.read_bytes() == before
    assert len(folder.files("epochs")) == 2  # it, and what the others became


def test_a_damaged_page_is_found_whatever_is_asked(folder: SweepFolder) -> None:
    """Of a small part; of a large one where it is read (tests/results/test_database.py)."""
    flip_in_page(part(folder, "epochs", 1))
    with pytest.warns(LedgerWarning, match="is left aside"):
        left = query(folder.storage, "SELECT epoch FROM epochs").num_rows
    assert left < 9
    with pytest.warns(LedgerWarning, match="is left aside"):
        assert sweep_summary(folder.storage, folder).epochs == left
    with (
        pytest.warns(LedgerWarning, match="is left aside"),
        pytest.raises(ValueError, match="SQL: Conversion Error"),
    ):
        query(folder.storage, "SELECT CAST(trial_id AS INT) FROM epochs")


@pytest.mark.parametrize("hidden", [False, True])
def test_what_a_damaged_merged_part_replaces_stays(folder: SweepFolder, hidden: bool) -> None:
    parts = {name: folder.read(f"epochs/{name}") for name in folder.files("epochs")}
    Ledger(folder).compact()
    (merged,) = folder.files("epochs")
    for name, content in parts.items():  # a crash left them
        folder.write(f"epochs/{name}", content)
    flip_in_page(Path(folder.path_of(f"epochs/{merged}")))
    if hidden:
        folder.move(f"epochs/{merged}", f"epochs/{hide(merged)}")
    with pytest.warns(LedgerWarning, match=merged.removesuffix(".parquet")):
        Ledger(folder)
    assert set(folder.files("epochs")) == {merged, *parts}
    with pytest.warns(LedgerWarning, match=merged):
        assert len(epoch_keys(folder)) == 9


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_driver_refuses_a_damaged_part_of_trials_and_says_what_to_type(
    folder: SweepFolder, damage: str
) -> None:
    file = part(folder, "trials")
    if damage == "a bit in a page":
        flip_in_page(file, "final_val_accuracy")
    else:
        DAMAGE[damage](file)
    with pytest.raises(ValueError, match="cannot be read") as refused:
        Ledger(folder)
    assert f"{file} cannot be read" in str(refused.value)
    command = f"rts-search resume {folder.uri} --set-aside trials/{file.name}"
    assert command in str(refused.value)


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("table", ["epochs", "trials"])
def test_a_driver_refuses_what_a_later_version_wrote(
    folder: SweepFolder, table: str, hidden: bool
) -> None:
    """It writes nothing, and what it says to type is right."""
    file = part(folder, table)
    rows = pq.read_table(file)
    later = {**rows.schema.metadata, VERSION_KEY: str(VERSION + 1).encode()}
    file.write_bytes(encode(rows.replace_schema_metadata(later)))
    if hidden:
        file = file.rename(file.with_name(hide(f"{file.stem}-m1.parquet")))
    before = {p: p.read_bytes() for p in Path(folder.root).rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match=f"newer than {VERSION}: upgrade") as refused:
        Ledger(folder)
    assert before == {p: p.read_bytes() for p in Path(folder.root).rglob("*") if p.is_file()}
    told = re.search(r"--set-aside (\S+) ", str(refused.value))
    assert told is not None
    assert set_aside(folder, told[1]) == f"set-aside/{table}/{file.name}.1"
    assert len(Ledger(folder).trials()) == (3 if table == "epochs" else 0)


@pytest.mark.parametrize("table", ["epochs", "trials"])
def test_no_flipped_bit_is_believed(folder: SweepFolder, table: str) -> None:
    """Of the footer neither, in which it could rename a column: that would read as null."""
    file = part(folder, table)
    content, rows = file.read_bytes(), read_part(folder, table, file.name)
    refused = 0
    for at in range(0, len(content), 23):
        file.write_bytes(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
        try:
            assert read_part(folder, table, file.name) == rows
        except BrokenPartError:
            refused += 1
    assert refused > len(content) // 23 - 5  # only the checksum's own name tells nothing


@pytest.mark.parametrize("table", ["epochs", "trials"])
def test_a_copy_of_a_part_adds_no_row(folder: SweepFolder, table: str) -> None:
    folder.write(f"{table}/part-é.parquet", part(folder, table).read_bytes())
    assert query(folder.storage, f"FROM {table}").num_rows == (9 if table == "epochs" else 3)
    assert list_sweeps(folder.storage)[0].trials == 3


def test_pages_of_another_tool_without_checksums_are_read(folder: SweepFolder) -> None:
    for table in ("epochs", "trials"):
        file = part(folder, table)
        pq.write_table(pq.read_table(file), file, compression="gzip")
    assert query(folder.storage, "FROM epochs").num_rows == 9
    assert len(Ledger(folder).trials()) == 3


def test_raw_readers_read_parts_with_checksums(folder: SweepFolder) -> None:
    content = encode(ds.dataset(folder.path_of("epochs")).to_table().cast(EPOCHS))
    part(folder, "epochs").write_bytes(content)
    assert read_part(folder, "epochs", folder.files("epochs")[0]).num_rows == 9


@pytest.fixture(params=["local", "s3"])
def anywhere(request: pytest.FixtureRequest, folder: SweepFolder) -> SweepFolder:
    """The sweep on a disk, and on an object store."""
    if request.param == "local":
        return folder
    there = SweepFolder(request.getfixturevalue("s3_storage"), "s")
    for table in ("epochs", "trials"):
        for name in folder.files(table):
            there.write(f"{table}/{name}", folder.read(f"{table}/{name}"))
    return there


def test_a_part_that_cannot_be_read_is_set_aside_and_never_overwritten(
    anywhere: SweepFolder,
) -> None:
    name = "part-000001.parquet"
    path = f"trials/{name}"
    good = anywhere.read(path)
    with pytest.raises(ValueError, match="can be read: it stays where it is"):
        set_aside(anywhere, path)
    for number, asked in ((1, path), (2, anywhere.uri_of(path))):
        anywhere.write(path, b"bad %d" % number)
        assert set_aside(anywhere, asked) == f"set-aside/trials/{name}.{number}"
        assert not anywhere.exists(path)
        assert set_aside(anywhere, asked) == f"set-aside/trials/{name}.{number}"  # as a retry does
    assert anywhere.read(f"set-aside/trials/{name}.1") == b"bad 1"
    assert Ledger(anywhere).trials() == []
    anywhere.write(path, good)
    assert len(Ledger(anywhere).trials()) == 3


@pytest.mark.parametrize(
    "file",
    [
        *("spec.yaml", "trials", "trials/notes.txt", "other/part-000001.parquet", "/etc/passwd"),
        *("", "../s/trials/../../x/trials/part-000001.parquet", "/tmp/trials/part-000001.parquet"),
    ],
)
def test_only_a_part_of_the_sweep_is_set_aside(folder: SweepFolder, file: str) -> None:
    with pytest.raises(ValueError, match=r"is no part of .*: name one as trials/part-000001"):
        set_aside(folder, file)


def test_a_part_that_is_not_there(folder: SweepFolder) -> None:
    with pytest.raises(ValueError, match=r"there is no .*/trials/part-000009.parquet"):
        set_aside(folder, "trials/part-000009.parquet")


def test_a_part_of_epochs_is_set_aside_too(folder: SweepFolder) -> None:
    file = part(folder, "epochs", 1)
    flip_in_page(file)
    with pytest.raises(BrokenPartError):
        read_part(folder, "epochs", file.name)
    set_aside(folder, f"epochs/{file.name}")
    assert len(ds.dataset(folder.path_of("epochs")).to_table()) == 6  # any reader's
