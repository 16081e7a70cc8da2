"""What a search makes of configurations that come to nothing: those that diverge, those that a
space rejects, and those that are not valid."""

from __future__ import annotations

import math
from typing import Any

import optuna
import pytest
from optuna.trial import BaseTrial

from results.meanings import Outcome
from rts_search.search.checks import check_spec
from rts_search.search.known import Told, told, worst
from rts_search.search.plan import Teller, open_study, plan
from rts_search.search.study import IN_A_ROW
from rts_search.search.suits import COMPLETED_ONLY
from rts_search.spec.model import SweepSpec
from search_spaces.space import Space, apply
from tests.contracts.sampler_contract import Search, run
from tests.rts_search.search.studies import states

# Diverged trials


def wide(trial: BaseTrial) -> dict[str, Any]:
    lr = trial.suggest_float("lr", 1e-3, 1e3, log=True)
    return {"train": {"lr": lr, "momentum": trial.suggest_float("momentum", 0.0, 0.9)}}


def simulate(sampler: str, seed: int, objective: str, trials: int) -> list[int]:
    """Trials that are the better the nearer lr is to 10, and diverge beyond: how many did of each
    ten."""
    search = {"sampler": sampler, "seed": seed, "objective": objective}
    spec = SweepSpec.model_validate(
        {"train": {"epochs": 1}, "stop": {"policy": "none"}, "search": search, "space": SPACE}
    )
    study, _ = open_study(spec)
    diverged = []
    for _ in range(trials):
        proposal = study.ask()
        assert proposal is not None
        lr = proposal.params["lr"]
        value = 1 / (1 + abs(math.log10(lr / 10)))
        row = {"rung": 0, "epoch": 1, "total_epochs": 1, "train_seconds": 1.0}
        row |= {"gradient_evaluations": 1, "val_accuracy": value, "val_loss": -math.log(value)}
        outcome = Outcome.DIVERGED if lr > 10 else Outcome.COMPLETED
        row |= {"val_loss": math.nan} if lr > 10 else {}
        study.end(proposal.number, told(spec, outcome, [row]))
        diverged.append(lr > 10)
    return [sum(diverged[i : i + 10]) for i in range(0, trials, 10)]


SPACE = f"{__name__}:wide"


@pytest.mark.parametrize("objective", ["val_accuracy", "val_loss"])
@pytest.mark.parametrize(("sampler", "seeds", "trials"), [("tpe", 3, 50), ("gp", 1, 30)])
def test_a_sampler_learns_from_trials_that_diverge(
    sampler: str, seeds: int, trials: int, objective: str
) -> None:
    """While they were told as failed, nothing held TPE and GP back: of the trials after the 20th
    28 to 30 in 30 diverged; at random a third does."""
    counts = [simulate(sampler, seed, objective, trials) for seed in range(seeds)]
    assert sum(sum(tens[2:]) for tens in counts) <= seeds * (trials - 20) / 2, counts


def test_the_user_is_warned_once_when_most_diverge() -> None:
    spec = SweepSpec.model_validate({"search": {"trials": 40, "sampler": "random"}})
    study, _ = open_study(spec)
    said: list[str] = []
    teller = Teller(spec, study, said.append)
    for number, trial in enumerate(t for t in plan(spec, study, set()) if t.number is not None):
        trial.outcome = Outcome.DIVERGED if number % 2 or number > 14 else Outcome.COMPLETED
        teller.ended(trial)
        if number == 15:
            assert said == []  # five of the last ten
    (line,) = said
    assert line.startswith("6 of the last 10 trials diverged or collapsed: ")


# Constraints, and mistakes


def constrained(share: float = 0.5, early: bool = False) -> Space:
    def suggest(trial: BaseTrial) -> dict[str, Any]:
        b = trial.suggest_float("b", 0.0, 1.0)
        if early and b > share:
            raise optuna.TrialPruned("b is too large")
        a, c = (trial.suggest_float(name, 0.0, 1.0) for name in "ac")
        if b > share:
            raise optuna.TrialPruned("b is too large")
        return {"train": {"momentum": 0.9 * a, "weight_decay": b / 1000, "lr": 0.1 + c}}

    return Space(f"constrained {early}", "", suggest)


def stepped(trial: BaseTrial) -> dict[str, Any]:
    """Momentum 1.0, which is none, at one of eleven steps."""
    return {"train": {"momentum": trial.suggest_float("momentum", 0, 1, step=0.1), "lr":
                      trial.suggest_float("lr", 0.01, 1.0)}}  # fmt: skip


@pytest.mark.parametrize(
    ("sampler", "space"),
    [
        (sampler, space)
        for space in (constrained(), Space("stepped", "", stepped), constrained(early=True))
        for sampler in ("tpe", "cmaes", "qmc", "gp")[: 3 if "True" in space.name else 4]
    ],
    ids=lambda each: getattr(each, "name", each),
)
def test_such_proposals_are_left_out_and_found_again(sampler: str, space: Space) -> None:
    whole, broken = Search(sampler, space, seed=3), Search(sampler, space, seed=3)
    for search in (whole, broken):
        if sampler in COMPLETED_ONLY:  # `objective` is below 0 and above this
            search.settings["worst"] = Told("complete", [-20.0])
            search.reopen()
    trials = 16 if sampler == "gp" else 32
    proposals = run(whole, trials)
    again = run(broken, trials, reopen_after=range(0, 100, 5))
    assert [(p.number, p.params) for p in proposals] == [(p.number, p.params) for p in again]
    assert whole.study.handed_out == broken.study.handed_out == trials
    assert whole.study.left_out == broken.study.left_out
    assert whole.study.mistake == broken.study.mistake
    assert states(whole) == states(broken)
    assert sum(whole.study.left_out.values()) > 0
    for proposal in proposals:
        assert proposal.params["b"] <= 0.5 if "b" in proposal.params else True


def test_what_is_told_of_them() -> None:
    gp = SweepSpec.model_validate({"search": {"sampler": "gp"}, "stop": {"policy": "none"}})
    for end, state, values in ((None, "PRUNED", None), (worst(gp), "COMPLETE", [0.0])):
        search = Search("random", constrained(0.1))
        search.settings["worst"] = end
        search.reopen()
        search.ask()
        (first, *_) = search.study.trials()
        assert (first.state.name, first.values, set(first.params)) == (state, values, set("abc"))


def test_ten_invalid_ones_in_a_row_end_the_search() -> None:
    def suggest(trial: BaseTrial) -> dict[str, Any]:
        return {"train": {"lr": trial.suggest_float("lr", -2.0, -1.0)}}

    search = Search("random", Space("mine", "", suggest))
    assert search.ask_or_none() is None
    assert states(search) == ["pruned"] * IN_A_ROW["invalid"]
    assert (search.study.end_reason, search.study.handed_out) == ("invalid", 0)
    assert search.study.mistake.startswith("space 'mine': train.lr = -1.")


def test_a_space_that_fails_now_and_then_is_asked_again() -> None:
    def suggest(trial: BaseTrial) -> dict[str, Any]:
        return {"train": {"lr": 0.1 / (trial.suggest_int("n", 0, 9) // 8)}}

    search = Search("random", Space("mine", "", lambda trial: {"train": {"lr": 0.1}}))
    search.study.space = Space("mine", "", suggest)  # whose draws show no fault
    asked = [search.ask().params["n"] for _ in range(1)]
    assert min(asked) >= 8
    search.asked_for = (search.study.space, *search.asked_for[1:])
    with pytest.raises(ValueError, match="ZeroDivisionError"):
        search.reopen()
    assert search.study.left_out["invalid"] > 0
    assert "ZeroDivisionError" in search.study.mistake


def test_a_space_that_rejects_all_but_little_is_searched_for_long_and_not_for_ever() -> None:
    search = Search("random", constrained(0.02))
    assert search.ask().params["b"] <= 0.02

    def suggest(trial: BaseTrial) -> dict[str, Any]:
        trial.suggest_float("x", 0.0, 1.0)
        if trial.number > 0:  # an Optuna trial's
            raise optuna.TrialPruned
        return {}

    search = Search("random", Space("mine", "", lambda trial: {}))
    search.study.space = Space("mine", "", suggest)
    search.ask()
    assert search.ask_or_none() is None
    assert search.study.end_reason == "rejected"
    assert search.study.left_out == {"rejected": IN_A_ROW["rejected"]}


def test_a_grid_has_no_rejected_point() -> None:
    search = Search("grid", constrained())
    found = []
    while (proposal := search.ask_or_none()) is not None:
        found.append(proposal.params)
        search.end(proposal.number, Told("complete", [0.5]))
    assert len(found) == 3 * 2 * 3
    assert not search.study.left_out


# Known before the start


def hopeless(trial: BaseTrial) -> dict[str, Any]:
    return {"train": {"momentum": trial.suggest_float("momentum", 1.0, 2.0)}}


def spec_of(space: str, **search: Any) -> SweepSpec:
    return SweepSpec.model_validate(
        {
            "space": f"{__name__}:{space}",
            "search": {"controls": False, **search},
            "stop": {"policy": "none"},
            "data": {"train_size": 200},
            "model": {"name": "mlp"},
        }
    )


def test_the_check_applies_the_space() -> None:
    (note,) = check_spec(spec_of("stepped"))
    assert " of 256 random draws make no valid configuration, and will be left out: " in note
    assert note.endswith("train.momentum = 1.0: Input should be less than 1")
    with pytest.raises(ValueError, match=r"momentum = 1\..*; so it was with all of 256 random"):
        check_spec(spec_of("hopeless"))


def test_the_check_applies_start_points() -> None:
    points = [{"momentum": 0.5, "lr": 0.1}, {"momentum": 1.0, "lr": 0.1}]
    assert check_spec(spec_of("stepped", start_from=points[:1]))
    with pytest.raises(ValueError, match=r"train\.momentum = 1\.0: Input should be less than 1"):
        check_spec(spec_of("stepped", start_from=points))


def test_a_constraint_is_no_mistake() -> None:
    space = constrained()
    with pytest.raises(ValueError, match=r"rejects the values \(TrialPruned\): b is too large"):
        apply(space, optuna.trial.FixedTrial({"a": 0.1, "b": 0.9, "c": 0.1}), SweepSpec().base)
