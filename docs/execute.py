"""docs/notebook.ipynb, executed anew in a kernel of its own: `make notebook` stores its outputs."""

from __future__ import annotations

import base64
import io
import json
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image
from plotly.io import from_json

from rts_search.report.images import WIDTH, image

FIGURE, PICTURE = "application/vnd.plotly.v1+json", "image/png"
COLOURS = 256
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


def picture(figure: nbformat.NotebookNode) -> str:
    """A figure as a small picture, for pages that run no script, such as those of a code host."""
    drawn = image(from_json(json.dumps({key: figure[key] for key in ("data", "layout")})), ".png")
    small, content = Image.open(io.BytesIO(drawn)).convert("RGB"), io.BytesIO()
    small.thumbnail((WIDTH, small.height))
    small.quantize(COLOURS).save(content, "PNG", optimize=True)
    return base64.b64encode(content.getvalue()).decode()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        done = executed(nbformat.read(PAGE, as_version=4), Path(folder))
        for cell in done.cells:
            for output in cell.get("outputs", []):
                if FIGURE in output.get("data", {}):
                    output.data[PICTURE] = picture(output.data[FIGURE])
        text = nbformat.writes(done).replace(folder, "/home/you")
    done = json.loads(text)
    done["metadata"].pop("language_info", None)
    PAGE.write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
