"""A prepared dataset on a machine that lacks its files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from trainables.config import DataConfig
from trainables.data import prepare
from trainables.data.cache import adopt
from trainables.data.share import Contents, share

CONFIG = DataConfig(name="digits", train_size=200)


@pytest.fixture
def fetched() -> list[str]:
    return []


@pytest.fixture
def offer(fetched: list[str]) -> Callable[[Contents], Callable[[], Contents]]:
    def offer(contents: Contents) -> Callable[[], Contents]:
        copies = {name: np.array(content) for name, content in contents.items()}

        def fetch() -> Contents:
            fetched.append("once")
            return copies

        return fetch

    return offer


def test_another_machine_gets_the_same_bytes_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    offer: Callable[[Contents], Callable[[], Contents]],
    fetched: list[str],
) -> None:
    monkeypatch.setenv("RTS_SEARCH_CACHE", str(tmp_path / "head"))
    shared, here = share(CONFIG, offer), prepare(CONFIG)
    monkeypatch.setenv("RTS_SEARCH_CACHE", str(tmp_path / "node"))
    folder = shared.folder_for(CONFIG.model_copy(update={"augment": False}))
    assert folder is not None
    assert folder.parent == tmp_path / "node"
    there = prepare(CONFIG, folder)
    assert torch.equal(here.train_images, there.train_images)
    assert torch.equal(here.test_labels, there.test_labels)
    assert torch.equal(here.mean, there.mean)
    assert shared.folder_for(CONFIG) == folder
    assert fetched == ["once"]


def test_other_data_is_not_replaced_by_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    offer: Callable[[Contents], Callable[[], Contents]],
) -> None:
    monkeypatch.setenv("RTS_SEARCH_CACHE", str(tmp_path))
    shared = share(CONFIG, offer)
    assert shared.folder_for(CONFIG.model_copy(update={"train_size": 300})) is None


def test_a_fetch_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTS_SEARCH_CACHE", str(tmp_path))

    def fetch() -> Contents:
        raise ConnectionError("the head is gone")

    with pytest.raises(ConnectionError):
        adopt("digits-0123", fetch)
    assert not (tmp_path / "digits-0123").exists()
    assert not (tmp_path / ".digits-0123").exists()


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", "a/b", ""])
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a plain name"):
        adopt(name, dict)
