"""A claim's runs between the ledger and its design: which are due, and what each came to."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from results.meanings import Outcome, merit
from results.trials import Row
from rts_search.claims.design import Design, Run
from rts_search.spec.claim import Claim
from rts_search.trials.trial import LiveTrial
from trainables.guard import lucky

ACCURACY = "test_accuracy"
Hits = dict[tuple[str, int], npt.NDArray[np.bool_]]  # by arm and seed


def design_of(claim: Claim) -> Design:
    return Design(
        candidates=tuple(claim.candidates),
        baselines=tuple(claim.baselines),
        pick_seeds=tuple(claim.seeds.pick),
        blocks=tuple(map(tuple, claim.seeds.blocks)),
        alpha=claim.alpha,
        gain=claim.gain,
        futility=claim.futility,
        thorough=claim.thorough,
    )


def with_rule(claim: Claim) -> Claim:
    """The claim, which says itself how it will be decided."""
    design = design_of(claim)
    looks = ", ".join(map(str, design.looks))
    rule = (
        f"Welch's t-test at {looks} seeds, two-sided at p <= {design.level:.4g} each; where a run "
        "collapsed a sign-flip test of the pairs as well; over all baselines: each at its level; "
        "single sentences: Holm"
    )
    return claim.model_copy(update={"rule": rule})


def results_of(claim: Claim, rows: Mapping[str, Row]) -> dict[tuple[str, int], Run]:
    """Higher is better: of a metric that is minimised the values are negated. A run that diverged,
    and has no value of its own, counts as much as the worst of the others."""
    values = {name: value_of(claim, row) for name, row in rows.items()}
    worst = min((value for value in values.values() if value is not None), default=0.0)
    return {
        (row["arm"], row["seed"]): Run(
            worst if (value := values[name]) is None else value, collapsed(claim, row)
        )
        for name, row in rows.items()
    }


def run_of(claim: Claim, stage: str, arm: str, seed: int, best: str | None) -> LiveTrial:
    config = claim.arms[arm].on_seed(seed, best)
    name = f"{claim.id[:6]}-{arm}-{seed}"
    return LiveTrial(name, config, stage=stage, arm=arm, claim=claim.id)


def value_of(claim: Claim, row: Row) -> float | None:
    """Of the final weights on the test set; of a run that diverged what it ended at on validation;
    None if that is no number."""
    names = ("test_accuracy", "final_val_accuracy")
    if claim.metric != ACCURACY:
        names = ("test_value", "final_objective")
    for name in names:
        value = row.get(name)  # a run that did not come to its end was not tested
        if value is not None and math.isfinite(value):
            return merit(float(value), claim.metric)
    return 0.0 if claim.metric == ACCURACY else None


def collapsed(claim: Claim, row: Row) -> bool:
    """Whether a run came to nothing: it diverged, or ended no better than guessing."""
    if row["outcome"] == Outcome.DIVERGED or not row["test_hits"]:
        return bool(row["outcome"] == Outcome.DIVERGED)
    images = 8 * len(base64.b64decode(row["test_hits"]))
    accuracy = value_of(claim, row) or 0.0
    return accuracy <= lucky(images, 1 / (row["classes"] or 2)) / images


def hits_of(rows: Iterable[Row]) -> Hits:
    """Of the runs that were tested. Of the last byte's bits some may stand for no image: they are
    equal in all runs."""
    return {(row["arm"], row["seed"]): _bits(row["test_hits"]) for row in rows if row["test_hits"]}


def _bits(text: str) -> npt.NDArray[Any]:
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8)).astype(bool)
