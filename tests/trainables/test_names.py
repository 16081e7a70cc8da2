"""Unknown names: results and trainables may not import each other, and word their errors alike."""

from __future__ import annotations

from pathlib import Path

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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\ny = 1 / 0\n", r"\(ZeroDivisionError: division by zero\) \(\S*/{}.py, line 2\)$"),
        ("def f(:\n", r"\(SyntaxError: invalid syntax\) \(\S*/{}.py, line 1\)$"),
        ("\nimport not_there_x\n", r"'not_there_x'\) \(\S*/{}.py, line 2\)$"),
    ],
)
def test_a_module_that_cannot_be_imported_is_told_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    name = f"broken_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=said.format(name)) as error:
        trainables.names.import_named("model", f"{name}:f")
    assert "\n" not in str(error.value)
