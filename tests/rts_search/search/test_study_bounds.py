"""Bounds that a resume makes narrower."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from rts_search.search.study import Proposal
from search_spaces.space import Space
from tests.contracts.sampler_contract import open_study
from tests.rts_search.search.studies import ask, branches, lr_space, run


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "gp"])
def test_narrower_bounds_hold_from_then_on(tmp_path: Path, sampler: str) -> None:
    run(open_study(tmp_path, sampler, lr_space()), 20)
    narrow = lr_space(0.1, 0.2, (100, 50))
    proposals = run(open_study(tmp_path, sampler, narrow), 12)
    assert [p.number for p in proposals] == list(range(20, 32))
    for params in (p.params for p in proposals):
        assert 0.1 <= params["lr"] <= 0.2
        assert params["batch"] in (50, 100)
    study = open_study(tmp_path, sampler, narrow)
    assert study.count() == 32
    with pytest.raises(
        ValueError, match=r"lr was 0.1 to 0.2 \(log\), and is now 0.01 to 1 \(log\)"
    ):
        open_study(tmp_path, sampler, lr_space())


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_branch_can_be_cut_off(tmp_path: Path, sampler: str) -> None:
    proposals = run(open_study(tmp_path, sampler, branches()), 24)
    assert {p.params["trigger"] for p in proposals} == {"variance", "gap"}
    study = open_study(tmp_path, sampler, branches(("variance",), gamma=0.5))
    for proposal in run(study, 12):
        assert proposal.params["trigger"] == "variance"
        assert proposal.params["gamma"] <= 0.5


def test_narrower_nsga2(tmp_path: Path) -> None:
    def some(space: Space, trials: int) -> list[Proposal]:
        study = open_study(tmp_path, "nsga2", space, against="train_seconds")
        proposals = [ask(study) for _ in range(trials)]
        for p in proposals:
            study.complete(p.number, -abs(p.params["lr"] - 0.3), cost=p.params["momentum"])
        return proposals

    some(lr_space(), 45)
    for proposal in some(lr_space(0.4, 0.5, (100,)), 45):
        assert 0.4 <= proposal.params["lr"] <= 0.5
        assert proposal.params["batch"] == 100


def test_the_sampler_still_uses_what_lies_within(tmp_path: Path) -> None:
    """Its proposals gather at the best observation within the new bounds."""
    study = open_study(tmp_path, "tpe", lr_space())
    run(study, 60)
    inside = open_study(tmp_path, "tpe", lr_space(0.25, 0.9))
    found = sorted(p.params["lr"] for p in run(inside, 15))
    afresh = open_study(tmp_path / "new", "tpe", lr_space(0.25, 0.9))
    drawn = sorted(p.params["lr"] for p in run(afresh, 10))
    assert abs(found[7] - 0.3) < abs(drawn[5] - 0.3)


def test_unfinished_trials_resume_as_they_began(tmp_path: Path) -> None:
    study = open_study(tmp_path, "tpe", branches())
    begun = [ask(study) for _ in range(12)]
    assert {p.params["trigger"] for p in begun} == {"variance", "gap"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        study = open_study(tmp_path, "tpe", branches(("gap",)))
        resumed = [study.resume_next() for _ in begun]
        assert [(p.number, p.params, p.config) for p in resumed if p] == [
            (p.number, p.params, p.config) for p in begun
        ]
        for proposal in begun:
            study.complete(proposal.number, 0.5)
        assert ask(study).params["trigger"] == "gap"


def test_points_that_are_left_outside_are_dropped(tmp_path: Path) -> None:
    study = open_study(tmp_path, "random", lr_space())
    study.enqueue([{"lr": lr, "momentum": 0.5, "batch": 50} for lr in (0.02, 0.5)])
    study = open_study(tmp_path, "random", lr_space(0.1))
    assert study.count() == 0
    assert ask(study).params["lr"] == 0.5
    assert study.count() == len(study.trials()) == 1


@pytest.mark.parametrize(
    ("sampler", "space", "message"),
    [
        (
            "tpe",
            lr_space(0.001),
            r"lr was 0.01 to 1 \(log\), and is now 0.001 to 1 \(log\); begin a",
        ),
        (
            "tpe",
            lr_space(batches=(50, 300)),
            "batch was one of 50, 100, 200, and is now one of 50, 3",
        ),
        ("grid", lr_space(0.1), "a grid within other bounds is another grid; begin a new sweep"),
        ("cmaes", lr_space(0.1), "cmaes goes on from a distribution over the old bounds; begin a"),
    ],
)
def test_other_bounds_are_refused(tmp_path: Path, sampler: str, space: Space, message: str) -> None:
    open_study(tmp_path, sampler, lr_space())
    with pytest.raises(ValueError, match=message) as error:
        open_study(tmp_path, sampler, space)
    assert str(error.value).endswith("begin a new sweep, with search.warm_start naming this one")
    open_study(tmp_path, sampler, lr_space())
