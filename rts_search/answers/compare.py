"""`rts-search compare`: sweeps, arms and configurations side by side, over seeds."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from results.configurations import (
    FRESH,
    Configuration,
    configurations,
    cost_of,
    is_of_test,
    objective_of,
    rows_of,
    runs_of,
)
from results.database import find_sweep
from results.meanings import metric_of
from results.query import find_trial
from results.statistics import Difference, Estimate, difference, estimate
from results.storage import SweepFolder
from rts_search.notebook import split_trial
from rts_search.show.console import print_told, prose
from rts_search.show.tables import NULL, count, describe_trial, number

ALIKE = 1.01  # costs that differ by less are the same
REPORTED = (
    "{} is reported here, and nothing was chosen by it; who chooses by it now needs other data to "
    "say how good the choice is"
)


@dataclass(frozen=True)
class Side:
    """One configuration, with the row of one of its runs; its `values` are those of the metric, one
    a seed, and `seeds` are null where they are not known. `chosen_from` says from how many it was,
    if by the very runs that are told; `failed` counts runs that came to nothing by outcome."""

    name: str
    trial: dict[str, Any]
    runs: list[str]
    seeds: list[int | None]
    values: list[float]
    estimate: Estimate
    difference: Difference | None  # to the first side
    gradient_evaluations: float | None
    chosen_from: int | None
    failed: dict[str, int]
    selected_on: str | None
    setting: dict[str, str | None]


@dataclass(frozen=True)
class Comparison:
    metric: str
    sides: list[Side]
    notes: list[str]


@dataclass(frozen=True)
class Asked:
    """What is compared: the best of a sweep or, by its name, an arm of it or the configuration of
    one of its trials; of the trials that meet a condition."""

    folder: SweepFolder
    name: str | None
    where: str | None

    def __str__(self) -> str:
        told = self.folder.name + (f"/{self.name}" if self.name else "")
        return f"{told} where {self.where}" if self.where else told


def asked(argument: str, storage: str, where: str | None = None) -> Asked:
    """What is named: SWEEP, by name, path or URI, or SWEEP/NAME. A folder that is a sweep is one.

    Raises ValueError if it is neither.
    """
    if "/" not in argument or SweepFolder.at(argument, storage).is_sweep():
        return Asked(find_sweep(argument, storage), None, where)
    try:
        sweep, name = split_trial(argument)
        return Asked(find_sweep(sweep, storage), name, where)
    except ValueError as error:
        raise ValueError(
            f"{argument!r} is neither a sweep's folder nor SWEEP/TRIAL or SWEEP/ARM: {error}"
        ) from None


def compare(
    arguments: Sequence[str],
    storage: str,
    metric: str | None = None,
    where: Sequence[str] = (),
    top: int = 3,
) -> Comparison:
    """The sides that each argument stands for, under each condition, and their differences to the
    first one. Raises ValueError for what is not there."""
    if top < 1:
        raise ValueError(f"top must be at least 1, not {top}")
    conditions: Sequence[str | None] = where or [None]
    sides = [asked(each, storage, condition) for each in arguments for condition in conditions]
    metric = metric or objective_of(side.folder for side in sides)
    found: list[Side] = []
    for side in sides:
        chosen, shown = _chosen(side, metric, top), {s.name for s in found}
        rows = rows_of(side.folder, [run["trial_id"] for each, _ in chosen for run in each.told])
        for configuration, of in chosen:
            reference = found[0].values if found else None
            made = _side(side, configuration, of, rows, reference)
            if made.name not in shown:  # a side may be named twice
                found.append(made)
    return Comparison(metric, found, list(notes(metric, found)))


def _chosen(side: Asked, metric: str, top: int) -> list[tuple[Configuration, int]]:
    """The configurations that a side stands for, chosen by the objective, each with the number of
    those that it was chosen from. Raises ValueError if there is none."""
    return _among(runs_of(side.folder, metric, side.where), side, metric, top)


def _among(
    runs: Sequence[Mapping[str, Any]], side: Asked, metric: str, top: int
) -> list[tuple[Configuration, int]]:
    of_arm = [run for run in runs if side.name and side.name in (run["control"], run["arm"])]
    if of_arm:
        arm = configurations(of_arm)
        arm = [each for each in arm if each.confirmed] or arm
        found = [(each, len(arm)) for each in arm[:1]]
    else:
        groups = configurations(runs)
        searched = [each for each in groups if _is_searched(each)]
        if side.name is None:
            found = [(each, len(searched)) for each in searched[:top]]
        else:
            trial = find_trial(side.folder.storage, side.name, side.folder)
            name, number = trial["trial_id"], trial["number"]
            of = 1 if number is None else len(searched)
            found = [(g, of) for g in groups if _holds(g, name)]
            if not found and not side.where:
                raise ValueError(f"{side}: {trial['outcome']}, so that it has no {metric} of all T")
    known = [(each, of) for each, of in found if each.told]
    if not known:
        raise ValueError(f"{side}: no trial completed its whole schedule with a {metric}")
    all_shown = side.name is None and len(known) == known[0][1]
    return [(each, 1 if all_shown else of) for each, of in known]


def runs_named(folder: SweepFolder, names: Iterable[str]) -> dict[str, list[str]]:
    """By the name of an arm or trial, the runs that stand for its configuration over seeds, as they
    are compared; a trial that did not complete is its only run. Raises ValueError for what is
    neither."""
    found: dict[str, list[str]] = {}
    metric, runs = "", []
    with suppress(ValueError):  # trials have several objectives: each is one run
        metric = objective_of([folder])
        runs = runs_of(folder, metric)
    for name in names:
        try:
            ((chosen, _),) = _among(runs, Asked(folder, name, None), metric, 1)
            found[name] = [run["trial_id"] for run in chosen.told]
        except ValueError:
            found[name] = [find_trial(folder.storage, name, folder)["trial_id"]]
    return found


def _holds(configuration: Configuration, trial_id: str) -> bool:
    return any(run["trial_id"] == trial_id for run in configuration.runs)


def _is_searched(configuration: Configuration) -> bool:
    return any(run["stage"] is None and run["control"] is None for run in configuration.runs)


def _side(
    side: Asked,
    configuration: Configuration,
    of: int,
    rows: Mapping[str, dict[str, Any]],
    reference: Sequence[float] | None,
) -> Side:
    told, first = configuration.told, configuration.first
    values, stages = configuration.values, {run["stage"] for run in told}
    failed = Counter(run["outcome"] for run in configuration.failed if run["stage"] in stages)
    name = f"{side.folder.name}/{side.name or first['trial_id']}"
    return Side(
        name=f"{name} where {side.where}" if side.where else name,
        trial=rows[told[0]["trial_id"]],
        runs=[run["trial_id"] for run in told],
        seeds=configuration.seeds,
        values=values,
        estimate=estimate(values),
        difference=None if reference is None else difference(values, reference),
        gradient_evaluations=cost_of(rows[run["trial_id"]] for run in told),
        chosen_from=of if of > 1 and configuration.shows_its_choice else None,
        failed=dict(failed),
        selected_on=next((r["selected_on"] for r in told if r["selected_on"]), None),
        setting=first["setting"],
    )


def notes(metric: str, sides: Sequence[Side]) -> Iterable[str]:
    """What the figures do not say themselves, a line each."""
    if is_of_test(metric):
        yield REPORTED.format(metric)
    for key in sides[0].setting:
        if words := _differing(sides, lambda side, key=key: side.setting[key]):  # type: ignore[misc]
            yield f"{key} differs, so that the figures do not tell optimizers apart: {words}"
    known = [side.gradient_evaluations for side in sides]
    costs = [cost for cost in known if cost is not None]
    if costs and max(costs) > ALIKE * min(costs):
        yield (
            f"gradient evaluations differ, {count(min(costs))} to {count(max(costs))} a run: a "
            "gain may be what more of them bring"
        )
    if words := _differing(sides, _seeds):
        yield f"seeds differ: {words}"
    if single := [side.name for side in sides if side.estimate.n == 1]:
        yield f"one seed, so that nothing is known of the spread: {', '.join(single)}"
    yield from _doubts(sides)


def _doubts(sides: Sequence[Side]) -> Iterable[str]:
    """Of single sides: what their figures are of, and why they may be too good."""
    said: dict[str, list[str]] = defaultdict(list)
    for side in sides:
        outcomes = ", ".join(f"{many} {outcome}" for outcome, many in side.failed.items())
        told = {
            f"without runs that came to nothing ({outcomes})": bool(side.failed),
            "runs of one seed count as one, with their mean": len(side.runs) > len(side.values),
            "runs after the choice only, not those by which it was chosen": (
                side.trial["stage"] in FRESH
            ),
            f"selected on the {side.selected_on} set, and so too good": bool(side.selected_on),
            f"chosen from {count(side.chosen_from)} configurations by the objective of the very "
            "runs that are shown, and so too good (rts-search confirm tests the best on new "
            "seeds)": bool(side.chosen_from),
        }
        for what, applies in told.items():
            if applies:
                said[what].append(side.name)
    return (f"{what}: {', '.join(names)}" for what, names in said.items())


def _seeds(side: Side) -> str:
    known = sorted(seed for seed in side.seeds if seed is not None)
    unknown = len(side.seeds) - len(known)
    return ", ".join([*map(str, known), *([f"{unknown} not known"] if unknown else [])])


def _differing(sides: Sequence[Side], what: Callable[[Side], str | None]) -> str | None:
    """Who has which, as in `27 (a, b); 54 (c)`; None if all agree."""
    found: dict[str | None, list[str]] = defaultdict(list)
    for side in sides:
        found[what(side)].append(side.name)
    if len(found) == 1:
        return None
    return "; ".join(f"{value or NULL} ({', '.join(names)})" for value, names in found.items())


def print_comparison(console: Console, found: Comparison) -> None:
    """The sides in a table, and the notes below it."""
    accuracy = "accuracy" in found.metric
    first = found.sides[0].name
    unit = ", in points" if accuracy else ""
    if len(found.sides) > 1:
        how = f"differences to {first}{unit}, with Welch's 95 % interval"
        prose(console, f"{metric_of(found.metric)}, a value a seed; {how}")
    prose(console, "")
    titles = ["", "n", metric_of(found.metric), "deviation", "95 % interval", "difference"]
    titles += ["gradients", ""]

    def told(side: Side) -> tuple[list[str], str]:
        known, sd = side.estimate, side.estimate.sd
        spread = [NULL if sd is None else number(sd), _interval(known.mean, known.half_width)]
        cells = [str(known.n), number(known.mean), *spread, _gain(side.difference, accuracy)]
        label = " (selected on test)" if side.selected_on else ""
        cells = [side.name + label, *cells, count(side.gradient_evaluations)]
        return cells, describe_trial(side.trial)

    print_told(console, titles, [[told(side) for side in found.sides]], left=1)
    if found.notes:
        prose(console, "")
    for note in found.notes:
        prose(console, note)


def _interval(mean: float, half_width: float | None) -> str:
    if half_width is None:
        return NULL
    return f"{number(mean - half_width)} to {number(mean + half_width)}"


def _gain(found: Difference | None, accuracy: bool) -> str:
    """As in `+0.28 (-0.10 to +0.66)`, in points of an accuracy."""
    if found is None:
        return ""

    def told(value: float) -> str:
        return f"{100 * value:+.2f}" if accuracy else f"{value:+.4f}"

    if found.half_width is None:
        return told(found.mean)
    low, high = found.mean - found.half_width, found.mean + found.half_width
    return f"{told(found.mean)} ({told(low)} to {told(high)})"
