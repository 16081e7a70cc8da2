"""What the names of parts tell."""

from __future__ import annotations

import pytest

from results.parts import may_hold_doubles


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
