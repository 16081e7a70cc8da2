"""The estimate against hand computation, real runs of its parts, and on the command line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from results.ledger import Ledger
from results.storage import SweepFolder
from rts_search.cli import estimate as cli_estimate
from rts_search.estimate.cost import Estimate, estimate, sample_configs
from rts_search.estimate.perturbed import Evidence, Stretch, perturbed_epochs
from rts_search.estimate.tables import first_to_end
from rts_search.search.plan import open_study
from rts_search.spec.folder import write_spec
from rts_search.spec.model import CheckpointConfig, SweepSpec
from rts_search.spec.provenance import hardware
from rts_search.trials.rows import spent_columns
from rts_search.trials.trial import controls
from tests.trainables.test_trunk import rows, runner
from trainables.config import OptimizerConfig, TrialConfig
from trainables.data import prepare, steps_per_epoch
from trainables.effect import in_effect
from trainables.loop import train
from trainables.triggers import EpochObservation, EpochTrigger

CONFIG: dict[str, Any] = {
    "data": {"name": "digits", "train_size": 200, "test_size": 50},
    "model": {"name": "mlp", "args": {"width": 8, "depth": 1}},
    "train": {"epochs": 6, "batch_size": 60, "device": "cpu"},
    "resources": {"gpu": 0},
}
STEPS = 3  # 180 images, once validation is carved off


def spec_of(tmp_path: Path, **sections: Any) -> SweepSpec:
    merged = {k: {**CONFIG.get(k, {}), **v} for k, v in sections.items() if isinstance(v, dict)}
    plain = {k: v for k, v in sections.items() if not isinstance(v, dict)}
    return SweepSpec.model_validate({**CONFIG, **merged, **plain, "storage": str(tmp_path)})


def without_hours(spec: SweepSpec) -> Estimate:
    return estimate(spec, cpus=4, gpus=0, probe=False)


def test_the_steps_of_the_spec() -> None:
    images = len(prepare(SweepSpec.model_validate(CONFIG).data).train_labels)
    assert steps_per_epoch(images, 60, False) == STEPS


def test_rungs_by_hand(tmp_path: Path) -> None:
    """With η = 2 and values symmetric about their median, every trial but the first, which has
    nobody to be compared with, climbs with probability 1/2."""
    stop = {"fidelity": "schedule", "first_rung": 3, "eta": 2, "audit": 0}
    spec = spec_of(tmp_path, space="radius", search={"trials": 9}, stop=stop)
    found = without_hours(spec)
    low, top, baselines = found.rows
    assert [(row.name, row.total) for row in (low, top)] == [("0", 3), ("1", 6)]
    assert low.trials.ends == (9, 9, 9)
    assert low.epochs.ends == (27, 27, 27)
    assert low.gradients.ends == (54 * STEPS,) * 3  # the trigger is `always`
    assert top.trials.likely == pytest.approx(1 + 8 / 2, abs=0.35)
    assert 1 <= top.trials.low < top.trials.likely < top.trials.high <= 9
    assert top.epochs.likely == pytest.approx(6 * top.trials.likely)
    assert top.gradients.likely == pytest.approx(12 * STEPS * top.trials.likely)
    # SGD and PUGD at T, SGD at 2T
    assert baselines.epochs.ends == (24, 24, 24)
    assert baselines.gradients.ends == (30 * STEPS,) * 3
    assert found.whole.trials.likely == 12
    assert found.whole.epochs.likely == pytest.approx(27 + 24 + 6 * top.trials.likely)
    assert found.whole.seconds is None
    assert found.hours == []


def test_milestones_of_one_run(tmp_path: Path) -> None:
    stop = {"first_rung": 2, "eta": 2, "audit": 0, "fidelity": "epoch"}
    search = {"trials": 9, "controls": False}
    found = without_hours(spec_of(tmp_path, space="radius", search=search, stop=stop))
    assert [row.total for row in found.rows] == [2, 3, 6]
    each = [row.epochs.likely / row.trials.likely for row in found.rows]
    assert each == pytest.approx([2, 1, 3])  # the epochs since the milestone before
    assert found.rows[0].trials.likely > found.rows[1].trials.likely > found.rows[2].trials.likely


@pytest.mark.parametrize("policy", ["asha", "hyperband", "median"])
def test_audited_trials_climb_to_the_top(tmp_path: Path, policy: str) -> None:
    stop = {"policy": policy, "first_rung": 2, "audit": 1, "fidelity": "epoch"}
    found = without_hours(spec_of(tmp_path, search={"trials": 5}, stop=stop))
    assert found.audited == 5
    assert all(row.trials.ends == (5, 5, 5) for row in found.rows[:-1])


@pytest.mark.parametrize("controls_asked", [True, {"families": ["sgd", "sam"], "trials": 3}])
def test_without_a_stopper_and_with_known_triggers_all_is_exact(
    tmp_path: Path, controls_asked: Any
) -> None:
    """The random sampler's configurations are known beforehand; trained for real, they cost what
    was estimated."""
    spec = spec_of(
        tmp_path,
        space="baselines",
        train={"epochs": 2},
        search={
            "trials": 5, "sampler": "random", "seed": 3, "controls": controls_asked,
            "also": {"batch_size": [30, 60]},
        },
        stop={"policy": "none"},
    )  # fmt: skip
    study, _ = open_study(spec)
    proposals = [study.ask() for _ in range(5)]
    configs = [p.config for p in proposals if p is not None]
    configs += [control.config for control in controls(spec)]
    runs = [list(train(config)) for config in configs]
    found = estimate(spec, cpus=2, gpus=0)
    assert len({config.optimizer.family for config in configs[:5]}) > 1
    assert found.whole.epochs.ends == (sum(map(len, runs)),) * 3
    assert found.whole.gradients.ends == (sum(run[-1].gradient_evaluations for run in runs),) * 3
    assert found.speed is not None
    assert found.speed.source == "a probe on cpu, 1 thread"
    assert found.whole.seconds is not None
    assert found.whole.seconds.likely > len(runs) * (found.speed.trial + found.speed.test) > 0


@pytest.mark.parametrize("controls_asked", [True, {"families": ["pugd"]}, False])
@pytest.mark.parametrize("known", [True, False])
def test_shared_sgd_is_counted_once(tmp_path: Path, controls_asked: Any, known: bool) -> None:
    """Trials of the random sampler, trained for real one after the other, spend what was estimated
    where it is known when they fire: triggers at an epoch, or watching an earlier sweep's SGD."""
    spec = spec_of(
        tmp_path,
        name="asked",
        space="timing",
        train={"batch_size": 30},
        search={"trials": 6, "sampler": "random", "seed": 4, "controls": controls_asked},
        stop={"policy": "none"},
    )
    earlier = SweepFolder(spec.storage, "earlier")
    if known:
        record(spec.model_copy(update={"name": "earlier"}), (1.0, 2.0))
        sgd = in_effect(spec.base, 7)
        rows(runner(Path(earlier.root), sgd, "sgd", climb=[[0, 6]]))
    found = without_hours(spec)
    watching = ["cosine", "gap", "variance"]
    assert (found.known, found.guessed) == ((watching, []) if known else ([], watching))
    if not known:
        assert found.whole.gradients.low < found.whole.gradients.high < found.alone.gradients.high
        return
    assert 0 < found.never < 1
    free = {"climb": [[0, 6]], "number": None}  # of the guard
    spent = alone = 0
    ended = [control.config for control in controls(spec)]
    for config in ended:
        longer = config.train.epochs > 6
        changes = free | ({"climb": [[0, 12]], "trunks": None} if longer else {})
        told = rows(runner(tmp_path / "real", config, f"c{alone}", **changes))
        spent += spent_columns(told)["spent_gradient_evaluations"]
        alone += told[-1]["gradient_evaluations"]
    fired = 0
    for number, config in enumerate(sample_configs(spec, 100)):
        if fired == 6:
            break
        if Evidence([earlier]).firing(config, 6) == 7:
            continue
        told = rows(runner(tmp_path / "real", config, f"t{number}", **free))
        spent += spent_columns(told)["spent_gradient_evaluations"]
        alone += told[-1]["gradient_evaluations"]
        fired += 1
    assert found.alone.gradients.ends == (alone,) * 3
    if controls_asked is True:
        assert spent < alone
    assert found.whole.gradients.ends == (spent,) * 3


def test_each_length_has_plain_sgd_of_its_own(tmp_path: Path) -> None:
    """Two trials that fire at 5 of 6, so at 3 of 3; the control pays that of T = 6 only."""
    spec = spec_of(
        tmp_path,
        space="radius",
        optimizer={"trigger": {"name": "epoch", "epoch": 5}},
        search={"trials": 2},
        stop={"first_rung": 3, "eta": 2, "fidelity": "schedule", "audit": 1},
    )
    found = without_hours(spec)
    assert [row.epochs.likely for row in found.rows[:2]] == [2 + 2 * 1, 2 * 2]
    assert [row.gradients.likely for row in found.rows[:2]] == [STEPS * (2 + 4), STEPS * 8]
    alone = spec.model_copy(update={"search": spec.search.model_copy(update={"share": False})})
    assert [row.epochs.likely for row in without_hours(alone).rows[:2]] == [6, 12]
    no_snapshots = spec.model_copy(update={"checkpoint": CheckpointConfig(trunk_mb=0)})
    for each in (alone, no_snapshots):
        assert without_hours(each).whole.gradients == found.alone.gradients


@given(
    total=st.integers(1, 40),
    fraction=st.floats(0, 1),
    start=st.integers(0, 39),
    length=st.integers(1, 40),
)
def test_a_trigger_at_a_fraction_of_t(total: int, fraction: float, start: int, length: int) -> None:
    end = min(total, start + length)
    rule = OptimizerConfig(trigger=EpochTrigger(fraction=fraction))
    config = TrialConfig.model_validate({"train": {"epochs": total}, "optimizer": rule})
    trigger = rule.trigger.make(total, STEPS)
    perturbed = []
    for epoch in range(1, total + 1):
        perturbed.append(trigger.perturbing(epoch))
        trigger.observe(EpochObservation(epoch, [], [], 1.0, 1.0))
    expected = float(sum(perturbed[start:end]))
    first = Evidence().first(config, STEPS)
    assert first.known
    assert perturbed_epochs(Stretch(0, total, start, end), first) == [expected] * 3


@pytest.mark.parametrize("total", [2, 5, 9, 27, 100, 400])
@pytest.mark.parametrize("name", ["variance", "cosine", "gap"])
def test_no_trigger_fires_sooner_than_it_can(name: str, total: int) -> None:
    rule = OptimizerConfig.model_validate({"trigger": {"name": name}})
    config = TrialConfig.model_validate({"train": {"epochs": total}, "optimizer": rule})
    latest, likely, soonest = Evidence().first(config, STEPS).ends
    trigger = rule.trigger.make(total, STEPS)
    for epoch in range(1, total + 1):
        # norms that settle, gradients that agree, a gap that grows
        norms, gap = np.array([1.0, 2.0, 3.0]) / 2.0**epoch, 2.0**epoch
        trigger.observe(EpochObservation(epoch, norms, [1.0] * STEPS, 0.0, gap))
    fired = trigger.firing_epoch or total + 1
    assert soonest <= fired <= soonest + 4
    assert soonest <= likely <= latest == total + 1
    share = Evidence(shares={name: 0.25}).first(config, STEPS)
    assert share.ends == (0.75 * total + 1,) * 3
    assert not share.known


def record(
    spec: SweepSpec, seconds: tuple[float, float], trigger: str = "never", share: float = 0.5
) -> None:
    """A sweep of one trial of 4 epochs, in a storage: seconds of an SGD and a perturbed epoch."""
    folder = SweepFolder(spec.storage, spec.name)
    write_spec(folder, spec)
    now = datetime.now(UTC)
    with Ledger(folder) as ledger:
        for epoch in range(1, 5):
            perturbing = epoch > 4 * (1 - share)
            row = {"trial_id": "t0000", "rung": 0, "epoch": epoch, "total_epochs": 4}
            row |= {"perturbing": perturbing, "train_seconds": seconds[perturbing]}
            ledger.add_epoch({**row, "eval_seconds": 0.5})
        ended = {"started": now - timedelta(seconds=103), "ended": now, "epoch_seconds": 100.0}
        where = {"hardware": hardware(), "device": "cpu", "config_batch_size": 60}
        ledger.put_trial(
            {
                "trial_id": "t0000",
                "number": 0,
                "outcome": "completed",
                "retries": 0,
                "config_trigger": trigger,
                **ended,
                **where,
            }
        )


def test_seconds_and_triggers_come_from_the_newest_sweep_that_is_like(tmp_path: Path) -> None:
    spec = spec_of(
        tmp_path,
        space="radius",
        optimizer={"trigger": {"name": "cosine"}},
        search={"trials": 8},
        stop={"policy": "none"},
    )
    record(spec_of(tmp_path, name="old"), (3.0, 4.0))
    record(spec_of(tmp_path, name="like", train={"lr": 0.3}), (10.0, 18.0), "cosine", 0.25)
    record(spec_of(tmp_path, name="small", model={"args": {"width": 4}}), (1.0, 2.0), "cosine")
    record(spec_of(tmp_path, name="wide", resources={"cpu": 2}), (5.0, 6.0), "cosine")
    found = estimate(spec, cpus=4, gpus=0)
    speed = found.speed
    assert speed is not None
    assert speed.source == "sweep like"
    assert (speed.sgd, speed.perturbed, speed.evaluation) == (10, 18, 0.5)
    assert speed.trial == pytest.approx(3)
    assert speed.test == pytest.approx(0.5 * 2 * 50 / 20)  # two tests of 50, 20 to validate
    assert (found.guessed, found.observed) == ([], ["cosine"])
    row = found.rows[0]  # 8 trials of 6 epochs, a quarter perturbed; the rest is the control's
    assert row.epochs.likely == 8 * 6 * 0.25
    assert row.gradients.likely == 8 * STEPS * 6 * 0.25 * 2
    assert row.seconds is not None
    seconds = 8 * (6 * 0.25 * (18 + 0.5) + 3 + 2.5)
    assert row.seconds.likely == pytest.approx(seconds)
    assert found.alone.gradients.likely == 8 * STEPS * 6 * 1.25 + found.rows[1].gradients.likely
    assert found.alone.seconds is not None
    seconds = 8 * (6 * (10 * 0.75 + 18 * 0.25 + 0.5) + 3 + 2.5)
    assert found.rows[1].seconds is not None
    assert found.alone.seconds.likely == pytest.approx(seconds + found.rows[1].seconds.likely)
    assert found.whole.seconds is not None
    one, two, four = (hours for _, hours in found.hours)
    assert one.likely == pytest.approx(found.whole.seconds.likely / 3600)
    assert two.likely == pytest.approx(one.likely / 2)
    assert four.likely == pytest.approx(one.likely / 4)


def test_no_number_of_workers_beats_the_longest_trial(tmp_path: Path) -> None:
    record(spec_of(tmp_path, name="like"), (10.0, 20.0))
    spec = spec_of(tmp_path, space="radius", search={"trials": 2}, stop={"policy": "none"})
    found = estimate(spec, cpus=16, gpus=0)
    assert [layout.concurrent for layout, _ in found.hours] == [1, 2, 4, 8, 16]
    assert found.hours[-1][1].likely == pytest.approx(12 * 10.5 / 3600, rel=0.1)  # PUGD, SGD at 2T
    asked = estimate(spec.model_copy(), cpus=16, gpus=0).asked
    assert asked.concurrent == 16


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        ({}, None),
        ({"epochs": 1000, "gradient_evaluations": 6 * STEPS}, ("gradient_evaluations 18", 0.5)),
        ({"epochs": 3, "gradient_evaluations": 1000}, ("epochs 3", 0.5)),
        ({"epochs": 12}, ("epochs 12", 2)),
    ],
)
def test_the_budget_that_ends_it_first(
    tmp_path: Path, budget: dict[str, Any], expected: tuple[str, float] | None
) -> None:
    search = {"trials": 1, "controls": False}
    spec = spec_of(tmp_path, space="radius", search=search, stop={"policy": "none"}, budget=budget)
    first = first_to_end(spec, without_hours(spec))
    assert first == (expected and (f"budget.{expected[0]}", expected[1]))


SPEC = """
data: {name: digits, train_size: 200, test_size: 50}
model: {name: mlp, args: {width: 8, depth: 1}}
train: {epochs: 9, batch_size: 60, device: cpu}
search: {trials: 6}
resources: {gpu: 0}
"""


def run(path: Path, *arguments: str) -> tuple[str, BaseException | None]:
    path.write_text(SPEC)
    where = f"storage={path.parent / 'sweeps'}"
    threads = torch.get_num_threads()
    wide = {"COLUMNS": "160"}
    command = ["estimate", str(path), "--set", where, *arguments]
    done = CliRunner().invoke(cli_estimate.app, command, env=wide)
    assert torch.get_num_threads() == threads
    return done.stdout, done.exception


def test_the_command(tmp_path: Path) -> None:
    out, error = run(tmp_path / "spec.yaml", "--cpus", "2")
    assert error is None
    lines = out.splitlines()
    first = next(line for line in lines if line.startswith(" rung"))
    columns = [cell.strip() for cell in first.split("  ") if cell.strip()]
    assert columns == ["rung", "T", "trials", "epochs", "gradient evaluations", "time, one by one"]
    assert "unknown when cosine, gap and variance triggers fire" in out
    assert "a probe on cpu, 1 thread: SGD" in out
    assert "2 trials at once, each 1 CPU with 1 thread  (as the spec asks)" in out
    assert lines[-1].startswith("about ")
    assert lines[-1].endswith("it ends with its trials")


def test_without_a_probe_there_are_no_hours(tmp_path: Path) -> None:
    out, error = run(tmp_path / "spec.yaml", "--no-probe", "--set", "budget.epochs=10")
    assert error is None
    assert "hours unknown" in out
    assert out.splitlines()[-1].startswith("about 10 epochs with ")
    assert "budget.epochs 10 ends it" in out.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--preset", "demo"), "give either a SPEC.yaml or --preset NAME"),
        (("--set", "stop.polcy=none"), "unknown setting in stop 'polcy': did you mean 'policy'?"),
        (("--set", "stop.first_rung=9"), "stop.first_rung 9 leaves no rung below train.epochs 9"),
        (("--set", "model.name=mlpp"), "mlpp"),
        (("--cpus", "0.5"), "a trial asks for 1 CPU"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    _, error = run(tmp_path / "spec.yaml", *arguments)
    assert isinstance(error, ValueError)
    assert message in str(error)
    assert "\n" not in str(error)
