"""`rts-search confirm`: the best of a search against tuned baselines, on seeds that the ledger has
not seen."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from rich.console import Console

from results.parts.reading import read_parts
from results.storage import SweepFolder
from results.trials import Row, read_trials
from rts_search.claims import arms, words
from rts_search.claims.design import BLOCKS, decide, due, winner
from rts_search.claims.staged import Stages, stages
from rts_search.claims.tested import (
    ACCURACY,
    collapsed,
    design_of,
    hits_of,
    results_of,
    run_of,
    with_rule,
)
from rts_search.spec.claim import Claim, Seeds, StoredClaim, claims_in, write_claim
from rts_search.spec.folder import read_spec
from rts_search.spec.model import SweepSpec
from rts_search.spec.provenance import fingerprints, provenance
from rts_search.trials.trial import LiveTrial

PICK = 3  # seeds that pick the winner
FIRST_SEED = 1000
OF_BEST = 0.01  # the smallest gain of interest in a task's metric: so much of the best value


@dataclass(frozen=True)
class Asked:
    """What a confirm was asked for; None stands for the default, or what its claim says. `tune`
    trials for each baseline; `new`: another claim, though there is one."""

    top: int | None = None
    tune: int | None = None
    gain: float | None = None
    alpha: float | None = None
    blocks: tuple[int, ...] | None = None  # seeds between looks
    thorough: bool = False
    new: bool = False

    def check(self, claim: Claim) -> None:
        """Raises ValueError where a claim that is begun says something else."""
        told = {
            "top": (self.top, len(claim.candidates)),
            "gain": (self.gain, claim.gain),
            "alpha": (self.alpha, claim.alpha),
            "blocks of seeds": (self.blocks, tuple(map(len, claim.seeds.blocks))),
            "thorough": (self.thorough or None, claim.thorough),
        }
        for name, (wanted, written) in told.items():
            if name == "top" and self.top is not None and self.top > len(claim.candidates):
                continue  # there were no more
            if wanted is not None and wanted != written:
                raise ValueError(
                    f"claim {claim.id} was begun with {name} {written}, not {wanted}: what is "
                    "tested is what was written before; leave the option out, or make another "
                    "claim: add --new"
                )


def confirm(
    folder: SweepFolder, asked: Asked, console: Console, address: str | None, verbose: bool
) -> StoredClaim:
    """Test the best of a sweep, and write the verdicts into its claim, which is written first.

    A claim that has come to its end is returned as it is, one that is begun goes on. Raises
    EndedEarlyError where it was interrupted, ValueError, in one line, where it cannot run.
    """
    spec = read_spec(folder)
    stored = None if asked.new else newest(folder)
    if stored is not None:
        asked.check(stored.claim)
        if stored.verdicts is not None:
            return stored
        if with_rule(stored.claim).rule != stored.claim.rule:
            raise ValueError(
                f"claim {stored.claim.id} was begun by a version that decides otherwise "
                f"({stored.claim.rule}): end it with that, or make another one: add --new"
            )
    else:  # before Ray starts
        arms.best_in_effect(spec, searched(folder), asked.top or 5)
    with stages(spec, folder, console, address, verbose) as driver:
        if stored is None:
            if asked.tune:
                tuned = partial(tuning_due, spec, searched(folder), asked.tune)
                driver.run("tune", None, tuned)
            claim = make_claim(spec, folder, asked)
        else:
            claim = stored.claim
        return test(driver, claim, "confirm")


def test(driver: Stages, claim: Claim, stage: str) -> StoredClaim:
    """Run what a claim asks for, and write its verdicts down."""
    place = write_claim(driver.folder, claim)
    driver.say(f"claim {driver.folder.uri_of(place)}")
    for line in words.announcement(claim):
        driver.say(line)
    teller = words.Teller(claim, driver.say)

    def runs_due(rows: Mapping[str, Row]) -> list[LiveTrial]:
        results = results_of(claim, rows)
        teller.look(results)
        best = winner(design_of(claim), results)
        missing = sorted(due(design_of(claim), results), key=longest_trunk(claim))
        return [run_of(claim, stage, *each, best) for each in missing]

    rows = driver.run(stage, claim.id, runs_due)
    verdicts = verdicts_of(claim, rows)
    write_claim(driver.folder, claim, verdicts)
    ran = [run_of(claim, stage, row["arm"], row["seed"], None) for row in rows.values()]
    driver.drop_trunks(ran)
    return StoredClaim(claim, verdicts)


def longest_trunk(claim: Claim) -> Callable[[tuple[str, int]], float]:
    """Sorts runs so that those come first whose SGD others of their seed share: plain SGD, and then
    who fires late."""
    costs: dict[str, float] = {"sgd": 0.0}
    for arm in claim.baselines.values():
        costs |= arm.epochs_for or {}
    return lambda run: costs.get(run[0], math.inf)


def verdicts_of(claim: Claim, rows: Mapping[str, Row]) -> dict[str, Any]:
    """The end of a claim's file: what was found, at what cost, in figures and in words."""
    decision = decide(design_of(claim), results_of(claim, rows))
    found = words.findings(claim, decision, hits_of(rows.values()))
    return {
        "decided": datetime.now(UTC).isoformat(timespec="seconds"),
        "runs": len(rows),
        "gradient_evaluations": sum(row["gradient_evaluations"] or 0 for row in rows.values()),
        "spent_gradient_evaluations": sum(
            row["spent_gradient_evaluations"] or 0 for row in rows.values()
        ),
        "collapsed": sorted(row["trial_id"] for row in rows.values() if collapsed(claim, row)),
        **found,
    }


def make_claim(spec: SweepSpec, folder: SweepFolder, asked: Asked) -> Claim:
    """What is tested, on fresh seeds."""
    rows = searched(folder)
    candidates = arms.best_in_effect(spec, rows, asked.top or 5)
    fresh = fresh_seeds(seeds_seen(folder))
    picks = 0 if asked.thorough or len(candidates) == 1 else PICK
    gain = asked.gain
    if spec.task is not None and gain is None:
        best = arms.ranked(spec, rows, spec.train.epochs)[0]
        gain = float(f"{OF_BEST * abs(best['final_objective']):.1g}")
    optional = {"gain": gain, "alpha": asked.alpha}
    claim = Claim(
        sweep=folder.name,
        metric=test_metric(spec),
        candidates=candidates,
        baselines=arms.baselines(spec, rows, candidates),
        seeds=take(fresh, picks, asked.blocks or BLOCKS),
        thorough=asked.thorough,
        written=now(),
        origin=origin(spec),
        **{name: value for name, value in optional.items() if value is not None},
    )
    return with_rule(claim)


def test_metric(spec: SweepSpec) -> str:
    """What claims of the sweep are made in, of the test set."""
    if spec.task is None:
        return ACCURACY
    return f"{spec.task.test_metric}:{spec.task.direction[:3]}"


def take(fresh: Iterator[int], picks: int, blocks: Iterable[int]) -> Seeds:
    """So many seeds that pick, and blocks of these sizes."""
    pick = list(itertools.islice(fresh, picks))
    return Seeds(pick=pick, blocks=[list(itertools.islice(fresh, size)) for size in blocks])


def fresh_seeds(seen: Iterable[int], first: int = FIRST_SEED) -> Iterator[int]:
    """Those from `first` on that are not among the ones `seen`."""
    known = set(seen)
    return (seed for seed in itertools.count(first) if seed not in known)


def seeds_seen(folder: SweepFolder) -> set[int]:
    """All that the ledger's runs had, of any stage, and those of its claims."""
    seen = {seed for stored in claims_in(folder) for seed in stored.claim.seeds.all}
    for part in read_parts(folder, "trials").values():
        seen.update(seed for seed in part["seed"].to_pylist() if seed is not None)
    return seen


def origin(spec: SweepSpec) -> dict[str, Any]:
    found = asdict(provenance())
    return {**found, "versions": json.loads(found["versions"]), "sources": fingerprints(spec)}


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def searched(folder: SweepFolder) -> list[Row]:
    """The rows of the search, of its controls and of what was tuned, as far as they have ended."""
    return [
        trial.row
        for stage in (None, "tune")
        for trial in read_trials(folder, [], stage=stage)
        if trial.outcome.finished
    ]


def tuning_due(
    spec: SweepSpec, rows: Sequence[Row], count: int, ended: Mapping[str, Row]
) -> list[LiveTrial]:
    asked = arms.tuning(spec, [row for row in rows if row["stage"] is None], count)
    return [run for run in asked if run.trial_id not in ended]


def newest(folder: SweepFolder) -> StoredClaim | None:
    """The claim of a sweep that was written last."""
    return next(reversed([*claims_in(folder)]), None)
