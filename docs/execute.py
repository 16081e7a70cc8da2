"""docs/notebook.ipynb, executed anew in a kernel of its own: `make notebook` stores its outputs."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

PAGE = Path(__file__).with_name("notebook.ipynb")
LIMIT = 300  # seconds a cell


def joined(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """What was printed line by line, as one output where nothing is in between."""
    found: list[nbformat.NotebookNode] = []
    for output in outputs:
        if found and output.get("name") and output.get("name") == found[-1].get("name"):
            found[-1].text += output.text
        else:
            found.append(output)
    return found


def executed(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """With the outputs that its cells have in this folder. Raises CellExecutionError."""
    NotebookClient(
        notebook,
        kernel_name="python3",  # this one
        resources={"metadata": {"path": str(folder)}},
        timeout=LIMIT,
        record_timing=False,
    ).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)
    return notebook


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        done = executed(nbformat.read(PAGE, as_version=4), Path(folder))
        text = nbformat.writes(done).replace(folder, "/home/you")
    done = json.loads(text)
    done["metadata"].pop("language_info", None)
    PAGE.write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
