"""No process outlives the test that started it, also when the test fails."""

from collections.abc import Iterator

import pytest

from tests.sweeps.harness import STARTED, kill_session


@pytest.fixture(autouse=True)
def _end_what_was_started() -> Iterator[None]:
    yield
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            kill_session(process)
