"""What a report reads: which trials it shows, in which order they stand, and what matters."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from results.ledger import Ledger
from results.storage import SweepFolder
from rts_search.report import spaces
from rts_search.report.data import CURVES, Shown, in_effect, names_of, read, some_of, standing
from rts_search.report.figures import POINTS, curves, thinned
from rts_search.search.known import FIRING
from rts_search.sweep import Sweep
from tests.rts_search.answers.recorded import trial
from tests.rts_search.report.ledgers import T, claim_in, reported


def shown(name: str, value: float | None, outcome: str = "completed", **more: Any) -> Shown:
    params = more.pop("params", {})
    columns = {"epochs": T, "total_epochs": T, "trigger_epoch": None, **more}
    return Shown({"trial_id": name, "outcome": outcome, **columns}, value, params)


def test_one_read_tells_all(tmp_path: Path) -> None:
    sweep = reported(tmp_path)
    claim = claim_in(sweep.folder)
    told = read(sweep)
    assert (len(told.trials), len(told.controls)) == (30, 2)
    assert told.objective == "val_accuracy"
    assert [each.claim.id for each in told.claims] == [claim.id]
    assert told.rungs == [3, T]
    assert told.ranges["radius_alpha_start"].log
    assert told.audit is not None
    assert told.audit.trials == 30
    assert told.front is not None
    by_name = {each.name: each for each in told.shown}
    best = told.best[0]
    assert best.value == max(t.value for t in told.trials if t.completed and t.value is not None)
    assert len(best.run) == T
    assert best.tail("val_accuracy") == best.value  # of T = 9 the last epoch
    assert best.firing == T + 1  # never: the later, the better
    assert by_name["t0003"].firing == 2
    assert len(by_name["t0003"].run) == 3  # stopped there


def test_a_stopped_trial_stands_below_all_that_completed_and_above_what_came_to_nothing() -> None:
    trials = [
        shown("worst", 0.1),
        shown("best", 0.9),
        shown("late", 0.95, "stopped", epochs=6),
        shown("early", 0.99, "stopped", epochs=3),
        shown("nothing", None, "diverged", epochs=8),
    ]
    order = sorted(trials, key=lambda each: standing(each, "val_accuracy"), reverse=True)
    assert [each.name for each in order] == ["best", "worst", "late", "early", "nothing"]
    order = sorted(trials, key=lambda each: standing(each, "val_loss"), reverse=True)
    assert [each.name for each in order] == ["worst", "best", "late", "early", "nothing"]


def test_of_many_the_best_half_and_others_evenly() -> None:
    trials = [shown(f"t{n}", n / 100) for n in range(100)]
    chosen = [each.name for each in some_of(trials, "val_accuracy", 20)]
    assert chosen == [*(f"t{n}" for n in range(0, 90, 9)), *(f"t{n}" for n in range(90, 100))]
    assert some_of(trials[:20], "val_accuracy", 20) == trials[:20]


def test_a_configuration_in_effect() -> None:
    params = {"lr": 0.1, "radius_alpha": 2.0, "trigger_gamma": 0.3}
    fired = shown("a", 0.9, trigger_epoch=4, params=params)
    assert in_effect(fired) == {FIRING: 4, "lr": 0.1, "radius_alpha": 2.0}
    assert in_effect(shown("b", 0.9, params=params)) == {FIRING: T + 1, "lr": 0.1}
    # when it would have fired is not known
    stopped = shown("c", 0.5, "stopped", params=params)
    assert in_effect(stopped) == {"lr": 0.1, "radius_alpha": 2.0}
    without = shown("d", 0.5, params={"lr": 0.1, "rho": 2.0})
    assert in_effect(without) == {"lr": 0.1, "rho": 2.0}
    assert names_of([{"a": 1, "b": 1}, {"a": 1, "b": 2, "c": 1}]) == ["b"]


def test_what_decides_matters_most_and_stopped_trials_count(tmp_path: Path) -> None:
    told = read(reported(tmp_path, trials=60))
    found = spaces.importances(told)
    assert next(iter(found)) == FIRING
    assert found[FIRING] > 0.6
    assert "trigger_fraction" not in found
    assert abs(sum(found.values()) - 1) < 1e-9
    few = read(reported(tmp_path, "few", trials=8))
    assert spaces.importances(few) == {}


def test_curves_are_thinned(tmp_path: Path) -> None:
    run = [{"epoch": epoch} for epoch in range(1, 1001)]
    kept = thinned(run)
    assert len(kept) == POINTS
    assert (kept[0], kept[-1]) == (run[0], run[-1])
    told = read(reported(tmp_path, trials=CURVES + 50))
    assert sum(bool(each.run) for each in told.shown) == CURVES
    figure = curves(told)
    assert figure is not None
    drawn = {name for trace in figure.data for name in trace.customdata or ()}
    assert len(drawn) == CURVES


def test_values_that_are_none(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path, "odd")
    rows = [
        trial("t0000", {}, float("nan"), params='{"a": NaN, "b": [1], "c": 2}'),
        trial("t0001", {}, 0.5, params="no JSON"),
        trial("t0002", {}, 0.6, objective=None, final_objective=None, final_val_accuracy=0.6),
    ]
    with Ledger(folder) as ledger:
        for row in rows:
            ledger.put_trial(row)
    told = read(Sweep(folder))
    assert [each.value for each in told.trials] == [None, 0.5, 0.6]
    assert told.trials[0].params == {"c": 2}
    # what was never searched is told by its configuration
    assert {"lr": 0.1, "trigger": "always"}.items() <= told.trials[1].params.items()
    assert "trigger_mu" not in told.trials[1].params
    assert (told.spec, told.audit, told.rungs) == (None, None, [])


def test_neither_torch_nor_ray_is_loaded(tmp_path: Path) -> None:
    reported(tmp_path)
    code = (
        "import sys; from rts_search.cli.app import app; "
        "app(sys.argv[1:], standalone_mode=False); "
        "print([m for m in ('torch', 'ray') if m in sys.modules])"
    )
    asked = ["report", "r", "--storage", str(tmp_path), "--output", str(tmp_path / "r.html")]
    done = subprocess.run([sys.executable, "-c", code, *asked], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done
