"""A report in a real browser, headless: every figure draws, nothing is loaded, nothing of others
runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from rts_search.report.data import read
from rts_search.report.landscape import Grid, Landscape
from rts_search.report.page import PLOTS, single, write
from rts_search.report.surfaces import landscape
from tests.monitoring.watching import CHROMIUM, DRIVER, until
from tests.rts_search.report.ledgers import claim_in, reported
from tests.rts_search.report.test_page import HOSTILE

pytestmark = pytest.mark.skipif(
    not (shutil.which(CHROMIUM) and shutil.which(DRIVER)),
    reason="needs Debian's chromium, chromium-driver",
)
PLACES = "[...document.querySelectorAll('figure > div')]"
SECONDS = 20.0  # to open, on a machine that does much else; alone it takes one or two


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new",
        "--no-sandbox",  # of root it asks for that
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--window-size=1280,900",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options, Service(DRIVER))
    yield found
    found.quit()


def scheme(driver: webdriver.Chrome, name: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": name}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def opened(driver: webdriver.Chrome, page: Path, text: str) -> Any:
    """Writes and opens a page, waits until all of it has drawn; asks it things."""
    page.write_text(text)
    driver.get_log("performance")
    driver.get(page.as_uri())

    def ask(script: str) -> Any:
        return driver.execute_script(f"return {script}")

    until("figures", lambda: ask(f"window.drawn === {PLACES}.length"), SECONDS)
    return ask


def said(driver: webdriver.Chrome) -> list[str]:
    """Errors and warnings of the page; not what the machine's graphics say."""
    return [e["message"] for e in driver.get_log("browser") if "GL Driver" not in e["message"]]


def asked_for(driver: webdriver.Chrome) -> set[str]:
    """What the browser wanted to load."""
    entries = [json.loads(each["message"])["message"] for each in driver.get_log("performance")]
    urls = {
        each["params"]["request"]["url"]
        for each in entries
        if each["method"] == "Network.requestWillBeSent"
    }
    return {url for url in urls if not url.startswith("data:")}


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_every_figure_is_drawn_in_the_readers_colours(
    driver: webdriver.Chrome, tmp_path: Path, colours: str
) -> None:
    scheme(driver, colours)
    sweep = reported(tmp_path)
    claim_in(sweep.folder)
    page = tmp_path / "r.html"
    ask = opened(driver, page, write(read(sweep)))
    assert ask(f"{PLACES}.map(place => place.id)") == ["claims", *PLOTS]
    assert min(ask(f"{PLACES}.map(p => p.querySelectorAll('.main-svg').length)")) >= 1
    marks = "'.scatterlayer .trace, .barlayer .trace'"
    assert min(ask(f"{PLACES}.map(p => p.querySelectorAll({marks}).length)")) >= 1
    assert said(driver) == []
    assert asked_for(driver) == {page.as_uri()}
    assert ask("document.documentElement.scrollWidth <= innerWidth")
    assert "Share" not in ask(
        "[...document.querySelectorAll('.modebar-btn')].map(b => b.dataset.title).join()"
    )
    paper, ink = ask(
        "[getComputedStyle(document.body).backgroundColor, "
        "document.querySelector('#curves .ytitle').style.fill]"
    )
    light = ("rgb(255, 255, 255)", "rgb(29, 35, 41)")
    assert (paper, ink) == (
        light if colours == "light" else ("rgb(20, 24, 29)", "rgb(227, 232, 237)")
    )
    ask("dispatchEvent(new Event('beforeprint'))")
    until(
        "ink for paper",
        lambda: ask("document.querySelector('#curves .ytitle').style.fill") == light[1],
    )
    assert said(driver) == []


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_a_landscape_is_drawn(driver: webdriver.Chrome, tmp_path: Path, colours: str) -> None:
    scheme(driver, colours)
    grid = Grid(points=5, directions=2)
    bowl = [[0.1 + a * a + b * b for a in grid.steps] for b in grid.steps]
    holes = [bowl[0], [float("nan"), *bowl[1][1:]]]
    measured = [
        Landscape(name, grid, 10, 20, lines, bowl)
        for name, lines in (("a", bowl[:2]), ("b", holes), ("c", bowl[1:3]), (HOSTILE, bowl[2:4]))
    ]
    page = tmp_path / "l.html"
    ask = opened(driver, page, single("s", "landscape", landscape(measured), HOSTILE))
    assert ask("document.querySelectorAll('.contourlayer .contour').length") == 4
    assert ask("document.querySelectorAll('.scatterlayer .js-fill').length") >= 4
    assert ask("document.querySelectorAll('.cbcoloraxis').length") == 1
    assert ask("document.querySelector('.gtitle').textContent").startswith(
        "Mean loss over 10 of 20"
    )
    assert ask("window.hacked") is None
    assert said(driver) == []
    assert asked_for(driver) == {page.as_uri()}


def test_words_of_others_do_not_run(driver: webdriver.Chrome, tmp_path: Path) -> None:
    sweep = reported(tmp_path, text=HOSTILE)
    claim_in(sweep.folder, HOSTILE)
    ask = opened(driver, tmp_path / "r.html", write(read(sweep)))
    for place in range(ask(f"{PLACES}.length")):  # hover over what there is
        ask(f"Plotly.Fx.hover({PLACES}[{place}], [{{curveNumber: 0, pointNumber: 0}}])")
    until(
        "a hover",
        lambda: (
            "onerror='window" in ask("document.querySelector('#firing .hoverlayer').textContent")
        ),
    )
    assert ask("window.hacked") is None
    assert ask("document.images.length") == 0
    assert ask("document.querySelectorAll('figure svg a, figure img').length") == 0
    assert HOSTILE in ask("document.body.innerText")
    assert "onerror='window" in ask(
        "document.querySelector('#firing').textContent"
    )  # a label, as text
    assert said(driver) == []


@pytest.mark.slow
@pytest.mark.very_slow
def test_a_thousand_trials_open(driver: webdriver.Chrome, tmp_path: Path) -> None:
    text = write(read(reported(tmp_path, trials=1_000)))
    assert len(text.encode()) < 10e6
    opened(driver, tmp_path / "r.html", text)
    assert said(driver) == []


def test_a_page_of_a_sweep_that_runs_loads_itself_again(
    driver: webdriver.Chrome, tmp_path: Path
) -> None:
    told = read(reported(tmp_path))
    page = tmp_path / "r.html"
    ask = opened(driver, page, write(told, again=1))
    later = (
        tmp_path / "later.html"
    )  # whole at once, as the command writes it: half a page would stay
    later.write_text(write(told).replace("<h1>r</h1>", "<h1>ended</h1>"))
    later.replace(page)
    until("the next page", lambda: ask("document.querySelector('h1')?.innerText") == "ended")
