"""Our TPE proposes what Optuna's does, until the search is long."""

from __future__ import annotations

import statistics
import time
from typing import Any

import optuna
import pytest

from rts_search.search import samplers, tpe
from rts_search.search.known import Told
from rts_search.search.study import SearchStudy
from search_spaces.registry import get_space
from tests.contracts.sampler_contract import Search, run
from trainables.config import TrialConfig


def stock(observations: Any, seed: int, conditional: bool, earlier: int, number: int) -> Any:
    return optuna.samplers.TPESampler(
        seed=samplers._stream(seed, earlier, number),
        multivariate=True,
        group=conditional,
        constant_liar=True,
    )


@pytest.mark.parametrize("space", ["rts", "radius", "timing"])
def test_it_is_optunas_to_the_bit(space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With trials that complete, are stopped, fail, and end out of order."""
    ours = run(Search("tpe", get_space(space)), 90)
    monkeypatch.setattr(samplers, "_tpe", stock)
    theirs = run(Search("tpe", get_space(space)), 90)
    assert [p.params for p in ours] == [p.params for p in theirs]


@pytest.mark.parametrize("space", ["rts", "radius"])
def test_a_long_search_sees_some_and_resumes_the_same(
    space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(Search("tpe", get_space(space)), 70)
    monkeypatch.setattr(tpe, "OBSERVATIONS", 30)
    few = run(Search("tpe", get_space(space)), 70)
    resumed = run(Search("tpe", get_space(space)), 70, range(0, 200, 7))
    assert [p.params for p in few] == [p.params for p in resumed]  # bit by bit
    assert [p.params for p in few] != [p.params for p in whole]
    assert [p.params for p in few[:30]] == [p.params for p in whole[:30]]


def test_the_newest_and_the_best_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tpe, "OBSERVATIONS", 30)
    study = SearchStudy(get_space("radius"), TrialConfig(), "random", 1, "maximize")
    for number in range(100):
        study.ask()
        if number == 3:
            continue  # runs yet
        value = 1.0 if number in (7, 95) else number / 1000
        told = [Told("complete", [value]), Told("pruned", steps={number: 0.1}), Told("fail")]
        study.end(number, told[0 if number == 95 else number % 3 - 1])
    seen = tpe.Observations()
    seen.update(study.study)
    good, others = seen.split()
    assert list(good) == [7, 95, 97]  # a tenth of 30
    observed = [n for n in range(100) if n % 3 or n == 95]
    completed = [n for n in observed[:-20] if n % 3 == 1]
    best = sorted(completed, key=lambda n: -100 if n == 7 else -n)[:10]
    assert sorted([*good, *others]) == sorted([*best, *observed[-20:]])
    assert 3 in seen.running
    assert len(seen) == len(observed)


def test_a_proposal_costs_the_same_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tpe, "OBSERVATIONS", 50)
    study = SearchStudy(get_space("rts"), TrialConfig(), "tpe", 1, "maximize")
    took = []
    for number in range(600):
        began = time.process_time()
        study.ask()
        took.append(time.process_time() - began)
        study.end(number, Told("pruned", steps={number % 3 + 1: (number * 7919 % 1000) / 1000}))
    assert statistics.median(took[-200:]) < 1.3 * statistics.median(took[100:300])
