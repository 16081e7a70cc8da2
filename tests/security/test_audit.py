"""The audit of the dependencies: pip-audit itself, asking a server of ours for advisories."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.sweeps.harness import ROOT

ADVISORY: dict[str, Any] = {
    "id": "PYSEC-0000-1",
    "aliases": ["CVE-0000-0001"],
    "summary": "a hole",
    "published": "2026-01-01T00:00:00Z",
    "modified": "2026-01-01T00:00:00Z",
    "affected": [
        {
            "package": {"name": "somewhat", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.3"}]}],
        }
    ],
}


class Advisories(BaseHTTPRequestHandler):
    """Knows of one vulnerable package."""

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        vulnerable = question["package"]["name"] == "somewhat" and question["version"] == "1.2"
        body = json.dumps({"vulns": [ADVISORY]} if vulnerable else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Advisories)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/query"
    server.shutdown()
    thread.join()
    server.server_close()


def audit(*arguments: str) -> tuple[int, str]:
    command = [sys.executable, str(ROOT / ".ci" / "audit.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert not done.stderr
    return done.returncode, done.stdout


def pins(tmp_path: Path, *lines: str) -> str:
    path = tmp_path / "pins.txt"
    path.write_text("# pinned\n" + "\n".join(lines) + "\n")
    return str(path)


def test_advisories_are_printed_and_fail(tmp_path: Path, url: str) -> None:
    assert audit(pins(tmp_path, "sound==1.0", "somewhat==1.2"), url) == (
        1,
        "audit: somewhat 1.2: PYSEC-0000-1 CVE-0000-0001: a hole; fixed in 1.3\n",
    )


def test_all_our_pins_are_asked_for(url: str) -> None:
    path = ROOT / "constraints.txt"
    pinned = re.findall(r"^[^#\n]+==\S+$", path.read_text("utf-8"), re.M)
    count = len(pinned)
    assert audit(str(path), url) == (0, f"audit: no known vulnerability in {count} packages\n")


def test_advisories_out_of_reach_are_said_and_pass(tmp_path: Path) -> None:
    code, output = audit(pins(tmp_path, "sound==1.0"), "http://127.0.0.1:9/v1/query")
    assert code == 0
    assert re.fullmatch(r"audit: http://127\.0\.0\.1:9/v1/query cannot be .*checked\n", output)


def test_pins_that_cannot_be_audited_fail(tmp_path: Path, url: str) -> None:
    code, output = audit(pins(tmp_path, "sound>=1.0"), url)
    assert code == 1
    assert "pip-audit failed" in output
