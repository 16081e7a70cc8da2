"""Which configs a search knows: a config is not trained twice."""

from __future__ import annotations

from collections.abc import Iterable

from optuna.trial import FrozenTrial, TrialState

from trainables.config import TrialConfig

# user attributes of trials
CONFIG, OUTCOME, TWIN, LEFT_OUT, FROM = "config", "outcome", "duplicate_of", "left_out", "from"
SURE = ("diverged", "collapsed", "user_stopped")  # a trial that failed so would do so again


def identity(config: TrialConfig) -> str:
    """A config as JSON, the same on every device."""
    return on_device(config, "auto").model_dump_json()


def on_device(config: TrialConfig, device: str) -> TrialConfig:
    train = config.train.model_copy(update={"device": device})
    return config.model_copy(update={"train": train})


class Twins:
    """The trial of each config: of this search by its number, of earlier sweeps as they are."""

    def __init__(self) -> None:
        self._own: dict[str, int] = {}
        self._earlier: dict[str, FrozenTrial] = {}

    def add(self, trial: FrozenTrial) -> None:
        """A trial of this search; one that broke is left out, for it may be tried again."""
        sure = trial.state != TrialState.FAIL or trial.user_attrs.get(OUTCOME) in SURE
        if sure and (config := trial.user_attrs.get(CONFIG)) is not None:
            self._own.setdefault(config, trial.number)

    def set_earlier(self, trials: Iterable[FrozenTrial]) -> None:
        self._earlier = {trial.user_attrs[CONFIG]: trial for trial in trials}

    def forget(self, trial: FrozenTrial) -> None:
        config = trial.user_attrs.get(CONFIG)
        if config is not None and self._own.get(config) == trial.number:
            del self._own[config]

    def find(self, config: TrialConfig) -> int | FrozenTrial | None:
        key = identity(config)
        return self._own[key] if key in self._own else self._earlier.get(key)
