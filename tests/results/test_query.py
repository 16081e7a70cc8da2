"""Which trials are best, how the sweeps stand, and finding one trial."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from results.ledger import Ledger
from results.query import Firing, find_trial, list_sweeps, sweep_summary, trial_curve
from results.ranking import METRICS, Ranking, best, rankings
from results.statistics import config_without_seed
from results.storage import SweepFolder
from tests.results.builders import epoch_row, trial_row
from trainables.config import OptimizerConfig, TrainConfig, TrialConfig
from trainables.schedules import AfterConfig

NAN = float("nan")


def store(storage: Path, trials: list[dict[str, Any]], sweep: str = "s") -> None:
    with Ledger(SweepFolder(storage, sweep)) as ledger:
        for number, trial in enumerate(trials):
            ledger.put_trial(trial_row(f"t{number}", **{"number": number, **trial}))


def names(ranking: Ranking) -> list[str]:
    return [row["trial_id"] for row in ranking.trials]


def test_the_best_completed_by_final_accuracy_not_the_luckiest_epoch(tmp_path: Path) -> None:
    store(
        tmp_path,
        [
            {"final_val_accuracy": 0.90, "best_val_accuracy": 0.99},
            {"final_val_accuracy": 0.92, "best_val_accuracy": 0.93},
            {"final_val_accuracy": 0.99, "outcome": "stopped"},
            {"final_val_accuracy": NAN},
            {"final_val_accuracy": None},
            {"final_val_accuracy": 0.95, "control": "pugd", "number": None},
            {"final_val_accuracy": 0.80, "control": "sgd", "number": None},
            {"final_val_accuracy": 0.98, "control": "sgd", "number": None, "outcome": "running"},
        ],
    )
    ranking = best(tmp_path)
    assert names(ranking) == ["t1", "t0"]
    assert ranking.ranked == 2
    assert [row["control"] for row in ranking.controls] == ["pugd", "sgd"]
    assert "ranked" not in ranking.trials[0].keys() | ranking.controls[0].keys()
    assert names(best(tmp_path, metric="best_val_accuracy", top=1)) == ["t0"]
    everything = best(tmp_path, include_all=True, top=2)
    assert names(everything) == ["t2", "t1"]
    assert everything.ranked == 3
    assert len(everything.controls) == 3


def test_no_trial_yet(tmp_path: Path) -> None:
    store(tmp_path, [{"outcome": "running"}])
    assert best(tmp_path) == Ranking("final_val_accuracy", False, 0, [], [])


def test_ties_go_to_the_cheaper_then_the_earlier(tmp_path: Path) -> None:
    same = {"final_val_accuracy": 0.9}
    store(
        tmp_path,
        [
            {**same, "gradient_evaluations": 20},
            {**same, "gradient_evaluations": 10, "number": 11},
            {**same, "gradient_evaluations": 10, "number": 9},
            {**same, "gradient_evaluations": None},
        ],
    )
    assert names(best(tmp_path)) == ["t2", "t1", "t0", "t3"]


def test_costs_and_losses_sort_upwards(tmp_path: Path) -> None:
    store(tmp_path, [{"gradient_evaluations": 20}, {"gradient_evaluations": 10}])
    ranking = best(tmp_path, metric="gradient_evaluations")
    assert ranking.lower_is_better
    assert names(ranking) == ["t1", "t0"]
    assert all(METRICS[m] for m in METRICS if "loss" in m or "seconds" in m or "gap" in m)
    assert not any(METRICS[m] for m in METRICS if "accuracy" in m)


@settings(max_examples=8, deadline=None)
@given(st.lists(st.lists(st.floats(0, 10), min_size=1, max_size=45), min_size=1, max_size=4))
def test_an_epochs_metric_is_the_mean_of_the_last_twentieth(curves: list[list[float]]) -> None:
    with tempfile.TemporaryDirectory() as storage:
        expected = {}
        with Ledger(SweepFolder(storage, "s")) as ledger:
            for n, curve in enumerate(curves):
                trial, total = f"t{n}", len(curve)
                ledger.put_trial(trial_row(trial, number=n))
                ledger.add_epoch(epoch_row(trial, 50, rung=0, val_loss=100.0))
                for epoch, loss in enumerate(curve, 1):
                    row = epoch_row(trial, epoch, rung=1, val_loss=loss)
                    ledger.add_epoch({**row, "total_epochs": total})
                tail = curve[-max(1, total // 20) :]
                expected[trial] = math.fsum(tail) / len(tail)
        ranking = best(storage, metric="final_val_loss")
        found = {row["trial_id"]: row["final_val_loss"] for row in ranking.trials}
        assert found == pytest.approx(expected)
        values = list(found.values())
        assert values == sorted(values)


@pytest.mark.parametrize("metric", ["test_accuracy", "test_loss", "best_test_accuracy"])
def test_the_test_set_is_not_for_choosing(tmp_path: Path, metric: str) -> None:
    with pytest.raises(ValueError, match=f"not ranked by {metric}: a choice made on the test set"):
        best(tmp_path, metric=metric)


def test_unfit_arguments(tmp_path: Path) -> None:
    store(tmp_path, [{"final_val_accuracy": 0.9}])
    with pytest.raises(ValueError, match="did you mean 'final_val_accuracy'"):
        best(tmp_path, metric="final_val_acuracy")
    with pytest.raises(ValueError, match="top must be at least 1, not 0"):
        best(tmp_path, top=0)


def test_where_chooses_trials_and_spares_controls(tmp_path: Path) -> None:
    store(
        tmp_path,
        [
            {"final_val_accuracy": 0.9, "config_lr": 0.1, "config_model": "cnn"},
            {"final_val_accuracy": 0.8, "config_lr": 0.2, "config_model": "mlp"},
            {"final_val_accuracy": 0.7, "config_lr": 0.3, "config_model": "mlp"},
            {"final_val_accuracy": 0.6, "config_lr": 0.3, "control": "sgd", "number": None},
        ],
    )
    ranking = best(tmp_path, where="config_lr > 0.1 AND config_model = 'mlp' -- the small one")
    assert names(ranking) == ["t1", "t2"]
    assert len(ranking.controls) == 1
    assert names(best(tmp_path, where="config_lr < 0.2 OR config_lr > 0.2")) == ["t0", "t2"]
    assert names(best(tmp_path, where="trial_id NOT IN (SELECT trial_id FROM epochs)")) == [
        "t0",
        "t1",
        "t2",
    ]


@pytest.mark.parametrize(
    "where",
    [
        "config_lr >",
        "1 = 1) OR (1 = 1",
        "1 = 1; DROP TABLE trials",
        "true) UNION SELECT * FROM trials --",
        "config_lr > 0, true",
        "",
        "learning_rate > 1",
        "count(*) > 1",
        "'x'",
        "trial_id IN (SELECT a FROM read_csv('/etc/passwd'))",
    ],
)
def test_where_is_one_condition(tmp_path: Path, where: str) -> None:
    store(tmp_path, [{"final_val_accuracy": 0.9}])
    with pytest.raises(ValueError, match=r"^(where|SQL)") as error:
        best(tmp_path, where=where)
    assert "\n" not in str(error.value)


def test_the_best_of_several_sweeps(tmp_path: Path) -> None:
    store(tmp_path, [{"final_val_accuracy": 0.8}, {"final_val_accuracy": 0.9}], "a")
    store(tmp_path, [{"final_val_accuracy": 0.9}, {"final_val_accuracy": 0.7}], "b")
    ranked = [(row["sweep"], row["trial_id"]) for row in best(tmp_path, top=3).trials]
    assert ranked == [("a", "t1"), ("b", "t0"), ("a", "t0")]
    assert names(best(tmp_path, "b")) == ["t0", "t1"]


def test_how_a_sweep_stands(tmp_path: Path) -> None:
    store(
        tmp_path,
        [
            {"final_val_accuracy": 0.9, "config_trigger": "gap", "trigger_epoch": 3},
            {"final_val_accuracy": 0.8, "config_trigger": "gap", "gradient_evaluations": 5},
            {"outcome": "stopped", "config_trigger": "epoch", "trigger_epoch": 1},
            {"outcome": "diverged", "gradient_evaluations": 7, "final_val_accuracy": NAN},
            {"control": "sgd", "number": None, "config_trigger": "never"},
        ],
    )
    with Ledger(SweepFolder(tmp_path, "s")) as ledger:
        for epoch in range(1, 4):
            ledger.add_epoch(epoch_row("t0", epoch))
    SweepFolder(tmp_path, "empty").write("spec.yaml", b"")
    summary = sweep_summary(tmp_path, "s")
    assert summary.epochs == 3
    assert summary.gradient_evaluations == 12
    assert summary.best is not None
    assert summary.best["trial_id"] == "t0"
    assert summary.firing == {"epoch": Firing(1, 1), "gap": Firing(1, 2)}
    assert summary.firing["gap"].share == 0.5
    empty, listing = list_sweeps(tmp_path)
    assert listing == summary.listing
    assert listing.outcomes == {"completed": 2, "stopped": 1, "diverged": 1}
    assert (listing.trials, listing.controls, listing.best) == (4, 1, 0.9)
    assert listing.updated is not None
    assert (empty.name, empty.trials, empty.best, empty.updated) == ("empty", 0, None, None)
    assert sweep_summary(tmp_path, "empty").best is None
    assert list_sweeps(tmp_path / "nothing") == []


def test_finding_a_trial(tmp_path: Path) -> None:
    store(tmp_path, [{}] * 12, "a")
    store(tmp_path, [{}], "b")
    assert find_trial(tmp_path, "t2")["number"] == 2
    assert find_trial(tmp_path, "t1", "a")["number"] == 1  # a whole name beats a beginning
    assert find_trial(tmp_path, "t10")["sweep"] == "a"
    with pytest.raises(ValueError, match="'t0' may be t0 in a, t0 in b: give"):
        find_trial(tmp_path, "t0")
    with pytest.raises(ValueError, match=r"'t' may be .*, …: give its whole name"):
        find_trial(tmp_path, "t")
    with pytest.raises(ValueError, match=r"unknown trial 't-10': did you mean 't10'\?"):
        find_trial(tmp_path, "t-10")


def test_a_trials_curve(tmp_path: Path) -> None:
    with Ledger(SweepFolder(tmp_path, "s")) as ledger:
        for rung, epoch in [(1, 2), (0, 1), (1, 1)]:
            ledger.add_epoch(epoch_row("t0", epoch, rung))
        ledger.put_trial(trial_row("t0"))
        ledger.put_trial(trial_row("t1"))
    curve = trial_curve(tmp_path, "s", "t0")
    assert [(r["rung"], r["epoch"]) for r in curve.to_pylist()] == [(0, 1), (1, 1), (1, 2)]
    assert trial_curve(tmp_path, "s", "t1").num_rows == 0
    with pytest.raises(ValueError, match="unknown trial 't'"):
        trial_curve(tmp_path, "s", "t")


def test_of_a_climb_the_last_rung_counts(tmp_path: Path) -> None:
    """Costs of the run alone, and epoch metrics, are those of the rung reached."""
    with Ledger(SweepFolder(tmp_path, "s")) as ledger:
        for rung, total in ((0, 2), (1, 40)):
            for epoch in range(1, total + 1):
                key = {"rung": rung, "total_epochs": total, "train_seconds": 2.0}
                loss = {"gradient_evaluations": 10 * epoch, "val_loss": float(epoch)}
                ledger.add_epoch({**epoch_row("t0", epoch), **key, **loss})
        totals = {"epochs": 42, "gradient_evaluations": 420, "final_val_accuracy": 0.9}
        ledger.put_trial(trial_row("t0", number=0, total_epochs=40, train_seconds=84.0, **totals))
    (row,) = best(tmp_path, metric="run_gradient_evaluations").trials
    assert (row["run_gradient_evaluations"], row["gradient_evaluations"]) == (400, 420)
    (row,) = best(tmp_path, metric="run_train_seconds").trials
    assert (row["run_train_seconds"], row["train_seconds"]) == (80.0, 84.0)
    (row,) = best(tmp_path, metric="final_val_loss").trials
    assert row["final_val_loss"] == 39.5  # the last two of 40
    summary = sweep_summary(tmp_path, "s")
    assert (summary.epochs, summary.gradient_evaluations) == (42, 420)


def test_the_objective_ranks_lists_and_sums_up_with_its_direction(tmp_path: Path) -> None:
    by_loss = [
        {"final_val_accuracy": accuracy, "objective": "val_loss", "final_objective": loss}
        for accuracy, loss in ((0.9, 0.5), (0.7, 0.1), (0.8, 0.3))
    ]
    store(tmp_path, by_loss, "losses")
    with Ledger(SweepFolder(tmp_path, "losses")) as ledger:
        for number, row in enumerate(by_loss):
            ledger.add_epoch(epoch_row(f"t{number}", 20, val_loss=row["final_objective"]))
    ranking = best(tmp_path, "losses")
    assert (ranking.metric, ranking.lower_is_better) == ("final_val_loss", True)
    assert ranking.objective == "val_loss"
    assert names(ranking) == ["t1", "t2", "t0"]
    assert names(best(tmp_path, metric="final_val_accuracy")) == ["t0", "t2", "t1"]
    assert best(tmp_path, metric="final_val_accuracy").objective is None
    (listing,) = list_sweeps(tmp_path)
    assert (listing.objective, listing.best) == ("val_loss", 0.1)
    summary = sweep_summary(tmp_path, "losses")
    assert summary.best is not None
    assert (summary.best["trial_id"], summary.best["final_objective"]) == ("t1", 0.1)


def test_different_objectives_are_never_in_one_list(tmp_path: Path) -> None:
    store(tmp_path, [{"final_val_accuracy": 0.9}], "earlier")  # as version 3 wrote it
    store(tmp_path, [{"objective": "train_accuracy", "final_objective": 0.3}], "b")
    with Ledger(SweepFolder(tmp_path, "b")) as ledger:
        ledger.add_epoch(epoch_row("t0", 20, train_accuracy=0.3))
    assert [(each.metric, each.sweeps) for each in rankings(tmp_path)] == [
        ("final_train_accuracy", ["b"]),
        ("final_val_accuracy", ["earlier"]),
    ]
    earlier, _ = sorted(list_sweeps(tmp_path), key=lambda each: each.name, reverse=True)
    assert (earlier.name, earlier.objective, earlier.best) == ("earlier", "val_accuracy", 0.9)
    with pytest.raises(ValueError, match="where data, model, T and objective agree, not here: b: "):
        best(tmp_path)


def config(
    width: int = 8,
    size: int = 100,
    epochs: int = 9,
    seed: int = 1,
    lr: float = 0.1,
    **data: float,
) -> dict[str, Any]:
    content = {
        "data": {"name": "digits", "validation_fraction": 0.1, "validation_seed": 0, **data},
        "model": {"name": "mlp", "args": {"width": width}},
        "train": {"epochs": epochs, "seed": seed, "lr": lr},
    }
    columns = {"data": "digits", "train_size": size, "model": "mlp", "seed": seed}
    told = {f"config_{key}": value for key, value in columns.items()}
    return {**told, "config_json": json.dumps(content), "total_epochs": epochs}


def test_sweeps_are_ranked_together_where_data_model_and_length_agree(tmp_path: Path) -> None:
    for place, (name, changes) in enumerate(
        {
            "a": {},
            "b": {"lr": 0.2, "label_noise": 0.0, "label_noise_seed": 0},  # later than "a"
            "noisy": {"label_noise": 0.4, "label_noise_seed": 0},
            "wide": {"width": 9},
            "more": {"size": 200},
            "long": {"epochs": 27},
        }.items()
    ):
        sgd = {**config(epochs=18), "control": "sgd-2x", "number": None, "final_val_accuracy": 0.5}
        store(tmp_path, [{"final_val_accuracy": place / 10, **config(**changes)}, sgd], name)
    groups = {tuple(each.sweeps): len(each.trials) for each in rankings(tmp_path)}
    assert groups == {("a", "b"): 2, **{(name,): 1 for name in ("noisy", "wide", "more", "long")}}
    assert len(best(tmp_path, ["a", "b"]).controls) == 2  # of another T, and in its sweep
    with pytest.raises(ValueError, match=r"long: data digits \(100 images\), model mlp, T 27"):
        best(tmp_path, ["a", "long"])
    # single runs have settings of their own; what one sweep searches is compared
    store(tmp_path, [{**config(), "number": None, "final_val_accuracy": 0.9}], "runs")
    assert best(tmp_path, ["a", "runs"]).sweeps == ["a", "runs"]
    searched = [{"final_val_accuracy": w / 10, **config(w)} for w in (1, 2, 3)]
    store(tmp_path, searched, "widths")
    assert names(best(tmp_path, "widths")) == ["t2", "t1", "t0"]


def test_runs_of_one_configuration_are_one_row(tmp_path: Path) -> None:
    # the last one is the third again, on the same seed: it tells nothing of chance
    runs = [(0.91, 8, 1), (0.80, 8, 2), (0.90, 16, 1), (0.70, 8, 3), (0.90, 16, 1)]
    trials = [{"final_val_accuracy": value, **config(w, seed=s)} for value, w, s in runs]
    store(tmp_path, trials)
    ranking = best(tmp_path)
    assert (ranking.ranked, names(ranking)) == (5, ["t2", "t0"])  # by the mean over the seeds
    single, several = ranking.trials
    assert (single["seeds"], single["mean"], single["deviation"]) == (1, 0.9, None)
    assert several["seeds"] == 3
    assert several["mean"] == pytest.approx(0.80333, abs=1e-5)
    assert several["deviation"] == pytest.approx(0.10504, abs=1e-5)


def test_a_run_of_an_earlier_version_is_of_the_same_configuration(tmp_path: Path) -> None:
    def run(seed: int, after: dict[str, Any] | None) -> dict[str, Any]:
        rule = AfterConfig.model_validate(after or {})
        whole = TrialConfig(optimizer=OptimizerConfig(after=rule), train=TrainConfig(seed=seed))
        content = json.loads(whole.model_dump_json())
        if after is None:  # an earlier version knew no such setting
            del content["optimizer"]["after"]
            del content["data"]["label_noise"], content["data"]["label_noise_seed"]
            del content["data"]["residence"]
        text = json.dumps(content, separators=(",", ":"))
        assert after is None or text == whole.model_dump_json()
        return config(seed=seed) | {"config_json": text}

    runs = [run(1, None), run(2, {}), run(3, {"lr_factor": 2})]
    store(tmp_path, [{"final_val_accuracy": 0.9, **each} for each in runs])
    assert [(t["trial_id"], t["seeds"]) for t in best(tmp_path).trials] == [("t0", 2), ("t2", 1)]


def test_where_the_images_lay_makes_no_other_configuration(tmp_path: Path) -> None:
    texts = [
        TrialConfig(train=TrainConfig(seed=seed)).placed(residence=where).model_dump_json()
        for seed, where in ((1, "auto"), (2, "stream"))
    ]
    store(
        tmp_path,
        [
            {"final_val_accuracy": 0.9, **config(seed=s), "config_json": t}
            for s, t in zip((1, 2), texts, strict=True)
        ],
    )
    assert [t["seeds"] for t in best(tmp_path).trials] == [2]
    assert config_without_seed(texts[0]) == config_without_seed(texts[1])
