"""A search begins with what was imported."""

from __future__ import annotations

import json
import math
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial

from results.storage import SweepFolder
from results.trials import read_trials
from rts_search.search.checks import search_space
from rts_search.search.known import COLUMNS
from rts_search.search.plan import open_study
from rts_search.search.warm_start import POINTS, warm_start
from rts_search.spec.folder import read_spec
from rts_search.spec.model import SweepSpec
from rts_search.spec.reading import load_spec
from tests.rts_search.importing.imports import author_file, run_import, trials
from trainables.config import TrialConfig

SPEC = """
name: new
space: radius
search: {also: {lr: [0.01, 1.0]}, warm_start: [old], sampler: tpe, controls: false}
train: {epochs: 6}
stop: {policy: none}
"""


def spec_of(tmp_path: Path, *overrides: str) -> SweepSpec:
    file = tmp_path / "spec.yaml"
    file.write_text(SPEC)
    return load_spec(file, [f"storage={tmp_path / 'sweeps'}", *overrides])


def goal(trial: optuna.Trial) -> float:
    """The larger the first radius, the better; in the spec's space."""
    first = trial.suggest_float("radius_alpha_start", 0.01, 100, log=True)
    trial.suggest_float("radius_alpha_end", 0.01, 100, log=True)
    trial.suggest_categorical("radius_shape", ["plain", "inverse"])
    trial.suggest_float("rts_lr", 0.01, 1.0, log=True)
    return 0.6 + 0.05 * math.log10(first)


def study_of(tmp_path: Path, count: int = 40) -> Path:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = tmp_path / "study.db"
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(
        storage=f"sqlite:///{path}", direction="maximize", study_name="s", sampler=sampler
    )
    study.optimize(goal, n_trials=count)
    return path


def first_proposals(
    spec: SweepSpec, count: int
) -> tuple[list[dict[str, object]], list[FrozenTrial]]:
    folder = SweepFolder(spec.storage_path, spec.name)
    study, _ = open_study(spec, read_trials(folder, [*COLUMNS, spec.search.objective]))
    known = list(study.study.trials[: study.first])
    found = [study.ask() for _ in range(count)]
    return [each.params for each in found if each is not None], known


def test_with_the_spec_that_it_was_for_its_values_count(tmp_path: Path) -> None:
    """TPE goes on where the imported study was: its first proposals are already good ones."""
    study = study_of(tmp_path)
    spec = spec_of(tmp_path)
    done = run_import(tmp_path / "sweeps", study, "--spec", tmp_path / "spec.yaml")
    assert (done.code, done.err) == (0, "")
    row = next(iter(trials(tmp_path / "sweeps").values())).row
    config = TrialConfig.model_validate_json(row["config_json"])
    assert config.train.epochs == row["total_epochs"] == 6
    assert config.train.lr == json.loads(row["params"])["rts_lr"] == row["config_lr"]
    (line,) = warm_start(spec, search_space(spec)).lines
    assert line == "warm start: 40 trials of old (40 complete)"
    proposed, known = first_proposals(spec, 10)
    assert len(known) == 40
    assert [t.value for t in known] == [
        t.row["final_objective"] for t in trials(tmp_path / "sweeps").values()
    ]
    warm = sorted(float(params["radius_alpha_start"]) for params in proposed)  # type: ignore[arg-type]
    cold_spec = spec_of(tmp_path, "search.warm_start=[]", "name=cold")
    cold = sorted(float(p["radius_alpha_start"]) for p in first_proposals(cold_spec, 10)[0])  # type: ignore[arg-type]
    assert warm[5] > 5 > cold[5]  # the middle one of ten


def test_without_it_the_best_points_come_first(tmp_path: Path) -> None:
    assert run_import(tmp_path / "sweeps", study_of(tmp_path, 12)).code == 0
    spec = spec_of(tmp_path)
    found = warm_start(spec, search_space(spec))
    assert (len(found.known), len(found.points)) == (0, POINTS)
    assert found.lines[0].startswith(f"warm start: the {POINTS} best points of old come first; ")
    best = max(trials(tmp_path / "sweeps").values(), key=lambda t: float(t.row["final_objective"]))
    assert found.points[0] == best.params
    assert first_proposals(spec, 1)[0] == [best.params]


def test_runs_of_the_author_lead_to_points_by_their_configurations(tmp_path: Path) -> None:
    folder = tmp_path / "cifar_10"
    author_file(folder, "pugdr_cos_2.0_0.5_6", [0.5, 0.6, 0.7, 0.8, 0.85, 0.9])
    author_file(folder, "pugd_6", [0.5, 0.6, 0.7, 0.7, 0.7, 0.8])
    author_file(folder, "pugds_cos_2.0_0.5_6", [0.5, 0.6, 0.7, 0.8, 0.9, 0.95])  # no radius
    author_file(folder, "pugdr_cos_2.0_0.0_6", [0.5, 0.6, 0.7, 0.8, 0.9, 0.96])  # α = 0
    assert run_import(tmp_path / "sweeps", folder).code == 0
    spec = spec_of(tmp_path, "search.also={}")
    found = warm_start(spec, search_space(spec))
    ends = [(p["radius_alpha_start"], p["radius_alpha_end"]) for p in found.points]
    assert (found.known, ends) == ([], [(2.0, 0.5), (1.0, 1.0)])
    (line,) = found.lines
    assert "the 2 best points of old come first" in line
    assert "2 trials lie outside of the space" in line
    assert "the test set chose among 2 of its trials" in line


def test_figures_on_the_test_set_are_never_observations(tmp_path: Path) -> None:
    study = study_of(tmp_path, 8)
    spec = spec_of(tmp_path)
    run_import(tmp_path / "sweeps", study, "--spec", tmp_path / "spec.yaml", "--on-test")
    found = warm_start(spec, search_space(spec))
    assert (found.known, len(found.points)) == ([], POINTS)


def test_another_objective_is_not_guessed(tmp_path: Path) -> None:
    run_import(
        tmp_path / "sweeps",
        study_of(tmp_path, 8),
        "--spec",
        spec_of(tmp_path) and tmp_path / "spec.yaml",
    )
    spec = spec_of(tmp_path, "search.objective=val_loss")
    assert warm_start(spec, search_space(spec)).known == []


def test_what_is_no_sweep_is_still_refused(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    with pytest.raises(ValueError, match="no sweep at"):
        warm_start(spec, search_space(spec))
    assert run_import(tmp_path / "sweeps", study_of(tmp_path, 8)).code == 0
    with pytest.raises(ValueError, match="no sweep at"):
        read_spec(SweepFolder(spec.storage_path, "old"))
