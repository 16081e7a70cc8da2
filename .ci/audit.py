"""Known vulnerabilities in the pinned dependencies: `python .ci/audit.py [PINS] [OSV_URL]`.

Exit code 0: none, or the advisories cannot be reached, which is said in one line. 1: there are
some, or the pins cannot be audited.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

PINS = Path(__file__).parents[1] / "constraints.txt"
OSV = "https://api.osv.dev/v1/query"
TIMEOUT_SECONDS = 15
# advisory: why it does not matter here
IGNORED: dict[str, str] = {}


def main(pins: Path = PINS, url: str = OSV) -> int:
    if reason := unreachable(url):
        print(f"audit: {url} cannot be reached ({reason}): nothing was checked")
        return 0
    command = [
        *(sys.executable, "-m", "pip_audit", "--requirement", str(pins)),
        *("--no-deps", "--disable-pip", "--vulnerability-service", "osv", "--osv-url", url),
        *("--format", "json", "--aliases", "on", "--progress-spinner", "off"),
        *(part for advisory in IGNORED for part in ("--ignore-vuln", advisory)),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        print(f"audit: pip-audit failed: {' '.join(done.stderr.split())[-500:]}")
        return 1
    problems = [line for package in packages for line in describe(package)]
    for line in problems:
        print(f"audit: {line}")
    if not problems:
        print(f"audit: no known vulnerability in {len(packages)} packages")
    return bool(problems)


def unreachable(url: str) -> str | None:
    """Why the advisories cannot be asked for, None if they can."""
    question = {"package": {"name": "pip", "ecosystem": "PyPI"}, "version": "20.0"}
    request = urllib.request.Request(url, json.dumps(question).encode())
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            json.load(answer)
    except (OSError, ValueError) as error:  # URLError is an OSError
        return " ".join(str(getattr(error, "reason", error)).split())
    return None


def describe(package: dict[str, Any]) -> list[str]:
    if "skip_reason" in package:
        return [f"{package['name']} was not checked: {package['skip_reason']}"]
    return [
        f"{package['name']} {package['version']}: {' '.join([found['id'], *found['aliases']])}: "
        f"{' '.join(found['description'].split())[:200]}; fixed in "
        f"{', '.join(found['fix_versions']) or 'no version'}"
        for found in package["vulns"]
    ]


if __name__ == "__main__":
    arguments = sys.argv[1:]
    sys.exit(main(Path(arguments[0]) if arguments else PINS, *arguments[1:2]))
