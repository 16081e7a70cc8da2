"""Recorded curves: what every run of a set of configurations measured, epoch by epoch.

A run is one configuration, trained with one seed, for a complete schedule of `total_epochs`.
A run with fewer epochs, or one that ends in a value that is not finite, is lost: it diverged or
collapsed, and a guard ended it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from results.schema import json_object
from trainables.metrics import tail_means

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

COLUMNS = ("config", "seed", "total_epochs", "epoch", "value")
OPTIONAL = ("gradient_evaluations", "epoch_seconds", "params", "trigger_epoch")
SGD = "sgd"  # the configuration that is no part of a search: the control, SGD's own curve
EQUAL = 1e-6  # of accuracies that are kept in 32 bits


@dataclass(frozen=True)
class Runs:
    """The runs of all configurations with one seed and one T; a row each, a column an epoch.

    `values` are what a rung at each epoch is judged by, means over the tail until it (`tail_mean`),
    NaN after a run's end; `gradients` and `clock` (seconds) are counted from the run's start.
    `fired` is the first perturbed epoch, beyond T if there is none, 0 if that is not known or no
    trigger is there to fire. `spent` are the gradients that a search pays which shares the trunk;
    then `clock` is the time without it, too.
    """

    values: Floats
    length: Ints
    gradients: Floats
    clock: Floats
    fired: Ints
    spent: Floats

    @property
    def final(self) -> Floats:
        """The value at T, NaN for lost runs."""
        return self.values[:, -1]

    @property
    def filled(self) -> Floats:
        """`final`, and for lost runs their last finite value (the lowest of all if none)."""
        return self.at(self.values.shape[1])

    def at(self, epoch: int) -> Floats:
        """The value at an epoch; of a lost run the last finite one until then."""
        seen = self.values[:, :epoch]
        last = epoch - 1 - np.isfinite(seen)[:, ::-1].argmax(axis=1)
        found = seen[np.arange(len(seen)), last]
        finite = self.values[np.isfinite(self.values)]
        return np.where(np.isfinite(found), found, finite.min() if finite.size else 0.0)

    def take(self, rows: Ints) -> Runs:
        return Runs(*(part[rows] for part in vars(self).values()))


@dataclass(frozen=True)
class Trunk:
    """The SGD run that all runs with one seed and one T begin with: its values as in `Runs`, NaN
    where none of them went on for so long, and what it costs to its end."""

    values: Floats
    gradients: float
    seconds: float


@dataclass(frozen=True)
class RecordedCurves:
    """Runs by (T, seed), all of the same configurations; higher values are better.

    `notes` say what was left out. All seeds of `epochs`, the longest T, have all configurations.
    `trunks` are there for all of the runs, or for none: `unshared` says why.
    """

    configs: list[str]
    params: list[dict[str, Any]]
    runs: dict[tuple[int, int], Runs]
    notes: list[str] = field(default_factory=list)
    trunks: dict[tuple[int, int], Trunk] = field(default_factory=dict)
    unshared: str = ""

    @property
    def epochs(self) -> int:
        return max(total for total, _ in self.runs)

    def seeds(self, total: int | None = None) -> list[int]:
        """The seeds recorded at a T; by default at the longest."""
        at = self.epochs if total is None else total
        return sorted(seed for length, seed in self.runs if length == at)

    def take(self, rows: Sequence[int] | Ints) -> RecordedCurves:
        """These configurations, in this order; a bootstrap repeats some."""
        rows = np.asarray(rows, dtype=np.int64)
        return RecordedCurves(
            [self.configs[i] for i in rows],
            [self.params[i] for i in rows],
            {key: runs.take(rows) for key, runs in self.runs.items()},
            self.notes,
            self.trunks,
            self.unshared,
        )


def from_rows(columns: Mapping[str, pa.ChunkedArray], epochs: int | None = None) -> RecordedCurves:
    """Curves from columns with a row an epoch: COLUMNS, and any of OPTIONAL.

    Configurations without a run of T = `epochs` (default: the longest) for each of its seeds are
    left out; so are seeds that have half of the configurations or fewer, and shorter schedules
    that were not recorded for all. One named `sgd` is the control. Raises ValueError where too
    little is left, or a run is odd.
    """
    data = {name: np.asarray(columns[name].to_pylist()) for name in COLUMNS}
    if len(data["config"]) == 0:
        raise ValueError("the recorded curves have no rows: nothing to replay")
    if unknown := [name for name in COLUMNS if name != "value" and columns[name].null_count]:
        raise ValueError(
            f"{columns[unknown[0]].null_count} rows of the recorded curves have no {unknown[0]}: "
            "each needs one"
        )
    extra = {name: columns[name].to_pylist() if name in columns else None for name in OPTIONAL}
    runs, about = _group(data, extra)
    sgd = {(total, seed): runs.pop((c, total, seed)) for c, total, seed in [*runs] if c == SGD}
    about.pop(SGD, None)
    top = epochs or max(total for _, total, _ in runs)
    keys, configs, notes = _common(runs, top, list(about))
    if len(configs) < 2:
        known = sorted({total for _, total, _ in runs})
        raise ValueError(
            f"{len(configs)} configurations have a run of T = {top} for every seed (recorded T: "
            f"{', '.join(map(str, known))}): at least 2 are needed; choose another --epochs"
        )
    params = [about[c] for c in configs]
    plain = [each.get("family") == SGD for each in params]
    triggers = columns.get("trigger_epoch")
    told = triggers is not None and triggers.null_count < len(triggers)
    made = {
        (total, seed): _stack([runs[c, total, seed] for c in configs], total, plain, told)
        for total, seed in keys
    }
    trunks = {key: _trunk(each, sgd.get(key), key[0]) for key, each in made.items()}
    if reason := next((each for each in trunks.values() if isinstance(each, str)), ""):
        return RecordedCurves(configs, params, made, notes, unshared=reason)
    shared = {key: each for key, each in trunks.items() if isinstance(each, Trunk)}
    made = {key: _share(each) for key, each in made.items()}
    return RecordedCurves(configs, params, made, notes, shared)


Key = tuple[str, int, int]  # config, T, seed
Run = tuple[Floats, Floats, Floats, int]  # values, gradients, clock; trigger epoch, 0 for none


def _group(
    data: Mapping[str, NDArray[Any]], extra: Mapping[str, list[Any] | None]
) -> tuple[dict[Key, Run], dict[str, dict[str, Any]]]:
    """The runs by key, and each configuration's params, in order of appearance."""
    indices: dict[Key, list[int]] = {}
    about: dict[str, dict[str, Any]] = {}
    params = extra["params"]
    keys = zip(data["config"].tolist(), data["total_epochs"], data["seed"], strict=True)
    for i, (config, total, seed) in enumerate(keys):
        name = str(config)
        indices.setdefault((name, int(total), int(seed)), []).append(i)
        if name not in about:
            about[name] = json_object(params[i]) if params else {}
    values = data["value"].astype(float)
    values[~np.isfinite(values)] = np.nan
    fired = _numbers(extra["trigger_epoch"], len(values), 0.0)
    seconds = _numbers(extra["epoch_seconds"], len(values), 1.0)
    gradients = _numbers(extra["gradient_evaluations"], len(values), np.nan)
    runs = {}
    for key, rows in indices.items():
        order = np.array(rows)[np.argsort(data["epoch"][rows], kind="stable")]
        _check(key, data["epoch"][order].tolist())
        runs[key] = (
            values[order],
            gradients[order],
            np.cumsum(seconds[order]),
            int(fired[order].max()),
        )
    return runs, about


def _numbers(column: list[Any] | None, length: int, default: float) -> Floats:
    if column is None:
        return np.full(length, default)
    found = np.array([default if value is None else value for value in column], dtype=float)
    return np.where(np.isfinite(found), found, default)


def _check(key: Key, epochs: list[int]) -> None:
    config, total, seed = key
    if epochs != list(range(1, len(epochs) + 1)) or len(epochs) > total:
        raise ValueError(
            f"the run of {config!r} with seed {seed} and T = {total} has the epochs "
            f"{epochs[0]}–{epochs[-1]} in {len(epochs)} rows: a run has one row for each epoch "
            "from 1, at most T; filter with --where, or name the right columns"
        )


def _common(
    runs: Iterable[Key], top: int, known: Sequence[str]
) -> tuple[list[tuple[int, int]], list[str], list[str]]:
    """The (T, seed) and the configurations that make a full table, and notes on the rest."""
    having: dict[tuple[int, int], dict[str, None]] = {}
    for config, total, seed in runs:
        if total <= top:
            having.setdefault((total, seed), {})[config] = None
    most = max((len(found) for (total, _), found in having.items() if total == top), default=0)
    keys = [k for k in having if k[0] == top and len(having[k]) * 2 > most]
    notes = [
        f"seed {seed} is left out: it has {len(having[top, seed])} of {most} runs of T = {top}"
        for total, seed in having
        if total == top and (total, seed) not in keys
    ]
    configs = [c for c in known if keys and all(c in having[key] for key in keys)]
    dropped = len({c for key in having if key[0] == top for c in having[key]}) - len(configs)
    if dropped:
        notes.append(f"{dropped} configurations are left out: no run of T = {top} for every seed")
    for total, seed in having:
        missing = [c for c in configs if c not in having[total, seed] and total < top]
        if missing:
            notes.append(
                f"runs of T = {total} with seed {seed} are left out: {len(missing)} of "
                f"{len(configs)} configurations have none"
            )
        elif total < top:
            keys.append((total, seed))
    return keys, configs, notes


def _stack(found: list[Run], total: int, plain: Sequence[bool], told: bool) -> Runs:
    """`plain` are those of plain SGD; `told` says whether trigger epochs are recorded."""
    count = len(found)
    values, gradients, clock = (np.full((count, total), np.nan) for _ in range(3))
    length, fired = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    for i, (shown, spent, seconds, trigger_epoch) in enumerate(found):
        length[i] = len(shown)
        values[i, : length[i]] = tail_means(shown.tolist(), total)
        gradients[i, : length[i]], clock[i, : length[i]] = spent, seconds
        fired[i] = trigger_epoch or total + 1
    if not told:
        fired = _firing(gradients)
    fired[np.array(plain)] = 0
    return Runs(values, length, gradients, clock, fired, gradients)


def _firing(gradients: Floats) -> Ints:
    """The first epoch whose steps cost two gradient evaluations, one more than there are if all
    cost one; 0 where that cannot be told."""
    steps = np.diff(gradients, axis=1, prepend=0.0)
    if not np.isfinite(steps).any():
        return np.zeros(len(steps), dtype=np.int64)
    one = np.nanmin(steps)
    twice, once = steps == 2 * one, steps == one
    if one <= 0 or not twice.any():  # all cost the same: one, or two
        return np.zeros(len(steps), dtype=np.int64)
    first: Ints = np.where(twice.any(axis=1), twice.argmax(axis=1), steps.shape[1]) + 1
    epochs = np.arange(1, steps.shape[1] + 1)
    whole = np.isnan(steps) | np.where(epochs < first[:, None], once, twice)
    return np.where(whole.all(axis=1), first, 0)


def _trunk(runs: Runs, sgd: Run | None, total: int) -> Trunk | str:
    """The SGD run that these begin with; in words why there is none."""
    if not np.isfinite(runs.gradients[:, 0]).all():
        return "no gradient evaluations are recorded"
    if not runs.fired.all():
        return "it is not known when each of their triggers fires"
    last = int(np.minimum(runs.fired - 1, runs.length).argmax())
    until = int(min(runs.fired[last] - 1, runs.length[last]))
    values, gradients, clock = (part[last] for part in (runs.values, runs.gradients, runs.clock))
    if sgd is not None:
        until, (raw, gradients, clock, _) = len(sgd[0]), sgd
        values = np.array(tail_means(raw.tolist(), total))
    if until == 0:
        return "all of them are perturbed from the start"
    whole = np.full(total, np.nan)
    whole[:until] = values[:until]
    before = np.arange(1, total + 1) < runs.fired[:, None]
    if np.nanmax(np.abs(np.where(before, runs.values - whole, 0.0)), initial=0.0) > EQUAL:
        return "their SGD runs differ, as where the learning rate is searched too"
    each = total / until
    return Trunk(whole, float(gradients[until - 1]) * each, float(clock[until - 1]) * each)


def _share(runs: Runs) -> Runs:
    """What the runs cost once the trunk is there: nothing until they fire."""
    rows, epochs = np.arange(len(runs.fired)), np.arange(1, runs.values.shape[1] + 1)
    until = np.minimum(runs.fired - 1, runs.length)

    def beyond(cost: Floats) -> Floats:
        paid = np.where(until > 0, cost[rows, until - 1], 0.0)
        return np.where(epochs <= until[:, None], 0.0, cost - paid[:, None])

    return replace(runs, clock=beyond(runs.clock), spent=beyond(runs.gradients))
