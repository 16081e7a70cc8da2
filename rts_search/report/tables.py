"""The words and tables of a report. All that comes from a ledger is escaped here."""

from __future__ import annotations

import html
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from importlib.metadata import version
from statistics import median
from typing import Any

from results.meanings import Outcome, merit
from results.ranking import setting
from results.schema import json_object
from rts_search.report.data import Shown, Told, finite
from rts_search.show.console import clean
from rts_search.show.ranking import ON_TEST, ranked_cells, verdict
from rts_search.show.tables import NULL, number, soundness_lines, spent
from rts_search.spec.claim import StoredClaim
from rts_search.spec.written import dump

MOST = 60  # rows of a table of failures
VALUES = 4  # of one column that are told
NAMED = 6  # trials of one failure that are named
ORIGIN = (
    "git_commit",
    "git_dirty",
    "versions",
    "hardware",
    "host",
    "device",
    "threads",
    "precision",
    "source",
)


def escaped(text: Any) -> str:
    return html.escape(clean(str(text)))


def paragraph(text: Any, kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f"<p{named}>{escaped(text)}</p>"


def code(text: str) -> str:
    return f"<pre>{escaped(text)}</pre>"


def table(
    titles: Sequence[str], groups: Sequence[Sequence[Sequence[Any]]], numeric: Iterable[str] = ()
) -> str:
    """Rows under titles, in groups."""
    right = [title in set(numeric) for title in titles]

    def row(cells: Sequence[Any], tag: str) -> str:
        told = [
            f'<{tag} class="n">{escaped(cell)}</{tag}>'
            if is_number
            else f"<{tag}>{escaped(cell)}</{tag}>"
            for cell, is_number in zip(cells, right, strict=True)
        ]
        return f"<tr>{''.join(told)}</tr>"

    bodies = [
        f"<tbody>{''.join(row(cells, 'td') for cells in group)}</tbody>"
        for group in groups
        if group
    ]
    head = f"<thead>{row(titles, 'th')}</thead>"
    return f'<div class="scroll"><table>{head}{"".join(bodies)}</table></div>'


def answer(report: Told) -> str:
    """What the sweep has found: its claims or, without any, how one is made."""
    argument = report.sweep.argument
    told = [claim_in_words(stored, argument) for stored in report.claims]
    if not told:
        line = paragraph(
            "No claim yet: nothing of this is tested on seeds that the search has not seen."
        )
        if any(ranking.trials for ranking in report.ranked) and report.spec is not None:
            line += paragraph("To test the best against tuned baselines:")
            line += code(f"rts-search confirm {argument}")
        told = [f'<div class="answer">{line}</div>']
    return "".join(told)


def standing(report: Told) -> str:
    """What is to be known beside the answer, and what the sweep took."""
    lines = [paragraph(note, "warn") for note in report.notes]
    if report.on_test:
        lines.append(paragraph(ON_TEST, "warn"))
    return "".join(lines + [paragraph(line, "soft") for line in spent(report.summary)])


def claim_in_words(stored: StoredClaim, argument: str) -> str:
    """The headline, what it says of each baseline, and what that took."""
    claim, verdicts = stored.claim, stored.verdicts
    if verdicts is None:
        lines = [f"Claim {claim.id}: begun, and not decided yet", "It goes on with:"]
        again = code(f"rts-search confirm {argument}") if claim.verifies is None else ""
        return f'<div class="answer">{"".join(map(paragraph, lines))}{again}</div>'
    sentences = verdicts.get("sentences")
    lines = [f"{verdicts.get('headline', NULL)}"]
    lines += sentences if isinstance(sentences, list) else []
    lines.append(
        f"Claim {claim.id}, written {claim.written}, before the first of "
        f"{verdicts.get('runs', NULL)} runs on new seeds, which took "
        f"{_count(verdicts.get('gradient_evaluations'))} gradient evaluations "
        f"({_count(verdicts.get('spent_gradient_evaluations'))} spent)."
    )
    if claim.verifies is not None:
        lines.append(f"It repeats claim {claim.verifies} on other seeds.")
    return f'<div class="answer">{"".join(map(paragraph, lines))}</div>'


def _count(value: Any) -> str:
    return f"{value:,}" if finite(value) else NULL


def best(report: Told) -> str:
    """The best configurations against the controls, with the words that `best` has."""
    told = []
    for ranking in report.ranked:
        if len(report.ranked) > 1:
            told.append(paragraph(setting(ranking)))
        told += [paragraph(line) for line in verdict(ranking) if line != ON_TEST]  # said above
        titles, groups = ranked_cells(ranking)
        rows = [[[*cells, words] for cells, words in group] for group in groups]
        left = ("sweep", "trial", "configuration")
        if any(groups):
            told.append(table(titles, rows, [t for t in titles if t not in left]))
    return "".join(told)


def audit(report: Told) -> str:
    """What the audited trials say of the stopper."""
    if report.spec is None:
        return ""
    if report.audit is None:
        return paragraph("No stopper: every trial went to its end.", "soft")
    firing = report.spec is not None and report.spec.stop.clock == "firing"
    lines = soundness_lines(report.audit, "perturbed epochs" if firing else "epochs")
    return "".join(paragraph(line.strip(), "soft" if line[0] == " " else "") for line in lines)


def firings(report: Told) -> str:
    """How often each trigger fired, when, and what came of it."""
    kinds: dict[str, list[Shown]] = defaultdict(list)
    for trial in report.trials:
        kinds[str(trial.row["config_trigger"] or "not known")].append(trial)
    rows = []
    for kind, trials in sorted(kinds.items()):
        fired = [trial for trial in trials if trial.row["trigger_epoch"] is not None]
        epochs = [trial.row["trigger_epoch"] for trial in fired]
        when = f"{median(epochs):g} ({min(epochs)}–{max(epochs)})" if epochs else NULL
        share = f"{len(fired)} of {len(trials)}"
        plain = [trial for trial in trials if trial not in fired]
        rows.append([kind, share, when, _best_of(fired, report), _best_of(plain, report)])
    titles = ["trigger", "fired", "first perturbed epoch, median (range)"]
    titles += ["best that fired", "best that did not"]
    words = f"Of all trials; the best by {report.axis} at the end, of those that completed."
    return table(titles, [rows], titles[1:]) + paragraph(words, "soft")


def _best_of(trials: Sequence[Shown], report: Told) -> str:
    done = [trial.value for trial in trials if trial.completed and trial.value is not None]
    return number(max(done, key=lambda value: merit(value, report.objective), default=None))


def failures(report: Told) -> str:
    """Trials that came to nothing, by what they say of it."""
    good = (Outcome.COMPLETED, Outcome.STOPPED, Outcome.RUNNING)
    alike: dict[tuple[str, str], list[str]] = defaultdict(list)
    for trial in (*report.trials, *report.controls):
        if trial.outcome not in good:
            lines = str(trial.row["message"] or "").strip().splitlines()
            alike[trial.outcome, lines[0][:300] if lines else NULL].append(trial.name)
    if not alike:
        return paragraph("None.", "soft")
    rows = []
    for (outcome, message), names in sorted(alike.items(), key=lambda each: -len(each[1]))[:MOST]:
        more = f", and {len(names) - NAMED} more" if len(names) > NAMED else ""
        rows.append([outcome, len(names), message, ", ".join(names[:NAMED]) + more])
    told = table(["outcome", "trials", "message", "which"], [rows], ["trials"])
    if len(alike) > MOST:
        told += paragraph(f"And {len(alike) - MOST} kinds more.", "soft")
    return told


def provenance(report: Told) -> str:
    """Where it came from, and the commands that repeat it."""
    sweep, rows = report.sweep, [t.row for t in (*report.trials, *report.controls)]
    told: list[list[Any]] = [["sweep", sweep.uri]]
    for name, when in (("began", report.summary.started), ("ended", report.summary.ended)):
        told += [[name, f"{when:%Y-%m-%d %H:%M:%S} UTC"]] if isinstance(when, datetime) else []
    for name in ORIGIN:
        held = Counter(_plain(row[name]) for row in rows if row[name] is not None)
        each = [f"{v} ({many})" if len(held) > 1 else v for v, many in held.most_common(VALUES)]
        each += [f"and {len(held) - VALUES} others"] if len(held) > VALUES else []
        told += [[name.replace("_", " "), "; ".join(each)]] if each else []
    told += [["written by", f"rts-search {version('rts-search')}"]]
    again = [paragraph("Its best trial and this page:"), code(_commands(report))]
    if report.spec is not None:
        again = [
            paragraph("The sweep again, with this as again.yaml; all else is as it is by default:"),
            code(dump(report.spec.model_dump(mode="json", exclude_defaults=True))),
            code("rts-search sweep again.yaml --name again"),
            *again,
        ]
    return table(["what", "value"], [told]) + "".join(again)


def _commands(report: Told) -> str:
    folder, found = report.sweep.folder, []
    if report.spec is not None and report.best:
        found = [f"rts-search reproduce {folder.argument(report.best[0].name)}"]
    where = f" --where {shlex.quote(report.where)}" if report.where else ""
    return "\n".join([*found, f"rts-search report {folder.argument()}{where}"])


def _plain(value: Any) -> str:
    """A cell, or the pairs in one of JSON."""
    pairs = json_object(value)
    return ", ".join(f"{name} {each}" for name, each in pairs.items()) if pairs else str(value)
