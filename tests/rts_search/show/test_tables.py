"""The ledger on a terminal: rankings, curves, and a configuration in a few words."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from results.database import query
from results.ledger import Ledger
from results.pareto import pareto
from results.query import find_trial, list_sweeps, sweep_summary, trial_curve
from results.ranking import best, rankings
from results.schema import TRIALS, check_row
from results.soundness import Audited, Correlation, Rank, Rung, Soundness
from results.storage import SweepFolder
from rts_search.show import ranking, tables
from rts_search.show.console import prose
from rts_search.show.tables import BARS, WIDTH, describe_trial, sparkline
from rts_search.trials.rows import config_columns, epoch_row, progress_columns
from trainables import metrics as reported
from trainables.config import TrialConfig

T = 4


def make_trial(
    name: str,
    rule: dict[str, Any],
    accuracy: float = 0.9,
    outcome: str = "completed",
    epochs: int = T,
    **values: Any,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A trial's epochs, whose accuracy rises to `accuracy`, and its row, as a sweep writes them."""
    train = {"epochs": T, "lr": 0.05, **values.pop("train", {})}
    config = TrialConfig.model_validate({"optimizer": rule, "train": train})
    history = [asdict(metrics(epoch, accuracy * epoch / epochs)) for epoch in range(1, epochs + 1)]
    if outcome == "completed":
        history[-1]["test"] = asdict(reported.TestMetrics(0.3, accuracy - 0.1, 0.4, accuracy))
    row = {
        "trial_id": name,
        "number": None if values.get("control") else int(name[1:]),
        "family": config.optimizer.family,
        "outcome": outcome,
        "total_epochs": T,
        "started": datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC),
        "ended": datetime(2026, 1, 1, 12, 1, 40, tzinfo=UTC),
        "updated": datetime(2026, 1, 1, 12, 1, 40, tzinfo=UTC),
        "params": "{}",
        **progress_columns(history),
        **config_columns(config),
        **values,
    }
    return history, row


def add_trial(ledger: Ledger, name: str, rule: dict[str, Any], *details: Any, **more: Any) -> None:
    history, row = make_trial(name, rule, *details, **more)
    for epoch in history:
        ledger.add_epoch(epoch_row(name, epoch))
    ledger.put_trial(row)


def metrics(epoch: int, accuracy: float) -> reported.EpochMetrics:
    return reported.EpochMetrics(
        epoch=epoch,
        total_epochs=T,
        rung=0,
        lr=0.05 / epoch,
        train_loss=2.0 / epoch,
        train_accuracy=accuracy,
        perturbed_loss=None if epoch == 1 else 2.5 / epoch,
        loss_rise=None if epoch == 1 else 0.5 / epoch,
        val_loss=2.1 / epoch,
        val_accuracy=accuracy,
        generalization_gap=0.1,
        radius=1.0,
        scale=1.0,
        perturbing=epoch > 1,
        trigger_statistic=None,
        trigger_threshold=None,
        trigger_epoch=2,
        gradient_evaluations=1000 * epoch,
        train_seconds=1.0,
        eval_seconds=0.1,
        epoch_seconds=1.1,
        images_per_second=100.0,
        peak_memory_bytes=None,
    )


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("storage"))


def write_demo(folder: Path) -> Path:
    with Ledger(SweepFolder(folder, "demo")) as ledger:
        add_trial(ledger, "t0000", {"family": "rts", "radius": 2}, 0.91)
        add_trial(ledger, "t0001", {"family": "pugd"}, 0.95)
        add_trial(ledger, "t0002", {"family": "sam"}, 0.4, "stopped", 2)
        add_trial(ledger, "t0003", {"family": "rts"}, 0.1, "failed", 1, message="OSError: [full]")
        add_trial(ledger, "sgd", {"family": "sgd"}, 0.9, control="sgd")
    return folder


def text(show: Callable[..., None], *values: Any) -> list[str]:
    console = Console(file=io.StringIO(), record=True, width=160)
    show(console, *values)
    return [line.rstrip() for line in console.export_text().splitlines() if line.strip()]


def test_the_ranking_stands_above_its_controls(storage: Path) -> None:
    lines = text(ranking.print_ranking, best(storage))
    verdict, trust, header, *body = lines
    assert verdict == (
        "t0001 is the best of 2 trials by final_val_accuracy, 0.9500: +5.00 to sgd, in points."
    )
    assert trust == "No second seed has run. The best of many is lucky."
    assert " ".join(header.split()) == ("trial final val test gradients configuration")
    rows = [line.split() for line in body]
    assert rows[0] == ["t0001", "0.9500", "0.8500", "4,000", "pugd"]
    assert rows[1][:5] == ["t0000", "0.9100", "0.8100", "4,000", "rts"]
    assert rows[2] == ["sgd", "0.9000", "0.8000", "4,000", "sgd", "T", "4"]


def test_an_arm_of_controls_is_its_best_and_untuned_is_said(tmp_path: Path) -> None:
    """PUGD has had one try, with another lr than that of the best trial; SAM with the same."""
    with Ledger(SweepFolder(tmp_path, "s")) as ledger:
        tuned = {"lr": 0.3}
        add_trial(ledger, "t0000", {"family": "rts"}, 0.91, train=tuned)
        for number, accuracy in enumerate((0.9, 0.92, 0.5)):
            name = f"sgd.{number}" if number else "sgd"
            tried = {"lr": 0.1 * (number + 1)}
            add_trial(ledger, name, {"family": "sgd"}, accuracy, control="sgd", train=tried)
        add_trial(ledger, "pugd", {"family": "pugd"}, 0.88, control="pugd")
        add_trial(ledger, "sam", {"family": "sam"}, 0.8, control="sam", train=tuned)
    lines = text(ranking.print_ranking, best(tmp_path))
    gains = "-1.00 to sgd (best of 3), +3.00 to pugd (untuned), +11.00 to sam"
    assert lines[0].endswith(f"0.9100: {gains}, in points.")
    # another trial had another lr: SAM's was searched too, though the best one has SAM's
    with Ledger(SweepFolder(tmp_path, "s")) as ledger:
        add_trial(ledger, "t0001", {"family": "rts"}, 0.6, train={"lr": 0.2})
    again = text(ranking.print_ranking, best(tmp_path))
    assert again[0].endswith(f"0.9100: {gains} (untuned), in points.")
    named = [line.split()[0] for line in lines if " T 4" in line]
    assert named == ["sgd.1", "pugd", "sam"]


def test_the_ranking_of_all_tells_outcomes(storage: Path) -> None:
    lines = text(ranking.print_ranking, best(storage, include_all=True))
    assert any("t0002 (stopped)" in line for line in lines)
    assert any("t0003 (failed)" in line for line in lines)


def test_another_metric_gets_its_column(storage: Path) -> None:
    lines = text(ranking.print_ranking, best(storage, metric="final_val_loss"))
    assert "final val loss" in lines[2]
    assert "points of accuracy" not in " ".join(lines)


def test_a_ranking_of_nothing_says_so(tmp_path: Path) -> None:
    with Ledger(SweepFolder(tmp_path, "young")) as ledger:
        add_trial(ledger, "t0000", {"family": "rts"}, 0.4, "running", 2)
    lines = text(ranking.print_ranking, best(tmp_path))
    assert "no trial has completed its whole schedule yet" in " ".join(lines)


def test_sweeps_are_told_apart(tmp_path: Path) -> None:
    with Ledger(SweepFolder(write_demo(tmp_path), "other")) as ledger:
        add_trial(ledger, "t0000", {"family": "rts"}, 0.99)
    lines = text(ranking.print_ranking, best(tmp_path))
    assert lines[2].split()[0] == "sweep"
    assert [line.split()[0] for line in lines if "  t000" in line] == ["other", "demo", "demo"]
    assert "in points" not in " ".join(lines)  # that sweep has no controls


def test_a_summary(storage: Path) -> None:
    lines = text(tables.print_summary, sweep_summary(storage, "demo"))
    assert lines[0] == "demo: 4 trials (2 completed, 1 stopped, 1 failed) and 1 controls"
    assert lines[1] == "spent: 15 epochs, 15,000 gradient evaluations, 1 min 40 s"
    assert lines[2] == "triggers that fired: always 4/4"
    assert lines[3] == "best: t0001, val_accuracy 0.9500"


def test_the_listing(tmp_path: Path) -> None:
    with Ledger(SweepFolder(write_demo(tmp_path), "young")) as ledger:
        add_trial(ledger, "t0000", {"family": "rts"}, 0.4, "running", 1)
    lines = [line for line in text(tables.print_listings, list_sweeps(tmp_path)) if "─" not in line]
    assert " ".join(lines[1].split()) == (
        "demo 4 1 val_accuracy 0.9500 2 completed, 1 stopped, 1 failed 2026-01-01 12:01"
    )
    assert lines[2].split()[:4] == ["young", "1", "0", "–"]


def test_a_trial_with_its_curves(storage: Path) -> None:
    row = find_trial(storage, "t0000", "demo")
    lines = text(tables.print_trial, row, trial_curve(storage, "demo", "t0000").to_pylist())
    assert lines[0] == "t0000 of demo: rts, completed after 4 epochs, T = 4"
    assert lines[1] == "rts radius 2 · scale 1 · always"
    told = {line.split()[0]: line.split()[1:] for line in lines[2:]}
    assert told["final_val_accuracy"] == ["0.9100"]
    assert told["test_accuracy"] == ["0.8100"]
    assert told["val_accuracy"] == ["0.2275", "→", "0.91", "▁▃▆█"]
    assert told["train_loss"][:3] == ["2", "→", "0.5"]
    assert told["loss_rise"] == ["0.25", "→", "0.125", "█▃▁"]


def test_a_climb_is_shown_by_rung(tmp_path: Path) -> None:
    history, row = make_trial("t0000", {"family": "rts"})
    short = [{**epoch, "total_epochs": 2, "trigger_epoch": None} for epoch in history[:2]]
    with Ledger(SweepFolder(tmp_path, "s")) as ledger:
        for epoch in (*short, *({**epoch, "rung": 1} for epoch in history)):
            ledger.add_epoch(epoch_row("t0000", epoch))
        ledger.put_trial({**row, "epochs": 6})
    curve = trial_curve(tmp_path, "s", "t0000").to_pylist()
    lines = text(tables.print_trial, find_trial(tmp_path, "t0000"), curve)
    assert lines[0] == "t0000 of s: rts, completed after 6 epochs, T = 4"
    rungs = [line for line in lines if line.startswith("rung")]
    assert rungs == [
        "rung 0: epoch 2 of T = 2, final val_accuracy 0.4500, trigger not fired  ▁█",
        "rung 1: epoch 4 of T = 4, final val_accuracy 0.9000, trigger fired at epoch 2  ▁▃▆█",
    ]
    for name in ("total_epochs", "val_accuracy"):  # a null: not of ours
        strange = [{**curve[0], name: None}, {**curve[1], name: None}, *curve[2:]]
        told = "\n".join(text(tables.print_trial, find_trial(tmp_path, "t0000"), strange))
        assert "final val_accuracy –, trigger not fired" in told
    (whole,) = [line for line in lines if line.startswith("val_accuracy")]
    assert whole.split()[1:] == ["0.225", "→", "0.9", "▁▃▆█"]  # of the rung reached


def test_the_audit_in_words() -> None:
    few, equal = Correlation(2), Correlation(5)
    rungs = (Rung(0, 3, 20, few, equal), Rung(1, 9, 8, few, Correlation(6, 0.5, -0.1, 0.9)))
    lost = Audited("t7", "completed", (Rank(14, 20), None), Rank(1, 6), 0)
    open_ended = Audited("t9", "running", (Rank(2.5, 20), None), None, None)
    report = Soundness("s", 20, 6, rungs, (lost, open_ended), 1, 1)
    assert text(tables.print_soundness, report) == [
        "audit: 2 trials went on whatever the stopper said, and 1 completed; it would have ended 1 "
        "of 2, and 1 of the 1 best in the end",
        "  after 3 epochs (20 trials): rank correlation with the end not told by fewer than 4 "
        "(n = 2); among all completed, survivors only, undefined, all are equal (n = 5)",
        "  after 9 epochs (8 trials): rank correlation with the end not told by fewer than 4 "
        "(n = 2); among all completed, survivors only, 0.50 (-0.10 to 0.90, n = 6)",
        "  t7: rank 14 of 20 after 3, – after 9; 1 of 6 in the end, would have ended at rung 0",
    ]
    nowhere = Soundness("s", 6, 6, (), (Audited("t7", "completed", (), Rank(1, 6), None),), 0, 0)
    assert text(tables.print_soundness, nowhere)[-1] == "  t7: 1 of 6 in the end"
    nobody = Soundness("s", 20, 6, (), (), 0, 0)
    (line,) = text(tables.print_soundness, nobody)
    assert line.startswith("audit: no trial was audited yet; raise stop.audit")


def test_the_front_with_its_controls(storage: Path) -> None:
    said, header, *lines = text(ranking.print_front, pareto(storage))
    assert said.startswith("1 of 2 completed trials are on the front of final_val_accuracy")
    assert " ".join(header.split()) == (
        "trial run gradient evaluations final val test configuration"
    )
    assert [line.split() for line in lines] == [
        ["t0001", "4,000", "0.9500", "0.8500", "pugd"],
        [
            *("sgd", "4,000", "0.9000", "0.8000", "sgd", "T", "4"),
            "(control,",
            "beaten",
            "by",
            "t0001)",
        ],
    ]


def test_fronts_of_several_sweeps_tell_them_apart(tmp_path: Path) -> None:
    with Ledger(SweepFolder(write_demo(tmp_path), "other")) as ledger:
        add_trial(ledger, "t0000", {"family": "rts"}, 0.95)
    lines = text(ranking.print_front, pareto(tmp_path))
    assert lines[1].split()[0] == "sweep"
    assert [line.split()[0] for line in lines if "  t000" in line][:2] == ["demo", "other"]


def test_a_failed_trial_tells_why(storage: Path) -> None:
    row = find_trial(storage, "t0003", "demo")
    assert "OSError: [full]" in text(tables.print_trial, row, [])


@pytest.mark.parametrize(
    ("rule", "values", "words"),
    [
        ({"family": "sgd"}, {}, "sgd"),
        ({"family": "pugd"}, {}, "pugd"),
        ({"family": "sam"}, {}, "sam ρ 0.05"),
        ({"family": "asam", "rho": 2}, {}, "asam ρ 2"),
        ({"family": "rts"}, {}, "rts radius 1 · scale 1 · always"),
        (
            {
                "family": "rts",
                "radius": {"alpha_start": 100, "alpha_end": 0.5, "shape": "inverse"},
                "scale": {"alpha_start": 0.5, "alpha_end": 1},
                "trigger": {"name": "variance", "gamma": 0.1, "k": 20},
            },
            {"trigger_epoch": 3},
            "rts radius isin 100→0.5 · scale sin 0.5→1 · variance γ 0.1 k 20 (fired 3)",
        ),
        (
            {"family": "rts", "trigger": {"name": "cosine", "kappa": 0.3}},
            {"trigger_epoch": None},
            "sgd: rts radius 1 · scale 1 · cosine κ 0.3 k 10 (not fired)",
        ),
        (
            {"family": "rts", "trigger": {"name": "gap", "mu": 3}},
            {"trigger_epoch": 7},
            "rts radius 1 · scale 1 · gap μ 3 (fired 7)",
        ),
        (
            {"family": "rts", "trigger": {"name": "epoch", "fraction": 0.5}},
            {"trigger_epoch": 3},
            "rts radius 1 · scale 1 · epoch at 0.5 (fired 3)",
        ),
        (
            {"family": "rts", "trigger": {"name": "never"}},
            {},
            "rts radius 1 · scale 1 · never",
        ),
        ({"family": "pugd"}, {"params": '{"pugd_lr": 0.05}'}, "pugd lr 0.05"),
        (
            {"family": "rts", "after": {"lr_factor": 0.25}},
            {},
            "rts radius 1 · scale 1 · always · then lr ×0.25",
        ),
        (
            {
                "family": "rts",
                "radius": 0.5,
                "trigger": {"name": "epoch", "fraction": 0.75},
                "after": {"anneal": "own"},
            },
            {
                "params": '{"trigger_left": 0.25, "after_lr_factor": 1.0, "after_anneal": "own", '
                '"radius_alpha": 0.5, "scale_alpha": 1.0}',
                "trigger_epoch": 4,
            },
            "rts radius 0.5 · scale 1 · epoch at 0.75 (fired 4) · then lr ×1, own anneal",
        ),
        (
            {"family": "rts"},
            {"params": '{"lr": 0.05, "batch_size": 128}'},
            "rts radius 1 · scale 1 · always · lr 0.05 · batch_size 128",
        ),
        ({"family": "sgd"}, {"control": "sgd"}, "sgd T 4"),
        (
            {"family": "rts"},
            {"params": '{"width": 64, "drop": 0.12345, "head_lr": 1, "act": "gelu", "rts_lr": 1}'},
            "rts radius 1 · scale 1 · always · lr 0.05 · width 64 · drop 0.123 · head_lr 1"
            " · act gelu",
        ),
        (
            {"family": "rts"},  # told already, by what they set
            {"params": '{"radius_alpha_start": 1, "scale_shape": "plain", "trigger_mu": 2}'},
            "rts radius 1 · scale 1 · always",
        ),
    ],
)
def test_a_configuration_in_a_few_words(
    rule: dict[str, Any], values: dict[str, Any], words: str
) -> None:
    _, row = make_trial("t0000", rule, **values)
    assert describe_trial(check_row({"sweep": "s", **row}, TRIALS)) == words


def test_sparkline() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([5, None, 1, float("nan"), float("inf"), 3]) == "█ ▁  ▅"
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([None, float("nan")]) == ""
    assert sparkline([]) == ""


VALUES = st.floats(-1e9, 1e9) | st.sampled_from([None, float("nan"), float("inf"), -float("inf")])


@given(st.lists(VALUES, max_size=200))
def test_a_sparkline_is_short_and_keeps_order(values: list[float | None]) -> None:
    line = sparkline(values)
    assert len(line) in (0, min(len(values), WIDTH))
    assert set(line) <= set(BARS)
    if len(values) == len(line):
        known = [(v, BARS.index(c)) for v, c in zip(values, line, strict=True) if c != " "]
        ranked = sorted(known, key=lambda pair: pair[0])  # type: ignore[arg-type,return-value]
        assert [bar for _, bar in ranked] == sorted(bar for _, bar in known)


def test_any_rows() -> None:
    rows = [{"list[n]": "a", "value": 0.123456789}, {"list[n]": "[b] [/x]", "value": None}]
    lines = text(tables.print_rows, ["list[n]", "value"], rows)
    assert [line.split() for line in lines if "─" not in line] == [
        ["list[n]", "value"],
        ["a", "0.123457"],
        ["[b]", "[/x]", "–"],
    ]


def test_many_columns_are_set_in_blocks(storage: Path) -> None:
    """`SELECT * FROM trials` at 80 columns."""
    found = query(storage, "SELECT * FROM trials ORDER BY trial_id")
    console = Console(file=io.StringIO(), record=True, width=80)
    tables.print_rows(console, found.column_names, found.to_pylist())
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert all(len(line) <= 80 for line in lines)
    assert sum(line.startswith("─ row ") for line in lines) == 5
    values = [line.split() for line in lines[: lines.index(next(x for x in lines if "row 2" in x))]]
    assert ["trial_id", "sgd"] in values
    assert ["final_val_accuracy", "0.9"] in values
    assert not any(words[:1] == ["message"] for words in values)  # null
    (start,) = [line for line in lines if line.startswith("config_json")][:1]
    assert start.split()[1].startswith('{"data":')


@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_all_right_on_a_few_images_is_not_certain(tmp_path: Path, accuracy: float) -> None:
    split = {"classes": 2, "validation_images": 20}
    with Ledger(SweepFolder(tmp_path, "s")) as ledger:
        add_trial(ledger, "t0000", {"family": "rts"}, accuracy, **split)
    assert "measure it to ± 4.66 points" in text(ranking.print_ranking, best(tmp_path))[1]


def test_a_verdict_tells_what_is_measured_of_chance(tmp_path: Path) -> None:
    """The deviation of 4,000 images at 83.5 % is 0.59 points; three seeds have another one."""
    split = {"classes": 10, "validation_images": 4000}
    with Ledger(SweepFolder(tmp_path, "s")) as ledger:
        add_trial(ledger, "t0000", {"family": "rts"}, 0.835, **split)
        add_trial(ledger, "sgd", {"family": "sgd"}, 0.83, control="sgd", **split)
    lines = text(ranking.print_ranking, best(tmp_path))
    assert lines[1] == (
        "4,000 validation images measure it to ± 0.59 points (one standard deviation); less than "
        "1.7 may be chance; no second seed has run. The best of many is lucky."
    )
    with Ledger(SweepFolder(tmp_path, "s")) as ledger:
        for seed, accuracy in ((43, 0.825), (44, 0.845)):
            _, row = make_trial(f"t00{seed}", {"family": "rts"}, accuracy, **split)
            config = TrialConfig.model_validate_json(row["config_json"])
            train = config.train.model_copy(update={"seed": seed})
            other = config_columns(config.model_copy(update={"train": train}))
            ledger.put_trial({**row, **other})
    lines = text(ranking.print_ranking, best(tmp_path))
    assert lines[0].startswith(
        "t0044 is the best of 3 trials by final_val_accuracy, 0.8350 on 3 seeds"
    )
    assert "3 runs of one configuration on other seeds deviate by 1.00 points" in lines[1]
    assert lines[3].split()[:6] == ["t0044", "0.8350", "±", "0.0100", "(3", "seeds)"]
    # they count where they are not among the top, too
    with Ledger(SweepFolder(tmp_path, "s")) as ledger:
        add_trial(ledger, "t0001", {"family": "pugd"}, 0.9, **split)
    lines = text(ranking.print_ranking, best(tmp_path, top=1))
    assert "3 runs of one configuration on other seeds deviate by 1.00 points" in lines[1]


def test_rankings_that_do_not_compare_have_headings(tmp_path: Path) -> None:
    for name, changes in (("short", {}), ("long", {"total_epochs": 9})):
        with Ledger(SweepFolder(tmp_path, name)) as ledger:
            add_trial(ledger, "t0000", {"family": "rts"}, **changes)
    lines = text(ranking.print_rankings, rankings(tmp_path))
    headings = [line for line in lines if line.startswith("data ")]
    assert headings == [
        "data digits, model cnn, T 4: short",
        "data digits, model cnn, T 9: long",
    ]


def test_a_loss_is_compared_as_a_loss(tmp_path: Path) -> None:
    def of(loss: float) -> dict[str, Any]:
        return {"objective": "val_loss", "final_objective": loss}

    with Ledger(SweepFolder(tmp_path, "s")) as ledger:
        add_trial(ledger, "t0000", {"family": "rts"}, 0.5, **of(0.525))  # as its epochs have it
        add_trial(ledger, "sgd", {"family": "sgd"}, 0.9, control="sgd", **of(0.525))
    lines = text(ranking.print_ranking, best(tmp_path))
    assert lines[0] == ("t0000 is the best of 1 trial by final_val_loss, 0.5250: 0.0000 above sgd.")


def test_prose_wraps_at_words_and_keeps_paths_whole() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=40)
    path = "/a/very/long/path/that/is/wider/than/the/terminal/is"
    prose(console, f"  ledger [b] {path} is kept, and so on and so on")
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        "  ledger [b]",
        f"    {path}",
        "    is kept, and so on and so on",
    ]
