"""`rts-search tables`: configurations in the paper's tables: radius, scale, timing, both."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from results.configurations import (
    Configuration,
    configurations,
    cost_of,
    is_of_test,
    objective_of,
    rows_of,
    runs_of,
)
from results.ranking import setting_of
from results.schema import json_object
from results.statistics import Estimate, estimate
from results.storage import SweepFolder
from rts_search.answers.compare import REPORTED
from trainables.config import FAMILIES
from trainables.schedules import AfterConfig, Schedule
from trainables.triggers import TriggerConfig, trigger_words

SGD, PUGD = "sgd", "pugd"
RADIUS, SCALE, TIMING, BOTH = TABLES = ("radius", "scale", "timing", "radius + scale")
STRATEGIES = ("constant", "cos", "isin", "sin", "icos")
# settings beside the optimizer's own, which have a column where they differ within a table
BESIDE = {
    "config_lr": "lr",
    "config_weight_decay": "weight decay",
    "config_momentum": "momentum",
    "config_nesterov": "nesterov",
    "config_batch_size": "batch size",
    "config_batch_norm": "batch norm",
    "config_schedule_by": "schedule by",
}
NAMED = 5  # trials in a note
NUMBER = re.compile(r"-?\d[\d.]*(?:e[+-]?\d+)?")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """A configuration as a line of a table, with the rows of its runs. `table` is one of TABLES,
    `sgd` or `pugd` for the lines of reference, or else why it fits none."""

    configuration: Configuration
    rows: list[dict[str, Any]]
    table: str

    @property
    def row(self) -> Row:
        return self.rows[0]

    @property
    def value(self) -> Estimate:
        return estimate(self.configuration.values)

    @property
    def cost(self) -> float | None:
        return cost_of(self.rows)

    @property
    def selected_on(self) -> str | None:
        return next((row["selected_on"] for row in self.rows if row["selected_on"]), None)

    @property
    def name(self) -> str:
        return f"{self.row['sweep']}/{self.row['trial_id']}"

    @property
    def radius(self) -> Schedule:
        return schedule(self.row, "radius") or Schedule()

    @property
    def scale(self) -> Schedule:
        return schedule(self.row, "scale") or Schedule()

    @property
    def trigger(self) -> tuple[str, str]:
        """Its name and its parameters, as in `variance` and `γ 0.2 k 10`."""
        name, _, parameters = trigger(self.row).partition(" ")
        return name, parameters

    @property
    def fired(self) -> str:
        """The first perturbed epochs of its runs, as in `14`, `13–15` or `14 (2 of 3 never)`."""
        epochs = [row["trigger_epoch"] for row in self.rows]
        known = sorted({epoch for epoch in epochs if epoch is not None})
        if not known:
            return "never"
        told = str(known[0]) if len(known) == 1 else f"{known[0]}–{known[-1]}"
        never = epochs.count(None)
        return f"{told} ({never} of {len(epochs)} never)" if never else told


@dataclass(frozen=True)
class Part:
    """One table: its entries, and the lines of reference, each with its label."""

    table: str
    entries: list[Entry]
    references: list[tuple[str, Entry]]
    beside: list[str]  # the columns of BESIDE


@dataclass(frozen=True)
class Group:
    """The tables of what agrees in data, model and T."""

    title: str
    parts: list[Part]
    notes: list[str]

    @property
    def shown(self) -> list[Entry]:
        own = [entry for part in self.parts for entry in part.entries]
        return own + [entry for _, entry in self.parts[0].references]  # they are those of each part


@dataclass(frozen=True)
class Tables:
    metric: str
    groups: list[Group]
    notes: list[str]  # of them all


def entries_of(
    folders: Sequence[SweepFolder], metric: str | None, where: str | None
) -> tuple[str, list[Entry]]:
    """The metric (by default the final objective), and all configurations with a completed run,
    over all the sweeps."""
    metric = metric or objective_of(folders)
    runs, rows = [], {}
    for folder in folders:
        found = runs_of(folder, metric, where)
        runs += found
        for name, row in rows_of(folder, [run["trial_id"] for run in found]).items():
            rows[folder.name, name] = row
    entries = []
    for each in configurations(runs):
        own = [rows[run["sweep"], run["trial_id"]] for run in each.told or each.runs]
        entries.append(Entry(each, own, table_of(own[0])))
    return metric, entries


def table_of(row: Row) -> str:
    """The table that a configuration belongs in, or why in none."""
    family = row["family"]
    if family == SGD or row["config_trigger"] == "never":
        return SGD
    if family not in ("rts", PUGD):
        return family.upper() if family in FAMILIES else "of an unknown family"
    parts = {part: schedule(row, part) for part in (RADIUS, SCALE)}
    if family == PUGD:
        return PUGD
    if None in parts.values() or row["config_trigger"] is None:
        return "without a known schedule or trigger"
    if not _keeps_lr(row):
        return "with an lr of their own once they have fired"
    moved = [part for part, schedule in parts.items() if schedule != Schedule()]
    if row["config_trigger"] != "always" and row["trigger_epoch"] != 1:
        return "with both a trigger and schedules" if moved else TIMING
    return " + ".join(moved) or PUGD


def _keeps_lr(row: Row) -> bool:
    default = AfterConfig()
    factor, anneal = row["config_after_lr_factor"], row["config_after_anneal"]
    return factor in (None, default.lr_factor) and anneal in (None, default.anneal)


def schedule(row: Row, part: str) -> Schedule | None:
    """A row's, by the paper's parameters or by its ends; None if it tells none that there is."""
    columns = ("strategy", "shape", "beta_min", "beta_max", "alpha_start", "alpha_end")
    told = {name: row[f"config_{part}_{name}"] for name in columns}
    with suppress(ValidationError):
        if told["strategy"] is not None:
            given = {name: told[name] for name in ("strategy", "beta_min", "beta_max")}
            return Schedule.model_validate(given)
        if told["alpha_start"] is not None and told["alpha_end"] is not None:
            ends = {name: told[name] for name in ("alpha_start", "alpha_end")}
            return Schedule.model_validate({**ends, "shape": told["shape"] or "plain"})
    return None


def trigger(row: Row) -> str:
    """In words, as in `variance γ 0.2 k 10`: by the configuration, or else by its columns."""
    name = str(row["config_trigger"])
    asked = json_object(row["config_json"]).get("optimizer")
    with suppress(KeyError, TypeError, ValueError):
        return trigger_words(asked["trigger"])  # type: ignore[index]
    fields = TriggerConfig.kinds.get(name, TriggerConfig).model_fields
    return trigger_words({k: row.get(f"config_trigger_{k}") for k in fields} | {"name": name})


def tables(
    folders: Sequence[SweepFolder], metric: str | None = None, where: str | None = None
) -> Tables:
    """All tables, in groups. Raises ValueError if nothing belongs in any."""
    metric, entries = entries_of(folders, metric, where)
    known = [entry for entry in entries if entry.configuration.told]
    together: dict[tuple[str, ...], list[Entry]] = defaultdict(list)
    for entry in known:
        together[tuple(map(str, _setting(entry).values()))].append(entry)
    found = [group for key in sorted(together, key=_by_numbers) if _tabled(group := together[key])]
    if not found:
        raise ValueError(
            "no configuration that has completed belongs in a table of the paper, which hold a "
            "moving radius, a moving scale, both, or a trigger; rts-search compare shows others"
        )
    groups = []
    for group in found:
        title = _title(group[0], [other[0] for other in found])
        parts = list(_parts(group, known))
        groups.append(Group(title, parts, list(_notes(Group(title, parts, [])))))
    return Tables(metric, groups, list(_notes_of_all(metric, entries)))


def _setting(entry: Entry) -> dict[str, str | None]:
    return dict(entry.configuration.first["setting"])


def _by_numbers(key: Iterable[str]) -> list[tuple[int, str]]:
    """So that a T of 100 comes after one of 40."""
    return [(int(text) if text.isdecimal() else -1, text) for text in key]


def _tabled(group: Iterable[Entry]) -> bool:
    return any(entry.table in TABLES for entry in group)


def _title(entry: Entry, others: Iterable[Entry]) -> str:
    """What a group has in common, with more of its settings where others read the same."""
    words, own = setting_of(entry.row), _setting(entry)
    same = [_setting(other) for other in others if setting_of(other.row) == words]
    more = [key for key in own if any(other[key] != own[key] for other in same)]
    return ", ".join([words, *(f"{key} {own[key]}" for key in more)])


def _parts(group: Sequence[Entry], known: Sequence[Entry]) -> Iterable[Part]:
    references = list(_references(group[0], known))
    for table in TABLES:
        entries = sorted((e for e in group if e.table == table), key=_order)
        if entries:
            shown = [*entries, *(entry for _, entry in references)]
            beside = [c for c in BESIDE if len({entry.row[c] for entry in shown}) > 1]
            yield Part(table, entries, references, beside)


def _order(entry: Entry) -> tuple[Any, ...]:
    schedules = [
        (STRATEGIES.index(each.strategy), each.beta_max, each.beta_min)
        for each in (entry.radius, entry.scale)
    ]
    name, parameters = entry.trigger
    return (*schedules, name, [float(value) for value in NUMBER.findall(parameters)])


def _references(of: Entry, known: Sequence[Entry]) -> Iterable[tuple[str, Entry]]:
    """SGD and PUGD at the group's T, and SGD at twice as many epochs, which cost what PUGD does:
    of several of them the best, by the objective."""
    setting = _setting(of)
    total = int(of.row["total_epochs"] or 0)
    for family, times in ((SGD, 1), (SGD, 2), (PUGD, 1)):
        like = setting | {"T": str(times * total)}
        # known are in the order of their objectives
        found = [e for e in known if e.table == family and _setting(e) == like]
        if found:
            label = family.upper() + (f", T {times * total}" if times > 1 else "")
            yield label + (f" (best of {len(found)})" if len(found) > 1 else ""), found[0]


def _notes(group: Group) -> Iterable[str]:
    """What is said beneath a group's tables."""
    shown = group.shown
    if single := sum(entry.value.n == 1 for entry in shown):
        yield f"Without ±: one seed, of which the spread is not known ({single} of {len(shown)})."
    for selected_on in sorted({str(e.selected_on) for e in shown if e.selected_on}):
        many = sum(entry.selected_on == selected_on for entry in shown)
        yield f"†: selected on the {selected_on} set, and so too good ({many} of {len(shown)})."
    if failed := Counter(run["outcome"] for e in shown for run in e.configuration.failed):
        outcomes = ", ".join(f"{many} {outcome}" for outcome, many in sorted(failed.items()))
        yield f"Without runs that came to nothing: {outcomes}."


def _notes_of_all(metric: str, entries: Sequence[Entry]) -> Iterable[str]:
    if is_of_test(metric):
        yield f"{REPORTED.format(metric)}."
    elsewhere: dict[str, list[str]] = defaultdict(list)
    for entry in entries:
        if not entry.configuration.told:
            elsewhere[f"without a {metric}"].append(entry.name)
        elif entry.table not in (*TABLES, SGD, PUGD):
            elsewhere[entry.table].append(entry.name)
    for why, names in sorted(elsewhere.items()):
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        yield f"In no table, {why}: {', '.join(names[:NAMED])}{more}."
