"""Unknown names: results and trainables may not import each other, and word their errors alike."""

from __future__ import annotations

import pytest

import results.names
import trainables.names

CASES = [
    (
        "val_acc",
        ["val_accuracy", "val_loss"],
        "did you mean 'val_accuracy'? known: val_accuracy, v",
    ),
    ("zzz", ["a", "b"], "known: a, b"),
    ("zzz", [], "known: none"),
    (3, ["three"], "known: three"),
    ("n1", [f"name{i}" for i in range(30)], "did you mean 'name1'? known: name0, "),
]


@pytest.mark.parametrize(("name", "known", "said"), CASES)
def test_both_say_the_same(name: object, known: list[str], said: str) -> None:
    error = str(trainables.names.unknown("thing", name, known))
    assert error == str(results.names.unknown("thing", name, known))
    assert error.startswith(f"unknown thing {name!r}: {said}")
    assert error.endswith(", …") == (len(known) > 20)
