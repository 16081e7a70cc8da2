"""Which thresholds fire when: against brute force on real runs, and on the command line."""

from __future__ import annotations

import json
import math
import shutil
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from results.storage import SweepFolder
from rts_search.estimate.firing import EDGE, LINES, Firing, firing_of, segments, train_trunk
from rts_search.spec.folder import write_spec
from rts_search.spec.model import SweepSpec
from rts_search.spec.reading import load_spec
from tests.rts_search.cli.calling import cli, spec_file
from tests.trainables.test_trunk import rows, runner
from trainables.config import TrialConfig
from trainables.effect import in_effect
from trainables.triggers import Threshold, TriggerConfig
from trainables.trunk import HISTORY, TrunkEpoch, firing_epoch

T = 9


@lru_cache
def real(total: int = 24) -> tuple[TrialConfig, list[TrunkEpoch], list[Firing]]:
    config = TrialConfig.model_validate(
        {
            "data": {"name": "digits", "train_size": 200},
            "model": {"name": "mlp", "args": {"width": 16, "depth": 1}},
            "train": {"epochs": total, "batch_size": 30, "lr": 1.0, "device": "cpu"},
        }
    )
    epochs = train_trunk(config, 1, lambda line: None)
    return config, epochs, firing_of(config, epochs)


def brute(firing: Firing, value: float) -> int | None:
    config, epochs, _ = real()
    settings = {**firing.trigger, firing.threshold.parameter: value}
    trigger = TriggerConfig.model_validate(settings)
    rule = config.optimizer.model_copy(update={"trigger": trigger})
    first = firing_epoch(config.model_copy(update={"optimizer": rule}), epochs)
    assert first is not None
    return None if first > 24 else first


def place(threshold: Threshold, value: float) -> float:
    low, high = threshold.low, threshold.high
    if threshold.log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def test_every_trigger_that_watches_is_shown() -> None:
    _, epochs, found = real()
    assert [epoch.metrics.epoch for epoch in epochs] == list(range(1, 25))
    assert [firing.words for firing in found] == [
        "variance, k 10",
        "variance, k 20",
        "cosine, k 10",
        "gap, period 3, baseline fixed",
        "gap, period 3, baseline dynamic",
    ]
    for firing in found:
        fired = {part.epoch for part in firing.segments} - {None}
        assert fired, firing.words
        assert min(fired) >= firing.first


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1))
def test_segments_agree_with_brute_force(where: float) -> None:
    for firing in real()[2]:
        asked = firing.threshold
        value = asked.low * (asked.high / asked.low) ** where
        if not asked.log:
            value = asked.low + (asked.high - asked.low) * where
        value = min(max(value, asked.low), asked.high)
        inside = [part for part in firing.segments if part.low <= value <= part.high]
        assert [part.epoch for part in inside] in ([], [brute(firing, value)])


def test_segments_are_apart_by_one_percent_at_most() -> None:
    for firing in real()[2]:
        parts, asked = firing.segments, firing.threshold
        assert (parts[0].low, parts[-1].high) == (asked.low, asked.high)
        for one, other in pairwise(parts):
            assert 0 < place(asked, other.low) - place(asked, one.high) <= EDGE + 1e-9
            assert one.epoch != other.epoch


def test_where_nothing_changes_the_ends_are_enough() -> None:
    asked = []
    (part,) = segments(lambda value: asked.append(value), Threshold("x", 2.0, 8.0))
    assert (part.low, part.high, part.epoch, asked) == (2.0, 8.0, None, [2.0, 8.0])


def test_long_runs_have_few_lines() -> None:
    firing = Firing({"name": "x"}, Threshold("x", 0.0, 400.0), "x", 3, [])
    parts = segments(lambda v: max(3, int(v)) if v < 390 else None, firing.threshold)
    firing = Firing(firing.trigger, firing.threshold, "x", 3, parts)
    lines = firing.lines(400)
    assert len(parts) > 50
    assert len(lines) <= LINES + 2
    assert lines[0][2] == "3 (the first allowed)"
    assert lines[-1][2] == "never"
    assert all(" – " in words for _, _, words in lines[1:-1])


def trunk_of_sweep(tmp_path: Path, **train: Any) -> tuple[SweepFolder, SweepSpec]:
    """A sweep whose `sgd` control has completed."""
    spec = load_spec(spec_file(tmp_path), [f"train.{key}={value}" for key, value in train.items()])
    folder = SweepFolder(spec.storage, spec.name)
    write_spec(folder, spec)
    sgd = in_effect(spec.base, T + 1)
    rows(runner(Path(folder.root), sgd, "sgd", climb=[[0, T]]))
    return folder, spec


def test_a_sweep_tells_what_its_spec_tells(tmp_path: Path) -> None:
    folder, spec = trunk_of_sweep(tmp_path)
    where = "--storage", spec.storage
    told = cli("firing", "tiny", *where, "--json")
    assert (told.code, told.err) == (0, "")
    read = json.loads(told.out)
    (name,) = folder.list("trunks")
    assert (read["source"], read["trunk"], read["total"], read["steps"]) == (
        "sweep tiny", name, T, 3,
    )  # fmt: skip
    trained = cli("firing", tmp_path / "spec.yaml", "--json", "--plot", tmp_path / "f.svg")
    assert trained.code == 0
    assert trained.err.splitlines()[-1] == f"plain SGD: epoch {T}/{T}"
    assert json.loads(trained.out)["triggers"] == read["triggers"]
    drawn = (tmp_path / "f.svg").read_text("utf-8")
    assert all(each in drawn for each in ("variance, k 10", "γ", "gap, period 3, baseline dynamic"))

    shown = cli("firing", f"{folder.root}/")
    assert (shown.code, shown.err) == (0, "")
    first, *_ = shown.out.splitlines()
    assert first == f"plain SGD of sweep tiny: T 9, 3 steps an epoch, lr 0.1, {name}"
    for each in read["triggers"]:
        assert f"{each['symbol']} {each['segments'][0]['low']:.3g}" in shown.out
    assert "(the first allowed)" in shown.out
    assert "never" in shown.out


def test_what_is_torn_or_of_another_setting_is_left_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, spec = trunk_of_sweep(tmp_path)
    (name,) = folder.list("trunks")
    trunks = Path(folder.root) / "trunks"
    where = "--storage", spec.storage
    shutil.copytree(trunks / name, trunks / f"T{T}-0abc-cpu-fp32")  # of another name
    other = cli("firing", "tiny", *where, "--epochs", "5")
    assert other.code == 2
    assert other.err == (
        "rts-search: sweep tiny has no whole run of plain SGD of T 5 (of T 9 it has: --epochs): "
        "its spec instead of its name (rts-search firing SPEC.yaml, or --preset NAME) trains one\n"
    )
    assert cli("firing", "tiny", *where).code == 0
    history = trunks / name / HISTORY
    history.write_bytes(history.read_bytes()[:-200])
    caplog.clear()
    torn = cli("firing", "tiny", *where)
    assert caplog.text.count(f"{name}/{HISTORY} is left aside") == 1
    assert (torn.code, torn.out) == (2, "")
    assert "has no whole run of plain SGD of T 9: its spec instead of its name" in torn.err
    shutil.rmtree(trunks)
    write_spec(SweepFolder(spec.storage, "changed"), spec.model_copy(update={"name": "changed"}))
    none = cli("firing", "changed", *where)
    assert none.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give a SWEEP, a SPEC.yaml or --preset NAME"),
        (("nosuch",), "no sweeps in "),
        (("x", "--set", "train.lr=1"), "--preset and --set belong to a spec, and x is a sweep"),
        (("no.yaml",), "no.yaml"),
        (("--preset", "quick", "--plot", "f.pdf"), "plots are drawn as .png or .svg"),
        (("--preset", "quick", "--set", "model.name=mlpp"), "mlpp"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = cli("firing", *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert done.err.count("\n") == 1


def test_sgd_that_diverges_is_one_line(tmp_path: Path) -> None:
    done = cli("firing", spec_file(tmp_path), "--set", "train.lr=1e30")
    assert done.code == 2
    assert "plain SGD with these settings has diverged: train_loss is " in done.err
    assert "Traceback" not in done.err
