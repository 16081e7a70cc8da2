"""What a replay compares: a stopper's settings, written as `asha:schedule:3:3:finalists=3`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from results.names import unknown
from rts_search.replay.curves import RecordedCurves
from rts_search.spec.model import StopConfig
from rts_search.stopping.stopper import Stopper

NUMBERS = {"seeds": int, "finalists": int, "audit": float}
SYNTAX = "POLICY[:FIDELITY[:ETA[:FIRST_RUNG]]][:seeds=N][:finalists=K][:audit=SHARE]"


@dataclass(frozen=True)
class Policy:
    """A stopper, and two things that a sweep may add to it.

    `seeds`: how many seeds are trained, and averaged, at rungs below T. `finalists`: how many of
    the best are trained once more with a second seed, before one is picked by the mean.
    """

    name: str
    stop: StopConfig
    seeds: int = 1
    finalists: int = 0

    def stopper(self, epochs: int, seed: int) -> Stopper:
        """The very object that a live sweep of T = `epochs` uses. Raises ValueError."""
        return Stopper(self.stop, epochs, "max", seed)


def parse_policy(text: str) -> Policy:
    """A policy from SYNTAX, by default `epoch`, eta 3, first rung T/9. Raises ValueError."""
    parts = text.split(":")
    plain = [part for part in parts if "=" not in part]
    settings: dict[str, Any] = {"audit": 0.0}
    extra: dict[str, int] = {"seeds": 1, "finalists": 0}
    if len(plain) > 4 or not plain:
        raise ValueError(f"policy {text!r} must be {SYNTAX}")
    settings |= dict(zip(("policy", "fidelity", "eta", "first_rung"), plain, strict=False))
    for part in parts:
        if "=" not in part:
            continue
        name, _, value = part.partition("=")
        if name not in NUMBERS:
            raise unknown("policy setting", name, NUMBERS)
        try:
            number = NUMBERS[name](value)
        except ValueError:
            raise ValueError(f"policy {text!r}: {name} {value!r} is not a number") from None
        (extra if name in extra else settings)[name] = number
    try:
        stop = StopConfig.model_validate(settings)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(
            f"policy {text!r}: {where} = {first['input']!r}: {first['msg']}; write {SYNTAX}"
        ) from None
    return _checked(Policy(text, stop, **extra))


def _checked(policy: Policy) -> Policy:
    if policy.seeds < 1 or policy.finalists < 0 or policy.finalists == 1:
        raise ValueError(
            f"policy {policy.name!r}: seeds must be at least 1, and finalists 2 or more (0: none)"
        )
    if policy.seeds > 1 and (policy.stop.fidelity != "schedule" or policy.stop.policy == "none"):
        raise ValueError(
            f"policy {policy.name!r}: seeds are averaged at the rungs of fidelity schedule only"
        )
    return policy


def default_policies(curves: RecordedCurves) -> list[Policy]:
    """Every stopper with eta 3 and its first rung at T/9; `schedule` where it was recorded."""
    first = max(1, round(curves.epochs / 9))
    names = ["none"]
    for stopper in ("asha", "hyperband", "median"):
        names += [f"{stopper}:{fidelity}:3:{first}" for fidelity in ("schedule", "epoch")]
    found = []
    for policy in map(parse_policy, names):
        try:
            check_recorded(curves, [policy])
        except ValueError:
            continue
        found.append(policy)
    return found


def check_recorded(curves: RecordedCurves, policies: Sequence[Policy]) -> None:
    """Raises ValueError if the curves lack the complete runs or the seeds that a policy trains."""
    recorded = sorted({total for total, _ in curves.runs})
    for policy in policies:
        stopper = policy.stopper(curves.epochs, 0)
        needed = stopper.rungs if stopper.by_schedule else []
        missing = [total for total in needed if total not in recorded]
        if missing:
            raise ValueError(
                f"policy {policy.name!r} needs complete runs of T = {_list(needed)}, and none of "
                f"T = {_list(missing)} are recorded (T = {_list(recorded)} are): record them, or "
                "use the fidelity epoch"
            )
        for total in needed[:-1]:
            if len(curves.seeds(total)) < policy.seeds:
                raise ValueError(
                    f"policy {policy.name!r} averages {policy.seeds} seeds, and T = {total} is "
                    f"recorded with {len(curves.seeds(total))}"
                )
        if policy.finalists and len(curves.seeds()) < 2:
            raise ValueError(
                f"policy {policy.name!r} trains finalists with a second seed, and T = "
                f"{curves.epochs} is recorded with one"
            )


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
