"""How a sweep stands, by its ledger: while it runs, or after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console

from results.meanings import Outcome, column, metric_of, minimised
from results.query import SweepListing, SweepSummary, list_sweeps
from results.schema import records
from results.soundness import Soundness
from results.storage import SweepFolder
from rts_search.answers.audit import audit_of, print_report
from rts_search.driver.control import is_left
from rts_search.notebook import Sweep
from rts_search.show.console import make_console, prose
from rts_search.show.tables import print_rows, print_summary
from rts_search.spec.claim import Claim, claims_in
from rts_search.spec.folder import SPEC

UNFINISHED_TRIALS = """
    WITH unfinished AS (
        SELECT sweep, trial_id, family, outcome, total_epochs FROM trials
        WHERE outcome IN ('running', 'interrupted') AND stage IS NULL
    ), reached AS (
        SELECT sweep, trial_id, max(rung) AS rung, max(total_epochs) AS T,
            arg_max(epoch, (rung, epoch)) AS epoch,
            arg_max({column}, (rung, epoch)) AS {metric}
        FROM epochs SEMI JOIN unfinished USING (sweep, trial_id) GROUP BY sweep, trial_id
    )
    SELECT trial_id AS trial, family, outcome, rung, epoch, coalesce(T, total_epochs) AS T,
        {metric}
    FROM unfinished LEFT JOIN reached USING (sweep, trial_id) ORDER BY trial_id
"""


BEST_TRIALS = """
    SELECT trial_id FROM trials
    WHERE stage IS NULL AND outcome = 'completed' AND NOT isnan(final_objective)
    QUALIFY row_number() OVER (
        PARTITION BY control IS NOT NULL ORDER BY final_objective {way}, trial_id
    ) <= {top} ORDER BY control IS NOT NULL, final_objective {way}, trial_id
"""

LAST_MESSAGE = """
    SELECT trial_id, message FROM trials WHERE control IS NULL AND stage IS NULL
    ORDER BY traceback IS NULL, ended DESC LIMIT 1
"""


def newest_sweep(storage: str) -> str:
    """The sweep that was updated last. Raises ValueError if there is none."""
    dated = [each for each in list_sweeps(storage) if each.updated is not None]
    if not dated:
        raise ValueError(f"no sweeps in {storage!r}; begin one: rts-search sweep --preset demo")
    newest: str = max(dated, key=lambda each: each.updated).name  # type: ignore[arg-type,return-value]
    return newest


def driver_gone(folder: SweepFolder, running: bool) -> str | None:
    """A line that says how to go on where the sweep's driver is gone without a last word: what the
    ledger calls running is interrupted then. `running` says whether there is such a trial."""
    try:
        if not is_left(folder, running):
            return None
    except OSError:  # not to be told
        return None
    go_on = f"go on with: rts-search resume {folder.argument()}"
    if not folder.exists(SPEC):
        go_on = "a single run does not go on: train it again"
    with suppress(ValueError):
        if begun := [stored for stored in claims_in(folder) if stored.verdicts is None]:
            go_on = f"go on with: {command_of(folder, begun[-1].claim)}"
    return f"{folder.name}: driver gone; {go_on}"


def command_of(folder: SweepFolder, claim: Claim) -> str:
    """How a claim goes on that is begun."""
    if claim.verifies is not None:
        return f"rts-search verify {claim.verifies}.yaml, as before"
    return f"rts-search confirm {folder.argument()}"


def claim_lines(folder: SweepFolder) -> list[str]:
    """What a sweep's claims say, or that they have yet to."""
    lines = []
    try:
        claims = [*claims_in(folder)]
    except ValueError as error:
        return [str(error)]
    for stored in claims:
        told = f"not decided yet; go on with: {command_of(folder, stored.claim)}"
        if stored.verdicts is not None:
            told = "; ".join([stored.verdicts["headline"], *stored.verdicts["sentences"]])
        lines.append(f"claim {stored.claim.id}: {told}")
    return lines


def as_it_stands(folder: SweepFolder, listing: SweepListing) -> tuple[SweepListing, str | None]:
    """The listing, and `driver_gone`."""
    gone = driver_gone(folder, Outcome.RUNNING in listing.outcomes)
    if gone is None:
        return listing, None
    outcomes: Counter[str] = Counter()
    for outcome, count in listing.outcomes.items():
        outcomes[Outcome.INTERRUPTED if outcome == Outcome.RUNNING else outcome] += count
    return replace(listing, outcomes=dict(outcomes.most_common())), gone


def trial_as_it_stands(
    folder: SweepFolder, row: dict[str, Any]
) -> tuple[dict[str, Any], str | None]:
    """A trial's row, and `driver_gone` if it would run."""
    if row["outcome"] != Outcome.RUNNING or (gone := driver_gone(folder, running=True)) is None:
        return row, None
    return row | {"outcome": str(Outcome.INTERRUPTED)}, gone


def weights_at(folder: SweepFolder, row: Mapping[str, Any]) -> str | None:
    """Where a trial's weights are; None if there are none."""
    path = f"checkpoints/{row['trial_id']}/weights.pt"
    return folder.uri_of(path) if folder.exists(path) else None


def without_weights(sweep: Sweep) -> list[str]:
    """The trials, of the best and of the best controls, whose weights should be there but are not:
    there was no room for them until the end, or they were deleted."""
    spec = sweep.spec
    way = "ASC" if minimised(spec.search.objective) else "DESC"
    best = sweep.query(BEST_TRIALS.format(way=way, top=spec.checkpoint.keep_top)).to_pylist()
    return [row["trial_id"] for row in best if weights_at(sweep.folder, row) is None]


def print_without_weights(console: Console, sweep: Sweep, lacking: list[str]) -> None:
    """What is missing, and how it comes back."""
    if lacking:
        again = sweep.folder.argument(lacking[0])
        prose(
            console,
            f"among the best, but without weights: {', '.join(lacking)}; to have them: "
            f"rts-search train --trial {again}",
        )


@dataclass(frozen=True)
class Standing:
    """How a sweep stands; `unfinished` are its trials that run or were interrupted; `gone` says how
    to go on where its driver is gone; `without_weights` are those that should have theirs; `claims`
    are what its claims say."""

    summary: SweepSummary
    unfinished: list[dict[str, Any]]
    gone: str | None
    audit: Soundness | None
    without_weights: list[str]
    claims: list[str]


def standing(sweep: Sweep) -> Standing:
    summary = sweep.summary()
    listing, gone = as_it_stands(sweep.folder, summary.listing)
    told = {"column": column(listing.objective), "metric": metric_of(listing.objective)}
    rows = records(sweep.query(UNFINISHED_TRIALS.format(**told)))
    if gone is not None:
        rows = [row | {"outcome": str(Outcome.INTERRUPTED)} for row in rows]
    audit = audit_of(sweep) if sweep.has_spec else None
    lacking = without_weights(sweep) if sweep.has_spec else []
    claims = claim_lines(sweep.folder)
    return Standing(replace(summary, listing=listing), rows, gone, audit, lacking, claims)


def print_standing(sweep: Sweep) -> None:
    """Its trials by outcome, those that are unfinished, and what its audit says."""
    console, found = make_console(), standing(sweep)
    print_summary(console, found.summary)
    if found.unfinished:
        print_rows(console, list(found.unfinished[0]), found.unfinished)
    if found.gone is not None:
        prose(console, found.gone)
    if found.audit is not None:
        print_report(console, sweep, found.audit)
    print_without_weights(console, sweep, found.without_weights)
    for line in found.claims:
        prose(console, line)


def nothing_came(sweep: Sweep) -> str | None:
    """Why a sweep that has ended gave nothing; None if any trial may be of use."""
    bad = [str(o) for o in Outcome if o.finished and o.told == "fail"]
    outcomes = sweep.summary().listing.outcomes
    if not outcomes or not outcomes.keys() <= set(bad):
        return None
    counts = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
    last = sweep.query(LAST_MESSAGE).to_pylist()[0]
    show = f"rts-search show {sweep.folder.argument(last['trial_id'])}"
    return (
        f"no trial came to anything ({counts}); {last['trial_id']}: "
        f"{last['message']}; all of it: {show}"
    )
