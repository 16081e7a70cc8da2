"""What the live test watches a sweep with: Debian's Prometheus, a browser, and where Ray looks for
Grafana."""

from __future__ import annotations

import json
import shutil
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TypeVar

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
NEEDED = {"chromium": CHROMIUM, "chromium-driver": DRIVER, "prometheus": "/usr/bin/prometheus"}
Found = TypeVar("Found")


def missing() -> str | None:
    """The Debian packages that are not there."""
    absent = [package for package, path in NEEDED.items() if shutil.which(path) is None]
    return f"needs Debian's {', '.join(absent)}" if absent else None


def until(what: str, found: Callable[[], Found | None], seconds: float = 60) -> Found:
    """Ask until there is an answer."""
    deadline = time.monotonic() + seconds
    while not (answer := found()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.5)
    return answer


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


class Prometheus:
    """The HTTP API of a Prometheus."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **query: str) -> dict[str, object]:
        """The `data` of an answer."""
        answer = json.loads(fetch(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"))
        assert answer["status"] == "success", answer
        return dict(answer["data"])

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The series of an instant vector, with their values."""
        result = self.get("query", query=expression)["result"]
        assert isinstance(result, list)
        return [(series["metric"], float(series["value"][1])) for series in result]


class Browser:
    """Headless Chromium, signed in to Ray's dashboard through its own dialog."""

    def __init__(self, driver: WebDriver, url: str, token: str) -> None:
        self.driver, self.url = driver, url
        driver.get(url)
        field = until(
            "the dialog that asks for the token",
            lambda: driver.find_elements(By.CSS_SELECTOR, "[role=dialog] input"),
        )[0]
        assert "Authentication Token Required" in self.text()
        field.send_keys(token)
        self.click("button", "Submit")
        until("the dialog to close", lambda: "Authentication Token" not in self.text())

    def text(self) -> str:
        """All that is to be read on the page now, whatever the window's size."""
        return str(self.driver.execute_script("return document.body.innerText") or "")

    def open(self, page: str, *words: str, seconds: float = 60) -> str:
        """The text of a page of the dashboard, once all words stand there."""
        self.driver.get(f"{self.url}/#/{page}")
        return self.read(*words, seconds=seconds)

    def read(self, *words: str, seconds: float = 60) -> str:
        """The text of this page, once all words stand there."""
        deadline = time.monotonic() + seconds
        while not all(word in (text := self.text()) for word in words):
            assert time.monotonic() < deadline, f"no {words} in:\n{text}"
            time.sleep(0.5)
        return text

    def click(self, tag: str, words: str) -> None:
        path = f"//{tag}[contains(normalize-space(.), '{words}')]"
        found = until(words, lambda: self.driver.find_elements(By.XPATH, path))
        self.driver.execute_script("arguments[0].click()", found[0])


@contextmanager
def browser(url: str, token: str, profile: Path) -> Iterator[Browser]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new",
        "--no-sandbox",  # of root it asks for that
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--window-size=1800,1400",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    driver = webdriver.Chrome(options, Service(DRIVER))
    try:
        yield Browser(driver, url, token)
    finally:
        driver.quit()


@contextmanager
def grafana_place(host: str) -> Iterator[str]:
    """A URL that answers as a healthy Grafana does: Debian has none."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/api/health" else 404)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(b'{"database": "ok"}')

        def log_message(self, *arguments: object) -> None:
            """Nothing: pytest's output is for failures."""

    server = ThreadingHTTPServer((host, 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
