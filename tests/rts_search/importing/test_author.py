"""The author's runs: what their names say, and what was really run."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from results.schema import records
from rts_search.importing.names import named
from tests.rts_search.cli.calling import cli
from tests.rts_search.importing.imports import author_file, run_import, trials

DATA = Path(__file__).parents[4] / "shared" / "data"
TABLES = [DATA / f"author_{name}_cifar10.parquet" for name in ("runs", "curves")]
recorded = pytest.mark.skipif(not TABLES[0].exists(), reason="the author's tables are not here")


@pytest.mark.parametrize(
    ("name", "family", "model", "epochs", "radius", "scale", "trigger"),
    [
        ("org_400", "sgd", "upanets16", 400, (1, 1), (1, 1), "never"),
        ("org_10_bk", "sgd", "upanets16", 10, (1, 1), (1, 1), "never"),
        ("pugd_400", "pugd", "upanets16", 400, (1, 1), (1, 1), "always"),
        ("pugdr_cos_1.5_0.5_400", "radius", "upanets16", 400, (1.5, 0.5), (1, 1), "always"),
        ("pugdr_icos2_0.01_400", "radius", "upanets16", 400, (0.5, 100), (1, 1), "always"),
        ("pugds_sin_2.0_0.0_400", "scale", "upanets16", 400, (1, 1), (0, 2), "always"),
        (
            *("pugdrs_icos2_0.1_cos1.0_0.5_400", "radius_scale", "upanets16", 400),
            *((0.5, 10), (1, 0.5), "always"),
        ),
        # the published file of this name ran cos, and the fine-tuned ones no schedule at all
        ("pugdr_icos_2_0.01_400", "radius", "upanets16", 400, (2, 0.01), (1, 1), "always"),
        ("vit_pugdr_icos2_0.01_200", "radius", "vit", 200, (0.5, 0.5), (1, 1), "always"),
    ],
)
def test_what_a_name_says(
    name: str,
    family: str,
    model: str,
    epochs: int,
    radius: tuple[float, float],
    scale: tuple[float, float],
    trigger: str,
) -> None:
    found = named(name)
    rule = found.optimizer
    assert (found.family, found.model, found.epochs) == (family, model, epochs)
    assert (rule.radius.alpha_start, rule.radius.alpha_end) == pytest.approx(radius)
    assert (rule.scale.alpha_start, rule.scale.alpha_end) == pytest.approx(scale)
    assert rule.trigger.name == trigger
    assert bool(found.doubts) == (name in ("pugdr_icos_2_0.01_400", "vit_pugdr_icos2_0.01_200"))


def test_what_the_names_of_timing_runs_say() -> None:
    variance = named("pugdt_var_100init_t10.0gamma0.2_k10")
    assert variance.optimizer.trigger.model_dump() == {"name": "variance", "gamma": 0.2, "k": 10}
    assert not variance.doubts
    assert named("pugdt_var_100init_t20.0gamma0.2_k10").doubts
    gap = named("pugdt_delta_100xi10.0mu3_t3").optimizer.trigger.model_dump()
    assert (gap["mu"], gap["period"]) == (3.0, 3)


@pytest.mark.parametrize(
    "name",
    [
        *("pugd2_40", "samx1_40", "pugdcos_40", "pugdt_8_40", "pugdxe1_last_10", "pugd"),
        *("pugdr_tan_2_1_400", "pugdr_icos_2_0_400", "pugdr_sin_1_2_400", "org_0", ""),
    ],
)
def test_names_that_say_nothing(name: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        named(name)


def test_files_become_trials_and_epochs(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "cifar_10"
    rising = [0.3 + 0.01 * i for i in range(40)]
    author_file(folder, "pugd_40", rising)
    author_file(folder, "org_20", rising, images=40_000)
    fired = {"enable_pugd_epoch": 11, "delta_base": 0.125, "delta": 0.13}
    author_file(folder, "pugdt_delta_40xi4.0mu2_t3", rising, **fired)
    author_file(folder, "pugdt_var_40init_t4.0gamma0.2_k10", rising, enable_pugd_epoch=-1)
    author_file(folder, "pugdnew_40", rising)
    done = run_import(tmp_path / "sweeps", tmp_path / "results")
    assert (done.code, done.err) == (0, "")
    assert "imported 5 runs (200 epochs) as old" in done.out
    assert "4 were validated on the test set" in done.out
    assert "1 kept apart (stage unknown" in done.out
    assert "pugdnew_40" in done.out

    found = trials(tmp_path / "sweeps")
    pugd, sgd = found["pugd_40"], found["org_20"]
    assert pugd.row["source"] == str(folder / "pugd_40.json")
    assert pugd.row["final_val_accuracy"] == pytest.approx((rising[-1] + rising[-2]) / 2)
    assert (pugd.row["best_val_accuracy"], pugd.row["best_epoch"]) == (rising[-1], 40)
    assert (pugd.row["selected_on"], pugd.row["test_accuracy"]) == ("test", rising[-1])
    assert (pugd.row["family"], pugd.row["arm"], pugd.row["config_lr"]) == ("pugd", "pugd", 0.1)
    assert {row["train_loss"] for row in pugd.epochs} == {None}  # theirs is the perturbed one
    assert [row["perturbed_loss"] for row in pugd.epochs[:2]] == [2, 1.9]
    assert pugd.row["gradient_evaluations"] == 40 * 2 * 100

    # a fifth was held out, and it ran twice as long as it is named
    assert (sgd.row["selected_on"], sgd.row["test_accuracy"]) == (None, None)
    assert (sgd.row["total_epochs"], sgd.row["outcome"]) == (40, "completed")
    assert "its name says 20" in sgd.row["message"]
    assert sgd.row["gradient_evaluations"] == 40 * 80
    assert [row["train_loss"] for row in sgd.epochs[:2]] == [2, 1.9]

    # told is the epoch, from 0, at whose end it fired; Δ_base is μ times that already
    gap = found["pugdt_delta_40xi4.0mu2_t3"]
    assert (gap.row["trigger_epoch"], gap.row["gradient_evaluations"]) == (13, (12 + 2 * 28) * 100)
    at = gap.epochs[11]
    assert (at["perturbing"], at["train_loss"] is None) == (False, False)
    assert (at["trigger_statistic"], at["trigger_threshold"]) == (0.13, 0.125)
    assert (gap.epochs[12]["perturbing"], gap.epochs[12]["train_loss"]) == (True, None)
    assert found["pugdt_var_40init_t4.0gamma0.2_k10"].row["trigger_epoch"] is None

    # of one that nobody knows no search hears
    assert "pugdnew_40" not in found
    (unknown,) = trials(tmp_path / "sweeps", stage="unknown").values()
    assert (unknown.row["number"], unknown.row["config_json"], len(unknown.epochs)) == (
        None,
    ) * 2 + (40,)


def test_where_the_split_is_not_known_it_is_taken_for_the_test_set(tmp_path: Path) -> None:
    path = author_file(tmp_path / "tiny", "pugd_8", [0.1 + i / 90 for i in range(8)], images=91_003)
    run_import(tmp_path / "sweeps", path)
    (trial,) = trials(tmp_path / "sweeps").values()
    assert trial.row["selected_on"] == "test"
    assert "not known" in trial.row["message"]


def test_how_runs_end(tmp_path: Path) -> None:
    folder = tmp_path / "cifar_10"
    author_file(folder, "pugd_12", [0.1] * 12)
    author_file(folder, "pugd_20", [0.5] * 12)
    curve = [float("nan")] * 12
    author_file(folder, "pugdr_sin_2_1_12", [0.5] * 12, train={"loss": curve, "acc": [0.5] * 12})
    run_import(tmp_path / "sweeps", folder)
    found = {name: trial.row for name, trial in trials(tmp_path / "sweeps").items()}
    assert found["pugd_12"]["outcome"] == "collapsed"
    assert found["pugdr_sin_2_1_12"]["outcome"] == "diverged"
    short = found["pugd_20"]
    assert (short["outcome"], short["total_epochs"], short["epochs"]) == ("user_stopped", 20, 12)


@recorded
def test_the_published_tables(tmp_path: Path) -> None:
    began = time.monotonic()
    done = run_import(tmp_path, *TABLES)
    assert time.monotonic() - began < 20  # 2 s on an idle machine
    assert done.code == 0
    assert "imported 118 runs (27,647 epochs)" in done.out
    assert "88 were validated on the test set" in done.out
    assert "19 kept apart" in done.out
    found, apart = trials(tmp_path), trials(tmp_path, stage="unknown")
    assert (len(found), len(apart)) == (99, 19)
    for row in records(pq.read_table(TABLES[0])):
        trial = (found | apart)[Path(row["source_file"]).stem]
        assert trial.row["source"] == row["source_file"]
        assert trial.row["arm"] == row["family"]
        assert (trial.row["selected_on"] == "test") == row["eval_split"].startswith("test")
        assert (row["anomaly"] or "") in trial.row["message"]
        assert trial.row["best_val_accuracy"] == pytest.approx(row["best_acc"])
        assert len(trial.epochs) == row["n_epochs"]
        if row["family"] == "other":
            continue
        assert trial.row["gradient_evaluations"] == row["grad_evals"]
        for part in ("radius", "scale"):
            if row[f"{part}_strategy_eff"] is not None:
                ends = (trial.row[f"config_{part}_alpha_{end}"] for end in ("start", "end"))
                assert list(ends) == pytest.approx(
                    [row[f"{part}_alpha_start"], row[f"{part}_alpha_end"]]
                )


@recorded
def test_the_files_say_what_the_tables_do(tmp_path: Path) -> None:
    """The tables were made from such files, by hand: an importer of the files comes to the same."""
    curves: dict[str, list[dict[str, Any]]] = {}
    for row in records(pq.read_table(TABLES[1])):
        curves.setdefault(row["source_file"], []).append(row)
    told = ("enable_pugd_epoch", "init_grad_var", "grad_var", "delta_base", "delta")
    for run in records(pq.read_table(TABLES[0])):
        epochs = curves[run["source_file"]]
        content: dict[str, Any] = {
            part: {name: [row[f"{part}_{name}"] for row in epochs] for name in ("loss", "acc")}
            for part in ("train", "valid")
        }
        content |= {name: run[name] for name in told if run[name] is not None}
        path = tmp_path / run["source_file"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    assert run_import(tmp_path, tmp_path / "results", name="files").code == 0
    assert run_import(tmp_path, *TABLES, name="tables").code == 0
    own = ("sweep", "source", "message", "number", "updated", "config_json")  # or rounded
    for stage in (None, "unknown"):
        files, tables = (trials(tmp_path, name, stage) for name in ("files", "tables"))
        assert files.keys() == tables.keys()
        for name, trial in files.items():
            one, other = trial.row, tables[name].row
            for column in one:
                if column not in own:
                    expected = (
                        pytest.approx(other[column]) if _is_real(other[column]) else other[column]
                    )
                    assert one[column] == expected or column == "config_json", (name, column)
            drop = ("sweep",)
            for a, b in zip(trial.epochs, tables[name].epochs, strict=True):
                assert {k: v for k, v in a.items() if k not in drop} == {
                    k: v for k, v in b.items() if k not in drop
                }


def _is_real(value: Any) -> bool:
    return isinstance(value, float)


@recorded
def test_they_are_usable_and_labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    run_import(tmp_path, *TABLES)
    at = ("--storage", tmp_path)
    where = "config_model = 'upanets16' AND total_epochs = 400"
    best = cli("best", "old", "--where", where, "--top", 2, *at).out
    assert best.startswith("pugdr_icos_2_0.01_400 is the best of 44 trials")
    assert "Its validation set is the test set" in best
    assert "final val (on test)" in best
    assert "rts radius cos 2→0.01" in best
    rankings = json.loads(cli("best", "old", "--json", *at).out)["rankings"]
    for ranking in rankings:  # never both kinds in one list
        assert len({row["selected_on"] for row in ranking["trials"]}) == 1
    assert "(on test)" in " ".join(cli("list", *at).out.split())  # folded where it is narrow
    (listed,) = json.loads(cli("list", "--json", *at).out)["sweeps"]
    assert listed["on_test"] == 87
    status = cli("status", "old", *at).out
    assert "87 of its trials were validated on the test set" in status
    shown = cli("show", "old/pugdr_icos_2_0.01_400", *at).out
    assert "mislabelled: loss signature says radius=cos" in shown
    assert "0.9411 (on the test set)" in shown
    assert "imported from                results/cifar_10/pugdr_icos_2_0.01_400.json" in shown
    count = cli("query", "SELECT count(*) AS n FROM epochs", "--format", "csv", *at).out
    assert "27647" in count
    replay = cli("replay", "old", "--epochs", 400, "--replays", 5, *at)
    assert (replay.code, "44 configurations, T = 400" in replay.err) == (0, True)
    assert "validated on the test set" in replay.err
