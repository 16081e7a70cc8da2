"""How soon a report of 1,000 trials opens in a real browser, by the page's own clock; and its size.

Needs Debian's chromium and chromium-driver.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from rts_search.report.data import read
from rts_search.report.page import write
from tests.monitoring.watching import CHROMIUM, DRIVER
from tests.rts_search.report.ledgers import reported

# milliseconds after its start at which a page has loaded, and all of its figures have drawn
WATCH = """
const done = arguments[0], places = document.querySelectorAll('figure > div').length;
(function look() {
  const loaded = performance.getEntriesByType('navigation')[0].loadEventEnd;
  if (loaded && window.drawn === places) done([loaded, performance.now()]);
  else setTimeout(look, 5);
})();
"""


def opening(page: Path, profile: str) -> list[float]:
    """Seconds until it has loaded and drawn, in a browser that has just started."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={profile}")
    driver = webdriver.Chrome(options, Service(DRIVER))
    try:
        driver.set_script_timeout(120)
        driver.get(page.as_uri())
        return [milliseconds / 1000 for milliseconds in driver.execute_async_script(WATCH)]
    finally:
        driver.quit()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1_000)
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args(arguments)
    if not (shutil.which(CHROMIUM) and shutil.which(DRIVER)):
        print("left out: needs Debian's chromium and chromium-driver")
        return
    with tempfile.TemporaryDirectory() as scratch:
        sweep, page = reported(Path(scratch), trials=asked.trials), Path(scratch, "r.html")
        start = time.perf_counter()
        page.write_text(write(read(sweep)))
        written = time.perf_counter() - start
        seen = [opening(page, f"{scratch}/profile{run}") for run in range(asked.runs)]
        loaded, drawn = (median(each) for each in zip(*seen, strict=True))
        print(f"a report of {asked.trials:,} trials, written in {written:.1f} s")
        print(f"{'size':28} {page.stat().st_size / 1e6:6.2f} MB   goal under 10 MB")
        print(f"{'loaded (its load event)':28} {loaded:6.2f} s    goal ≤ 3 s")
        print(f"{'all figures drawn':28} {drawn:6.2f} s")


if __name__ == "__main__":
    main()
