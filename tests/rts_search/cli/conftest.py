"""What the tests of the command line share."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache, a folder and a module path of their own."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RTS_SEARCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("COLUMNS", raising=False)
        patch.setattr(sys, "path", list(sys.path))
        patch.chdir(tmp_path_factory.mktemp("here"))
        yield
    torch.set_num_threads(threads)
