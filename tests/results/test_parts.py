"""What the names of parts tell, and how rows lie on disk."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from results.parts.files import encode
from results.parts.names import may_hold_doubles
from results.schema import EPOCHS, check_row, to_table
from tests.results.builders import READERS, raw_rows


def part(time: int, opened: int, token: str, mark: str = "", name: str = "part") -> str:
    return f"{name}-{time:020d}-{opened:020d}-{token * 8}{mark}.parquet"


OLD = ["part-00000000000000000005-0123abcd.parquet", f"part-_merged-{'0' * 32}.parquet"]
FIRST = [part(11, 10, "a"), part(19, 10, "a"), part(18, 10, "a", "-m1")]


@pytest.mark.parametrize(
    ("names", "possible"),
    [
        ([], False),
        (OLD[:1], True),  # nobody has looked through them
        (OLD[1:], True),
        (FIRST, False),
        ([*OLD, *FIRST], False),
        ([part(21, 20, "b"), *FIRST, *OLD], False),  # one driver after the other
        ([part(21, 20, "b"), *FIRST, part(20, 10, "a")], True),  # both at once
        ([part(21, 20, "b"), *FIRST, part(22, 10, "a", "-m1")], True),  # it merges what b may too
        ([part(11, 10, "a"), part(11, 10, "b")], True),  # opened in the same moment
        ([*FIRST, "part-00000000000000000030-0123abcd.parquet"], True),  # an older version's driver
        ([*FIRST, "part-mine.parquet"], True),  # put there by hand
        ([part(21, 20, "b", "-m2", "_part").removesuffix(".parquet"), *FIRST], False),  # not yet
        ([part(30, 10, "a", "-m2", "_part").removesuffix(".parquet"), part(21, 20, "b")], True),
    ],
)
def test_doubles_are_possible_only_where_two_drivers_wrote_at_once(
    names: list[str], possible: bool
) -> None:
    assert may_hold_doubles(names) == possible
    assert may_hold_doubles(names[::-1]) == possible


def random_rows(count: int) -> pa.Table:
    """Epochs of all kinds of values: equal, seldom equal, never equal, none."""
    rng = random.Random(0)
    specials = [math.inf, -math.inf, math.nan, -0.0, 5e-324, None]
    rows = []
    for n in range(count):
        row: dict[str, Any] = {"sweep": "s", "trial_id": f"t{n // 20}", "rung": 0, "epoch": n % 20}
        row |= {"train_loss": rng.random(), "val_accuracy": rng.randrange(50) / 50, "lr": 0.1}
        row |= {"val_loss": rng.choice([rng.random(), 1 / 3]), "radius": rng.choice(specials)}
        row |= {"perturbing": rng.random() < 0.5, "peak_memory_bytes": rng.randrange(2**62)}
        row |= {"time": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=n * n)}
        rows.append(check_row(row, EPOCHS))
    return to_table(rows, EPOCHS)


@pytest.mark.parametrize("count", [20, 3_000])
@pytest.mark.parametrize("reader", READERS)
def test_no_bit_is_lost_on_disk(tmp_path: Path, reader: str, count: int) -> None:
    rows = random_rows(count)
    (tmp_path / "epochs").mkdir()
    (tmp_path / "epochs" / "part-0.parquet").write_bytes(encode(rows))
    found = raw_rows(tmp_path, "epochs", reader)
    for column in ("train_loss", "val_accuracy", "lr", "val_loss", "radius"):
        written = rows[column].to_pylist()
        if reader == "pandas":  # which knows no null
            written = [math.nan if value is None else value for value in written]
        assert [repr(row[column]) for row in found] == list(map(repr, written))
    for column in ("trial_id", "epoch", "perturbing", "peak_memory_bytes"):
        assert [row[column] for row in found] == rows[column].to_pylist()
    times = [row["time"].timestamp() for row in found]
    assert times == [time.timestamp() for time in rows["time"].to_pylist()]
