"""A space: a function of a trial, and the configuration that the trial's values make."""

from __future__ import annotations

import math
import random
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import TrialPruned
from optuna.trial import BaseTrial, FixedTrial
from pydantic import ValidationError

from trainables.config import TrialConfig
from trainables.names import own_error, unknown

Params = dict[str, Any]
Suggest = Callable[[BaseTrial], dict[str, Any]]
Choose = Callable[[str, BaseDistribution], Any]

_DRAWS, _MOST_DRAWS = 256, 8192  # random trials that show what a space is; with rejected ones
# pydantic's names of errors that no value of the parameter would cure
_WRONG_KIND = re.compile(r"extra_forbidden|int_from_float|.*_type$")


class Rejected(ValueError):
    """The space has raised `optuna.TrialPruned`: a constraint that these values break."""


class Invalid(ValueError):
    """The values make no valid configuration."""


class SpaceError(ValueError):
    """The space itself is wrong, not the values that a trial happens to have."""


@dataclass(frozen=True)
class Space:
    """A named search space.

    `suggest(trial)` asks the trial for parameters and returns plain-data config overrides, nested
    like `TrialConfig`. `start` holds known good points: complete dicts of parameter values.
    """

    name: str
    description: str
    suggest: Suggest
    start: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Parameter:
    """One parameter; `conditional` if some trials lack it or give it another distribution."""

    name: str
    distribution: BaseDistribution
    conditional: bool

    @property
    def bounds(self) -> str:
        return bounds(self.distribution)


class ChoosingTrial(FixedTrial):  # type: ignore[misc]
    """A trial outside of any study whose values come from `choose(name, distribution)`."""

    def __init__(self, choose: Choose) -> None:
        super().__init__({})
        self._choose = choose
        self._chosen: Params = {}
        self._asked: dict[str, BaseDistribution] = {}

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return float(self._value(name, FloatDistribution(low, high, log=log, step=step)))

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        return int(self._value(name, IntDistribution(low, high, log=log, step=step)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._value(name, CategoricalDistribution(choices))

    def _value(self, name: str, distribution: BaseDistribution) -> Any:
        if name not in self._chosen:
            self._chosen[name] = self._choose(name, distribution)
            self._asked[name] = distribution
        elif distribution != (first := self._asked[name]):
            raise SpaceError(_twice(name, first, distribution, "in the same trial"))
        return self._chosen[name]

    @property
    def params(self) -> Params:
        return dict(self._chosen)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        return dict(self._asked)


def bounds(distribution: BaseDistribution) -> str:
    """The allowed values in words: `0.01 to 100 (log)`, `one of plain, inverse`."""
    if isinstance(distribution, CategoricalDistribution):
        return "one of " + ", ".join(map(str, distribution.choices))
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    step = "" if distribution.step in (None, 1) else f" in steps of {distribution.step:g}"
    log = " (log)" if distribution.log else ""
    return f"{distribution.low:g} to {distribution.high:g}{step}{log}"


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Whether the distribution can yield the value; never raises."""
    if isinstance(distribution, CategoricalDistribution):
        return any(value == c and type(value) is type(c) for c in distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if not distribution.low <= value <= distribution.high:
        return False
    if distribution.step is None:
        return True
    steps = (value - distribution.low) / distribution.step
    return math.isclose(steps, round(steps), abs_tol=1e-8)


def describe(space: Space) -> list[Parameter]:
    """The space's parameters in the order asked for, found by running it on random trials.

    The same function gives the same answer every time. Raises ValueError if it fails on one, or
    asks for one name in two ways that no sampler can learn from together. Bounds may depend on
    other parameters; choices, log and the kind of number may not.
    """
    seen: dict[str, list[BaseDistribution]] = {}
    count = 0
    for trial in accepted(space):
        count += 1
        for name, distribution in trial.distributions.items():
            seen.setdefault(name, []).append(distribution)
            first = seen[name][0]
            if _kind(distribution) != _kind(first):
                raise SpaceError(
                    f"space {space.name!r} {_twice(name, first, distribution, 'elsewhere')}"
                )
    return [
        Parameter(name, found[0], len(found) < count or found != found[:1] * len(found))
        for name, found in seen.items()
    ]


def accepted(space: Space, draws: int = _DRAWS) -> Iterator[ChoosingTrial]:
    """So many random trials that the space does not reject. Raises ValueError if it rejects all."""
    rng = random.Random(0)
    accepted = 0
    for number in range(_MOST_DRAWS):
        if accepted == draws:
            return
        trial = ChoosingTrial(lambda _, distribution: value_at(distribution, rng.random()))
        try:
            overrides(space, trial)
        except Rejected as error:
            if number + 1 == _MOST_DRAWS and not accepted:
                raise ValueError(f"{error}: so it did with all of {_MOST_DRAWS} draws") from None
            continue
        accepted += 1
        yield trial


def _kind(distribution: BaseDistribution) -> tuple[Any, ...]:
    """What must be the same wherever a name is asked for: Optuna knows one kind a name."""
    if isinstance(distribution, CategoricalDistribution):
        return (CategoricalDistribution, *map(repr, distribution.choices))
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return type(distribution), distribution.log


def _twice(name: str, first: BaseDistribution, other: BaseDistribution, where: str) -> str:
    one, two = bounds(first), bounds(other)
    if one == two:  # as 1 to 8 of integers and of floats
        one, two = (f"{words(d)} {b}" for d, b in ((first, one), (other, two)))
    return f"asks for {name} as {one}, and {where} as {two}: give each a name of its own"


def words(distribution: BaseDistribution) -> str:
    """`float`, `int` or `categorical`, as in the method that asks for it."""
    return type(distribution).__name__.removesuffix("Distribution").lower()


def value_at(distribution: BaseDistribution, place: float) -> Any:
    """The value at a place in [0, 1) between the bounds, or among the choices."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(place * len(distribution.choices))]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high, step = distribution.low, distribution.high, distribution.step
    if distribution.log:
        value = math.exp(math.log(low) + place * (math.log(high) - math.log(low)))
    else:
        value = low + place * (high - low)
    if step is not None:
        value = low + round((value - low) / step) * step
    return min(max(value, low), high)


def suggest(trial: BaseTrial, name: str, distribution: BaseDistribution) -> Any:
    """What the trial suggests, asked for by a distribution."""
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high, step, log = (
        distribution.low,
        distribution.high,
        distribution.step,
        distribution.log,
    )
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, low, high, step=step, log=log)
    return trial.suggest_float(name, low, high, step=step, log=log)


def ask(space: Space, trial: BaseTrial) -> bool:
    """Let the space ask for its parameters; False if it rejects their values then."""
    try:
        space.suggest(trial)
    except TrialPruned:
        return False
    return True


def check_point(space: Space, point: Mapping[str, Any]) -> Params:
    """The point's parameters in the order that the space asks for them.

    Raises ValueError naming the parameter, the value and the bounds where the point lies outside
    of the space, lacks a parameter, or has one that the space does not ask for.
    """

    def choose(name: str, distribution: BaseDistribution) -> Any:
        if name not in point:
            raise ValueError(
                f"start point for space {space.name!r} lacks {name} ({bounds(distribution)})"
            )
        if not contains(distribution, point[name]):
            raise ValueError(
                f"start point for space {space.name!r}: {name} = {point[name]!r} is outside of it, "
                f"allowed is {bounds(distribution)}"
            )
        return point[name]

    trial = ChoosingTrial(choose)
    ask(space, trial)
    for name in point:
        if name not in trial.params:
            raise unknown(f"parameter in a start point of {space.name!r}", name, trial.params)
    return trial.params


def overrides(space: Space, trial: BaseTrial) -> dict[str, dict[str, Any]]:
    """The config overrides for a trial. Raises ValueError in one line naming the space, Rejected
    where that rejects the trial, SpaceError where no other values would do."""
    try:
        found = space.suggest(trial)
    except TrialPruned as error:
        why = f": {error}" if str(error) else ""
        raise Rejected(f"space {space.name!r} rejects the values (TrialPruned){why}") from None
    except SpaceError as error:
        raise SpaceError(f"space {space.name!r} {error}") from None
    except Exception as error:
        raise own_error("space", space.name, error) from error
    if not isinstance(found, dict):
        raise ValueError(
            f"space {space.name!r} returned {type(found).__name__}: "
            "it must return a dict of config overrides"
        )
    for section, values in found.items():
        if section not in TrialConfig.model_fields:
            raise unknown(f"section in space {space.name!r}", section, TrialConfig.model_fields)
        if not isinstance(values, dict):
            raise ValueError(f"space {space.name!r}: {section} = {values!r} must be a dict")
    return found


def apply(space: Space, trial: BaseTrial, base: TrialConfig) -> TrialConfig:
    """The base config with the trial's overrides, validated.

    Overrides replace the base's values key by key within a section (a schedule or a trigger is
    one value). A space that changes the optimizer's family starts from that family's defaults.
    Raises ValueError in one line naming the space, the key and the value: Invalid, or as
    `overrides` does.
    """
    config = base.model_dump()
    for section, values in overrides(space, trial).items():
        if (part := getattr(base, section)) is None:
            raise SpaceError(f"space {space.name!r} sets {section}, and the spec has none")
        known = type(part).model_fields
        for name in values.keys() - known:
            raise SpaceError(
                str(unknown(f"{section} setting in space {space.name!r}", name, known))
            )
        if section == "optimizer" and values.get("family", base.optimizer.family) != (
            base.optimizer.family
        ):
            config[section] = values
        else:
            config[section] = {**config.get(section, {}), **values}
    try:
        return TrialConfig.model_validate(config)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        value = textwrap.shorten(repr(first["input"]), 100)
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "int_from_float":
            message += ", use suggest_int"
        kind = SpaceError if _WRONG_KIND.match(first["type"]) else Invalid
        raise kind(f"space {space.name!r}: {key} = {value}: {message}") from None


def check_draws(space: Space, base: TrialConfig) -> tuple[list[TrialConfig], str | None]:
    """Apply the space to random trials: their configurations, and a line about those without one.

    Raises ValueError, in one line, if that is so for all of them, or if the space is wrong.
    """
    valid, invalid = [], []
    for trial in accepted(space):
        try:
            valid.append(apply(space, trial, base))
        except Invalid as error:
            invalid.append(error)
    count = len(valid) + len(invalid)
    if not valid:
        raise ValueError(f"{invalid[0]}; so it was with all of {count} random draws")
    if not invalid:
        return valid, None
    return valid, (
        f"{len(invalid)} of {count} random draws make no valid configuration, and will be left "
        f"out: {invalid[0]}"
    )
