"""A new trigger is its two classes: spec, training, ledger, tables and estimate need no change."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import pytest
from pydantic import Field

from results.schema import TRIALS, check_row
from rts_search.estimate.firing import firing_of, train_trunk
from rts_search.estimate.perturbed import Evidence, Stretch, perturbed_epochs
from rts_search.show.tables import describe_trial
from rts_search.spec.model import SweepSpec
from rts_search.spec.reading import parse
from rts_search.trials.rows import config_columns
from trainables.config import TrialConfig
from trainables.loop import train
from trainables.triggers import EpochObservation, Threshold, Trigger, TriggerConfig

TRIAL = {
    "data": {"name": "digits", "train_size": 200},
    "model": {"name": "mlp"},
    "train": {"epochs": 4, "batch_size": 60},
    "optimizer": {"family": "rts", "trigger": {"name": "overfit", "lam": 0.5, "wait": 2}},
}


@pytest.fixture(autouse=True)
def overfit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TriggerConfig, "kinds", dict(TriggerConfig.kinds))

    class OverfitTrigger(TriggerConfig):
        """Fires when L_val is above λ·L_train, after `wait` epochs."""

        name: Literal["overfit"] = "overfit"
        lam: float = Field(default=1.0, gt=0, title="λ")
        wait: int = Field(default=1, ge=1)
        threshold = Threshold("lam", 0.1, 10.0, log=True)

        def first_epoch(self, epochs: int, steps_per_epoch: int) -> int:
            return self.wait + 1

        def make(self, epochs: int, steps_per_epoch: int) -> Trigger:
            return Overfit(self, epochs)

    class Overfit(Trigger):
        def __init__(self, config: OverfitTrigger, epochs: int) -> None:
            super().__init__(epochs)
            self.config = config

        def _fires(self, observation: EpochObservation) -> bool:
            self.statistic = observation.val_loss
            self.threshold = self.config.lam * observation.train_loss
            return observation.epoch >= self.config.wait and self.statistic > self.threshold


def test_a_spec_takes_it_and_explains_its_mistakes() -> None:
    spec = parse(SweepSpec, {"optimizer": TRIAL["optimizer"]})
    assert spec.model_dump()["optimizer"]["trigger"] == {"name": "overfit", "lam": 0.5, "wait": 2}
    assert parse(SweepSpec, spec.model_dump()) == spec
    wrong = {"optimizer": {"trigger": {"name": "overfit", "wiat": 2}}}
    with pytest.raises(ValueError, match=r"in optimizer\.trigger 'wiat': did you mean 'wait'"):
        parse(SweepSpec, wrong)
    with pytest.raises(ValueError, match="unknown trigger 'overfitt': did you mean 'overfit'"):
        parse(SweepSpec, {"optimizer": {"trigger": {"name": "overfitt"}}})


def test_it_trains_and_is_a_row_and_words() -> None:
    config = TrialConfig.model_validate(TRIAL)
    epochs = list(train(config))
    assert [epoch.perturbing for epoch in epochs] == [False, False, True, True]
    columns = config_columns(config)
    assert TrialConfig.model_validate_json(columns["config_json"]) == config
    given = {"trial_id": "t0000", "family": "rts", "outcome": "completed"}
    given |= {"updated": datetime.now(UTC), "trigger_epoch": epochs[-1].trigger_epoch}
    row = check_row({"sweep": "s", **given, **columns}, TRIALS)
    assert row["config_trigger"] == "overfit"
    assert describe_trial(row) == "rts radius 1 · scale 1 · overfit λ 0.5 (fired 3)"


def test_its_thresholds_are_shown() -> None:
    config = TrialConfig.model_validate(TRIAL)
    epochs = train_trunk(config, 1, lambda line: None)
    found = {firing.words: firing for firing in firing_of(config, epochs)}
    firing = found["overfit, wait 2"]
    assert (firing.symbol, firing.first) == ("λ", 3)
    assert (firing.at(0.1), firing.at(10.0)) == (3, None)


def test_its_cost_is_estimated() -> None:
    config = TrialConfig.model_validate(TRIAL)
    first = Evidence().first(config, 3)
    assert first.ends == (5, 4, 3)
    assert perturbed_epochs(Stretch(0, 4, 0, 4), first) == [0, 1, 2]
