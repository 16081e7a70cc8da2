"""The rungs of a sweep."""

from __future__ import annotations

from rts_search.spec.model import StopConfig

HIGHEST = 0.9  # of T: a trial that came further is not worth stopping


def rungs(config: StopConfig, epochs: int) -> list[int]:
    """Epochs of the rungs, lowest first: T/ηᵏ for k = 1, 2, …, counted down from T and rounded to
    whole epochs, while at least `first_rung`; T last.

    Without `first_rung`, while at least T/4.5, or T/η alone if that is less: earlier, accuracy says
    little of the end (BENCHMARKS.md). Raises ValueError if there is no rung below T.
    """
    if config.policy == "none":
        return [epochs]
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
