"""What a search knows from elsewhere: known configurations, earlier sweeps, the ledger."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
from optuna.trial import BaseTrial

from results.meanings import Outcome
from results.trials import StoredTrial
from rts_search.search.known import Known, Told, from_ledger, told
from rts_search.spec.model import SweepSpec
from rts_search.spec.reading import parse
from search_spaces.space import ChoosingTrial, Params, Space, apply
from tests.contracts.sampler_contract import Search
from tests.rts_search.search.studies import lr_space, states
from trainables.config import TrialConfig

# Duplicates


def choices() -> Space:
    def suggest(trial: BaseTrial) -> dict[str, Any]:
        return {"train": {"batch_size": trial.suggest_categorical("b", [10, 20, 30, 40])}}

    return Space("choices", "", suggest)


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_known_configs_are_told_as_their_twins(sampler: str) -> None:
    search = Search(sampler, choices())
    seen: dict[int, int] = {}
    while (proposal := search.ask_or_none()) is not None:
        number, b = proposal.number, proposal.params["b"]
        seen[number] = b
        if b == 10:
            search.end(number, Told("pruned", steps={3: 0.2}))
        elif b == 20:
            search.end(number, Told("fail"))  # collapsed
        else:
            search.complete(number, b / 100, steps={3: 0.1})
        if len(seen) == 2:
            before = [(t.params, t.state, t.value) for t in search.study.trials()]
            search.reopen()
            after = [(t.params, t.state, t.value) for t in search.study.trials()]
            assert after == before
    assert sorted(seen.values()) == [10, 20, 30, 40]
    assert search.study.handed_out == 4
    assert search.study.left_out["known"] >= 50
    of_b = {b: search.study.trials()[number] for number, b in seen.items()}
    for trial in search.study.trials():
        twin = of_b[trial.params["b"]]
        assert (trial.state, trial.values, trial.intermediate_values) == (
            twin.state, twin.values, twin.intermediate_values,
        )  # fmt: skip
    search.reopen()
    assert search.study.handed_out == 4


def test_twins_of_running_trials_are_left_out_and_broken_ones_tried_again() -> None:
    points = [{"b": 10}, {"b": 10}, {"b": 20}, {"b": 10}]
    search = Search("random", choices(), points=points)
    assert [search.ask().params["b"] for _ in range(2)] == [10, 20]
    assert states(search) == ["running", "fail", "running", "waiting"]
    search.end(0, Told("fail", repeats=False))  # out of memory
    assert search.ask().params["b"] == 10
    assert (search.study.handed_out, search.study.left_out["known"]) == (3, 1)
    for number in (0, 2, 3):
        search.end(number, Told("fail", repeats=False))
    search.reopen()
    again = [search.ask().params["b"] for _ in range(4)]
    assert sorted(again) == [10, 20, 30, 40]


def known(name: str, params: Params, space: Space, end: Told, **train: Any) -> Known:
    config = apply(space, ChoosingTrial(lambda name, _: params[name]), TrialConfig())
    config = config.model_copy(update={"train": config.train.model_copy(update=train)})
    return Known(name, params, config, end)


def test_another_seed_is_no_duplicate() -> None:
    params = Search("random", choices()).ask().params
    for seed, new in ((7, True), (TrialConfig().train.seed, False)):
        old = known(
            "old/t0000", params, choices(), Told("complete", [0.5]), seed=seed, device="cuda"
        )
        search = Search("random", choices(), points=[params], earlier=[old])
        assert (search.ask().params == params) == new
        assert search.study.left_out["known"] == (not new)


# Earlier sweeps


def test_earlier_trials_teach_and_have_no_numbers() -> None:
    old, space = Search("tpe", lr_space()), lr_space()
    for _ in range(40):
        p = old.ask()
        old.complete(p.number, -abs(p.params["lr"] - 0.3))
    earlier = [
        known(f"old/t{t.number:04d}", t.params, space, Told("complete", t.values))
        for t in old.study.trials()
    ]
    point = {"lr": 0.29, "momentum": 0.1, "batch": 50}
    search = Search("tpe", space, points=[point], earlier=earlier)
    assert (search.study.handed_out, states(search)) == (0, ["waiting"])
    proposals = [search.ask() for _ in range(3)]
    assert [p.number for p in proposals] == [0, 1, 2]
    assert proposals[0].params == point
    search.reopen()
    assert [search.ask().params for _ in range(3)] == [p.params for p in proposals]
    learnt = [search.ask() for _ in range(10)]
    cold = Search("tpe", space)
    far, near = (
        statistics.median(abs(p.params["lr"] - 0.3) for p in proposals)
        for proposals in ([cold.ask() for _ in range(10)], learnt)
    )
    assert near < far
    assert [p.number for p in learnt] == list(range(3, 13))
    whole = Search("tpe", space, points=[point], earlier=earlier)
    assert [whole.ask().params for _ in range(13)][3:] == [p.params for p in learnt]


# What a searcher hears of an end


def spec(**changes: Any) -> SweepSpec:
    settings = {"train": {"epochs": 2}, "stop": {"policy": "none"}, **changes}
    return parse(SweepSpec, settings)


def epochs(*values: float, total: int = 2) -> list[dict[str, Any]]:
    return [
        {"rung": 0, "epoch": i, "total_epochs": total, "val_accuracy": v, "val_loss": 1 - v}
        | {"train_seconds": 0.5, "gradient_evaluations": 10 * i}
        for i, v in enumerate(values, start=1)
    ]


@pytest.mark.parametrize(
    ("outcome", "values", "expected"),
    [
        ("completed", (0.5, 0.75), Told("complete", [0.75], {1: 0.5, 2: 0.75})),
        ("completed", (0.5, math.nan), Told("pruned")),  # it diverged
        ("completed", (), Told("fail")),
        ("stopped", (0.5,), Told("pruned", None, {1: 0.5})),
        ("user_stopped", (0.5,), Told("pruned", None, {1: 0.5})),
        ("stopped", (math.inf,), Told("fail")),
        ("diverged", (0.5, math.nan), Told("pruned")),
        ("diverged", (), Told("pruned")),
        ("collapsed", (0.5,), Told("pruned")),
        ("failed", (0.5,), Told("fail", repeats=False)),
        ("out_of_memory", (), Told("fail", repeats=False)),
    ],
)
def test_ends_as_a_searcher_hears_them(
    outcome: str, values: tuple[float, ...], expected: Told
) -> None:
    assert told(spec(), Outcome(outcome), epochs(*values)) == expected


@pytest.mark.parametrize("sampler", ["gp", "cmaes"])
def test_what_comes_to_nothing_for_samplers_that_hear_of_values_only(sampler: str) -> None:
    """In the direction of the objective, and finite."""
    for objective, value in (("val_accuracy", 0.0), ("val_loss", 10.0)):
        bad = spec(search={"sampler": sampler, "objective": objective})
        assert told(bad, Outcome.COLLAPSED, epochs(0.5)) == Told("complete", [value])
        assert told(bad, Outcome.FAILED, epochs(0.5)) == Told("fail", repeats=False)


def test_an_end_with_two_objectives() -> None:
    both = spec(search={"against": "gradient_evaluations"})
    whole = told(both, Outcome.COMPLETED, epochs(0.5, 0.75))
    assert whole == Told("complete", [0.75, 20.0], {1: 0.5, 2: 0.75})
    assert told(both, Outcome.USER_STOPPED, epochs(0.5)) == Told("fail")  # half a pair
    assert told(both, Outcome.DIVERGED, epochs(0.5)) == Told("pruned")
    loss = spec(search={"objective": "val_loss", "against": "train_seconds"})
    assert told(loss, Outcome.COMPLETED, epochs(0.5, 0.75)).values == [0.25, 1.0]


@pytest.mark.parametrize(
    ("column", "text"),
    [
        *(("config_json", text) for text in ("{", "[1]", '{"a": 1}', None)),
        *(("params", text) for text in ("{", "[1]")),
        *(("searcher", text) for text in ("{", "[1]", "1")),
    ],
)
def test_a_row_that_does_not_tell_its_trial_is_named_in_one_line(
    column: str, text: str | None
) -> None:
    row = {"trial_id": "t0003", "number": 3, "outcome": "running", "params": "{}", "searcher": None}
    row |= {"config_json": TrialConfig().model_dump_json()}
    spec = parse(SweepSpec, {})
    (known,) = from_ledger(spec, [StoredTrial(row, [])])
    assert (known.name, known.number, known.config) == ("t0003", 3, TrialConfig())
    with pytest.raises(
        ValueError, match="trial t0003 of the ledger is not as rts-search"
    ) as caught:
        from_ledger(spec, [StoredTrial(row | {column: text}, [])])
    assert "\n" not in str(caught.value)
