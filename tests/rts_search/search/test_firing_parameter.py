"""A search that is told the firing epoch instead of triggers' thresholds, on a real trunk."""

from __future__ import annotations

import shutil
from collections.abc import Container
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import BaseTrial

from results.storage import SweepFolder
from rts_search.search.known import FIRING, Told
from rts_search.search.study import Proposal, SearchStudy
from rts_search.search.trunks import TRUNKS, Effects
from search_spaces.registry import get_space, start_points
from search_spaces.space import Space, check_point
from tests.contracts.sampler_contract import Search, tell
from tests.rts_search.search.studies import BASE, T, effects_in, train_trunk
from trainables.effect import trunk_of


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> SweepFolder:
    folder = SweepFolder(tmp_path_factory.mktemp("storage"), "trained")
    train_trunk(folder)
    return folder


@pytest.fixture
def effects(trunk: SweepFolder) -> Effects:
    return effects_in(trunk)


class Sharing(Search):
    """A search whose drivers know the effects, from after `blind` proposals on."""

    def __init__(self, effects: Effects, space: Space, blind: int = 0, **settings: Any) -> None:
        self.effects, self.blind = effects, blind
        super().__init__("tpe", space, **settings)

    def reopen(self) -> None:
        self.asked_for = (self.asked_for[0], BASE, *self.asked_for[2:])
        super().reopen()
        if len(self.known) >= self.blind:
            self.learn()

    def learn(self) -> None:
        """As `know_effects` does."""
        sgd = [-1.0] * self.settings["objectives"]
        self.study.effects = self.effects
        self.study.know(self.effects.of(trunk_of(BASE)), None, Told("complete", sgd))
        for trial in self.known.values():
            if trial.told is not None:
                self.study.know(self.effects.of(trial.config), trial.number, trial.told)

    def firing(self, proposal: Proposal) -> int:
        epoch = self.effects.firing(proposal.config)
        assert epoch is not None
        return epoch


def go(search: Sharing, trials: int, reopen_after: Container[int] = ()) -> list[Proposal]:
    """Three at a time; the driver dies after some of them."""
    proposals: list[Proposal] = []
    for count in range(trials):
        if count == search.blind:
            search.learn()
        if count >= 3:
            tell(search, proposals[count - 3])
        if (proposal := search.ask_or_none()) is None:
            break
        proposals.append(proposal)
        if count in reopen_after:
            search.reopen()
            for expected in proposals[max(0, count - 2) :]:
                assert search.study.resume_next() == replace(expected, resumed=True)
    return proposals


def constrained(trial: BaseTrial) -> dict[str, Any]:
    overrides = get_space("rts").suggest(trial)
    if trial.params["radius_alpha_start"] > 10:
        raise optuna.TrialPruned("too wide")
    return overrides


SPACES = {
    "rts": get_space("rts"),
    "timing": get_space("timing"),
    "paper": get_space("paper"),  # has other conditional parameters, too
    "constrained": Space("constrained", "", constrained),
}


@pytest.mark.parametrize(
    ("space", "objectives"), [*((name, 1) for name in SPACES), ("rts", 2), ("constrained", 2)]
)
def test_a_search_made_again_proposes_the_same(
    effects: Effects, space: str, objectives: int
) -> None:
    """Whether or not the driver that began it knew when triggers fire."""
    settings: dict[str, Any] = {"objectives": objectives, "blind": 6}
    if space == "rts":
        settings["points"] = start_points(get_space("rts"))[-1:]
    whole = Sharing(effects, SPACES[space], **settings)
    expected = go(whole, 30)
    again = Sharing(effects, SPACES[space], **settings)
    found = go(again, 30, reopen_after=range(7, 30, 9))
    assert [(p.number, p.params, p.config) for p in found] == [
        (p.number, p.params, p.config) for p in expected
    ]
    assert again.study.left_out == whole.study.left_out
    if space == "constrained":
        assert whole.study.left_out["rejected"] > 0
    assert len(found) > 10
    told = [t.params for t in whole.study.trials() if t.state.name != "FAIL"]
    assert [t.params for t in again.study.trials() if t.state.name != "FAIL"] == told
    assert sum(FIRING in params for params in told) > len(told) / 2


LONG = [pytest.mark.slow, pytest.mark.very_slow]


@pytest.mark.parametrize("space", [pytest.param("rts", marks=LONG), "timing", "paper"])
def test_what_is_proposed_fires_and_lies_in_the_space(effects: Effects, space: str) -> None:
    search = Sharing(effects, get_space(space))
    proposals = go(search, 40)
    assert all(search.firing(proposal) <= T for proposal in proposals)
    assert search.study.left_out["never"] == 0
    for proposal in proposals:
        assert check_point(get_space(space), proposal.params) == proposal.params
        (frozen,) = [t for t in search.study.trials() if t.number == proposal.number]
        assert frozen.params == {**proposal.params, FIRING: search.firing(proposal)}
    blind = Sharing(effects, get_space(space))
    blind.study._asks_thresholds = False
    go(blind, 40)
    assert blind.study.left_out["never"] > 4


def test_a_trigger_alone_is_tried_at_every_epoch(effects: Effects) -> None:
    search = Sharing(effects, get_space("timing"))
    proposals = go(search, 2 * T)
    whole = [p for p in proposals if search.known[p.number].told != Told("fail", repeats=False)]
    epochs = {search.firing(proposal) for proposal in whole}
    assert search.study.firing is not None
    assert epochs == search.study.firing.settings.keys()
    assert len(epochs) == len(whole) < len(proposals)  # what crashes is tried again
    assert search.study.end_reason == "known"


def test_it_learns_from_the_firing_epoch(effects: Effects) -> None:
    """Also from trials with thresholds, and from plain SGD, which stands for T + 1."""
    search = Sharing(effects, get_space("rts"), blind=20)
    late = 0
    for count in range(60):
        if count == 20:
            search.learn()
        proposal = search.ask()
        epoch = search.firing(proposal)
        search.complete(proposal.number, -abs(epoch - (T - 1)))
        late += count >= 35 and abs(epoch - (T - 1)) <= 1
    assert late >= 15
    never = [t for t in search.study.trials() if t.params.get(FIRING) == T + 1]
    assert never


def test_points_keep_their_trigger(effects: Effects) -> None:
    points = start_points(get_space("rts"))
    search = Sharing(effects, get_space("rts"), points=points)
    proposals = [search.ask() for _ in range(3)]
    assert all(proposal.params in points for proposal in proposals)
    for proposal in proposals:
        found = search.study.trials()[proposal.number].params
        assert found[FIRING] == search.firing(proposal)


def test_earlier_trials_fire_where_their_rows_say(effects: Effects) -> None:
    old = Sharing(effects, get_space("rts"))
    proposals = [old.ask() for _ in range(4)]
    for proposal in proposals:
        old.complete(proposal.number, 0.5)
    train = BASE.train.model_copy(update={"seed": 7})
    known = list(old.known.values())
    known[1] = replace(known[1], firing=3)
    for i in (1, 2):  # of another seed, of which this trunk tells nothing
        other = known[i].config.model_copy(update={"train": train})
        known[i] = replace(known[i], config=other)
    search = Sharing(effects, get_space("rts"), earlier=known)
    search.ask()
    found = [t.params.get(FIRING) for t in search.study.study.trials[:4]]
    assert found == [old.firing(proposals[0]), 3, None, old.firing(proposals[3])]


def test_thresholds_are_asked_for_until_the_trunk_is_whole(
    trunk: SweepFolder, tmp_path: Path
) -> None:
    folder = SweepFolder(tmp_path, "begun")
    train_trunk(folder, epochs=T - 2)
    search = Sharing(effects_in(folder), get_space("rts"))
    search.ask()
    assert search.study.firing is None
    shutil.copytree(trunk.uri_of(TRUNKS), folder.uri_of(TRUNKS), dirs_exist_ok=True)
    search.ask()
    assert search.study.firing is not None


def unshared(trial: BaseTrial) -> dict[str, Any]:
    lr = trial.suggest_float("lr", 0.01, 1.0, log=True)
    return {**get_space("timing").suggest(trial), "train": {"lr": lr}}


def fractions(trial: BaseTrial) -> dict[str, Any]:
    fraction = trial.suggest_float("trigger_fraction", 0.0, 1.0)
    return {"optimizer": {"family": "rts", "trigger": {"name": "epoch", "fraction": fraction}}}


@pytest.mark.parametrize("suggest", [unshared, fractions, get_space("radius").suggest])
def test_other_spaces_are_asked_as_they_are(effects: Effects, suggest: Any) -> None:
    """Each lr has SGD of its own; a fraction of T is the firing epoch; there is no trigger."""
    space = Space("mine", "", suggest)
    search = Sharing(effects, space)
    without = SearchStudy(space, BASE, "tpe", 7, "maximize")
    assert search.ask().params == getattr(without.ask(), "params", None)
    assert search.study.firing is None
