"""What a replay compares: a stopper's settings, written as `asha:schedule:3:9`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from results.names import unknown
from rts_search.replay.curves import RecordedCurves
from rts_search.spec.model import StopConfig
from rts_search.stopping.stopper import Stopper

SYNTAX = "POLICY[:FIDELITY[:ETA[:FIRST_RUNG]]][:audit=SHARE]"
_FIELDS = ("policy", "fidelity", "eta", "first_rung")


@dataclass(frozen=True)
class Policy:
    name: str
    stop: StopConfig

    def stopper(self, epochs: int, seed: int) -> Stopper:
        """The very object that a live sweep of T = `epochs` uses. Raises ValueError."""
        return Stopper(self.stop, epochs, "max", seed)


def parse_policy(text: str) -> Policy:
    """A policy from SYNTAX; without audit, and else by default as a sweep. Raises ValueError."""
    plain = [part for part in text.split(":") if "=" not in part]
    named = [part.split("=", 1) for part in text.split(":") if "=" in part]
    for name, _ in named:
        if name != "audit":
            raise unknown("policy setting", name, ["audit"])
    if not 1 <= len(plain) <= len(_FIELDS):
        raise ValueError(f"policy {text!r} must be {SYNTAX}")
    settings: dict[str, Any] = {"audit": 0.0, **dict(zip(_FIELDS, plain, strict=False))}
    try:
        return Policy(text, StopConfig.model_validate(settings | dict(named)))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(
            f"policy {text!r}: {where} = {first['input']!r}: {first['msg']}; write {SYNTAX}"
        ) from None


def default_policies(curves: RecordedCurves) -> list[Policy]:
    """Every stopper with the defaults of a sweep; `schedule` where it was recorded."""
    names = ["none"]
    for stopper in ("asha", "hyperband", "median"):
        names += [f"{stopper}:{fidelity}" for fidelity in ("schedule", "epoch")]
    found = []
    for policy in map(parse_policy, names):
        try:
            check_recorded(curves, [policy])
        except ValueError:
            continue
        found.append(policy)
    return found


def check_recorded(curves: RecordedCurves, policies: Sequence[Policy]) -> None:
    """Raises ValueError if the curves lack the complete runs that a policy trains."""
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


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
