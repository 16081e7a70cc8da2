"""The firing epoch instead of the trigger's thresholds, once a trunk tells which fire when."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from optuna.distributions import BaseDistribution, IntDistribution
from optuna.storages import BaseStorage
from optuna.trial import BaseTrial, FrozenTrial, Trial

from rts_search.search.known import CONFIG, FIRING, identity
from search_spaces.space import (
    ChoosingTrial,
    Invalid,
    Params,
    Space,
    accepted,
    apply,
    contains,
    suggest,
)
from trainables.config import TrialConfig
from trainables.effect import trunk_of

DRAWS = 1_024  # with fewer, some epochs at which a trigger of `rts` can fire would be missing
When = Callable[[TrialConfig], int | None]  # the first perturbed epoch, T + 1 for none


class Firing:
    """A space's trigger as it is within one trunk, where `when` tells of each config when it fires.

    `settings` are values of the trigger's parameters by the epoch at which they fire, of random
    trials; without any there is nothing to ask for: no trial fires, none watches its run, or each
    has SGD of its own. T + 1 among the values of `distribution` stands for plain SGD.
    """

    def __init__(self, space: Space, base: TrialConfig, seed: int, when: When) -> None:
        self.space, self.base, self.seed, self.when = space, base, seed, when
        self.distribution = IntDistribution(1, base.train.epochs + 1)
        self.settings = self._draw()

    def _draw(self) -> dict[int, list[Params]]:
        found: dict[int, list[Params]] = {}
        watches = False
        for trial in accepted(self.space, DRAWS):
            try:
                config = apply(self.space, trial, self.base)
            except Invalid:
                continue
            setting = {name: v for name, v in trial.params.items() if of_trigger(name)}
            if not setting or trunk_of(config) != trunk_of(self.base):
                return {}
            watches = watches or config.optimizer.trigger.watches
            epoch = self.when(config)
            if epoch is not None and epoch <= config.train.epochs:
                found.setdefault(epoch, []).append(setting)
        return found if watches else {}

    def apply(
        self, trial: Trial, storage: BaseStorage, new: Callable[[TrialConfig], bool]
    ) -> TrialConfig:
        """What the space makes of a proposal, with the trigger that fires nearest to the proposed
        epoch among those with which the config is `new`. Raises ValueError as `space.apply` does.

        A point to try keeps its own trigger. Afterwards the storage has all that the space asked
        for, and the epoch.
        """
        index = trial.number  # in memory a trial's id is its number
        if "fixed_params" in storage.get_trial(index).system_attrs:
            config = apply(self.space, trial, self.base)
            if (fires := self.when(config)) is not None:
                storage.set_trial_param(index, FIRING, fires, self.distribution)
            return config
        try:
            for epoch, asked in self._ways(trial):  # noqa: B007 - the last one counts
                config = apply(self.space, asked, self.base)
                if new(config):
                    break
        finally:
            storage.set_trial_param(index, FIRING, epoch, self.distribution)
            for name, distribution in asked.distributions.items():
                value = distribution.to_internal_repr(asked.params[name])
                storage.set_trial_param(index, name, value, distribution)
        return config

    def _ways(self, trial: Trial) -> Iterator[tuple[int, ChoosingTrial]]:
        """Trials for the space, by the epoch at which they fire, nearest to the proposed one first:
        the trigger is that of a setting, all else is the sampler's."""
        proposed = trial.suggest_int(FIRING, self.distribution.low, self.distribution.high)
        for epoch in sorted(self.settings, key=lambda epoch: (abs(epoch - proposed), epoch)):
            rng = random.Random(f"{self.seed} {trial.number} {epoch}")
            setting = rng.choice(self.settings[epoch])
            yield epoch, ChoosingTrial(partial(_choose, trial, setting))

    def config(self, trial: FrozenTrial) -> TrialConfig | None:
        """None for one that the space makes no config of, or that waits to be asked for."""
        try:
            return apply(self.space, ChoosingTrial(lambda name, _: trial.params[name]), self.base)
        except ValueError:
            return None

    def told(self, trial: FrozenTrial, foreign: bool) -> FrozenTrial:
        """The trial with its firing epoch, as far as that is known: of a `foreign` one, of another
        sweep, this trunk tells nothing if it had another seed."""
        epoch = trial.user_attrs.get(FIRING)
        config = self.config(trial) if epoch is None else None
        if config and not (foreign and trial.user_attrs[CONFIG] != identity(config)):
            epoch = self.when(config)
        if epoch is None:
            return trial
        trial = copy.copy(trial)
        trial.params = {**trial.params, FIRING: epoch}
        trial.distributions = {**trial.distributions, FIRING: self.distribution}
        return trial


def of_trigger(name: str) -> bool:
    """Whether a space's parameter decides when the trigger fires."""
    return name.startswith("trigger")


def _choose(trial: BaseTrial, setting: Params, name: str, distribution: BaseDistribution) -> Any:
    if name in setting and contains(distribution, setting[name]):
        return setting[name]
    return suggest(trial, name, distribution)
