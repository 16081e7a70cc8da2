"""Figures as images, by kaleido in the real browser."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest

from rts_search.report.data import read
from rts_search.report.figures import stops
from rts_search.report.images import DENSITY, WIDTH, image
from tests.monitoring.watching import CHROMIUM
from tests.rts_search.cli.calling import cli
from tests.rts_search.report.ledgers import reported


@pytest.mark.skipif(not shutil.which(CHROMIUM), reason="needs Debian's chromium")
def test_an_image_in_each_format(tmp_path: Path) -> None:
    sweep, path = reported(tmp_path), tmp_path / "rungs.svg"
    done = cli("plot", "rungs", "r", "-o", path, "--storage", tmp_path)
    assert (done.code, done.out, done.err) == (0, f"{path}\n", "")
    text = path.read_text()
    assert text.startswith("<svg")
    assert "completed: T 9" in text  # the axis, in words
    assert "rgb(29, 35, 41)" in text  # in the light look's ink,
    assert "fill: rgb(255, 255, 255)" in text  # on white
    figure = stops(read(sweep))
    assert figure is not None
    assert image(figure, ".pdf").startswith(b"%PDF")
    pixels = image(figure, ".png")
    assert pixels.startswith(b"\x89PNG")
    assert struct.unpack(">II", pixels[16:24]) == (DENSITY * WIDTH, DENSITY * 320)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/nonexistent", "an .svg is drawn by Chrome or Chromium, and none is found: install one"),
        ("/bin/false", "the browser (BROWSER_PATH names another) failed: The browser seemed to "),
    ],
)
def test_without_a_browser_a_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, words: str
) -> None:
    monkeypatch.setenv("BROWSER_PATH", path)
    reported(tmp_path)
    done = cli("plot", "rungs", "r", "-o", tmp_path / "r.svg", "--storage", tmp_path)
    assert done.code == 2
    assert done.err.startswith(f"rts-search: {words}")
    assert done.err.count("\n") == 1
    assert not (tmp_path / "r.svg").exists()
