"""What a sweep that is resumed may ask for besides what it was begun with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from results.parts.reading import read_parts
from results.storage import SweepFolder
from rts_search.spec.folder import changed, read_spec
from rts_search.spec.model import SweepSpec
from rts_search.spec.reading import apply_overrides, parse

CHANGEABLE = (
    *("search.trials", "train.device", "data.residence", "loggers"),
    "storage.follow_links",
)
CHANGEABLE_GROUPS = ("budget", "resources", "checkpoint")
TRAINED = "earlier trials were trained with {old!r}, and their values could not be compared"
PROPOSED = (
    "the trials so far were proposed within {old!r}; search other bounds in a new sweep, with "
    "search.warm_start naming this one"
)
# of the whole setting first, then of its group
REASONS = {
    "search.objective": "earlier trials were judged by {old!r}",
    "search.against": "earlier trials were judged against {old!r}",
    "search.sampler": "the trials so far were proposed by {old!r}",
    "search.seed": "the trials so far were proposed from {old!r}",
    "search.also": PROPOSED,
    "space": PROPOSED,
    "search": "it says how a sweep begins, and this one began with {old!r}",
    "data": TRAINED,
    "model": TRAINED,
    "train": TRAINED,
    "optimizer": TRAINED,
    "stop": "earlier trials were stopped, or not, by {old!r}",
}


def resumed_spec(folder: SweepFolder, overrides: Iterable[str] = ()) -> SweepSpec:
    """The sweep's spec with `a.b=c` overrides. It is written down by the driver, not here.

    Raises ValueError, in one line, if there is no sweep, or for a change that cannot be made.
    """
    spec = read_spec(folder)
    wanted = parse(SweepSpec, apply_overrides(spec.model_dump(mode="json"), overrides))
    for key, part in (("name", "name"), ("storage", "storage_path")):
        if getattr(wanted, part) != getattr(spec, part):
            raise ValueError(f"{key} cannot change here: move the sweep's folder instead")
    check_changes(folder, spec, wanted)
    return wanted


def check_changes(folder: SweepFolder, spec: SweepSpec, wanted: SweepSpec) -> None:
    """Raises ValueError, in one line, if the sweep begun with `spec` cannot go on as `wanted`."""
    changes = changed(spec, wanted)
    for key, (old, _) in changes.items():
        _check(key, old)
    if "search.trials" in changes and wanted.search.trials < (begun := _begun(folder)):
        raise ValueError(
            f"search.trials {wanted.search.trials} is below the {begun} trials that have begun; "
            f"give the number in all, {begun} or more"
        )


def _check(key: str, old: Any) -> None:
    group = key.partition(".")[0]
    if key in CHANGEABLE or group in CHANGEABLE_GROUPS:
        return
    reason = REASONS.get(key) or REASONS[group]
    if key == "search.also" and not old:
        reason = reason.replace("{old!r}", "the space alone")
    what = "" if "new sweep" in reason else "; begin a new sweep"
    raise ValueError(f"{key} cannot change: {reason.format(old=old)}{what}")


def _begun(folder: SweepFolder) -> int:
    parts = read_parts(folder, "trials", ["number"]).values()
    return sum(number is not None for part in parts for number in part["number"].to_pylist())
