"""`rts-search verify`: a claim's arms again, on other seeds, wherever its file is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from results.storage import SweepFolder
from rts_search.claims.confirm import fresh_seeds, newest, now, origin, seeds_seen, take, test
from rts_search.claims.staged import stages
from rts_search.claims.tested import with_rule
from rts_search.spec.claim import Claim, StoredClaim, read_claim_file
from rts_search.spec.model import SweepSpec
from rts_search.spec.reading import apply_overrides, parse
from rts_search.spec.trust import check_trust

SETTABLE = ("resources", "checkpoint")  # what does not change the arms


def verify(
    path: Path,
    storage: str,
    overrides: list[str],
    trusted: bool,
    console: Console,
    address: str | None,
    verbose: bool,
) -> tuple[StoredClaim, StoredClaim]:
    """The claim in a file, and what the same arms came to on new seeds.

    In a folder of its own, <sweep>-verify-<id>, where one that was begun goes on. Raises
    EndedEarlyError where it was interrupted, ValueError, in one line, where it cannot run.
    """
    original = read_claim_file(path)
    claim, verdicts = original.claim, original.verdicts
    if verdicts is None:
        raise ValueError(
            f"{path} has no verdicts yet: go on with it first, rts-search confirm {claim.sweep}"
        )
    spec = spec_of(claim, storage, overrides)
    check_trust(spec.folder, spec, trusted, source=path)
    begun = newest(spec.folder)
    if begun is not None and begun.verdicts is not None:
        return original, begun
    with stages(spec, spec.folder, console, address, verbose) as driver:
        again = begun.claim if begun else repeated(claim, verdicts, spec, spec.folder)
        for line in differing(claim, again):
            driver.say(line)
        return original, test(driver, again, "verify")


def spec_of(claim: Claim, storage: str, overrides: list[str]) -> SweepSpec:
    """A spec for the claim's runs, with what of it may differ between machines."""
    for override in overrides:
        if override.partition("=")[0].partition(".")[0] not in SETTABLE:
            raise ValueError(
                f"--set {override}: a claim is verified as it stands; only "
                f"{' and '.join(SETTABLE)} may be set"
            )
    config = next(iter(claim.candidates.values())).config
    content = config.model_dump(mode="json", exclude={"optimizer"})
    content |= {"name": f"{claim.sweep}-verify-{claim.id[:6]}"[:100], "storage": storage}
    return parse(SweepSpec, apply_overrides(content, overrides))


def repeated(
    claim: Claim, verdicts: Mapping[str, Any], spec: SweepSpec, folder: SweepFolder
) -> Claim:
    """The claim that the same candidate beats the same baselines, on seeds that neither had."""
    compared = [each for each in verdicts["comparisons"] if each["n"]]
    if not compared:
        raise ValueError(f"claim {claim.id} compares nothing")
    candidate = next(iter(verdicts["winners"]), compared[0]["candidate"])
    against = [each["baseline"] for each in compared if each["candidate"] == candidate]
    arms = claim.arms
    seen = seeds_seen(folder) | {arm.config.train.seed for arm in arms.values()}
    # seeds of a sweep's claims grow: none that one before it had
    fresh = fresh_seeds(seen, max(claim.seeds.all) + 1)
    again = Claim.model_validate(
        claim.model_dump()
        | {
            "candidates": {candidate: arms[candidate]},
            "baselines": {name: arms[name] for name in against},
            "seeds": take(fresh, 0, map(len, claim.seeds.blocks)),
            "thorough": False,
            "verifies": claim.id,
            "written": now(),
            "origin": origin(spec),
        }
    )
    return with_rule(again)


def differing(claim: Claim, again: Claim) -> list[str]:
    """What is not the same here as where the claim was made."""
    theirs, ours = (each.origin.get("sources", {}) for each in (claim, again))
    return [
        f"{what} is not the same here as where the claim was made"
        for what in theirs
        if what in ours and theirs[what] != ours[what]
    ]
