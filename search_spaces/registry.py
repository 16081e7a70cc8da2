"""Spaces by name, spaces with training parameters added, and their start points."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optuna.trial import BaseTrial, FixedTrial

from search_spaces.builtin import SPACES
from search_spaces.space import ChoosingTrial, Params, Space, check_point, describe, value_at
from search_spaces.start_points import PROTOCOL
from trainables.names import OWN, import_named, unknown

# Ranges of the training parameters that any space can search besides its own.
TRAINING_RANGES: Mapping[str, Sequence[float]] = {
    "lr": (0.01, 1.0),
    "weight_decay": (1e-5, 1e-2),
    "momentum": (0.8, 0.99),
    "batch_size": (50, 100, 200, 500),
}
PRIMES = (2, 3, 5, 7)  # one for each


def get_space(name: str) -> Space:
    """A built-in space, or a user's own as `package.module:function` (or `:space`, a `Space`).

    Raises ValueError if there is no such space, or if the module cannot be imported.
    """
    if ":" in name:
        return _user_space(name)
    if name not in SPACES:
        raise unknown("space", name, [OWN, *SPACES])
    return SPACES[name]


def _user_space(name: str) -> Space:
    found = import_named("space", name, Space)
    if isinstance(found, Space):
        return found
    doc = (found.__doc__ or "").strip()
    return Space(name, doc.splitlines()[0] if doc else f"the function {name}", found)


def also(space: Space, ranges: Mapping[str, Sequence[float]] | Sequence[str]) -> Space:
    """The space with training parameters searched besides its own.

    `ranges` maps `lr`, `weight_decay`, `momentum` and `batch_size` to their ranges, or just names
    them: lr and weight decay `[low, high]` in log, momentum `[low, high]`, batch_size its choices.
    A parameter is named after its family (`rts_lr`), whose best value says nothing of another's.
    Start points get the paper's training values. Raises ValueError for anything else.
    """
    if not ranges:
        return space
    wanted = _checked(ranges)

    def suggest(trial: BaseTrial) -> dict[str, Any]:
        found = space.suggest(trial)
        train = dict(found.get("train", {}))
        family = found.get("optimizer", {}).get("family")
        for key, values in wanted.items():
            if key in train:
                raise ValueError(f"it sets train.{key} itself; leave {key} out of `also`")
            train[key] = _suggest(trial, key, _parameter(family, key), values)
        return {**found, "train": train}

    start = tuple(_with_protocol(space, point, wanted) for point in space.start)
    grown = Space(space.name, f"{space.description}; also {', '.join(wanted)}", suggest, start)
    describe(grown)  # a conflict shows now, not at the first trial
    return grown


def training_points(
    ranges: Mapping[str, Sequence[float]] | Sequence[str], count: int, seed: int
) -> list[dict[str, Any]]:
    """So many points of the ranges that `also` searches, spread evenly; any first few of them, too.

    They are Halton's sequence, shifted by the seed.
    """
    wanted = _checked(ranges)
    rng = random.Random(seed)
    shift = {key: rng.random() for key in wanted}

    def point(number: int) -> dict[str, Any]:
        places = {
            key: (shift[key] + _radical_inverse(number, base)) % 1
            for key, base in zip(wanted, PRIMES, strict=False)
        }
        trial = ChoosingTrial(lambda key, distribution: value_at(distribution, places[key]))
        return {key: _suggest(trial, key, key, values) for key, values in wanted.items()}

    return [point(number) for number in range(count)]


def _radical_inverse(number: int, base: int) -> float:
    """The number's digits in the base, mirrored at the point: 0, 1/2, 1/4, 3/4, … for 2."""
    place, digit = 0.0, 1.0
    while number:
        digit /= base
        place += digit * (number % base)
        number //= base
    return place


def start_points(
    space: Space, start_from: str | Sequence[Mapping[str, Any]] = "paper"
) -> list[Params]:
    """Complete, checked parameter dicts to try first: the `paper`'s best, or the given ones.

    Raises ValueError, naming parameter, value and bounds, for a point outside of the space.
    """
    if isinstance(start_from, str):
        if start_from != "paper":
            raise ValueError(f"start_from {start_from!r} is neither paper nor a list of points")
        if not space.start:
            raise ValueError(
                f"space {space.name!r} has no known good points: give start_from as a list of "
                "parameters, or none"
            )
        start_from = space.start
    return [check_point(space, point) for point in start_from]


def _parameter(family: str | None, key: str) -> str:
    return f"{family}_{key}" if family else key


def _checked(ranges: Mapping[str, Sequence[float]] | Sequence[str]) -> dict[str, Sequence[Any]]:
    if not isinstance(ranges, Mapping):
        ranges = {key: TRAINING_RANGES.get(key, ()) for key in ranges}
    return {key: _checked_range(key, values) for key, values in ranges.items()}


def _checked_range(key: str, values: Any) -> Sequence[Any]:
    if key not in TRAINING_RANGES:
        raise unknown("training parameter in `also`", key, TRAINING_RANGES)
    numbers: list[Any] = list(values) if isinstance(values, list | tuple) else []
    if any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
        numbers = []
    if key == "batch_size":
        rule = "a list of different integers of at least 1"
        numbers = [int(n) if float(n).is_integer() else n for n in numbers]  # 1e2 is a float
        valid = len(numbers) == len(set(numbers)) > 0
        valid = valid and all(isinstance(n, int) and n >= 1 for n in numbers)
    elif key == "momentum":
        rule = "[low, high] with 0 ≤ low < high < 1"
        valid = len(numbers) == 2 and 0 <= numbers[0] < numbers[1] < 1
    else:
        rule = "[low, high] with 0 < low < high"
        valid = len(numbers) == 2 and 0 < numbers[0] < numbers[1] < math.inf
    if not valid:
        raise ValueError(f"also: {key} = {values!r} must be {rule}")
    return numbers


def _suggest(trial: BaseTrial, key: str, name: str, values: Sequence[Any]) -> Any:
    if key == "batch_size":
        return trial.suggest_categorical(name, list(values))
    return trial.suggest_float(name, values[0], values[1], log=key != "momentum")


def _with_protocol(
    space: Space, point: Mapping[str, Any], keys: Iterable[str]
) -> Mapping[str, Any]:
    family = space.suggest(FixedTrial(dict(point))).get("optimizer", {}).get("family")
    return {**point, **{_parameter(family, key): PROTOCOL[key] for key in keys}}
