"""Sends the prepared dataset through Ray to nodes that lack its files."""

from __future__ import annotations

from functools import partial

import ray

from trainables.config import DataConfig
from trainables.data.share import Content, SharedData, share


def share_data(config: DataConfig) -> SharedData:
    """The dataset as this node has it, for nodes that lack its files; each fetches it once."""
    return share(config, _offer)


def _offer(content: Content) -> partial[Content]:
    # within a container, so that handing it on does not fetch it
    return partial(_fetch, [ray.put(content)])


def _fetch(references: list[ray.ObjectRef]) -> Content:
    content: Content = ray.get(references[0])
    return content
