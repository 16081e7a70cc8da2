"""The paper's tables in Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from results.names import unknown
from rts_search.answers.paper_tables import (
    BESIDE,
    BOTH,
    RADIUS,
    SCALE,
    TABLES,
    TIMING,
    Entry,
    Part,
    Tables,
)
from rts_search.show.console import clean
from rts_search.show.tables import NULL, count
from trainables.schedules import Schedule

BETAS = ("strategy", "β_min", "β_max")
COLUMNS = {
    RADIUS: BETAS,
    SCALE: BETAS,
    TIMING: ("trigger", "parameters", "fired at"),
    BOTH: (*(f"radius {name}" for name in BETAS), *(f"scale {name}" for name in BETAS)),
}
MARKDOWN = re.compile(r"([\\|*`<>\[\]#]|(?<!\w)_|_(?!\w))")
LATEX = {
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{symbol: f"${name}$" for symbol, name in {"γ": r"\gamma", "κ": r"\kappa"}.items()},
    "μ": r"$\mu$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "†": r"$^\dagger$",
    "–": "--",
    "β_min": r"$\beta_{\min}$",
    "β_max": r"$\beta_{\max}$",
}
_LATEX = re.compile("|".join(map(re.escape, sorted(LATEX, key=len, reverse=True))))


def check_format(form: str) -> None:
    """Raises ValueError for a form that there is not."""
    if form not in FORMS:
        raise unknown("format", form, FORMS)


def typeset(tables: Tables, form: str) -> str:
    """The tables, with the notes beneath them, in one of FORMS."""
    check_format(form)
    return FORMS[form](tables)


def markdown(tables: Tables) -> str:
    lines: list[str] = []
    for group in tables.groups:
        lines += [f"## {_marked(group.title)}", ""]
        for part in group.parts:
            titles, rows, left = _cells(tables.metric, part)
            ruler = ["---"] * left + ["---:"] * (len(titles) - left)
            lines += [f"### {_capital(part.table)}", ""]
            lines += [_piped(titles), f"|{'|'.join(ruler)}|", *map(_piped, rows), ""]
        lines += [text for note in group.notes for text in (_marked(note), "")]
    lines += [text for note in tables.notes for text in (_marked(note), "")]
    return "\n".join(lines[:-1]) + "\n"


def latex(tables: Tables) -> str:
    """Without packages."""
    lines: list[str] = []
    for group in tables.groups:
        for part in group.parts:
            titles, rows, left = _cells(tables.metric, part)
            first, references = rows[: len(part.entries)], rows[len(part.entries) :]
            lines += [
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{_escaped(f'{_capital(part.table)}: {group.title}')}}}",
                rf"\begin{{tabular}}{{{'l' * left}{'r' * (len(titles) - left)}}}",
                r"\hline",
                _joined(titles),
                r"\hline",
                *map(_joined, first),
                *([r"\hline"] if references else []),
                *map(_joined, references),
                r"\hline",
                r"\end{tabular}",
                *(rf"\par{{\footnotesize {_escaped(note)}}}" for note in group.notes),
                r"\end{table}",
                "",
            ]
    lines += [rf"\par{{\footnotesize {_escaped(note)}}}" for note in tables.notes]
    return "\n".join(lines).rstrip("\n") + "\n"


def as_csv(tables: Tables) -> str:
    """A line a configuration, its figures as the ledger has them; the lines of reference in each
    table."""
    out = io.StringIO()
    columns = ["setting", "table", "trial", "label", "family"]
    columns += [f"{part}_{name}" for part in ("radius", "scale") for name in Schedule.model_fields]
    columns += ["trigger", "trigger_parameters", "trigger_epoch"]
    columns += [name.removeprefix("config_") for name in BESIDE]
    columns += ["metric", "mean", "sd", "n", "gradient_evaluations", "selected_on"]
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    for group in tables.groups:
        for part in group.parts:
            for label, entry in [*(("", e) for e in part.entries), *part.references]:
                told = {"setting": group.title, "table": part.table, "label": label}
                writer.writerow(told | _record(tables.metric, entry))
    return out.getvalue()


FORMS: dict[str, Callable[[Tables], str]] = {
    "markdown": markdown,
    "latex": latex,
    "csv": as_csv,
}


def _record(metric: str, entry: Entry) -> dict[str, Any]:
    row, value = entry.row, entry.value
    known = {"trial": entry.name, "family": row["family"], "metric": metric}
    if entry.table in TABLES:
        for part, schedule in (("radius", entry.radius), ("scale", entry.scale)):
            known |= {f"{part}_{key}": v for key, v in schedule.model_dump().items()}
        name, parameters = entry.trigger
        known |= {"trigger": name, "trigger_parameters": parameters, "trigger_epoch": entry.fired}
    known |= {name.removeprefix("config_"): row[name] for name in BESIDE}
    known |= {"mean": value.mean, "sd": value.sd, "n": value.n}
    return known | {"gradient_evaluations": entry.cost, "selected_on": entry.selected_on}


def _cells(metric: str, part: Part) -> tuple[list[str], list[list[str]], int]:
    """Titles, rows with those of reference at the end, and how many columns are words."""
    own, scale = COLUMNS[part.table], 100 if "accuracy" in metric else 1
    beside = [BESIDE[name] for name in part.beside]
    name = f"{metric.replace('_', ' ')}{' (%)' if scale > 1 else ''}"
    titles = [*own, *beside, name, "gradient evaluations"]

    def row(cells: Sequence[str], entry: Entry) -> list[str]:
        settings = [_text(entry.row[column]) for column in part.beside]
        return [*cells, *settings, _value(entry, scale), count(entry.cost)]

    rows = [row(_own(part.table, entry), entry) for entry in part.entries]
    rows += [row([label, *[NULL] * (len(own) - 1)], entry) for label, entry in part.references]
    return titles, rows, 2 if part.table == TIMING else 1


def _own(table: str, entry: Entry) -> list[str]:
    if table == TIMING:
        name, parameters = entry.trigger
        return [name, parameters or NULL, entry.fired]
    parts = {RADIUS: [entry.radius], SCALE: [entry.scale], BOTH: [entry.radius, entry.scale]}
    return [
        text
        for each in parts[table]
        for text in (each.strategy, f"{each.beta_min:.4g}", f"{each.beta_max:.4g}")
    ]


def _value(entry: Entry, scale: int) -> str:
    """As in `94.31 ± 0.20 (5)`: mean, standard deviation and seeds."""
    value, digits = entry.value, 2 if scale > 1 else 4
    told = f"{scale * value.mean:.{digits}f}"
    if value.sd is not None:
        told += f" ± {scale * value.sd:.{digits}f} ({value.n})"
    return f"{told} †" if entry.selected_on else told


def _text(value: Any) -> str:
    if value is None:
        return NULL
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _line(text: str) -> str:
    return " ".join(clean(text).split())


def _marked(text: str) -> str:
    return MARKDOWN.sub(r"\\\1", _line(text))


def _piped(cells: Iterable[str]) -> str:
    return f"| {' | '.join(map(_marked, cells))} |"


def _escaped(text: str) -> str:
    return _LATEX.sub(lambda found: LATEX[found[0]], _line(text))


def _joined(cells: Iterable[str]) -> str:
    return rf"{' & '.join(map(_escaped, cells))} \\"
