"""Which configurations a claim compares."""

from __future__ import annotations

from pathlib import Path

import pytest

from rts_search.claims import arms
from rts_search.claims.confirm import Asked, make_claim, searched, seeds_seen
from rts_search.search.known import identity
from tests.rts_search.claims.builders import T, row_of, searched_ledger


def test_candidates_differ_in_effect_and_were_perturbed(tmp_path: Path) -> None:
    spec, folder = searched_ledger(tmp_path)
    found = arms.best_in_effect(spec, searched(folder), 5)
    assert list(found) == ["t0000", "t0002", "t0004"]  # not a twin, not PUGD, not plain SGD
    assert found["t0002"].chosen == "place 3 of 7 searched trials by val_accuracy 0.8800"
    assert found["t0002"].tried == 7
    assert list(arms.best_in_effect(spec, searched(folder), 2)) == ["t0000", "t0002"]


def test_a_search_without_a_perturbed_trial_has_nothing_to_confirm(tmp_path: Path) -> None:
    spec, folder = searched_ledger(tmp_path)
    rows = [row for row in searched(folder) if row["trial_id"] in ("t0005", "sgd")]
    with pytest.raises(ValueError, match=r"none of the 1 searched trials .* was perturbed"):
        arms.best_in_effect(spec, rows, 5)


def test_baselines_have_the_best_settings_that_were_tried(tmp_path: Path) -> None:
    spec, folder = searched_ledger(tmp_path)
    rows = searched(folder)
    found = arms.baselines(spec, rows, arms.best_in_effect(spec, rows, 5))
    assert list(found) == ["sgd", "sgd-equal", "pugd", "sam", "asam"]
    by_name = {row["trial_id"]: row for row in rows}
    for arm, best in (("sgd", "sgd.2"), ("pugd", "pugd.2")):
        assert found[arm].config.model_dump_json() == by_name[best]["config_json"]
        assert found[arm].tried == 3
        assert f"{best}, the best of 3 by val_accuracy" in found[arm].chosen
        assert not found[arm].untuned
    for arm in ("sam", "asam"):  # nothing was tried for them
        assert found[arm].untuned
        assert found[arm].config.train == spec.train
    equal = found["sgd-equal"]
    assert equal.config.train.lr == by_name["sgd-2x.2"]["config_lr"]
    # first perturbed epochs 5, 8 and 3: so many epochs of T more, for each takes two gradients
    assert equal.epochs_for == {"t0000": T + 6, "t0002": T + 3, "t0004": T + 8}
    assert equal.on_seed(7, "t0002").train.epochs == T + 3
    assert equal.on_seed(7, None).train.epochs == T + 8  # all race: as long as the longest


def test_tuning_asks_for_what_the_controls_have_not(tmp_path: Path) -> None:
    spec, folder = searched_ledger(tmp_path)
    rows = searched(folder)
    runs = arms.tuning(spec, rows, 4)
    names = [run.trial_id for run in runs]
    # of SGD and PUGD three of four points were controls
    assert names == [
        *("tune-sgd.3", "tune-pugd.3"),
        *(f"tune-{family}.{number}" for family in ("sam", "asam") for number in range(4)),
        "tune-sgd-2x.3",
    ]
    assert {run.config.train.epochs for run in runs if run.arm == "sgd-2x"} == {2 * T}
    by_arm = {
        run.trial_id.partition("-")[2]: run.config.optimizer.effective_rho
        for run in runs
        if run.arm in ("sam", "asam")
    }
    assert [by_arm[f"asam.{n}"] for n in range(4)] == [0.5, 2.0, 1.0, 0.25]
    lrs = {run.config.train.lr for run in runs if run.arm == "sam"}
    controls = {row["config_lr"] for row in rows if row["control"] == "sgd"}
    assert len(lrs) == 4
    assert controls < lrs  # the same points for each arm
    assert len({identity(run.config) for run in runs}) == len(runs)


def test_a_search_of_fixed_settings_is_tuned_around_them(tmp_path: Path) -> None:
    spec, folder = searched_ledger(
        tmp_path, search={"trials": 6}, train={"epochs": T, "lr": 0.02, "weight_decay": 0}
    )
    runs = arms.tuning(spec, searched(folder), 30)
    lrs = [run.config.train.lr for run in runs if run.arm == "pugd"]
    assert min(lrs) < 0.004
    assert max(lrs) > 0.1
    assert all(0.002 <= lr <= 0.2 for lr in lrs)
    decays = {run.config.train.weight_decay for run in runs if run.arm == "sam"}
    assert all(decay == 0 or 1e-5 <= decay <= 1e-3 for decay in decays)


def test_a_tuned_run_takes_the_place_of_the_controls(tmp_path: Path) -> None:
    spec, folder = searched_ledger(tmp_path)
    rows = searched(folder)
    runs = [row_of(run, 0.95 if run.trial_id == "tune-sam.2" else 0.5, 1) for run in
            arms.tuning(spec, rows, 4)]  # fmt: skip
    found = arms.baselines(spec, [*rows, *runs], arms.best_in_effect(spec, rows, 1))
    assert found["sam"].chosen.startswith("tune-sam.2, the best of 4")
    assert found["sgd"].tried == 4


def test_seeds_are_none_that_the_ledger_has_seen(tmp_path: Path) -> None:
    spec, folder = searched_ledger(tmp_path, train={"epochs": T, "seed": 1001})
    claim = make_claim(spec, folder, Asked())
    assert seeds_seen(folder) == {1001}
    assert claim.seeds.pick == [1000, 1002, 1003]
    assert [len(block) for block in claim.seeds.blocks] == [5, 3, 3, 4, 5]
    thorough = make_claim(spec, folder, Asked(thorough=True, blocks=(5, 3)))
    assert thorough.seeds.pick == []
    assert thorough.id != claim.id
    assert len(thorough.seeds.all) == 8
