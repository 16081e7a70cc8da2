"""SGD that is trained once and shared: the same bits as without, whatever becomes of the trunk."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from trainables.checkpoint import STATE, WEIGHTS, pack, unpack
from trainables.config import TrialConfig
from trainables.effect import has_trunk, in_effect, trunk_of
from trainables.trunk import HISTORY, History, Trunk, firing_epoch
from trainables.tune import Assignment, TrialRunner, package_fingerprints

T = 8
COSTS = {"train_seconds", "eval_seconds", "epoch_seconds", "images_per_second", "shared"}
PLENTY = 1e9
TRIGGERS: dict[str, dict[str, Any]] = {
    "variance": {"name": "variance", "k": 4, "gamma": 0.9},
    "cosine": {"name": "cosine", "k": 5, "kappa": 0.1},
    "gap": {"name": "gap", "mu": 0.9, "period": 1},
    "dynamic": {"name": "gap", "mu": 0.8, "period": 1, "baseline": "dynamic"},
    "epoch": {"name": "epoch", "epoch": 5},
    "last": {"name": "epoch", "epoch": T},
    "fraction": {"name": "epoch", "fraction": 0.4},
    "never": {"name": "never"},
    "always": {"name": "always"},
}


def network(num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """With batch norm and dropout: what lies in buffers and in random states is shared too."""
    inputs = math.prod(image_shape)
    hidden = [nn.Flatten(), nn.Linear(inputs, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1)]
    return nn.Sequential(*hidden, nn.Linear(16, num_classes))


def config(optimizer: dict[str, Any], **train: Any) -> TrialConfig:
    return TrialConfig.model_validate(
        {
            "data": {"name": "digits", "train_size": 200, "validation_fraction": 0.2},
            "model": {"name": f"{__name__}:network"},
            "train": {"epochs": T, "batch_size": 40, "lr": 0.1, **train},
            "optimizer": optimizer,
        }
    )


def runner(folder: Path, trial: TrialConfig, name: str, **changes: Any) -> TrialRunner:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "driver.json").write_text('{"key": "ours"}')
    assignment = Assignment(
        sweep="s",
        trial_id=name,
        number=0,
        words="rts",
        config=trial.model_dump_json(),
        climb=[[0, T]],
        checkpoints=str(folder / "checkpoints" / name),
        claim=(str(folder / "driver.json"), "ours"),
        checkpoint_seconds=0,
        patience_seconds=None,
        objective="val_accuracy",
        threads=1,
        gpus=0,
        row="{}",
        packages=package_fingerprints(),
        trunks=str(folder / "trunks"),
        trunk_bytes=PLENTY,
    )
    return TrialRunner({"assignment": asdict(assignment) | changes})


def rows(found: TrialRunner, most: int | None = None) -> list[dict[str, Any]]:
    """All that it reports, until its end or for so many steps."""
    told: list[dict[str, Any]] = []
    for _ in range(most or 1000):
        result = found.step()
        told += result["epochs"]
        if result["done"]:
            return told
    return told


def plain(told: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Without cost and time; as text, for a NaN equals no other."""
    return [{k: repr(v) for k, v in row.items() if k not in COSTS} for row in told]


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    found = unpack((folder / "checkpoints" / name / WEIGHTS).read_bytes())
    return {f"{kind} {k}": v for kind in ("final", "best") for k, v in found[kind].items()}


def check_same(folder: Path, trial: TrialConfig, name: str, **changes: Any) -> list[dict[str, Any]]:
    """Train it with the trunks in `folder` and without any; returns what it reports with."""
    alone = rows(runner(folder, trial, f"{name}-alone", **changes | {"trunks": None}))
    shared = rows(runner(folder, trial, name, **changes))
    assert plain(shared) == plain(alone)
    assert not any(row["shared"] for row in alone)
    if (folder / "checkpoints" / f"{name}-alone" / WEIGHTS).exists():
        one, other = weights(folder, name), weights(folder, f"{name}-alone")
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    return shared


def moving(trigger: dict[str, Any]) -> dict[str, Any]:
    return {
        "family": "rts",
        "trigger": trigger,
        "radius": {"alpha_start": 2.0, "alpha_end": 0.5},
        "scale": {"alpha_start": 0.5, "alpha_end": 2.0, "shape": "inverse"},
    }


@pytest.mark.parametrize("batch_norm", ["update", "freeze"])
def test_each_trigger_forks_where_it_fires(tmp_path: Path, batch_norm: str) -> None:
    check_same(tmp_path, config({"family": "sgd"}, batch_norm=batch_norm), "sgd")
    for name, trigger in TRIGGERS.items():
        found = check_same(tmp_path, config(moving(trigger), batch_norm=batch_norm), name)
        fired = next((row["epoch"] for row in found if row["perturbing"]), T)
        assert [row["shared"] for row in found] == [row["epoch"] < fired for row in found]
        assert name in ("never", "always", "last") or 1 < fired < T, (name, fired)


schedules = st.builds(
    lambda start, end, shape: {"alpha_start": start, "alpha_end": end, "shape": shape},
    st.floats(0.1, 10),
    st.floats(0.1, 10),
    st.sampled_from(["plain", "inverse"]),
)
triggers = st.one_of(
    st.builds(
        lambda gamma, k: {"name": "variance", "gamma": gamma, "k": k},
        st.floats(0.1, 2),
        st.integers(2, 8),
    ),
    st.builds(
        lambda kappa, k: {"name": "cosine", "kappa": kappa, "k": k},
        st.floats(0, 0.6),
        st.integers(1, 12),
    ),
    st.builds(
        lambda mu, baseline: {"name": "gap", "mu": mu, "period": 1, "baseline": baseline},
        st.floats(0.5, 2),
        st.sampled_from(["fixed", "dynamic"]),
    ),
    st.builds(lambda fraction: {"name": "epoch", "fraction": fraction}, st.floats(0, 1)),
)
rules = st.one_of(
    st.builds(
        lambda radius, scale, trigger, factor, anneal: {
            "family": "rts",
            "radius": radius,
            "scale": scale,
            "trigger": trigger,
            "after": {"lr_factor": factor, "anneal": anneal},
        },
        schedules,
        schedules,
        triggers,
        st.sampled_from([1.0, 0.3, 3.0]),
        st.sampled_from(["keep", "own"]),
    ),
    st.sampled_from([{"family": f} for f in ("sgd", "pugd", "sam", "asam")]),
)


any_sweep = given(
    trials=st.lists(rules, min_size=2, max_size=4),
    schedule_by=st.sampled_from(["step", "epoch"]),
    batch_norm=st.sampled_from(["update", "freeze"]),
    climb=st.sampled_from([[[0, T]], [[0, 2], [1, 4], [2, T]]]),
    limit=st.sampled_from([0.0, 60e3, PLENTY]),
)
few, many = (
    settings(max_examples=n, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    for n in (4, 60)
)


def check_sweep(
    tmp_path_factory: pytest.TempPathFactory,
    trials: list[dict[str, Any]],
    schedule_by: str,
    batch_norm: str,
    climb: list[list[int]],
    limit: float,
) -> None:
    folder = tmp_path_factory.mktemp("sweep")
    for number, rule in enumerate(trials):
        trial = config(rule, schedule_by=schedule_by, batch_norm=batch_norm)
        check_same(folder, trial, f"t{number}", climb=climb, trunk_bytes=limit)
        assert sum(file.stat().st_size for file in folder.glob("trunks/*/at-*.pt")) <= limit
    shutil.rmtree(folder)


@few
@any_sweep
def test_any_sweep_is_the_same_shared_or_not(
    tmp_path_factory: pytest.TempPathFactory, **sweep: Any
) -> None:
    check_sweep(tmp_path_factory, **sweep)


@pytest.mark.slow
@pytest.mark.very_slow
@many
@any_sweep
def test_many_sweeps_are_the_same_shared_or_not(
    tmp_path_factory: pytest.TempPathFactory, **sweep: Any
) -> None:
    check_sweep(tmp_path_factory, **sweep)


def test_two_at_once_add_to_one_trunk(tmp_path: Path) -> None:
    trials = [config(moving(TRIGGERS[name])) for name in ("variance", "last")]
    alone = [rows(runner(tmp_path / "alone", t, str(i), trunks=None)) for i, t in enumerate(trials)]
    both = [runner(tmp_path, trial, str(i)) for i, trial in enumerate(trials)]
    told: list[list[dict[str, Any]]] = [[], []]
    random = [torch.get_rng_state()] * 2  # each process has its own
    for _ in range(T):
        for i, one in enumerate(both):
            torch.set_rng_state(random[i])
            told[i] += rows(one, 1)
            random[i] = torch.get_rng_state()
    assert [plain(t) for t in told] == [plain(a) for a in alone]
    assert not any(row["shared"] for row in told[0])
    (trunk,) = (tmp_path / "trunks").iterdir()
    assert sorted(file.name for file in trunk.iterdir()) == [
        *(f"at-{epoch}.pt" for epoch in range(1, T)),
        HISTORY,
    ]
    check_same(tmp_path, config(moving(TRIGGERS["gap"])), "third")


def test_what_is_torn_foreign_or_stale_is_trained_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trial = config(moving({"name": "epoch", "epoch": 7}))
    check_same(tmp_path, config({"family": "sgd"}), "sgd")
    (trunk,) = (tmp_path / "trunks").iterdir()

    def shared(name: str) -> int:
        return sum(row["shared"] for row in check_same(tmp_path, trial, name))

    assert shared("whole") == 6
    snapshot = trunk / "at-6.pt"
    whole = snapshot.read_bytes()
    snapshot.write_bytes(whole[: len(whole) // 2])
    assert shared("torn") == 5
    assert "at-6.pt is left aside" in caplog.text
    assert shared("mended") == 6  # the trial before has written it again
    flipped = bytearray(whole)
    flipped[whole.index(b"data/0") + 300] ^= 1
    snapshot.write_bytes(bytes(flipped))
    assert shared("flipped") == 5
    snapshot.write_bytes(pack(unpack(whole) | {"trunk": "T8-another"}))
    assert shared("foreign") == 5
    snapshot.write_bytes((trunk / "at-3.pt").read_bytes())
    assert shared("stale") == 5
    snapshot.unlink()
    snapshot.mkdir()
    assert shared("folder") == 5
    snapshot.rmdir()
    (trunk / HISTORY).write_bytes(b"PK")
    assert shared("no history") == 0
    assert shared("again") == 6


def test_a_killed_worker_goes_on_from_its_checkpoint_or_the_trunk(tmp_path: Path) -> None:
    trial = config(moving({"name": "epoch", "epoch": 5}))
    alone = rows(runner(tmp_path, trial, "alone", trunks=None))
    for steps in range(1, T):
        folder = tmp_path / str(steps)
        cut = rows(runner(folder, trial, "cut"), steps)
        assert plain(rows(runner(folder, trial, "cut"))) == plain(alone)  # from state.pt
        assert len(cut) == steps
        (folder / "checkpoints" / "cut" / STATE).unlink(missing_ok=True)
        (folder / "checkpoints" / "cut" / WEIGHTS).unlink()
        assert plain(rows(runner(folder, trial, "cut"))) == plain(alone)  # from the trunk


def test_a_checkpoint_without_statistics_adds_nothing(tmp_path: Path) -> None:
    """As of a sweep that an earlier version began: its gradients before the cut are not known."""
    trial = config(moving(TRIGGERS["epoch"]))
    rows(runner(tmp_path, trial, "old", trunks=None), 2)
    rows(runner(tmp_path, trial, "old"))
    assert not list(tmp_path.glob("trunks/*/*"))


def test_the_guard_ends_a_trial_on_its_trunk(tmp_path: Path) -> None:
    wild = {"lr": 1e6}
    rows(runner(tmp_path, config({"family": "sgd"}, **wild), "sgd", number=None))
    trial = config(moving({"name": "epoch", "epoch": 8}), **wild)
    found = check_same(tmp_path, trial, "wild")
    assert all(row["shared"] for row in found)
    assert len(found) < T - 1


def test_snapshots_stay_below_their_limit_evenly(tmp_path: Path) -> None:
    sgd = config({"family": "sgd"})
    check_same(tmp_path, sgd, "free")
    (trunk,) = (tmp_path / "trunks").iterdir()
    size = (trunk / "at-1.pt").stat().st_size
    shutil.rmtree(trunk)
    check_same(tmp_path, sgd, "bound", trunk_bytes=4.2 * size)
    assert sorted(file.name for file in trunk.glob("at-*")) == ["at-2.pt", "at-4.pt", "at-6.pt"]
    assert len(History.unpack((trunk / HISTORY).read_bytes(), trunk.name).epochs) == T
    fork = check_same(tmp_path, config(moving({"name": "epoch", "epoch": 6})), "fork")
    assert [row["shared"] for row in fork] == [True] * 4 + [False] * 4
    other = config({"family": "sgd"}, batch_size=32)  # a second trunk takes its share
    check_same(tmp_path, other, "other", trunk_bytes=4.2 * size)
    kept = list(tmp_path.glob("trunks/*/at-*"))
    assert len({file.parent for file in kept}) == 2
    assert sum(file.stat().st_size for file in kept) <= 4.2 * size


def test_a_full_disk_costs_the_trunk_only(tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "trunks").write_text("no folder")
    found = runner(tmp_path, config(moving(TRIGGERS["epoch"])), "t")
    assert len(rows(found)) == T
    assert "trunks is left aside" in caplog.text


def test_a_trunk_lies_on_object_storage(tmp_path: Path, s3_storage: str) -> None:
    options = {"trunks": s3_storage}
    check_same(tmp_path, config({"family": "sgd"}), "sgd", **options)
    found = check_same(tmp_path, config(moving(TRIGGERS["epoch"])), "t", **options)
    assert [row["shared"] for row in found] == [True] * 4 + [False] * 4


def test_when_a_configuration_fires_is_read_from_its_trunk(tmp_path: Path) -> None:
    check_same(tmp_path, config({"family": "sgd"}), "sgd")
    (folder,) = (tmp_path / "trunks").iterdir()
    trunk = Trunk(str(folder.parent), folder.name, PLENTY)
    for name, trigger in TRIGGERS.items():
        trial = config(moving(trigger))
        found = rows(runner(tmp_path, trial, name, trunks=None))
        fired = next((row["epoch"] for row in found if row["perturbing"]), T + 1)
        assert firing_epoch(trial, trunk.epochs) == fired
        assert firing_epoch(trial, trunk.epochs[: T - 1]) == fired
        if 1 < fired <= T:
            assert firing_epoch(trial, trunk.epochs[: fired - 2]) is None


def test_the_trunk_is_that_of_plain_sgd() -> None:
    one, other = (config(moving(TRIGGERS[name]), batch_norm="freeze") for name in ("gap", "epoch"))
    assert trunk_of(one) == trunk_of(other) == trunk_of(config({"family": "sgd"}))
    assert trunk_of(one) != trunk_of(config(moving(TRIGGERS["gap"]), lr=0.2))
    assert trunk_of(one) == trunk_of(one.placed("cpu", "stream"))
    assert has_trunk(one)
    assert not any(has_trunk(config({"family": f})) for f in ("pugd", "sam", "asam"))


def test_what_is_the_same_in_effect() -> None:
    gap = config(moving(TRIGGERS["gap"]))
    assert in_effect(gap, 5) == in_effect(config(moving(TRIGGERS["epoch"])), 5)
    assert in_effect(gap, 5) != in_effect(gap, 6)
    assert in_effect(gap, T + 1) == in_effect(config({"family": "sgd"}), T + 1)
    unit = config({"family": "rts", "trigger": {"name": "always"}})
    assert in_effect(unit, 1) == in_effect(config({"family": "pugd"}), 1)
    after = config(moving(TRIGGERS["gap"]) | {"after": {"lr_factor": 0.3, "anneal": "own"}})
    assert trunk_of(after) == trunk_of(gap)
    assert in_effect(after, 5) != in_effect(gap, 5)
    assert in_effect(after, T + 1) == in_effect(gap, T + 1)
    own = config({"family": "rts", "after": {"anneal": "own"}})  # from the start it is the cosine
    assert in_effect(own, 1) == in_effect(unit, 1)
    assert in_effect(own, 2) != in_effect(unit, 2)
    sam = config({"family": "sam", "rho": 0.05, "eta": 0.5})
    assert in_effect(sam, 1) == in_effect(config({"family": "sam"}), 1)
