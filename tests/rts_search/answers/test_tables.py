"""`tables`: which table a configuration belongs in, and how the tables are written."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from rts_search.answers.paper_tables import schedule, table_of, tables
from rts_search.answers.typeset import FORMS, typeset
from tests.rts_search.answers.recorded import PUGD, SGD, record, trial
from tests.rts_search.cli.calling import cli
from trainables.schedules import Schedule

GOLDEN = Path(__file__).with_name("golden")
ISIN = {"strategy": "isin", "beta_min": 0.01, "beta_max": 2.0}
SIN = {"strategy": "sin", "beta_min": 0.0, "beta_max": 1.0}
FIRST = {"name": "epoch", "epoch": 1}
VARIANCE = {"name": "variance", "gamma": 0.2, "k": 10}


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """All tables on digits at T 10, a scale table at T 20, and what belongs in none."""
    rows = [
        trial("t0", {"radius": ISIN}, 0.9412, test_accuracy=0.9312),
        trial("t1", {"radius": {"strategy": "cos", "beta_min": 0.5, "beta_max": 10}}, 0.91),
        trial("t2", {"scale": SIN}, 0.88, selected_on="test"),
        trial("t3", {"radius": ISIN, "scale": SIN}, 0.93, gradient_evaluations=1234),
        trial("t4", {"trigger": VARIANCE}, 0.90, trigger_epoch=4),
        trial("t5", {"trigger": {"name": "epoch", "fraction": 0.5}}, 0.89, trigger_epoch=6),
        trial("t6", {"trigger": {"name": "gap", "mu": 2.0}}, 0.85),
        trial("t7", {"radius": ISIN, "trigger": VARIANCE}, 0.92, trigger_epoch=3),
        trial("t8", {"family": "sam"}, 0.90),
        trial("t9", {"trigger": VARIANCE, "after": {"lr_factor": 0.1}}, 0.90),
        trial(
            "t10", {"radius": 2.0, "trigger": {"name": "epoch", "epoch": 1}}, 0.8, trigger_epoch=1
        ),
        trial("t11", {"radius": 3.0}, 0.99, outcome="stopped"),
        trial("t12", {"scale": SIN}, 0.95, train={"epochs": 20}),
        trial("sgd", SGD, 0.86, control="sgd", gradient_evaluations=50),
        trial("sgd.1", SGD, 0.87, control="sgd", gradient_evaluations=50, train={"lr": 0.05}),
        trial("sgd-2x", SGD, 0.88, control="sgd-2x", train={"epochs": 20}),
        trial("pugd", PUGD, 0.89, control="pugd"),
    ]
    record(tmp_path, "paper", rows)
    more = [trial("run0", {"radius": ISIN}, 0.9432, seed=43)]
    more += [trial("run1", {"radius": ISIN}, 0.9, seed=44, outcome="diverged")]
    more += [trial("run2", {"trigger": VARIANCE}, 0.92, seed=43, trigger_epoch=5)]
    more += [trial("run3", {"trigger": VARIANCE}, 0.91, seed=44)]
    record(tmp_path, "more", more)
    return tmp_path


@pytest.mark.parametrize(("form", "suffix"), [*zip(FORMS, ("md", "tex", "csv"), strict=True)])
def test_the_tables_are_as_they_were(storage: Path, form: str, suffix: str) -> None:
    done = cli("tables", "paper", "more", "--format", form, "--storage", storage)
    assert (done.code, done.err) == (0, "")
    golden = GOLDEN / f"tables.{suffix}"
    assert done.out == golden.read_text("utf-8")


@pytest.mark.parametrize(
    ("optimizer", "columns", "table"),
    [
        ({"radius": ISIN}, {}, "radius"),
        ({"radius": 0.5}, {}, "radius"),
        ({"scale": 0.0}, {}, "scale"),
        ({"radius": ISIN, "scale": SIN}, {}, "radius + scale"),
        ({"trigger": VARIANCE}, {}, "timing"),
        ({"trigger": FIRST}, {"trigger_epoch": 1}, "pugd"),
        ({}, {}, "pugd"),
        (PUGD, {}, "pugd"),
        (SGD, {}, "sgd"),
        ({"trigger": {"name": "never"}, "radius": ISIN}, {}, "sgd"),
        ({"family": "asam"}, {}, "ASAM"),
        ({"scale": SIN, "trigger": VARIANCE}, {}, "with both a trigger and schedules"),
        (
            {"trigger": VARIANCE, "after": {"anneal": "own"}},
            {},
            "with an lr of their own once they have fired",
        ),
        ({}, {"family": None}, "of an unknown family"),
        ({}, {"config_trigger": None}, "without a known schedule or trigger"),
        ({}, {"config_radius_strategy": "spiral"}, "without a known schedule or trigger"),
    ],
)
def test_the_table_of_a_configuration(
    optimizer: dict[str, Any], columns: dict[str, Any], table: str
) -> None:
    row = dict.fromkeys(["config_after_lr_factor", "config_after_anneal"])
    assert table_of(row | trial("t0", optimizer, 0.9, **columns)) == table


@pytest.mark.parametrize("asked", [ISIN, SIN, 1.0, 0.3, {**ISIN, "strategy": "icos"}])
def test_a_schedule_told_by_its_ends_is_the_papers(asked: Any) -> None:
    row = trial("t0", {"radius": asked}, 0.9)
    expected = Schedule.model_validate(asked)
    assert schedule(row, "radius") == expected
    for name in ("strategy", "beta_min", "beta_max"):
        row[f"config_radius_{name}"] = None
    by_ends = schedule(row, "radius")
    assert by_ends is not None
    assert by_ends.strategy == expected.strategy
    assert by_ends.beta_min == pytest.approx(expected.beta_min)
    assert by_ends.beta_max == pytest.approx(expected.beta_max)


def test_triggers_are_told_without_the_configuration_too(storage: Path) -> None:
    rows = [trial("run0", {"trigger": VARIANCE}, 0.9, trigger_epoch=4) | {"config_json": None}]
    folder = record(storage, "columns", rows)
    (group,) = tables([folder]).groups
    assert group.parts[0].entries[0].trigger == ("variance", "γ 0.2 k 10")


def test_settings_that_differ_within_a_table_have_a_column(storage: Path) -> None:
    rows = [trial("t0", {"radius": ISIN}, 0.9), trial("t1", {"radius": 2}, 0.8, train={"lr": 0.05})]
    found = typeset(tables([record(storage, "lrs", rows)]), "markdown")
    assert "| strategy | β_min | β_max | lr | final val accuracy (%) |" in found
    assert "| constant | 2 | 2 | 0.05 | 80.00 | 100 |" in found


def test_over_the_test_set(storage: Path) -> None:
    done = cli("tables", "paper", "--metric", "test_accuracy", "--storage", storage)
    assert "| isin | 0.01 | 2 | 93.12 | 100 |" in done.out
    assert "nothing was chosen by it" in done.out
    assert "In no table, without a test_accuracy: paper/t12, paper/t3, " in done.out


def test_nothing_of_a_ledger_breaks_a_table(storage: Path) -> None:
    data = {"name": "a|b\n## x & y_$%:f", "train_size": 300}
    folder = record(storage, "odd", [trial("t0", {"radius": ISIN}, 0.9, data=data)])
    found = {form: typeset(tables([folder]), form) for form in FORMS}
    assert "## data a\\|b \\#\\# x & y\\_$%:f (300 images), model cnn, T 10\n" in found["markdown"]
    assert r"a|b \#\# x \& y\_\$\%:f (300 images)" in found["latex"]
    (row,) = csv.DictReader(io.StringIO(found["csv"]))
    assert (row["radius_strategy"], row["mean"], row["n"]) == ("isin", "0.9", "1")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["paper", "--format", "word"], "unknown format 'word'"),
        (["paper", "--metric", "luck"], "unknown metric 'luck'"),
        (
            ["paper", "--where", "family = 'sam'"],
            "no configuration that has completed belongs",
        ),
        (["paper", "lossy"], "different objectives, val_accuracy, val_loss"),
    ],
)
def test_mistakes_are_one_line(storage: Path, arguments: list[str], said: str) -> None:
    record(storage, "lossy", [trial("t0", {"radius": ISIN}, 0.4, objective="val_loss")])
    done = cli("tables", *arguments, "--storage", storage)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert done.err.count("\n") == 1
