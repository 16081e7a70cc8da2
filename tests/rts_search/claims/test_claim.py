"""Claims on disk, and what they say in words."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from results.ledger import Ledger
from rts_search.answers.standing import claim_lines
from rts_search.claims import curve, words
from rts_search.claims.confirm import Asked, confirm, make_claim, newest, verdicts_of
from rts_search.claims.design import due
from rts_search.claims.tested import collapsed, design_of, results_of, run_of, value_of
from rts_search.spec.claim import Claim, claims_in, hash_of, read_claim, write_claim
from rts_search.spec.written import dump
from rts_search.sweep import Sweep
from rts_search.trials.trial import SGD
from tests.rts_search.claims.builders import row_of, searched_ledger
from tests.rts_search.cli.calling import cli

GAINS = {"sgd": 0.03, "sgd-equal": 0.02, "pugd": 0.0, "sam": -0.02, "asam": 0.0001}


def played(claim: Claim, gains: dict[str, float] = GAINS) -> dict[str, Any]:
    """Rows of all runs that a claim asks for, which are as the gains over its arms say."""
    rng, rows = np.random.default_rng(0), dict[str, Any]()
    while wanted := due(design_of(claim), results_of(claim, rows)):
        for arm, seed in wanted:
            right = rng.random(800) < 0.8 - gains.get(arm, 0.0)
            hits = base64.b64encode(np.packbits(right).tobytes()).decode()
            value = 0.8 - gains.get(arm, 0.0) + rng.normal(0, 0.003)
            run = run_of(claim, "confirm", arm, seed, next(iter(claim.candidates)))
            cost = {"gradient_evaluations": 20, "spent_gradient_evaluations": 15}
            test = {"test_accuracy": value, "test_hits": hits, "classes": 10}
            rows[run.trial_id] = row_of(run, 0.8, 1, **cost, **test)
    return rows


@pytest.fixture
def claim(tmp_path: Path) -> Claim:
    spec, folder = searched_ledger(tmp_path)
    return make_claim(spec, folder, Asked(gain=0.005))


def test_a_claim_is_read_as_it_was_written(tmp_path: Path, claim: Claim) -> None:
    folder = Sweep.open(claim.sweep, tmp_path).folder
    write_claim(folder, claim)
    read = read_claim(folder, claim.id).claim
    assert read.model_dump() == claim.model_dump()
    assert read.id == claim.id
    assert [*claims_in(folder)] == [newest(folder)]
    assert claim_lines(folder) == [
        f"claim {claim.id}: not decided yet; go on with: rts-search confirm {folder.argument()}"
    ]


def test_a_claim_that_was_changed_is_another(tmp_path: Path, claim: Claim) -> None:
    folder = Sweep.open(claim.sweep, tmp_path).folder
    place = folder.local_path / write_claim(folder, claim)  # type: ignore[operator]
    text = place.read_text("utf-8")
    for old, new in (("gain: 0.005", "gain: 0.0005"), ("- 1004", "- 2004")):
        place.write_text(text.replace(old, new), "utf-8")
        with pytest.raises(ValueError, match="was changed after it was written"):
            newest(folder)
        done = cli("status", claim.sweep, "--storage", str(tmp_path))
        assert "was changed after it was written" in done.out
    for damaged, why in (("", "it is empty"), ("a: 1", "neither claim nor id"), (text[:300], "")):
        place.write_text(damaged, "utf-8")
        with pytest.raises(ValueError, match=rf"{claim.id}.yaml is no claim: .*{why}"):
            newest(folder)


def test_a_claim_of_an_earlier_version_stays_itself(tmp_path: Path, claim: Claim) -> None:
    """It had not all settings that there are now."""
    folder = Sweep.open(claim.sweep, tmp_path).folder
    content = claim.model_dump(mode="json")
    del content["futility"], content["rule"]
    told = {"claim": content, "id": hash_of(content), "verdicts": None}
    folder.write(f"claims/{told['id']}.yaml", dump(told).encode())
    stored = newest(folder)
    assert stored is not None
    assert stored.claim.id == told["id"] != claim.id
    assert run_of(stored.claim, "confirm", "sgd", 1, None).claim == told["id"]
    with pytest.raises(ValueError, match="begun by a version that decides otherwise"):
        confirm(folder, Asked(), Console(), None, False)


def test_a_claim_begun_with_other_options_is_refused(claim: Claim) -> None:
    Asked().check(claim)
    Asked(top=5, gain=0.005, blocks=(5, 3, 3, 4, 5)).check(
        claim
    )  # of five asked for there were three
    for asked in (Asked(top=2), Asked(gain=0.01), Asked(alpha=0.1), Asked(thorough=True)):
        with pytest.raises(ValueError, match=f"claim {claim.id} was begun with .* --new"):
            asked.check(claim)


def test_verdicts_and_their_words(tmp_path: Path, claim: Claim) -> None:
    rows = played(claim)
    verdicts = verdicts_of(claim, rows)
    folder = Sweep.open(claim.sweep, tmp_path).folder
    write_claim(folder, claim, verdicts)
    stored = newest(folder)
    assert stored is not None
    assert stored.verdicts == verdicts
    found = {each["baseline"]: each for each in verdicts["comparisons"]}
    assert found["sgd"]["verdict"] == found["sgd-equal"]["verdict"] == "established"
    assert found["sam"]["verdict"] == "worse"
    assert found["pugd"]["verdict"] == found["asam"]["verdict"] == "not established"
    assert verdicts["runs"] == len(rows)
    assert verdicts["spent_gradient_evaluations"] == 15 * len(rows)
    assert verdicts["winners"] == []
    report = words.report(claim, verdicts)
    assert report[0] == (
        f"not established: that {found['sgd']['candidate']} beats all 5 baselines, of which 2 are "
        "untuned"
    )
    assert any("worse: " in line and "over SAM (untuned), 5 seeds" in line for line in report)
    assert any(" needs about " in line for line in report)
    for each in found.values():
        assert each["error_over_seeds"] < each["error_over_seeds_and_images"] < 0.02
    again = words.stands(claim, verdicts, verdicts)
    assert again[0] == "the claim stands: 2 of 2 sentences are established again"
    assert again[1].startswith("  over SGD: established again (+")
    half = verdicts_of(claim, played(claim, GAINS | {"sgd": 0.0}))
    assert words.stands(claim, verdicts, half)[0].startswith("the claim stands in part: 1 of 2")
    none = verdicts_of(claim, played(claim, {}))
    assert "does not stand: 0 of 2" in words.stands(claim, verdicts, none)[0]
    assert "over SGD: contradicted (+" in words.stands(claim, verdicts, none)[1]
    assert "had established nothing" in words.stands(claim, none, verdicts)[0]


def test_a_winner_over_all(claim: Claim) -> None:
    verdicts = verdicts_of(claim, played(claim, dict.fromkeys(GAINS, 0.02)))
    assert len(verdicts["winners"]) == 1
    assert verdicts["headline"].startswith("established: ")
    assert {each["verdict"] for each in verdicts["comparisons"]} == {"established"}


def test_a_metric_of_which_less_is_better(claim: Claim) -> None:
    rows = played(claim)
    errors = {
        name: row
        | {"test_value": 1 - row["test_accuracy"], "test_accuracy": None, "test_hits": None}
        for name, row in rows.items()
    }
    other = claim.model_copy(update={"metric": "test_mse:min"})
    by_accuracy, by_error = verdicts_of(claim, rows), verdicts_of(other, errors)
    for one, two in zip(by_accuracy["comparisons"], by_error["comparisons"], strict=True):
        assert (one["verdict"], one["n"]) == (two["verdict"], two["n"])
        assert two["difference"] == pytest.approx(one["difference"], abs=1e-4)
    told = "\n".join(words.report(other, by_error))
    assert " gain in test_mse (" in told
    assert " points" not in told
    assert words.announcement(other)[0].endswith("by test_mse of the final weights")
    assert words.stands(other, by_error, by_error)[0].startswith("the claim stands")


def test_a_run_that_diverged_is_as_bad_as_the_worst(claim: Claim) -> None:
    other = claim.model_copy(update={"metric": "test_mse:min"})
    runs = [run_of(claim, "confirm", "sgd", seed, None) for seed in (1003, 1004, 1005)]
    values = [{"test_value": 0.5}, {"test_value": 0.9}, {"outcome": "diverged"}]
    rows = {
        run.trial_id: row_of(run, 0.4, None) | value | {"final_objective": None}
        for run, value in zip(runs, values, strict=True)
    }
    found = results_of(other, rows)
    assert [run.value for run in found.values()] == [-0.5, -0.9, -0.9]
    assert [run.collapsed for run in found.values()] == [False, False, True]


def test_what_came_to_nothing_counts_with_that(claim: Claim) -> None:
    run = run_of(claim, "confirm", "sgd", 1003, None)
    right = np.arange(800) % 10 == 0
    hits = base64.b64encode(np.packbits(right).tobytes()).decode()
    guessed = row_of(run, 0.1, None, test_accuracy=0.1, test_hits=hits, classes=10)
    assert collapsed(claim, guessed)
    assert value_of(claim, guessed) == 0.1
    diverged = row_of(run, 0.12, None, classes=10) | {"outcome": "diverged"}
    assert collapsed(claim, diverged)
    assert value_of(claim, diverged) == 0.12
    fine = row_of(run, 0.8, None, test_accuracy=0.7, test_hits=hits, classes=10)
    assert not collapsed(claim, fine)


def test_rows_of_a_claim_are_none_of_the_search(tmp_path: Path, claim: Claim) -> None:
    sweep = Sweep.open(claim.sweep, tmp_path)
    before = sweep.summary(), sweep.ranking().trials, cli("audit", "s", "--storage", str(tmp_path))
    with Ledger(sweep.folder) as ledger:
        for row in played(claim).values():
            ledger.put_trial({k: v for k, v in row.items() if v is not None})
    after = sweep.summary(), sweep.ranking().trials, cli("audit", "s", "--storage", str(tmp_path))
    assert after == before
    counts = sweep.arrow("SELECT stage, count(*) AS n FROM trials GROUP BY stage").to_pylist()
    assert {row["stage"] for row in counts} == {None, "confirm"}
    shown = cli("show", f"s/{claim.id[:6]}-sgd-1003", "--storage", str(tmp_path))
    assert shown.code == 0
    assert claim.id in shown.out


# The switch curve


@given(st.integers(2, 2000), st.integers(3, 20))
def test_the_points_of_a_curve(total: int, points: int) -> None:
    arms = curve.arms_of(total, points)
    firsts = [first for arm, (first, _) in arms.items() if arm != SGD]
    assert all(1 <= first <= total for first in firsts)
    assert len({*firsts}) <= points
    assert arms[SGD][0] > total


@pytest.mark.parametrize("total", [27, 81, 100, 200, 400])
def test_both_curves_take_at_most_eight_runs_of_sgd(total: int) -> None:
    arms = curve.arms_of(total, 12)
    cost = 1 + sum(2 * (total - first + 1) / total for first, _ in arms.values())
    assert cost <= 8.2  # T = 27: an epoch is 4 % of T
    assert total < 200 or (cost <= 8.05 and len(arms) == 24)


@pytest.mark.parametrize("metric", ["accuracy", "xtest_accuracy", "test_mse", "test_mse:minimal"])
def test_other_metrics_are_none_of_a_claim(claim: Claim, metric: str) -> None:
    with pytest.raises(ValueError, match="metric"):
        Claim.model_validate(claim.model_dump() | {"metric": metric})
    for known in ("test_accuracy", "test_mse:min"):
        Claim.model_validate(claim.model_dump() | {"metric": known})
