"""The search: proposals, their ends, and how it is made again from the ledger."""

from __future__ import annotations

import logging
import warnings

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rts_search.search.known import Told
from search_spaces.registry import get_space, start_points
from tests.contracts.sampler_contract import Search, run, tell
from tests.rts_search.search.studies import SPACE, lr_space, states


def test_a_proposal_is_numbered_and_valid() -> None:
    search = Search("random", SPACE)
    first, second = search.ask(), search.ask()
    assert (first.number, second.number) == (0, 1)
    assert not first.resumed
    assert first.params != second.params
    assert first.config.optimizer.radius(0.0) == pytest.approx(first.params["radius_alpha_start"])
    assert search.study.handed_out == 2


def test_ends_reach_optuna_as_they_are() -> None:
    search = Search("tpe", SPACE)
    for _ in range(4):
        search.ask()
    search.complete(0, 0.9)
    search.end(1, Told("pruned", steps={3: 0.5, 9: 0.6}))
    search.end(2, Told("fail"))
    search.end(3, Told("fail", repeats=False))
    for _ in range(2):
        trials = search.study.trials()
        assert states(search) == ["complete", "pruned", "fail", "fail"]
        assert trials[1].intermediate_values == {3: 0.5, 9: 0.6}
        assert [t.value for t in trials] == [0.9, 0.6, None, None]
        assert search.study.study.best_trial.number == 0
        assert search.study.study.direction == optuna.study.StudyDirection.MAXIMIZE
        search.reopen()


def test_what_is_told_twice_counts_once() -> None:
    search = Search("tpe", SPACE)
    search.ask()
    search.complete(0, 0.8, steps={1: 0.5})
    for told in (Told("complete", [0.1]), Told("pruned", steps={2: 0.9}), Told("fail")):
        search.study.end(0, told)
    (trial,) = search.study.trials()
    assert (trial.state.name, trial.value, trial.intermediate_values) == (
        "COMPLETE", 0.8, {1: 0.5},
    )  # fmt: skip
    search.reopen()
    search.study.end(0, Told("fail"))
    (again,) = search.study.trials()
    assert (again.state, again.value) == (trial.state, trial.value)


def test_a_trial_that_does_not_exist() -> None:
    search = Search("tpe", SPACE)
    for number in (3, -1):
        with pytest.raises(ValueError, match=f"no trial {number}"):
            search.study.end(number, Told("fail"))


def test_start_points_come_first_and_once() -> None:
    points = start_points(SPACE)
    search = Search("tpe", SPACE, points=points)
    assert search.study.handed_out == 0
    assert states(search) == ["waiting"] * len(points)
    assert search.ask().params == points[0]
    search.reopen()
    proposals = [search.ask() for _ in range(len(points) + 1)]
    assert [p.params for p in proposals[:-1]] == points
    assert [p.resumed for p in proposals] == [True] + [False] * len(points)
    assert proposals[-1].params not in points
    assert search.study.handed_out == len(points) + 1


def test_a_start_point_outside_is_refused() -> None:
    good = {"radius_alpha_start": 1.0, "radius_alpha_end": 1.0, "radius_shape": "plain"}
    with pytest.raises(ValueError, match="radius_alpha_end = 101 is outside"):
        Search("tpe", get_space("radius"), points=[good, {**good, "radius_alpha_end": 101}])


def test_a_trial_that_ended_is_not_given_out_again() -> None:
    search = Search("tpe", SPACE)
    proposals = [search.ask() for _ in range(3)]
    search.complete(1, 0.5)
    search.reopen()
    again = [search.study.resume_next() for _ in range(3)]
    assert [(p.number, p.params) for p in again if p is not None] == [
        (0, proposals[0].params),
        (2, proposals[2].params),
    ]
    assert search.ask().number == 3


def test_nothing_is_printed_and_nothing_warned(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        run(Search("tpe", SPACE), 16, reopen_after=[3, 12])
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_two_objectives() -> None:
    search = Search("tpe", SPACE, objectives=2)
    for _ in range(2):
        search.ask()
    search.complete(0, 0.9, 1000.0, steps={3: 0.5})
    search.end(1, Told("fail"))
    for _ in range(2):
        assert [t.values for t in search.study.trials()] == [[0.9, 1000.0], None]
        directions = [d.name for d in search.study.study.directions]
        assert directions == ["MAXIMIZE", "MINIMIZE"]
        search.reopen()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 11), st.sets(st.integers(0, 11), max_size=4), st.data())
def test_a_ledger_cut_anywhere_goes_on(begun: int, lost: set[int], data: st.DataObject) -> None:
    """Trials that it has are as they were; the numbers that it lacks are begun again."""
    points = [{"lr": 0.5, "momentum": 0.1, "batch": 50}]
    search = Search("random", lr_space(), points=points)
    proposals = [search.ask() for _ in range(begun)]
    ended = data.draw(st.sets(st.sampled_from(range(begun)))) if begun else set()
    for number in ended:
        tell(search, proposals[number])
    search.known = {n: trial for n, trial in search.known.items() if n not in lost}
    kept = set(search.known)
    search.reopen()
    assert search.study.handed_out == len(kept)
    given_again = [search.ask() for _ in range(begun - len(kept & ended))]
    again = {p.number: p for p in given_again}
    assert set(again) | (kept & ended) == set(range(begun))
    for number, proposal in again.items():  # the sampler learns nothing: the same numbers again
        assert (proposal.params, proposal.config) == (
            proposals[number].params, proposals[number].config,
        )  # fmt: skip
        assert proposal.resumed == (number in kept)


def test_a_trial_outside_of_the_space_is_refused() -> None:
    search = Search("random", lr_space())
    while search.ask().params["lr"] >= 0.1:
        pass
    search.asked_for = (lr_space(0.1), *search.asked_for[1:])
    with pytest.raises(
        ValueError, match=r"trial t00\d\d of the ledger does not lie .* begin a new sweep, with sea"
    ):
        search.reopen()
