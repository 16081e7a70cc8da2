"""Eight trials at once on one node hold one copy of the dataset."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from tests.sweeps.harness import Sweep, wait_for

pytestmark = pytest.mark.slow

MIB = 2**20
LARGE = '''
"""A dataset of 60,000 images, as large as CIFAR-10."""
import numpy as np

def images():
    rng = np.random.default_rng(0)
    def part(count):
        pixels = rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        labels = np.arange(count) % 10
        pixels[:, :, :8] = 25 * labels[:, None, None, None]  # something to learn
        return pixels, labels
    return (*part(50_000), *part(10_000))
'''


@pytest.mark.very_slow
def test_eight_trials_hold_one_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTS_SEARCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "large_user.py").write_text(LARGE, "utf-8")
    sweep = Sweep(
        tmp_path,
        data={"name": "large_user:images", "augment": False, "train_size": None},
        model={"name": "mlp", "args": {"width": 4}},
        train={"epochs": 50, "batch_size": 500},
        search={"trials": 8, "controls": False},
        stop={"policy": "none"},
        resources={"cpu": psutil.cpu_count() / 8, "gpu": 0},
    )
    process = sweep.start("sweep", "spec.yaml")
    size = 0.0

    def all_hold_it() -> bool:
        held = copies(process.pid, tmp_path / "cache")
        return len(held) == 8 and min(rss for rss, _ in held) > 0.6 * size

    wait_for(lambda: any((tmp_path / "cache").glob("large*/test_labels.npy")), process)
    size = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*.npy")) / MIB
    wait_for(all_hold_it, process, limit=150)
    held = copies(process.pid, tmp_path / "cache")
    resident, shared = sum(rss for rss, _ in held), sum(pss for _, pss in held)
    print(
        f"\n{len(held)} workers map {size:.0f} MiB: {resident:.0f} MiB counted in each, "
        f"{shared:.0f} MiB in memory"
    )
    assert resident > 4.5 * size
    assert shared < 1.2 * size
    process.terminate()
    process.wait(timeout=60)


def copies(driver: int, cache: Path) -> list[tuple[float, float]]:
    """Of each process under the driver that maps the cache: MiB resident, and its share of them
    (`Pss`: each page divided by the number of processes that hold it)."""
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        try:
            maps = process.memory_maps(grouped=True)
        except psutil.Error:
            continue
        ours = [each for each in maps if each.path.startswith(str(cache))]
        if ours:
            found.append((sum(m.rss for m in ours) / MIB, sum(m.pss for m in ours) / MIB))
    time.sleep(0.5)
    return found
