"""A claim's runs between the ledger and its design: which are due, and what each came to."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from results.meanings import Outcome
from results.trials import Row
from rts_search.claims.design import Design, Run
from rts_search.spec.claim import Claim
from rts_search.trials.trial import LiveTrial
from trainables.guard import lucky

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


def results_of(rows: Mapping[str, Row]) -> dict[tuple[str, int], Run]:
    return {
        (row["arm"], row["seed"]): Run(final_accuracy(row), collapsed(row)) for row in rows.values()
    }


def run_of(claim: Claim, stage: str, arm: str, seed: int, best: str | None) -> LiveTrial:
    config = claim.arms[arm].on_seed(seed, best)
    name = f"{claim.id[:6]}-{arm}-{seed}"
    return LiveTrial(name, config, stage=stage, arm=arm, claim=claim.id)


def final_accuracy(row: Row) -> float:
    """Of the final weights on the test set; of a run that diverged the validation accuracy that it
    ended at."""
    for name in ("test_accuracy", "final_val_accuracy"):
        value = row.get(name)  # a run that did not come to its end was not tested
        if value is not None and math.isfinite(value):
            return float(value)
    return 0.0


def collapsed(row: Row) -> bool:
    """Whether a run came to nothing: it diverged, or ended no better than guessing."""
    if row["outcome"] == Outcome.DIVERGED or not row["test_hits"]:
        return bool(row["outcome"] == Outcome.DIVERGED)
    images = 8 * len(base64.b64decode(row["test_hits"]))
    return final_accuracy(row) <= lucky(images, 1 / (row["classes"] or 2)) / images


def hits_of(rows: Iterable[Row]) -> Hits:
    """Of the runs that were tested. Of the last byte's bits some may stand for no image: they are
    equal in all runs."""
    return {(row["arm"], row["seed"]): _bits(row["test_hits"]) for row in rows if row["test_hits"]}


def _bits(text: str) -> npt.NDArray[Any]:
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8)).astype(bool)
