"""The rungs of a sweep."""

from __future__ import annotations

from itertools import count, takewhile

from rts_search.spec.model import StopConfig

HIGHEST = 0.9  # of T: a trial that came further is not worth stopping
AFTER_FIRING = 2  # perturbed epochs: the first rung of the clock that starts at firing


def rungs(config: StopConfig, epochs: int) -> list[int]:
    """Epochs of the rungs, lowest first: T/ηᵏ for k = 1, 2, …, counted down from T and rounded to
    whole epochs, while at least `first_rung`; T last.

    Without `first_rung`, while at least T/4.5, or T/η alone if that is less: earlier, accuracy says
    little of the end (BENCHMARKS.md). With the clock `firing` they are perturbed epochs, counted up
    from `first_rung`, 2 by default. Raises ValueError if there is no rung below T.
    """
    if config.policy == "none":
        return [epochs]
    if config.clock == "firing":
        return [*_after_firing(config, epochs), epochs]
    below, length = set[int](), epochs / config.eta
    while length >= 0.5 or not below:
        below.add(max(1, round(length)))
        length /= config.eta
    below = {rung for rung in below if rung < HIGHEST * epochs}
    highest = max(below, default=0)
    first = config.first_rung or min(highest, round(epochs / 4.5))
    found = sorted(rung for rung in below if rung >= first)
    if not found and highest:
        raise ValueError(
            f"stop.first_rung {first} leaves no rung below train.epochs {epochs}: with stop.eta "
            f"{config.eta:g} the highest is {highest}; use a smaller one, or stop.policy none"
        )
    if not found:
        raise ValueError(
            f"train.epochs {epochs} with stop.eta {config.eta:g} has no rung below T, where a "
            "trial could stop early; use more epochs, a larger eta, or stop.policy none"
        )
    return [*found, epochs]


def _after_firing(config: StopConfig, epochs: int) -> list[int]:
    first = config.first_rung or AFTER_FIRING
    counted = (round(first * config.eta**k) for k in count())
    found = sorted(set(takewhile(lambda rung: rung < HIGHEST * epochs, counted)))
    if not found:
        raise ValueError(
            f"with stop.clock firing the first rung is {first} epochs after firing, which leaves "
            f"none below train.epochs {epochs}: use more epochs, or stop.policy none"
        )
    return found
