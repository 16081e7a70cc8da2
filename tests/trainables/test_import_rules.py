"""Who may import whom: by the linter's contracts, and by what a process really loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_contracts_hold() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        (
            "trainables trainables.base trainables.config trainables.schedules "
            "trainables.metrics trainables.triggers trainables.guard trainables.data "
            "trainables.data.sources trainables.models",
            "torch torchvision ray",
        ),
        (
            "search_spaces search_spaces.space search_spaces.builtin search_spaces.registry "
            "search_spaces.start_points",
            "torch torchvision ray",
        ),
        (
            "results results.ledger results.query results.export results.statistics",
            "torch torchvision ray",
        ),
        (
            "rts_search rts_search.spec.model rts_search.show.tables rts_search.cli.app",
            "torch torchvision ray",
        ),
        ("rts_search.runner rts_search.claims.confirm", "torch torchvision"),
        ("trainables.loop trainables.state trainables.checkpoint", "ray"),
    ],
)
def test_heavy_packages_are_not_loaded(modules: str, forbidden: str) -> None:
    code = (
        "import sys, importlib\n"
        f"for name in {modules.split()}: importlib.import_module(name)\n"
        f"print([name for name in {forbidden.split()} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
