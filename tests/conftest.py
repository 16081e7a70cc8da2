"""What all tests share: one thread a process, and a real S3 server."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: tests side by side must not thrash

from collections.abc import Iterator

import pytest

from tests.s3 import ENVIRONMENT, new_storage, serve_s3


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    """host:port of an S3 server in a process of its own."""
    pytest.importorskip("moto.server")
    with pytest.MonkeyPatch.context() as patch, serve_s3() as address:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        yield address


@pytest.fixture
def s3_storage(s3_server: str) -> str:
    """A storage in a bucket of its own."""
    return new_storage(s3_server)
