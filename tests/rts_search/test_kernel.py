"""A notebook's kernel, which is not a terminal: what its cells show, and how a sweep in it ends."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook

from docs.execute import executed
from results.storage import SweepFolder
from tests.rts_search.test_notebook import fill

MISTAKES = [
    ("rs.open('dmeo')", r"unknown sweep in \S*/sweeps 'dmeo': did you mean 'demo'\?"),
    ("sweep.query('SELEC 1')", "SQL: "),
    ("sweep.plot_rise()", r"demo: no rise to draw\. "),
    ("rs.run('demo', name='demo')", r"sweep 'demo' exists in sweeps: open\('demo'\) reads it, "),
]


def kinds(cell: NotebookNode) -> list[list[str]]:
    return [sorted(output.get("data", {"text": 0})) for output in cell.outputs]


def test_cells_show_tables_and_figures_and_mistakes_in_one_line(tmp_path: Path) -> None:
    fill(SweepFolder(tmp_path / "sweeps", "demo"))
    wrong = [new_code_cell(code, metadata={"tags": ["raises-exception"]}) for code, _ in MISTAKES]
    shown = ["sweep.best()", "sweep.epochs", "sweep.query('FROM trials')", "sweep.plot_curves()"]
    cells = map(new_code_cell, ["import rts_search as rs\nsweep = rs.open('demo')", *shown])
    done = executed(new_notebook(cells=[*cells, *wrong]), tmp_path).cells
    begun, *tables, figure = done[: 1 + len(shown)]
    assert kinds(begun) == []  # no warning of ours, or of what we load
    assert [kinds(cell) for cell in tables] == [[["text/html", "text/plain"]]] * 3
    assert kinds(figure) == [["application/vnd.plotly.v1+json"]]
    for cell, (_, line) in zip(done[1 + len(shown) :], MISTAKES, strict=True):
        (error,) = cell.outputs
        (told,) = error.traceback
        assert re.match(f"ValueError: {line}", told)


SPEC = """{
    "data.name": "digits", "data.train_size": 400, "model.name": "mlp",
    "train.epochs": 40, "search.trials": 4, "search.controls": False,
}"""


class Kernel:
    """A kernel whose cells are watched while they run, and interrupted as Jupyter's button does."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager, self.client = manager, client

    def run(self, code: str, until: Callable[[str], bool] = lambda said: False) -> tuple[str, str]:
        """All that the cell prints, and what its display shows last; it is interrupted once, when
        `until` holds of what was said last."""
        asked, printed, shown, interrupted = self.client.execute(code), "", "", False
        while True:
            message = self.client.get_iopub_msg(timeout=120)
            if message["parent_header"].get("msg_id") != asked:
                continue
            kind, content = message["msg_type"], message["content"]
            assert kind != "error", content["evalue"]
            if kind == "status" and content["execution_state"] == "idle":
                return printed, shown
            if kind == "stream":
                printed += content["text"]
            elif "data" in content:
                shown = content["data"]["text/plain"]
            if not interrupted and until(content.get("text") or shown):
                interrupted = True
                self.manager.interrupt_kernel()


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    manager, client = start_new_kernel(cwd=str(tmp_path))
    try:
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.mark.slow
@pytest.mark.very_slow
def test_an_interrupted_sweep_goes_on_in_the_same_kernel(kernel: Kernel) -> None:
    kernel.run(f"import rts_search as rs\nspec = {SPEC}")
    said, shown = kernel.run(
        "cut = rs.run('quick', spec, name='cut')", lambda said: "about" in said and "left" in said
    )
    lines = said.splitlines()
    assert lines[0] == "sweep cut: checks the spec, loads the data, starts Ray …"
    assert lines[-1] == (
        "interrupted by SIGINT: everything so far is kept; run it with resume=True to go on"
    )
    assert len(lines) < 12  # nothing of the workers, of Ray, of Tune
    assert shown.startswith("cut: ")
    assert "running" not in shown
    said, _ = kernel.run("print(cut.name, len(cut.epochs) > 0, cut.driver())")
    assert said == "cut True None\n"
    said, _ = kernel.run(  # the kernel's own interrupt is as it was
        "import time\ntry:\n    print('sleeps')\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    print('woken')",
        lambda said: "sleeps" in said,
    )
    assert said == "sleeps\nwoken\n"
    said, shown = kernel.run("cut = rs.run('quick', spec, name='cut', resume=True)")
    assert "\nsweep cut: 4 switch configurations, tpe, " in said
    assert " is the best of " in said
    assert shown.splitlines()[0].startswith("cut: 4/4 trials (")
    assert shown.splitlines()[1].startswith("best so far t000")
    said, _ = kernel.run("print(cut.summary().listing.trials)")
    assert said == "4\n"
