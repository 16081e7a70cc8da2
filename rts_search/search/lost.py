"""Trials that the ledger has lost: brought back from their checkpoints, or their numbers kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from results.ledger import Ledger
from results.meanings import Outcome
from results.schema import TRIALS
from results.storage import SweepFolder, is_name
from rts_search.search.checks import search_space
from rts_search.search.known import distributions_at
from rts_search.spec.model import SweepSpec
from rts_search.trials.rows import epoch_row, final_value, progress_columns, trial_row
from rts_search.trials.trial import controls, number_of
from trainables.checkpoint import FILES, STATE, WEIGHTS, CheckpointFolder
from trainables.config import TrialConfig

SHOWN = 10  # names in a line
TIMES = ("started", "ended", "updated")


@dataclass(frozen=True)
class Lost:
    """`numbers` of trials that stay lost, for no other trial to get; `lines` for the user."""

    numbers: frozenset[int]
    lines: list[str]


def bring_back(spec: SweepSpec, folder: SweepFolder, ledger: Ledger) -> Lost:
    """Put trials that the ledger does not know, but of which checkpoints or epochs are there, back
    into it as far as their checkpoints tell; and epochs that it lacks of trials that it knows.

    Nothing is deleted; damaged parts of `epochs` are set aside. Unfinished trials go on from their
    checkpoints.
    """
    aside = [f"damaged epochs are set aside: {folder.uri_of(path)}" for path in ledger.put_aside()]
    rows = {row["trial_id"]: row for row in ledger.trials()}
    counts, saved = ledger.epoch_counts(), set(folder.list("checkpoints"))
    back: dict[str, list[str]] = {WEIGHTS: [], STATE: []}
    gone: dict[str, str] = {}
    for trial_id in sorted(filter(is_name, (saved | counts.keys()) - rows.keys())):
        try:
            back[_bring_back(spec, folder, ledger, trial_id)].append(trial_id)
        except LookupError as error:
            if counts[trial_id] or set(folder.list(f"checkpoints/{trial_id}")) & set(FILES):
                gone[trial_id] = str(error)
    short = _epochs_brought_back(ledger, folder, rows, counts, saved)
    ledger.flush()
    numbers = {number for name in gone if (number := number_of(name)) is not None}
    return Lost(frozenset(numbers), aside + _lines(back, gone, short))


def _bring_back(spec: SweepSpec, folder: SweepFolder, ledger: Ledger, trial_id: str) -> str:
    """The file from which it came back. Raises LookupError, with the reason, if it cannot."""
    for name, outcome in ((WEIGHTS, Outcome.COMPLETED), (STATE, Outcome.INTERRUPTED)):
        content = _load(folder, trial_id, name)
        if content is None:
            continue
        try:
            history = _history(content)
            row = _row(spec, trial_id, content)
            _add_epochs(ledger, trial_id, history)
            ledger.put_trial(row | _end(spec, outcome, name, history, content))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise LookupError(f"{name}: {reason}") from None
        return name
    raise LookupError("no whole weights.pt or state.pt")


def _load(folder: SweepFolder, trial_id: str, name: str) -> dict[str, Any] | None:
    try:
        return CheckpointFolder(folder.uri_of(f"checkpoints/{trial_id}")).load(name)
    except NotADirectoryError:
        return None


def _history(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The trial's epochs at all rungs."""
    run = content.get("run", content)
    return [*content.get("climbed", []), *run["history"]]


def _row(spec: SweepSpec, trial_id: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """The trial's row as it began. Raises ValueError if it is no trial of this sweep."""
    arm = {control.trial_id: control for control in controls(spec)}.get(trial_id)
    if "row" in content:
        row = json.loads(content["row"]) | content["surroundings"]
        row |= {key: datetime.fromisoformat(row[key]) for key in TIMES if row[key]}
    elif arm is not None:
        row = trial_row(arm, spec.search.objective)
    else:
        raise ValueError("of an older rts-search, which did not keep the trial's parameters there")
    config, base = TrialConfig.model_validate_json(row["config_json"]).placed(), spec.base.placed()
    if row["trial_id"] != trial_id or (config.data, config.model) != (base.data, base.model):
        raise ValueError("it is of another sweep or trial")
    if arm is None:
        if row["number"] is None or row["number"] != number_of(trial_id):
            raise ValueError(f"its number is {row['number']}")
        distributions_at(search_space(spec), json.loads(row["params"]))
    return {key: value for key, value in row.items() if key in TRIALS.names and key != "sweep"}


def _end(
    spec: SweepSpec,
    outcome: Outcome,
    name: str,
    history: Sequence[Mapping[str, Any]],
    content: Mapping[str, Any],
) -> dict[str, Any]:
    """What became of it, as columns of its row."""
    now = datetime.now(UTC)
    saved = datetime.fromtimestamp(content["saved"], UTC) if "saved" in content else now
    return {
        "outcome": str(outcome),
        "message": f"its row was lost, and made again from {name}",
        "ended": saved if outcome.finished else None,
        "updated": now,
        "final_objective": final_value(history, spec.search.objective),
        **progress_columns(history),
    }


def _add_epochs(ledger: Ledger, trial_id: str, history: Sequence[dict[str, Any]]) -> None:
    for metrics in history:
        ledger.add_epoch(epoch_row(trial_id, metrics))


def _epochs_brought_back(
    ledger: Ledger,
    folder: SweepFolder,
    rows: Mapping[str, Mapping[str, Any]],
    counts: Mapping[str, int],
    saved: set[str],
) -> dict[str, int]:
    """How many epochs are missing of trials that have ended, after those that weights hold."""

    def missing(counts: Mapping[str, int]) -> dict[str, int]:
        ended = {name: row for name, row in rows.items() if Outcome(row["outcome"]).finished}
        short = {name: (row["epochs"] or 0) - counts.get(name, 0) for name, row in ended.items()}
        return {name: count for name, count in short.items() if count > 0}

    found = missing(counts)
    for trial_id in found.keys() & saved:
        if content := _load(folder, trial_id, WEIGHTS):
            _add_epochs(ledger, trial_id, _history(content))
    return missing(ledger.epoch_counts()) if found else found


def _lines(
    back: Mapping[str, list[str]], gone: Mapping[str, str], short: Mapping[str, int]
) -> list[str]:
    lines = [
        f"rows that the ledger had lost came back from {name}: {_listed(names)}"
        for name, names in back.items()
        if names
    ]
    if gone:
        each = [f"{name} ({reason})" for name, reason in gone.items()]
        lines.append(
            f"rows lost for good: {_listed(each)}; what is there of these trials stays, and no new "
            "trial gets their numbers; controls begin again"
        )
    if short:
        lines.append(
            f"epochs lost for good: {sum(short.values())} of trials that have ended: "
            f"{_listed(list(short))}"
        )
    return lines


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
