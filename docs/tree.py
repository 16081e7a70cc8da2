"""The file tree in design.md, from the modules' docstrings: `make tree` writes it anew."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "design.md"
PACKAGES = ("trainables", "results", "search_spaces", "rts_search")
BLOCK = re.compile(r"(?<=<!-- tree -->\n```text\n).*?(?=```)", re.DOTALL)


def tree() -> str:
    """Every module of the packages, a line each. Raises ValueError for one without a docstring."""
    return "\n".join(line for package in PACKAGES for line in _lines(ROOT / package, 0)) + "\n"


def _lines(folder: Path, depth: int) -> Iterator[str]:
    yield _line(f"{folder.name}/", folder / "__init__.py", depth)
    for path in sorted(folder.glob("*.py")):
        if path.name != "__init__.py":
            yield _line(path.name, path, depth + 1)
    for inner in sorted(path.parent for path in folder.glob("*/__init__.py")):
        yield from _lines(inner, depth + 1)


def _line(name: str, path: Path, depth: int) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8")))
    if not docstring:
        raise ValueError(f"{path.relative_to(ROOT)} needs a docstring that says what it does")
    summary = " ".join(docstring.partition("\n\n")[0].split())
    return f"{'  ' * depth + name:24} {summary}"


if __name__ == "__main__":
    PAGE.write_text(BLOCK.sub(lambda _: tree(), PAGE.read_text("utf-8")), "utf-8")
