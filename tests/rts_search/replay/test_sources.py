"""Curves read from ledgers and from users' files, the compact export, and the command."""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from results.ledger import Ledger
from results.storage import SweepFolder
from rts_search.cli import replay as cli_replay
from rts_search.replay.sources import export, from_files, from_sweeps
from rts_search.trials.rows import config_columns
from trainables.config import TrialConfig

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SHARED = Path(__file__).parents[4] / "shared" / "data"
AUTHORS = SHARED / "author_curves_cifar10.parquet"


def record(
    storage: Path,
    sweep: str,
    seed: int,
    totals: tuple[int, ...],
    outcomes: dict[int, str] | None = None,
    **train: Any,
) -> None:
    """A ledger of four configurations (by gap trigger), each run at every T of `totals`."""
    ledger = Ledger(SweepFolder(storage, sweep))
    for number in range(4):
        outcome = (outcomes or {}).get(number, "completed")
        trigger = {"name": "gap", "mu": 1.0 + number, "period": 3}
        config = TrialConfig.model_validate(
            {
                "train": {"epochs": totals[-1], "seed": seed, **train},
                "optimizer": {"family": "rts", "trigger": trigger},
            }
        )
        for rung, total in enumerate(totals):
            last = total == totals[-1] and outcome != "completed"
            for epoch in range(1, (total // 2 if last else total) + 1):
                ledger.add_epoch(
                    {
                        "trial_id": f"t{number}",
                        "rung": rung,
                        "epoch": epoch,
                        "total_epochs": total,
                        "val_accuracy": (number + 1) / 10 + epoch / 1000 + seed / 10_000,
                        "perturbing": False,
                        "gradient_evaluations": 5 * epoch,
                        "epoch_seconds": 2.0,
                        "time": NOW,
                    }
                )
        ledger.put_trial(
            {
                "trial_id": f"t{number}",
                "number": number,
                "family": "rts",
                "outcome": outcome,
                "seed": seed,
                "total_epochs": totals[-1],
                "updated": NOW,
                "params": f'{{"trigger_mu": {1.0 + number}}}',
                **config_columns(config),
            }
        )
    ledger.flush()


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    record(tmp_path, "short", 1, (9,))
    record(tmp_path, "long", 1, (27,), {3: "diverged"})
    record(tmp_path, "again", 2, (9, 27))  # both rungs in one sweep
    return tmp_path


def test_sweeps_that_differ_in_seed_and_length_are_one_table(storage: Path) -> None:
    curves = from_sweeps(storage)
    assert curves.configs == ["c000", "c001", "c002", "c003"]
    assert set(curves.runs) == {(9, 1), (27, 1), (9, 2), (27, 2)}
    assert curves.epochs == 27
    assert curves.seeds() == [1, 2]
    lost = curves.runs[27, 1]
    assert lost.length.tolist() == [27, 27, 27, 13]
    assert np.isnan(lost.final).tolist() == [False, False, False, True]
    assert lost.filled[3] == pytest.approx(0.4 + 0.013 + 0.0001)
    assert lost.clock[0, -1] == 54
    assert lost.gradients[0, -1] == 135
    assert curves.runs[9, 2].final[1] == pytest.approx(0.2 + 0.009 + 0.0002)


def test_runs_that_were_cut_short_are_no_runs(tmp_path: Path) -> None:
    record(tmp_path, "asha", 1, (9, 27), {0: "stopped", 1: "interrupted"})
    curves = from_sweeps(tmp_path)
    assert curves.configs == ["c002", "c003"]
    assert curves.notes == []


def test_seeds_and_lengths_that_are_incomplete_are_left_out_with_a_note(storage: Path) -> None:
    record(storage, "begun", 3, (27,), {0: "failed", 1: "failed", 2: "failed"})
    record(storage, "low", 3, (9,), {0: "failed"})
    curves = from_sweeps(storage)
    assert (27, 3) not in curves.runs
    assert curves.notes == [
        "seed 3 is left out: it has 1 of 4 runs of T = 27",
        "runs of T = 9 with seed 3 are left out: 1 of 4 configurations have none",
    ]


def test_export_is_compact_and_reads_as_the_sweeps_do(storage: Path, tmp_path: Path) -> None:
    path = tmp_path / "recorded.parquet"
    rows = export(storage, None, path)
    assert rows == 4 * 9 * 2 + 4 * 27 * 2 - 14
    schema = pq.read_schema(path)
    assert schema.field("val_accuracy").type == pa.float32()
    ours, theirs = from_files([path]), from_sweeps(storage)
    assert (ours.configs, ours.params) == (theirs.configs, theirs.params)
    for key, runs in theirs.runs.items():
        assert ours.runs[key].final == pytest.approx(runs.final, abs=1e-6, nan_ok=True)


def test_odd_sweeps_are_refused(storage: Path) -> None:
    with pytest.raises(ValueError, match="must be one of val_accuracy"):
        from_sweeps(storage, value="test_accuracy")
    with pytest.raises(ValueError, match="0 configurations have a run of T = 50"):
        from_sweeps(storage, epochs=50)
    record(storage, "twice", 1, (27,))
    with pytest.raises(ValueError, match="trained twice with seed 1 and T = 27"):
        from_sweeps(storage)


def test_a_users_file_needs_only_four_columns(tmp_path: Path) -> None:
    path = tmp_path / "mine.parquet"
    rows = [
        {"run": name, "budget": 4, "step": step, "acc": level * step}
        for name, level in (("a", 0.1), ("b", 0.2), ("long", 0.1))
        for step in range(1, 7 if name == "long" else 5)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    columns = {"config": "run", "total_epochs": "budget", "epoch": "step", "value": "acc"}
    curves = from_files([path], columns, where="run <> 'long'")
    assert curves.configs == ["a", "b"]
    assert curves.runs[4, 0].clock[0].tolist() == [1, 2, 3, 4]
    with pytest.raises(ValueError, match=r"'long' .* epochs 1–6 in 6 rows.*--where"):
        from_files([path], columns)
    with pytest.raises(ValueError, match="no column 'config'; name theirs with --column config="):
        from_files([path])
    with pytest.raises(ValueError, match="unknown column of the file 'runs': did you mean 'run'"):
        from_files([path], {"config": "runs"})
    with pytest.raises(ValueError, match="--where"):
        from_files([path], columns, where="nonsense = 1")
    with pytest.raises(ValueError, match="no file"):
        from_files([tmp_path / "none.parquet"])


@pytest.mark.skipif(not AUTHORS.exists(), reason="the author's curves are not here")
def test_the_authors_curves_load_by_their_own_names() -> None:
    columns = {"config": "source_file", "total_epochs": "epochs_total", "value": "valid_acc"}
    where = "model = 'upanets16' AND epochs_total = 400 AND family <> 'sgd'"
    curves = from_files([AUTHORS], columns, where)
    assert (len(curves.configs), list(curves.runs)) == (44, [(400, 0)])


LEGEND = ("random search", "none", "asha:schedule:3:9")


def test_the_command(storage: Path, tmp_path: Path) -> None:
    out, plot = tmp_path / "rows.csv", tmp_path / "plot.svg"
    arguments = ["--storage", str(storage), "--replays", "4", "--bootstrap", "2", "--markdown"]
    arguments += ["--policy", "none", "--policy", "asha:schedule:3:9", "--ranks"]
    shown = CliRunner().invoke(
        cli_replay.app, [*arguments, "-o", str(out), "--plot", str(plot)], catch_exceptions=False
    )
    assert shown.exit_code == 0
    assert "| asha:schedule:3:9 |" in shown.stdout
    assert "| complete T = 9 |" in shown.stdout
    assert "The best third spreads" in shown.stdout
    assert "4 configurations, T = 27, 2 seeds" in shown.stderr
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["policy"] for row in rows] == ["none", "asha:schedule:3:9"]
    assert float(rows[1]["share"]) < float(rows[0]["share"])
    drawn = [text.text for text in ElementTree.parse(plot).iter() if text.tag.endswith("text")]
    assert [text for text in drawn if text in LEGEND] == list(LEGEND)  # two policies, and random
    with pytest.raises(ValueError, match=r"drawn as \.png or \.svg"):
        CliRunner().invoke(
            cli_replay.app, [*arguments, "--plot", "plot.gif"], catch_exceptions=False
        )


def test_the_command_exports(storage: Path, tmp_path: Path) -> None:
    path = tmp_path / "small.parquet"
    arguments = ["--storage", str(storage), "short", "long", "--export", str(path)]
    shown = CliRunner().invoke(cli_replay.app, arguments, catch_exceptions=False)
    assert f"rows of curves in {path}" in shown.stdout
    assert len(from_files([path]).configs) == 4
