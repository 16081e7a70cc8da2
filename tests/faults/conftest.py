"""What the tests of faults share: nothing outlives them, and one recorded sweep."""

from __future__ import annotations

import os

import pytest
from filelock import FileLock

from tests.faults.cuts import Recorded, record
from tests.sweeps.conftest import _end_what_was_started as _end_what_was_started


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """A sweep that ran to its end, and its writes; one for all of xdist's processes."""
    base = tmp_path_factory.getbasetemp()
    home = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "recorded"
    with FileLock(f"{home}.lock"):
        return record(home)
