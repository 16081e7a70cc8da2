"""Files that torch reads hold weights, or are refused: what is in them is never run."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from trainables.checkpoint import STATE, WEIGHTS, CheckpointFolder
from trainables.config import ModelConfig
from trainables.models import build_model

ROOT = Path(__file__).parents[2]


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


@pytest.fixture
def malicious(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that makes a folder `executed` where it is unpickled: which is shown first."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "malicious.pt"
    torch.save({"weight": torch.zeros(1), "more": Payload()}, path)
    torch.load(path, weights_only=False)
    Path("executed").rmdir()
    return path


@pytest.mark.parametrize("name", [STATE, WEIGHTS])
def test_a_checkpoint(malicious: Path, name: str) -> None:
    malicious.rename(malicious.with_name(name))
    assert CheckpointFolder(str(malicious.parent)).load(name) is None
    assert not Path("executed").exists()


def test_a_pretrained_file(malicious: Path) -> None:
    config = ModelConfig(name="mlp", pretrained=str(malicious))
    with pytest.raises(ValueError, match="are no state dict") as error:
        build_model(config, 10, (1, 8, 8))
    assert "\n" not in str(error.value)
    assert not Path("executed").exists()


def test_torchvisions_hub_folder(malicious: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch compares a file's hash when it downloads it, and never again."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(malicious.parent))
    weights = torchvision.models.SqueezeNet1_1_Weights.DEFAULT
    file = malicious.parent / "checkpoints" / weights.url.rpartition("/")[2]
    file.parent.mkdir()
    malicious.rename(file)
    with pytest.raises(ValueError, match=f"no state dict: delete {file.name}") as error:
        build_model(ModelConfig(name="squeezenet1_1", pretrained=True), 4, (3, 32, 32))
    assert "\n" not in str(error.value)
    assert not Path("executed").exists()


def test_no_other_place_reads_pickles() -> None:
    """Whoever adds one must say here why it is safe."""
    reads = re.compile(r"pickle\.loads?\(|Unpickler|torch\.load\(|np\.load\(|joblib|yaml\.load\(")
    found = {
        f"{path.relative_to(ROOT)}: {match}"
        for package in ("results", "rts_search", "search_spaces", "trainables")
        for path in (ROOT / package).rglob("*.py")
        for match in reads.findall(path.read_text("utf-8"))
    }
    assert found == {
        "trainables/checkpoint.py: torch.load(",  # weights_only, tested above
        "trainables/models/pretrained.py: torch.load(",  # so is this
        "trainables/data/cache.py: np.load(",  # allow_pickle=False
        "trainables/data/device.py: np.load(",  # so is this
        "trainables/trunk.py: np.load(",  # and this
        "rts_search/apart.py: pickle.load(",  # what its parent asks
        "rts_search/apart.py: pickle.loads(",  # what its child answers
        "rts_search/search/samplers.py: pickle.loads(",  # of this very process
        "rts_search/trials/failures.py: pickle.loads(",  # in the driver's own folder, mode 700
    }
