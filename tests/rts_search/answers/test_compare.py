"""`compare`: which runs a side stands for, what is told of them, and what is said against it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scipy import stats

from rts_search.answers.compare import Comparison, compare
from tests.rts_search.answers.recorded import PUGD, SGD, record, trial
from tests.rts_search.cli.calling import cli

RTS = {"family": "rts", "radius": 0.5}
SLOW = {"family": "rts", "radius": 0.1, "trigger": {"name": "epoch", "epoch": 8}}


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """A sweep, some of its configurations on other seeds, and single runs elsewhere."""
    rows = [
        trial("t0", RTS, 0.90, test_accuracy=0.70),
        trial("t1", PUGD, 0.80, test_accuracy=0.95),
        trial("t2", SLOW, 0.70),
        trial("t3", SLOW, 0.0, seed=7, outcome="stopped"),
        trial("sgd", SGD, 0.75, control="sgd", gradient_evaluations=50),
        trial("sgd.1", SGD, 0.85, control="sgd", gradient_evaluations=50, train={"lr": 0.05}),
    ]
    record(tmp_path, "demo", rows)
    single = [trial(f"run{n}", RTS, 0.8 + n / 50, seed=n) for n in range(4)]
    single += [trial(f"run{n}", SGD, 0.7 + n / 25, seed=n - 4) for n in range(4, 6)]
    record(tmp_path, "single", single)
    return tmp_path


def names(found: Comparison) -> list[str]:
    return [side.name for side in found.sides]


def note(found: Comparison, word: str) -> str:
    (line,) = [line for line in found.notes if word in line]
    return line


def test_a_sweep_is_its_best_by_the_objective_whatever_it_is_compared_over(storage: Path) -> None:
    found = compare(["demo"], str(storage), metric="test_accuracy", top=2)
    assert [side.values for side in found.sides] == [[0.70], [0.95]]
    assert names(found) == ["demo/t0", "demo/t1"]
    assert note(found, "reported").startswith("test_accuracy is reported here, and nothing was")
    assert note(found, "chosen from") == (
        "chosen from 3 configurations by the objective of the very runs that are shown, and so too "
        "good (rts-search confirm tests the best on new seeds): demo/t0, demo/t1"
    )


def test_runs_of_one_configuration_are_one_side_with_welchs_interval(storage: Path) -> None:
    found = compare(["single"], str(storage))
    rts, sgd = found.sides[1], found.sides[0]  # 0.88 against 0.83
    assert (names(found), rts.seeds, sgd.seeds) == (
        ["single/run4", "single/run0"],
        [*range(4)],
        [0, 1],
    )
    a, b = [0.8, 0.82, 0.84, 0.86], [0.86, 0.9]
    theirs = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert rts.difference is not None
    assert rts.difference.half_width is not None
    assert rts.difference.mean - rts.difference.half_width == pytest.approx(theirs.low)
    assert rts.difference.mean + rts.difference.half_width == pytest.approx(theirs.high)
    assert sgd.difference is None
    assert note(found, "seeds") == "seeds differ: 0, 1 (single/run4); 0, 1, 2, 3 (single/run0)"
    assert not [line for line in found.notes if "chosen" in line]  # all are shown


def test_an_arm_is_its_best_and_a_trial_all_runs_of_its_configuration(storage: Path) -> None:
    found = compare(["demo/sgd", "demo/sgd.1", "single/run2", "demo/t1"], str(storage))
    assert [side.runs for side in found.sides] == [
        *(["sgd.1"], ["sgd.1"], ["run0", "run1", "run2", "run3"], ["t1"])
    ]
    assert [side.chosen_from for side in found.sides] == [2, None, None, 3]
    assert note(found, "gradient").startswith("gradient evaluations differ, 50 to 100 a run")
    assert note(found, "one seed").endswith("spread: demo/sgd, demo/sgd.1, demo/t1")


def test_what_was_confirmed_is_told_by_its_new_seeds_alone(storage: Path) -> None:
    more = [trial(f"c{n}", RTS, 0.82, seed=n, stage="confirm", arm="winner") for n in range(3)]
    more += [trial(f"s{n}", SGD, 0.80, seed=n, stage="confirm", arm="sgd") for n in range(3)]
    more += [trial("u0", {**SGD}, 0.99, stage="tune", arm="sgd", train={"lr": 1.0})]
    more += [trial("x0", RTS, 0.99, seed=9, stage="curve", arm="at-3")]
    record(storage, "demo", more)
    found = compare(["demo/t0", "demo/winner", "demo/sgd"], str(storage))
    assert [side.runs for side in found.sides] == [
        *(["c0", "c1", "c2"], ["c0", "c1", "c2"], ["s0", "s1", "s2"])
    ]
    assert not [line for line in found.notes if "chosen from" in line or "seeds differ" in line]
    assert note(found, "runs after the choice only").endswith(
        "chosen: demo/t0, demo/winner, demo/sgd"
    )
    assert compare(["demo"], str(storage), top=1).sides[0].runs == ["c0", "c1", "c2"]


def test_several_conditions_make_several_sides(storage: Path) -> None:
    where = ["config_trigger = 'always'", "config_trigger = 'epoch'"]
    found = compare(["demo"], str(storage), where=where, top=1)
    assert names(found) == [f"demo/t0 where {where[0]}", f"demo/t2 where {where[1]}"]
    with pytest.raises(ValueError, match=r"where 'lr\)' is not a condition"):
        compare(["demo"], str(storage), where=["lr)"])


def test_a_path_is_a_sweep_if_there_is_one(storage: Path) -> None:
    found = compare([f"{storage}/demo", f"{storage}/demo/sgd"], "elsewhere", top=1)
    assert names(found) == ["demo/t0", "demo/sgd"]


def test_what_makes_a_comparison_unfair_is_said(storage: Path) -> None:
    other = [
        trial("sgd-2x", SGD, 0.8, control="sgd-2x", train={"epochs": 20}, data={"train_size": 300}),
        trial("t0", RTS, 0.9, selected_on="test"),
        trial("t1", PUGD, 0.8, seed=1),
        trial("t2", PUGD, 0.6, seed=1),
        trial("t3", PUGD, 0.9, seed=2),
        trial("t4", PUGD, 0.1, seed=3, outcome="collapsed"),
    ]
    record(storage, "other", other)
    found = compare(["demo/t0", "other/sgd-2x", "other/t0", "other/t1"], str(storage))
    assert note(found, "T differs") == (
        "T differs, so that the figures do not tell optimizers apart: 10 (demo/t0, other/t0, "
        "other/t1); 20 (other/sgd-2x)"
    )
    assert "train size differs" in note(found, "train size")
    assert note(found, "selected") == "selected on the test set, and so too good: other/t0"
    assert note(found, "nothing (1 collapsed)").endswith(": other/t1")
    assert found.sides[3].values == [pytest.approx(0.7), 0.9]
    assert note(found, "of one seed").endswith("mean: other/t1")


def test_runs_of_unknown_seeds_are_runs_each(tmp_path: Path) -> None:
    rows = [trial(f"run{n}", PUGD, value, config_seed=None) for n, value in enumerate((0.8, 0.9))]
    record(tmp_path, "theirs", rows)
    (side,) = compare(["theirs"], str(tmp_path)).sides
    assert (side.values, side.seeds) == ([0.8, 0.9], [None, None])
    for name, config in (("unknown", None), ("odd", "{no JSON")):
        record(tmp_path, name, [row | {"config_json": config} for row in rows])
        assert [side.values for side in compare([name], str(tmp_path)).sides] == [[0.9], [0.8]]


@pytest.mark.parametrize(
    ("sides", "options", "said"),
    [
        (["demo/t3"], [], "t3: stopped, so that it has no final_val_accuracy of all T"),
        (["demo/nobody"], [], "unknown trial 'nobody'"),
        (["no/where"], [], "'no/where' is neither a sweep's folder nor SWEEP/TRIAL or SWEEP/ARM"),
        (["demo"], ["--metric", "accuracy"], "unknown metric 'accuracy'"),
        (["demo"], ["--top", "0"], "top must be at least 1, not 0"),
        (["demo", "lossy"], [], "different objectives, val_accuracy, val_loss"),
    ],
)
def test_mistakes_are_one_line(
    storage: Path, sides: list[str], options: list[str], said: str
) -> None:
    record(storage, "lossy", [trial("t0", RTS, 0.4, objective="val_loss")])
    done = cli("compare", *sides, *options, "--storage", storage)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert done.err.count("\n") == 1


def test_the_table(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    done = cli("compare", "single/run0", "single/run4", "demo/sgd", "--storage", storage)
    assert (done.code, done.err) == (0, "")
    head, rts, sgd, one = done.out.splitlines()[2:6]
    assert head.split() == [
        *("n", "final_val_accuracy", "deviation", "95", "%", "interval", "difference", "gradients")
    ]
    assert rts.split()[:7] == ["single/run0", "4", "0.8300", "0.0258", "0.7889", "to", "0.8711"]
    assert sgd.split()[7] == "+5.00"
    assert one.split()[:6] == ["demo/sgd", "1", "0.8500", "–", "–", "+2.00"]
    as_json = cli("compare", "single/run0", "--storage", storage, "--json")
    (side,) = json.loads(as_json.out)["sides"]
    assert side["trial"]["trial_id"] == "run0"
    assert side["estimate"]["n"] == 4


def test_arms_on_an_object_store(s3_storage: str) -> None:
    rows = [trial("t0", RTS, 0.9), trial("sgd", SGD, 0.75, control="sgd")]
    folder = record(s3_storage, "demo", rows)
    found = compare([folder.uri, folder.uri_of("sgd")], "elsewhere", top=1)
    assert names(found) == ["demo/t0", "demo/sgd"]
