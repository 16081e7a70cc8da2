"""Do the best configurations lie on the edge of the space? Then the space is too small.

A space is code. The driver, which runs it, writes its ranges into the sweep's spec (`ranges_of`);
who reads the sweep needs no more (`edges`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Self

from optuna.distributions import FloatDistribution, IntDistribution
from pydantic import model_validator

from results.schema import json_object
from results.storage import SweepFolder
from rts_search.search.checks import search_space
from rts_search.spec.folder import ranges_in
from rts_search.spec.model import SweepSpec
from rts_search.spec.reading import parse
from search_spaces.space import ChoosingTrial, Params, Space, accepted, apply, describe
from trainables.base import Config
from trainables.config import TrialConfig

MARGIN = 0.02  # of a parameter's range, in log where the parameter is
STEP = 0.05  # how far beyond an edge is looked, if anything can be there
FEWEST = 3  # best trials that say something


class Range(Config):
    """A numeric parameter's range; beyond an end that is not `open` no configuration is valid."""

    low: float
    high: float
    log: bool = False
    whole: bool = False
    open_low: bool = True
    open_high: bool = True

    @model_validator(mode="after")
    def _has_room(self) -> Self:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"{self.low:g} to {self.high:g} is no range")
        return self

    def scaled(self, value: float) -> float:
        """Where the range is even."""
        if not self.log:
            return value
        return math.log(value) if value > 0 else -math.inf

    def room(self, value: float, upper: bool) -> float:
        """From a value to an end, as a share of the range; negative beyond it."""
        low, high = self.scaled(self.low), self.scaled(self.high)
        place = (self.scaled(value) - low) / (high - low)
        return 1 - place if upper else place

    def beyond(self, upper: bool) -> float:
        """A value a little beyond an end."""
        low, high = self.scaled(self.low), self.scaled(self.high)
        value = low + (1 + STEP if upper else -STEP) * (high - low)
        value = math.exp(value) if self.log else value
        if self.whole:  # at least one beyond
            return math.ceil(value) if upper else math.floor(value)
        return value


def ranges_of(space: Space, base: TrialConfig) -> dict[str, Range]:
    """The ranges of a space's numeric parameters, found by running it on random trials."""
    draws, found = [trial.params for trial in accepted(space)], {}
    for parameter in describe(space):
        name, given = parameter.name, parameter.distribution
        if not isinstance(given, FloatDistribution | IntDistribution) or given.single():
            continue
        whole = isinstance(given, IntDistribution)
        known = Range(low=given.low, high=given.high, log=given.log, whole=whole)
        having = [point for point in draws if name in point]
        is_open = [
            any(_is_valid(space, base, {**point, name: known.beyond(upper)}) for point in having)
            for upper in (False, True)
        ]
        found[name] = known.model_copy(update={"open_low": is_open[0], "open_high": is_open[1]})
    return found


def plain_ranges(spec: SweepSpec) -> dict[str, dict[str, Any]]:
    """`ranges_of` what a spec searches, as they are written into the sweep's spec."""
    found = ranges_of(search_space(spec), spec.base)
    return {name: known.model_dump() for name, known in found.items()}


def known_ranges(folder: SweepFolder, spec: SweepSpec) -> dict[str, Range]:
    """As a sweep's driver wrote them, without running its space. Where none did so, in an earlier
    version, those of a built-in space. Raises ValueError for one of its own."""
    found = ranges_in(folder)
    if found is None and ":" in spec.space:
        raise ValueError(
            f"an earlier version began the sweep without writing the ranges of {spec.space}, "
            "which is code, and not run for this"
        )
    found = plain_ranges(spec) if found is None else found
    return {str(name): parse(Range, known) for name, known in found.items()}


def top_of(trials: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Of ranked trials the best tenth, but 5 at least."""
    return trials[: max(5, len(trials) // 10)]


def edges(
    ranges: Mapping[str, Range], trials: Sequence[Mapping[str, Any]], also: Collection[str] = ()
) -> list[str]:
    """A warning for each edge where a third of these trials lie, and two at least.

    `trials` are rows of the ledger's `trials`, the best ones; fewer than `FEWEST` say nothing. A
    parameter counts for those that have it. Choices have no edge, and an edge beyond which no
    configuration is valid (a fraction of 0) is none. `also` are the training parameters that the
    spec searches beside its space.
    """
    points = [json_object(trial["params"]) for trial in trials]
    if len(points) < FEWEST:
        return []
    warnings = []
    for name, known in ranges.items():
        values = [point[name] for point in points if _is_number(point.get(name))]
        for upper, is_open in ((False, known.open_low), (True, known.open_high)):
            near = [value for value in values if known.room(value, upper) <= MARGIN]
            if is_open and len(near) >= max(2, math.ceil(len(values) / 3)):
                bound = known.high if upper else known.low
                warnings.append(
                    f"{len(near)} of the best {len(values)} with {name} lie at its "
                    f"{'upper' if upper else 'lower'} bound, {bound:g} (at {_span(near)}): "
                    f"the optimum may lie beyond; {_advice(name, also)}"
                )
    return warnings


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_valid(space: Space, base: TrialConfig, point: Params) -> bool:
    try:
        apply(space, ChoosingTrial(lambda name, _: point[name]), base)
    except ValueError:
        return False
    return True


def _span(values: Sequence[float]) -> str:
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} to {high}"


def _advice(name: str, also: Collection[str]) -> str:
    key = next((key for key in also if name == key or name.endswith(f"_{key}")), None)
    how = f"widen search.also.{key}" if key else "search a space of your own with a wider range"
    return f"{how}, in a new sweep with search.warm_start naming this one"
