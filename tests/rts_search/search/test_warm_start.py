"""A sweep begins with what earlier ones have learnt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from optuna.trial import FrozenTrial

from results.ledger import Ledger
from results.storage import SweepFolder
from results.trials import read_trials
from rts_search.search.checks import search_space
from rts_search.search.known import COLUMNS, Told
from rts_search.search.plan import open_study
from rts_search.search.study import SearchStudy
from rts_search.search.warm_start import POINTS, warm_start
from rts_search.spec.folder import write_spec
from rts_search.spec.model import SweepSpec
from rts_search.spec.reading import apply_overrides, parse
from tests.contracts.sampler_contract import objective
from tests.results.builders import epoch_row, trial_row

OUTCOMES = ("completed", "stopped", "completed", "failed", "diverged", "running")
RUNGS = [2, 6]


def spec_of(storage: Path, name: str, *overrides: str) -> SweepSpec:
    content = {
        "name": name,
        "storage": str(storage),
        "space": "radius",
        "search": {"also": {"lr": [0.01, 1.0]}},
        "train": {"epochs": RUNGS[-1]},
        "stop": {"fidelity": "schedule", "first_rung": 2},
    }
    return parse(SweepSpec, apply_overrides(content, overrides))


def search_of(spec: SweepSpec) -> tuple[SearchStudy, list[str]]:
    """The search as the sweep's next driver makes it, and what it says of its warm start."""
    folder = SweepFolder(spec.storage, spec.name)
    return open_study(spec, read_trials(folder, [*COLUMNS, spec.search.objective]))


def sweep(spec: SweepSpec, trials: int = 12) -> SearchStudy:
    """A sweep that has ended: its spec and its ledger, and the study that proposed its trials."""
    (study, _), folder = search_of(spec), SweepFolder(spec.storage, spec.name)
    write_spec(folder, spec)
    with Ledger(folder) as ledger:
        ledger.put_trial(trial_row("sgd"))
        for _ in range(trials):
            proposal = study.ask()
            assert proposal is not None
            trial_id, outcome = f"t{proposal.number:04d}", OUTCOMES[proposal.number % 6]
            for rung, total in enumerate(RUNGS[: 1 if outcome == "stopped" else 2]):
                for epoch in range(1, total + 1):
                    value = objective(proposal.params) + rung + epoch / 100
                    ledger.add_epoch(
                        epoch_row(trial_id, epoch, rung)
                        | {"total_epochs": total, "val_accuracy": value, "val_loss": -value}
                        | {"gradient_evaluations": 10 * epoch, "train_seconds": 0.5}
                    )
            ledger.put_trial(
                trial_row(trial_id, outcome)
                | {"number": proposal.number, "params": json.dumps(proposal.params)}
                | {"config_json": proposal.config.model_dump_json(), "total_epochs": RUNGS[-1]}
            )
    return study


def observed(study: SearchStudy) -> list[FrozenTrial]:
    """What the sampler knows of earlier sweeps."""
    return list(study.study.trials[: study.first])


def names(spec: SweepSpec) -> list[str]:
    """Of the trials that are observations, in their order."""
    return [trial.name for trial in warm_start(spec, search_space(spec)).known]


def test_observations_are_taken_where_all_agrees(tmp_path: Path) -> None:
    old = sweep(spec_of(tmp_path, "old"))
    free = "search.seed=5", "train.device=cuda", "data.residence=stream"
    spec = spec_of(tmp_path, "new", "search.warm_start=[old]", *free)
    study, (line,) = search_of(spec)
    assert line == "warm start: 8 trials of old (4 complete, 2 pruned, 2 diverged or collapsed)"
    trials = observed(study)
    params = {trial.number: trial.params for trial in old.trials()}
    numbers = (0, 1, 2, 4, 6, 7, 8, 10)
    assert names(spec) == [f"old/t{number:04d}" for number in numbers]
    assert [t.params for t in trials] == [params[number] for number in numbers]
    assert [t.state.name for t in trials[:4]] == ["COMPLETE", "PRUNED", "COMPLETE", "PRUNED"]
    values = [objective(t.params) for t in trials]
    assert trials[0].value == pytest.approx(values[0] + 1.06)
    assert trials[0].intermediate_values == pytest.approx(
        {2: values[0] + 0.02, 6: values[0] + 1.06}
    )
    assert trials[1].value == pytest.approx(values[1] + 0.02)
    proposal = study.ask()
    assert proposal is not None
    assert (proposal.number, study.handed_out, len(study.trials())) == (0, 1, 1)


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe"])
def test_with_the_seed_of_the_earlier_sweep_all_is_new(tmp_path: Path, sampler: str) -> None:
    old = sweep(spec_of(tmp_path, "old", f"search.sampler={sampler}", "search.also={}"), 60)
    changes = ("search.warm_start=[old]", f"search.sampler={sampler}", "search.also={}")
    study, _ = search_of(spec_of(tmp_path, "new", *changes))
    known = [trial.params for trial in old.trials()]
    for _ in range(20):
        proposal = study.ask()
        assert proposal is not None
        assert proposal.params not in known
    assert study.left_out["known"] == 0


def test_a_grid_goes_on_with_what_is_left(tmp_path: Path) -> None:
    def grid(name: str, *changes: str) -> SweepSpec:
        grid = ("search.sampler=grid", "search.also={}", "space=baselines")
        return spec_of(tmp_path, name, *grid, *changes)

    old = sweep(grid("old"), 36)
    study, _ = search_of(grid("new", "search.warm_start=[old]"))
    total = study.remaining
    assert total is not None
    asked = []
    while (proposal := study.ask()) is not None:
        asked.append(proposal.params)
    assert study.left_out["known"] == 24  # two of three have ended, and not by chance
    assert len(asked) == study.handed_out == total - 24
    assert not [p for p in asked if p in (t.params for t in old.trials() if t.number % 6 < 3)]


def test_a_sweep_that_has_begun_goes_on_without_its_source(tmp_path: Path) -> None:
    sweep(spec_of(tmp_path, "old"))
    spec = spec_of(tmp_path, "new", "search.warm_start=[old]")
    proposals = [sweep(spec).trials()[n].params for n in (5, 11)]  # running
    again, (line,) = search_of(spec)
    assert line.startswith("warm start: 8 trials of old")
    assert len(observed(again)) == 8
    assert [p.params for p in (again.ask(), again.ask()) if p] == proposals
    (tmp_path / "old" / "spec.yaml").unlink()
    alone, (line,) = search_of(spec)
    assert line.startswith("warm start: nothing more from old: no sweep at ")
    assert observed(alone) == []
    assert [p.params for p in (alone.ask(), alone.ask()) if p] == proposals


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("train.epochs=12", "train.epochs is 6 there, 12 here"),
        ("data.train_size=100", "data.train_size is None there, 100 here"),
        ("model.name=mlp", "model.name is 'cnn' there, 'mlp' here"),
        ("train.momentum=0.8", "train.momentum is 0.9 there, 0.8 here"),
    ],
)
def test_else_its_best_points_come_first(tmp_path: Path, override: str, reason: str) -> None:
    old = sweep(spec_of(tmp_path, "old"), 36)
    start = old.trials()[0].params
    first = f"search.start_from={json.dumps([start])}"
    study, (line,) = search_of(spec_of(tmp_path, "new", "search.warm_start=[old]", override, first))
    assert line.startswith(f"warm start: the {POINTS} best points of old come first; its values do")
    assert line.endswith(reason)
    assert observed(study) == []
    completed = [t.params for t in old.trials() if OUTCOMES[t.number % 6] == "completed"]
    best = sorted(completed, key=objective, reverse=True)[:POINTS]
    asked = [study.ask() for _ in range(len({*map(str, best), str(start)}))]
    wanted = [start, *(point for point in best if point != start)]
    assert [p.params for p in asked if p is not None] == wanted


def test_trials_outside_of_the_bounds_are_left(tmp_path: Path) -> None:
    old = sweep(spec_of(tmp_path, "old"), 36)
    spec = spec_of(tmp_path, "new", "search.warm_start=[old]", "search.also={lr: [0.05, 0.5]}")
    _, (line,) = search_of(spec)
    inside = [t.number for t in old.trials() if 0.05 <= t.params["rts_lr"] <= 0.5]
    ended = [n for n in range(36) if OUTCOMES[n % 6] not in ("failed", "running")]
    taken = [f"old/t{number:04d}" for number in ended if number in inside]
    assert names(spec) == taken
    assert 0 < len(taken) < len(ended)
    assert line.startswith(f"warm start: {len(taken)} trials of old (")
    assert line.endswith(f"; {len(ended) - len(taken)} trials lie outside of the space")


def test_another_space_gives_nothing(tmp_path: Path) -> None:
    sweep(spec_of(tmp_path, "old"))
    spec = spec_of(tmp_path, "new", "search.warm_start=[old]", "search.also={}")
    _, (line,) = search_of(spec)
    assert line.startswith("warm start: nothing from old; ")
    assert line.endswith("; 8 trials lie outside of the space")


def test_another_seed_is_said_and_trained_again(tmp_path: Path) -> None:
    old = sweep(spec_of(tmp_path, "old"))
    point = old.trials()[0].params
    for seed, handed_out in ((42, 0), (7, 1)):
        changes = (f"train.seed={seed}", f"search.start_from={json.dumps([point])}")
        spec = spec_of(tmp_path, f"new{seed}", "search.warm_start=[old]", *changes)
        study, (line,) = search_of(spec)
        assert ("with train.seed 42, here 7" in line) == (seed == 7)
        proposal = study.ask()
        assert proposal is not None
        assert (proposal.params == point) == bool(handed_out)
        assert study.left_out["known"] == 1 - handed_out


def test_another_fidelity_gives_completed_trials_only(tmp_path: Path) -> None:
    sweep(spec_of(tmp_path, "old"))
    spec = spec_of(tmp_path, "new", "search.warm_start=[old]", "stop.fidelity=epoch")
    study, (line,) = search_of(spec)
    assert line == "warm start: 6 trials of old (4 complete, 2 diverged or collapsed)"
    assert all(trial.intermediate_values == {} for trial in observed(study))


@pytest.mark.parametrize(("against", "cost"), [("gradient_evaluations", 60), ("train_seconds", 3)])
@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_two_objectives(tmp_path: Path, against: str, cost: float, sampler: str) -> None:
    sweep(spec_of(tmp_path, "old"), 48)
    changes = (f"search.against={against}", f"search.sampler={sampler}", "stop.policy=none")
    spec = spec_of(tmp_path, "new", "search.warm_start=[old]", *changes)
    study, (line,) = search_of(spec)
    assert line == "warm start: 24 trials of old (16 complete, 8 diverged or collapsed)"
    complete = [t for t in observed(study) if t.state.name == "COMPLETE"]
    assert [t.values for t in complete] == [
        pytest.approx([objective(t.params) + 1.06, cost]) for t in complete
    ]
    for _ in range(6):
        proposal = study.ask()
        assert proposal is not None
        study.end(proposal.number, Told("complete", [0.5, 1.0]))
    assert study.handed_out == 6


def test_by_path_and_several(tmp_path: Path) -> None:
    sweep(spec_of(tmp_path / "a", "one"))
    sweep(spec_of(tmp_path / "b", "two", "search.seed=3"), 6)
    names = f"[one, {tmp_path / 'b' / 'two'}/, one]"
    changes = (f"search.warm_start={names}", "search.sampler=random")
    spec = spec_of(tmp_path / "a", "new", *changes)
    study, lines = search_of(spec)
    assert [line.partition(" trials of ")[0] for line in lines] == [
        "warm start: 8",
        "warm start: 4",
    ]
    assert all(line.endswith(" (random learns nothing from them)") for line in lines)
    assert len(observed(study)) == 12


def test_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "new", "search.warm_start=[old]")
    with pytest.raises(ValueError, match=r"no sweep at .*/old: it has no spec.yaml"):
        search_of(spec)
    spec = spec_of(tmp_path, "new", "search.warm_start=[new]")
    with pytest.raises(ValueError, match=r"search\.warm_start names 'new', which is this sweep"):
        search_of(spec)
