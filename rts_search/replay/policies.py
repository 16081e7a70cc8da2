"""What a replay compares: a stopper's settings, written as `asha:schedule:3:9`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from results.names import unknown
from rts_search.replay.curves import RecordedCurves
from rts_search.spec.model import StopConfig
from rts_search.stopping.stopper import Stopper

SYNTAX = "POLICY[:FIDELITY[:ETA[:FIRST_RUNG]]][:audit=SHARE][:clock=firing][:judge_unfired=true]"
_FIELDS = ("policy", "fidelity", "eta", "first_rung")
_NAMED = ("audit", "clock", "judge_unfired")


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
        if name not in _NAMED:
            raise unknown("policy setting", name, _NAMED)
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
    """Every stopper with the defaults of a sweep, and ASHA with the clock that starts at firing."""
    names = ["none"]
    for stopper in ("asha", "hyperband", "median"):
        names += [f"{stopper}:{fidelity}" for fidelity in ("schedule", "epoch")]
    return recorded(curves, [*names, "asha:clock=firing"])


def recorded(curves: RecordedCurves, names: Iterable[str]) -> list[Policy]:
    """Those of the policies that can be replayed on the curves."""
    found = []
    for policy in map(parse_policy, names):
        try:
            check_recorded(curves, [policy])
        except ValueError:
            continue
        found.append(policy)
    return found


def check_recorded(curves: RecordedCurves, policies: Sequence[Policy]) -> None:
    """Raises ValueError if the curves lack the complete runs that a policy trains, or the SGD run
    that it compares with."""
    there = sorted({total for total, _ in curves.runs})
    for policy in policies:
        stopper = policy.stopper(curves.epochs, 0)
        needed = stopper.rungs if stopper.by_schedule else []
        missing = [total for total in needed if total not in there]
        if missing:
            raise ValueError(
                f"policy {policy.name!r} needs complete runs of T = {_list(needed)}, and none of "
                f"T = {_list(missing)} are recorded (T = {_list(there)} are): record them, or "
                "use the fidelity epoch"
            )
        if stopper.by_firing and (reason := _no_control(curves)):
            raise ValueError(
                f"policy {policy.name!r} judges by the difference to SGD's curve, and the clock "
                f"cannot be replayed on these curves: {reason}"
            )


def _no_control(curves: RecordedCurves) -> str:
    """Why there is no whole curve of SGD for all runs of T; empty if there is."""
    if curves.unshared:
        return curves.unshared
    if all(np.isfinite(curves.trunks[curves.epochs, s].values).all() for s in curves.seeds()):
        return ""
    return f"none of them is SGD until T = {curves.epochs}, and none is named sgd"


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
