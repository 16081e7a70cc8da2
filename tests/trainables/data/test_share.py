"""A prepared dataset on a machine that lacks its files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from trainables.config import DataConfig
from trainables.data import prepare
from trainables.data import share as sharing
from trainables.data.cache import adopt
from trainables.data.share import Content, share

CONFIG = DataConfig(name="digits", train_size=200)


@pytest.fixture
def fetched() -> list[int]:
    return []


@pytest.fixture
def offer(fetched: list[int]) -> Callable[[Content], Callable[[], Content]]:
    def offer(content: Content) -> Callable[[], Content]:
        copy = np.array(content)

        def fetch() -> Content:
            fetched.append(len(copy))
            return copy

        return fetch

    return offer


def test_another_machine_gets_the_same_bytes_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    offer: Callable[[Content], Callable[[], Content]],
    fetched: list[int],
) -> None:
    monkeypatch.setattr(sharing, "PIECE", 1000)
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
    sizes = [path.stat().st_size for path in folder.iterdir()]
    assert (sum(fetched), max(fetched)) == (sum(sizes), 1000)  # each byte once, in pieces


def test_other_data_is_not_replaced_by_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    offer: Callable[[Content], Callable[[], Content]],
) -> None:
    monkeypatch.setenv("RTS_SEARCH_CACHE", str(tmp_path))
    shared = share(CONFIG, offer)
    assert shared.folder_for(CONFIG.model_copy(update={"train_size": 300})) is None


def test_a_fetch_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTS_SEARCH_CACHE", str(tmp_path))

    def fetch() -> Content:
        raise ConnectionError("the head is gone")

    with pytest.raises(ConnectionError):
        adopt("digits-0123", [("facts.json", fetch)])
    assert not (tmp_path / "digits-0123").exists()
    assert not (tmp_path / ".digits-0123").exists()


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", "a/b", ""])
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a plain name"):
        adopt(name, [])
