from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainables.test_tune import config, runner


def test_a_workers_log_tells_which_trials_it_served(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    worker = runner(tmp_path, config())
    assert repr(worker) == "TrialRunner(s)"
    while not worker.step()["done"]:
        pass
    worker.reset_config(worker.config)
    worker.step()
    worker.cleanup()
    told = capfd.readouterr()
    assert told.out.splitlines() == [":actor_name:s/t0000"] * 2
    lines = [line for line in told.err.splitlines() if "s/t0000" in line]
    assert lines[0] == ":actor_name:s/t0000"
    assert lines[1].startswith("s/t0000 begins: rts; ")
    assert lines[2].startswith("s/t0000 ends: completed after epoch 4/4 of rung ")
    assert "goes on after epoch 4/4" in lines[4]  # the checkpoint is deleted by the driver
    assert len(lines) == 6


def test_and_whether_their_images_stream(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for residence in ("device", "stream"):
        worker = runner(tmp_path / residence, config().placed("cpu", residence))
        worker.step()
        worker.cleanup()
    lines = [line for line in capfd.readouterr().err.splitlines() if " begins: " in line]
    assert [line.endswith("epochs; its images stream") for line in lines] == [False, True]
