"""docs/notebook.ipynb: what it shows is what its code does today."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

import rts_search
from docs.execute import FIGURE, PAGE, PICTURE, executed


@pytest.fixture
def stored() -> nbformat.NotebookNode:
    return nbformat.read(PAGE, as_version=4)


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(notebook: nbformat.NotebookNode) -> list[list[Any]]:
    """What kinds of output each cell has, but for the pictures that were stored with figures."""
    return [
        [
            sorted({*each.get("data", [each.get("name", each.output_type)])} - {PICTURE})
            for each in cell.outputs
        ]
        for cell in code(notebook)
    ]


def test_its_code_asks_for_what_there_is(stored: nbformat.NotebookNode) -> None:
    owners = {"rs": (rts_search, rts_search.__all__), "sweep": (rts_search.Sweep, None)}
    asked = []
    for cell in code(stored):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                owner, names = owners.get(node.value.id, (None, None))
                if owner is not None:
                    assert node.attr in (names or dir(owner)), node.attr
                    asked.append(node.attr)
    assert {"open", "run", "load_model", "best", "trials", "curve", "query"} <= {*asked}
    assert sum(name.startswith("plot_") for name in asked) > 5


def test_its_outputs_are_stored(stored: nbformat.NotebookNode) -> None:
    nbformat.validate(stored)
    cells = code(stored)
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    for cell, kinds in zip(cells, shown(stored), strict=True):
        assert "error" not in str(kinds)
        assert ([FIGURE] in kinds) == cell.source.startswith("sweep.plot_")
        assert all(PICTURE in each.data for each in cell.outputs if FIGURE in each.get("data", {}))
    assert PAGE.stat().st_size < 500_000
    assert not re.search(r"/(tmp|root|work)\b", PAGE.read_text("utf-8"))


def test_its_links_resolve(stored: nbformat.NotebookNode) -> None:
    text = "".join(cell.source for cell in stored.cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        assert "://" in target or (PAGE.parent / target).exists(), target


@pytest.mark.docs
def test_it_executes_and_shows_what_is_stored(
    tmp_path: Path, stored: nbformat.NotebookNode
) -> None:
    kinds = shown(stored)
    done = executed(stored, tmp_path)
    assert shown(done) == kinds
    run, best = code(done)[1:3]
    (display,) = (each for each in run.outputs if each.output_type == "display_data")
    first, *_ = display.data["text/plain"].splitlines()
    assert re.fullmatch(r"digits: 15/15 trials \(\d+ completed(, \d+ \w+)*\)", first)
    assert "is the best of" in run.outputs[-1].text
    table = best.outputs[0].data["text/html"]
    assert re.findall(r"<th>(\w+)</th>", table)[:5] == [
        *("trial_id", "final_val_accuracy", "test_accuracy", "gradient_evaluations"),
        "configuration",
    ]
