"""A sweep's `spec.yaml`: what was asked, with its provenance and history."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from results.storage import SweepFolder
from rts_search.spec.model import SweepSpec
from rts_search.spec.provenance import provenance
from rts_search.spec.reading import parse, read_yaml
from rts_search.spec.written import LARGEST, dump

SPEC = "spec.yaml"
CHECKSUM = "checksum"  # the last word of a spec, which is not whole without it
_EARLIER = "spec_hash"  # its last word by earlier versions


class SpecWarning(UserWarning):
    """A spec that is not as rts-search wrote it, but can be read."""


def checksum(content: Mapping[str, Any]) -> str:
    """A short hash of all that a `spec.yaml` says but this."""
    origin = {key: value for key, value in content["provenance"].items() if key != CHECKSUM}
    text = json.dumps({**content, "provenance": origin}, default=str)
    return f"sha256-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _is_edited(content: Mapping[str, Any]) -> bool:
    """Whether another has written it, or a bit has flipped; of earlier versions nobody knows."""
    told = content["provenance"].get(CHECKSUM)
    return told is not None and told != checksum(content)


def write_spec(
    folder: SweepFolder,
    spec: SweepSpec,
    sources: Mapping[str, str] | None = None,
    accept_changes: bool = False,
    ranges: Mapping[str, Any] | None = None,
) -> None:
    """What was asked, and with what code, data and hardware (`sources`: `fingerprints`), and the
    `ranges` of its space, which readers cannot tell without running it.

    Written when the sweep begins. Where a resume asked for changes, they are written too, each
    with its time, as `history`; the provenance stays that of the beginning. Raises ValueError, in
    one line, if sources have changed since, unless that is accepted: then it is history as well,
    and so is it that the spec was edited.
    """
    sources = dict(sources or {})
    if not folder.exists(SPEC):
        origin = asdict(provenance())
        origin["versions"] = json.loads(origin["versions"])
        origin |= {"sources": sources, "ranges": ranges}
        _write(folder, spec, [], origin)
        return
    content = _read(folder)
    known = _sources(content)
    other = {k: (known[k], new) for k, new in sources.items() if known.get(k, new) != new}
    if other and not accept_changes:
        raise ValueError(
            f"{', '.join(other)} changed since {folder.name} began: earlier trials were trained "
            "with what was there, and their values could not be compared; put it back, begin a "
            "new sweep, or go on regardless: add --accept-changes"
        )
    history, origin = content.get("history", []), content["provenance"]
    changes = changed(_parse(folder, content), spec) | other
    if accept_changes and _is_edited(content):
        changes[SPEC] = (origin[CHECKSUM], checksum(content))
    if changes:
        time_now = datetime.now(UTC).isoformat(timespec="seconds")
        plain = {key: {"from": old, "to": new} for key, (old, new) in changes.items()}
        history = [*history, {"time": time_now, "changes": plain}]
    if changes or (ranges is not None and ranges != origin.get("ranges")):
        _write(folder, spec, history, origin | {"ranges": ranges})


def sources_at(folder: SweepFolder, when: datetime) -> dict[str, str]:
    """The fingerprints of a sweep's data and own code as they were then."""
    return _sources(_read(folder), when)


def ranges_in(folder: SweepFolder) -> dict[str, Any] | None:
    """The ranges of its space, as its driver wrote them; None where an earlier version did not."""
    found = _read(folder)["provenance"].get("ranges")
    return found if isinstance(found, dict) else None


@contextmanager
def begun_or_not_there(folder: SweepFolder) -> Iterator[None]:
    """A new sweep that fails before its first trial leaves no spec: it has not begun."""
    new = not folder.exists(SPEC)
    try:
        yield
    except Exception:
        if new and not folder.exists("trials"):
            folder.delete(SPEC)
        raise


def read_spec(folder: SweepFolder) -> SweepSpec:
    """The spec of a sweep, with what resumes have changed.

    Raises ValueError if there is none, or if the file is not whole. Warns if it was edited.
    """
    content = _read(folder)
    spec = _parse(folder, content)
    if _is_edited(content):
        warnings.warn(
            f"{folder.uri_of(SPEC)} is not as rts-search wrote it: a setting was edited, or a bit "
            "flipped; trials may have been trained with others (to go on with it for good: "
            f"rts-search resume {folder.argument()} --accept-changes)",
            SpecWarning,
            stacklevel=1,
        )
    return spec


def changed(old: SweepSpec, new: SweepSpec) -> dict[str, tuple[Any, Any]]:
    """The settings that differ, as `group.setting: (old, new)`, but for where the sweep lies."""
    before, after = _settings(old), _settings(new)
    return {key: (before[key], after[key]) for key in before if before[key] != after[key]}


def _settings(spec: SweepSpec) -> dict[str, Any]:
    found: dict[str, Any] = {"storage.follow_links": spec.follow_links}
    for name, value in spec.model_dump(mode="json", exclude={"name", "storage"}).items():
        group = isinstance(getattr(spec, name), BaseModel)
        found |= {f"{name}.{key}": each for key, each in value.items()} if group else {name: value}
    return found


def _sources(content: dict[str, Any], until: datetime | None = None) -> dict[str, str]:
    """Those of the beginning, with the changes that were accepted since."""
    known = dict(content["provenance"].get("sources") or {})
    for entry in content.get("history", []):
        if until is None or datetime.fromisoformat(entry["time"]) <= until:
            known |= {key: each["to"] for key, each in entry["changes"].items() if key in known}
    return known


def _write(
    folder: SweepFolder, spec: SweepSpec, history: list[Any], origin: dict[str, Any]
) -> None:
    # provenance is last, so that a file without it is known to be truncated
    past = {"history": history} if history else {}
    origin = {k: v for k, v in origin.items() if k not in (CHECKSUM, _EARLIER)}
    content = spec.model_dump(mode="json") | past | {"provenance": origin}
    origin[CHECKSUM] = checksum(content)
    text = dump(content).encode()
    if len(text) > LARGEST:
        raise ValueError(f"the spec has {len(text) / 1024:,.0f} KiB, above {LARGEST / 1024:,.0f}")
    folder.write(SPEC, text)


def _read(folder: SweepFolder) -> dict[str, Any]:
    try:
        content = read_yaml(folder.read(SPEC, LARGEST).decode(), stored=True)
    except FileNotFoundError:
        raise ValueError(f"no sweep at {folder.uri}: it has no {SPEC}") from None
    except ValueError as error:  # not UTF-8, not YAML
        raise _damaged(folder, str(error)) from None
    origin = content.get("provenance")
    if not isinstance(origin, dict) or not (origin.get(CHECKSUM) or origin.get(_EARLIER)):
        raise _damaged(folder, "its end, the provenance, is missing")
    try:
        _sources(content, datetime.now(UTC))
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        raise _damaged(folder, "its history or its sources are of another form") from None
    return content


def _parse(folder: SweepFolder, content: dict[str, Any]) -> SweepSpec:
    asked = {key: value for key, value in content.items() if key not in ("history", "provenance")}
    told = content.get("storage")  # the folder may have been moved since
    here = told | {"path": folder.storage} if isinstance(told, dict) else folder.storage
    try:
        return parse(SweepSpec, asked | {"name": folder.name, "storage": here})
    except ValueError as error:
        raise _damaged(folder, str(error)) from None


def _damaged(folder: SweepFolder, why: str) -> ValueError:
    return ValueError(
        f"{folder.uri_of(SPEC)} is not as rts-search wrote it: {why}; put the file right, or begin "
        "a new sweep (the ledger can still be read)"
    )
