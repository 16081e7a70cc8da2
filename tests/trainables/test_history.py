"""A trunk's history, as readers have it too: whole, or none."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from tests.trainables.test_trunk import T, config
from trainables.effect import in_effect, trunk_of
from trainables.loop import train
from trainables.state import TrainingState
from trainables.trunk import HISTORY, History, Trunk


def test_a_history_is_whole_to_the_bit_or_none(tmp_path: Path) -> None:
    trunk = Trunk(str(tmp_path), f"T{T}-0a-cpu-fp32", limit=0)
    plain_sgd = in_effect(config({"family": "sgd"}), T + 1)
    list(train(plain_sgd, TrainingState(plain_sgd, watch_all=True), final=False, trunk=trunk))
    content = (tmp_path / trunk.name / HISTORY).read_bytes()
    found = History.unpack(content, trunk.name)
    assert found.config == trunk_of(plain_sgd).model_dump_json()
    told = [(e.metrics, e.norms.tobytes(), e.cosines.tobytes()) for e in trunk.epochs]
    assert [(e.metrics, e.norms.tobytes(), e.cosines.tobytes()) for e in found.epochs] == told
    assert len(found.epochs[0].cosines) == len(found.epochs[0].norms) - 1
    assert len(found.epochs[1].cosines) == len(found.epochs[1].norms)
    with pytest.raises(ValueError, match="it is of another trunk"):
        History.unpack(content, "T9-0a-cpu-fp32")
    with np.load(io.BytesIO(content)) as held:
        members = dict(held)
    text = {"norms": members["norms"].astype(str)}
    for save, change, reason in (
        (np.savez_compressed, {}, "it is compressed"),
        (np.savez, text, "its statistics are not those of steps"),
        (np.savez, {"cosines": members["cosines"][1:]}, "its statistics are not those of steps"),
    ):
        save(buffer := io.BytesIO(), **members | change)
        with pytest.raises(ValueError, match=reason):
            History.unpack(buffer.getvalue(), trunk.name)
    for place in range(0, len(content), 23):
        damaged = bytearray(content)
        damaged[place] ^= 4
        with suppress(ValueError):  # or it was the time of day, say, in the archive's own records
            assert History.unpack(bytes(damaged), trunk.name).pack() == found.pack()
        with pytest.raises(ValueError, match=r"^[^\n]+$"):
            History.unpack(content[:place], trunk.name)
