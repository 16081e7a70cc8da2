"""The paper's author's runs: JSON files, with the settings in their names, or two tables of them.

Their train loss is that of the perturbed steps where an epoch has such; from May 2025 on, what they
call valid is the test set.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from results.meanings import Outcome
from results.schema import records
from results.storage import is_name
from rts_search.importing.asked import Asked, Found, read_json
from rts_search.importing.columns import read_table
from rts_search.importing.names import Named, named
from rts_search.importing.runs import TEST, UNKNOWN, Run
from trainables.guard import PATIENCE, chance
from trainables.schedules import Schedule
from trainables.triggers import VarianceTrigger

RUNS, CURVES = {"source_file", "eval_split", "anomaly"}, {"source_file", "valid_acc", "train_loss"}
_CURVES = {
    ("train", "loss"): "train_loss",
    ("train", "acc"): "train_acc",
    ("valid", "loss"): "valid_loss",
    ("valid", "acc"): "valid_acc",
}
_DATA = {"cifar_10": ("cifar10", 10), "cifar_100": ("cifar100", 100)}  # by folder
_IMAGES, _HELD_OUT = 50_000, 10_000  # of CIFAR
_BATCH = 500
_FIRED = ("enable_pugd_epoch", "init_grad_var", "grad_var", "delta_base", "delta")


@dataclass(frozen=True)
class Told:
    """What a file or the tables tell of a run, beside its name; `curves` by the tables' names."""

    source: str
    curves: Mapping[str, Sequence[float]]
    fired: Mapping[str, float | None]
    train_images: int | None
    anomaly: str | None = None
    schedules: Mapping[str, Schedule] = field(default_factory=dict)  # as they were really run

    @property
    def name(self) -> str:
        return Path(self.source).stem

    @property
    def epochs(self) -> int:
        return len(self.curves["valid_acc"])


def read(paths: Sequence[Path], asked: Asked) -> Found:
    """From files, folders of them, or the two tables. Raises ValueError for one table alone."""
    tables = [path for path in paths if path.suffix == ".parquet"]
    told, problems = _from_tables(tables) if tables else ([], [])
    for path in paths:
        if path not in tables:
            files, wrong = _from_files(path)
            told, problems = [*told, *files], [*problems, *wrong]
    runs = []
    for each in told:
        try:
            runs.append(_run(each))
        except ValueError as error:
            problems.append(f"{each.source}: {error}")
    unread = [run.name for run in runs if run.stage]
    lines = []
    if unread:
        lines.append(
            f"{len(unread)} kept apart (stage {UNKNOWN}: in query and show, never ranked or "
            f"replayed), as their names do not tell what was run: {', '.join(unread)}"
        )
    return Found(runs, "val_accuracy", lines, problems)


def _from_files(path: Path) -> tuple[list[Told], list[str]]:
    """The runs, and the files that hold none."""
    told: list[Told] = []
    problems: list[str] = []
    seen: dict[str, str] = {}
    for file in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
        try:
            content = read_json(file)
            each = Told(str(file), *_parse(content))
        except ValueError as error:
            problems.append(f"{file}: {error}")
            continue
        digest = hashlib.blake2b(json.dumps(content, sort_keys=True).encode()).hexdigest()
        same = f"the same numbers as {seen[digest]}" if digest in seen else None
        seen.setdefault(digest, each.name)
        told.append(replace(each, anomaly=same))
    return told, problems


def _parse(content: Any) -> tuple[dict[str, list[float]], dict[str, float], int | None]:
    """Curves, what is told of a firing, and the training images. Raises ValueError."""
    try:
        curves = {name: [float(v) for v in content[a][b]] for (a, b), name in _CURVES.items()}
        fired = {key: float(content[key]) for key in _FIRED if content.get(key) is not None}
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        raise ValueError("not a run of the author's: train and valid, with loss and acc") from None
    if not all(map(math.isfinite, fired.values())):
        raise ValueError("when it fired is no number")
    lengths = {len(curve) for curve in curves.values()}
    if len(lengths) != 1 or not max(lengths):
        raise ValueError(f"its curves have {' and '.join(map(str, sorted(lengths)))} epochs")
    return curves, fired, _train_images(curves["train_acc"])


def _train_images(accuracies: Sequence[float]) -> int | None:
    """How many images the training accuracies are shares of: all, or those that were not held
    out; None for neither."""
    for images in (_IMAGES - _HELD_OUT, _IMAGES):
        counts = [value * images for value in accuracies]
        if all(math.isfinite(n) and abs(n - round(n)) < 1e-4 for n in counts):
            return images
    return None


def _from_tables(paths: Sequence[Path]) -> tuple[list[Told], list[str]]:
    runs: list[dict[str, Any]] = []
    curves: dict[str, list[dict[str, Any]]] = {}
    for path in paths:
        table = read_table(path)
        if set(table.column_names) >= RUNS:
            runs += records(table)
        elif set(table.column_names) >= CURVES:
            names = ["source_file", "epoch", *_CURVES.values()]
            for row in records(table.select(names)):
                curves.setdefault(row["source_file"], []).append(row)
        else:
            raise ValueError(f"{str(path)!r} is neither the author's runs nor their curves")
    if not runs or not curves:
        raise ValueError("the author's runs are in two tables, of runs and of curves: give both")
    told, problems = [], []
    for row in runs:
        epochs = sorted(curves.get(row["source_file"], ()), key=lambda each: int(each["epoch"]))
        if not epochs:
            problems.append(f"{row['source_file']}: no curve")
            continue
        held_out = not str(row["eval_split"]).startswith("test")
        told.append(
            Told(
                row["source_file"],
                {name: [float(each[name]) for each in epochs] for name in _CURVES.values()},
                {key: row.get(key) for key in _FIRED},
                _IMAGES - _HELD_OUT if held_out else _IMAGES,
                row["anomaly"] or None,
                {part: s for part in ("radius", "scale") if (s := _as_run(row, part))},
            )
        )
    return told, problems


def _as_run(row: Mapping[str, Any], part: str) -> Schedule | None:
    """The schedule that the loss shows was run, where the table has one."""
    start, end = row[f"{part}_alpha_start"], row[f"{part}_alpha_end"]
    if start is None or end is None:
        return None
    inverse = row[f"{part}_strategy_eff"] in ("icos", "isin")
    return Schedule.from_alpha(start, end, "inverse" if inverse else "plain")


def _run(told: Told) -> Run:
    held_out = told.train_images == _IMAGES - _HELD_OUT
    notes = [_split_in_words(told.train_images)]
    notes += [told.anomaly] if told.anomaly else []
    try:
        known = named(told.name)
    except ValueError:
        return _kept_apart(told, notes)
    rule = known.optimizer
    if rule.family == "rts" and told.schedules:
        known = replace(known, optimizer=rule.model_copy(update=dict(told.schedules)))
    if told.epochs > known.epochs:
        notes.append(
            f"it ran {told.epochs} epochs, its name says {known.epochs}: its lr, on a cosine over "
            f"{known.epochs}, rises again after them"
        )
    elif told.epochs < known.epochs:
        notes.append(f"{told.epochs} of {known.epochs} epochs")
    folder = Path(told.source).parent.name
    # never a name that could be code (module:function)
    data, classes = _DATA.get(folder, (folder if is_name(folder) else "unknown", None))
    first = _first_perturbed(known, told)
    total = max(told.epochs, known.epochs)
    return Run(
        told.name,
        told.source,
        epochs=_epochs(told, known, first),
        total_epochs=total,
        config=known.config(data, total, held_out),
        outcome=_outcome(told, known, classes),
        message="; ".join([*notes, *(() if told.schedules else known.doubts)]),
        columns={
            "arm": known.family,
            "classes": classes,
            "validation_images": _HELD_OUT,
            **_test_columns(told),
        },
    )


def _split_in_words(train_images: int | None) -> str:
    if train_images is None:
        return "whether valid is the test set is not known: taken for it"
    if train_images < _IMAGES:
        return "valid is a fifth of the training set, held out"
    return "valid is the test set"


def _kept_apart(told: Told, notes: list[str]) -> Run:
    """Its curves, with the train loss as that of perturbed steps, which it may be."""
    curves = _plain_rows(told)
    return Run(
        told.name,
        told.source,
        epochs=[
            {**row, "perturbed_loss": loss}
            for row, loss in zip(curves, told.curves["train_loss"], strict=True)
        ],
        total_epochs=told.epochs,
        message="; ".join([*notes, "whether its train loss is the perturbed one is not known"]),
        stage=UNKNOWN,
        columns={"arm": "other", **_test_columns(told)},
    )


def _test_columns(told: Told) -> dict[str, Any]:
    """Test figures where valid is the test set: of the final weights, and of the best epoch."""
    if told.train_images is not None and told.train_images < _IMAGES:
        return {}
    accuracies, losses = told.curves["valid_acc"], told.curves["valid_loss"]
    best = max(range(told.epochs), key=lambda i: (accuracies[i], -i))
    return {
        "selected_on": TEST,
        "test_accuracy": accuracies[-1],
        "test_loss": losses[-1],
        "best_test_accuracy": accuracies[best],
        "best_test_loss": losses[best],
    }


def _first_perturbed(known: Named, told: Told) -> int | None:
    """From 1. The author's epochs are counted from 0, and the one that is told is that at whose
    end the trigger fired."""
    if known.family == "sgd":
        return None
    if not known.family.startswith("timing"):
        return 1
    fired = told.fired.get("enable_pugd_epoch")
    return None if fired is None or fired < 0 else int(fired) + 2


def _plain_rows(told: Told) -> list[dict[str, Any]]:
    names = {"train_acc": "train_accuracy", "valid_loss": "val_loss", "valid_acc": "val_accuracy"}
    curves = [told.curves[name] for name in names]
    return [
        {"epoch": epoch, **dict(zip(names.values(), values, strict=True))}
        for epoch, values in enumerate(zip(*curves, strict=True), 1)
    ]


def _epochs(told: Told, known: Named, first: int | None) -> list[dict[str, Any]]:
    steps = -(-(told.train_images or _IMAGES) // _BATCH)
    rows, gradients = [], 0
    statistics = _at_firing(known, told)
    for row, loss in zip(_plain_rows(told), told.curves["train_loss"], strict=True):
        perturbing = first is not None and row["epoch"] >= first
        gradients += steps * (2 if perturbing else 1)
        row |= {
            "perturbing": perturbing,
            "trigger_epoch": first if first is not None and row["epoch"] >= first - 1 else None,
            "gradient_evaluations": gradients,
        }
        if perturbing:
            row["perturbed_loss"] = loss
        else:
            row |= {"train_loss": loss, "generalization_gap": row["val_loss"] - loss}
        if first is not None and row["epoch"] == first - 1:
            row |= statistics
        rows.append(row)
    return rows


def _at_firing(known: Named, told: Told) -> dict[str, float | None]:
    """The statistic and the threshold; the author's Δ_base has been multiplied by μ already."""
    statistic, threshold = told.fired.get("delta"), told.fired.get("delta_base")
    if isinstance(known.optimizer.trigger, VarianceTrigger):
        statistic, initial = told.fired.get("grad_var"), told.fired.get("init_grad_var")
        threshold = None if initial is None else known.optimizer.trigger.gamma * initial
    return {"trigger_statistic": statistic, "trigger_threshold": threshold}


def _outcome(told: Told, known: Named, classes: int | None) -> Outcome:
    """As our guard would call its end."""
    losses = (*told.curves["train_loss"], *told.curves["valid_loss"])
    if not all(map(math.isfinite, losses)):
        return Outcome.DIVERGED
    level = chance((_HELD_OUT // classes,) * classes) if classes else None
    if level and all(value <= level.bound for value in told.curves["valid_acc"][-PATIENCE:]):
        return Outcome.COLLAPSED
    return Outcome.USER_STOPPED if told.epochs < known.epochs else Outcome.COMPLETED
