"""The rungs of a sweep."""

from __future__ import annotations

import math

from rts_search.spec.model import StopConfig


def first_rung(config: StopConfig, epochs: int) -> int:
    """As asked for, or T/9: earlier, accuracy says little of the end (BENCHMARKS.md)."""
    return config.first_rung or max(1, round(epochs / 9))


def rungs(config: StopConfig, epochs: int) -> list[int]:
    """Epochs of the rungs, lowest first, T last.

    `schedule`: T/ηᵏ rounded, while at least first_rung. `epoch`: ASHA's milestones first_rung·ηᵏ,
    rounded up to whole epochs. Raises ValueError if there is none below T.
    """
    if config.policy == "none":
        return [epochs]
    first = first_rung(config, epochs)
    if first >= epochs:
        raise ValueError(
            f"stop.first_rung {first} must be below train.epochs {epochs}, or no trial "
            "could stop early; use a smaller one, or stop.policy none"
        )
    found, length = [epochs], float(epochs)
    if config.fidelity == "schedule":
        while round(length / config.eta) >= first and length / config.eta >= 1:
            length /= config.eta
            if round(length) < found[0]:
                found.insert(0, round(length))
        if len(found) == 1:
            raise ValueError(
                f"stop.first_rung {first} leaves no complete schedule below "
                f"train.epochs {epochs}: T/eta is {epochs / config.eta:g}; use a smaller one, or "
                "stop.policy none"
            )
        return found
    milestones, at = [], float(first)
    while math.ceil(at) < epochs:
        milestones.append(math.ceil(at))
        at *= config.eta
    return [*milestones, epochs]
