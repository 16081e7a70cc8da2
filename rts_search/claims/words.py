"""A claim and what came of it, in words: each sentence says no more than its test allows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from results.meanings import in_points, metric_of
from rts_search.claims.arms import EQUAL
from rts_search.claims.design import BLOCKS, Comparison, Decision, Results, decide
from rts_search.claims.inference import detectable_gain, nominal_level, seeds_and_images_error
from rts_search.claims.tested import Hits, design_of
from rts_search.spec.claim import Claim

NAMES = {
    "sgd": "SGD",
    EQUAL: "SGD at equal gradients",
    "pugd": "PUGD",
    "sam": "SAM",
    "asam": "ASAM",
}
TYPICAL = 0.003  # deviation of reruns in accuracy, where there are none (RTS.md)


def named(claim: Claim, arm: str) -> str:
    """As in `SAM (untuned)`."""
    name = NAMES.get(arm, arm)
    return f"{name} (untuned)" if arm in claim.baselines and claim.baselines[arm].untuned else name


def announcement(claim: Claim) -> list[str]:
    """What is about to be tested, and what it takes at most."""
    design = design_of(claim)
    names = ", ".join(claim.candidates)
    by = f"by {metric_of(claim.metric)} of the final weights"
    lines = [f"tests whether {names} beats every baseline, {by}"]
    if design.picks:
        lines[0] = (
            f"{len(claim.seeds.pick)} new seeds pick one of {names}; then "
            f"whether that beats every baseline, {by}"
        )
    lines += [f"  {named(claim, arm)}: {each.chosen}" for arm, each in claim.baselines.items()]
    looks = ", ".join(map(str, design.looks))
    racers = len(claim.candidates) if claim.thorough else 1
    most = len(claim.seeds.pick) * len(claim.candidates)
    most += (racers + len(claim.baselines)) * design.looks[-1]
    lines.append(
        f"looks at {looks} seeds, each at p ≤ {design.level:.4f}, so that all together are wrong "
        f"in {100 * claim.alpha:g} %; at most {most} runs"
    )
    return lines


class Teller:
    """Says what each look has found, as results come in."""

    def __init__(self, claim: Claim, say: Callable[[str], None]) -> None:
        self.claim, self.design, self.say = claim, design_of(claim), say
        self.told: set[tuple[Any, ...]] = set()

    def look(self, results: Results) -> None:
        decision = decide(self.design, results)
        if decision.picked and self.design.picks and self._is_new(("picked",)):
            self.say(f"picked: {decision.picked}")
        for each in decision.comparisons:
            if each.n and self._is_new((each.candidate, each.baseline, each.n)):
                self.say(f"  {each.n} seeds: {sentence(self.claim, each)}")

    def _is_new(self, key: tuple[Any, ...]) -> bool:
        new = key not in self.told
        self.told.add(key)
        return new


def sentence(claim: Claim, found: Comparison) -> str:
    """As in `established: t0003 +0.62 points (0.31 to 0.93) over SGD, 10 seeds`."""
    over = f"over {named(claim, found.baseline)}"
    if found.difference is None or found.low is None or found.high is None:
        return f"{found.verdict}: {found.candidate} {over}, no seed yet"
    text = (
        f"{found.verdict}: {found.candidate} {size(claim, found.difference)}{unit(claim)} "
        f"({size(claim, found.low)} to {size(claim, found.high)}) {over}, {found.n} seeds"
    )
    if found.verdict == "not established" and found.difference > 0:
        text += (
            f"; a gain of this size needs about {found.needed} seeds"
            if found.needed
            else "; a gain of this size needs more than 1,000 seeds"
        )
    return text


def size(claim: Claim, gain: float) -> str:
    """A gain, of which more is better: accuracies in points, other metrics as they are."""
    return f"{100 * gain:+.2f}" if in_points(claim.metric) else f"{gain:+.4g}"


def unit(claim: Claim) -> str:
    """As in `+0.62 points`, or `+0.013 gain in test_mse`, where lower is better."""
    return " points" if in_points(claim.metric) else f" gain in {metric_of(claim.metric)}"


def headline(claim: Claim, decision: Decision) -> str:
    """The answer in a line."""
    untuned = [named(claim, arm) for arm in claim.baselines if claim.baselines[arm].untuned]
    but = f", of which {len(untuned)} are untuned" if untuned else ""
    if decision.winners:
        who = " and ".join(decision.winners)
        return f"established: {who} beats all {len(claim.baselines)} baselines{but}"
    who = decision.picked or "any of " + ", ".join(claim.candidates)
    return f"not established: that {who} beats all {len(claim.baselines)} baselines{but}"


def findings(claim: Claim, decision: Decision, hits: Hits) -> dict[str, Any]:
    """For the claim's file: the headline, a sentence a comparison, and its figures; errors of the
    difference over seeds on this test set, and over seeds and images."""
    return {
        "headline": headline(claim, decision),
        "sentences": [sentence(claim, each) for each in decision.comparisons],
        "winners": list(decision.winners),
        "level": _short(decision.level),
        "comparisons": [_figures(claim, each, hits) for each in decision.comparisons],
    }


def _figures(claim: Claim, found: Comparison, hits: Hits) -> dict[str, Any]:
    figures = {name: _short(value) for name, value in asdict(found).items()}
    if found.n:
        figures["error_over_seeds"] = _short((found.deviation or 0.0) / math.sqrt(found.n))
        seeds = [seed for block in claim.seeds.blocks for seed in block][: found.n]
        both = [seed for seed in seeds if all((arm, seed) in hits for arm in _arms(found))]
        if len(both) == found.n:  # a run that diverged was not tested
            ours, theirs = (np.stack([hits[arm, seed] for seed in both]) for arm in _arms(found))
            figures["error_over_seeds_and_images"] = _short(seeds_and_images_error(ours, theirs))
    return figures


def _arms(found: Comparison) -> tuple[str, str]:
    return found.candidate, found.baseline


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def report(claim: Claim, verdicts: Mapping[str, Any]) -> list[str]:
    """What a claim that has come to its end says."""
    lines = [str(verdicts["headline"]), *(f"  {line}" for line in verdicts["sentences"])]
    for each in verdicts["comparisons"]:
        if "error_over_seeds_and_images" in each:
            over = f"{size(claim, each['difference'])} over {named(claim, each['baseline'])}"
            lines.append(
                f"  errors of {over}: "
                f"{100 * each['error_over_seeds']:.2f} points over seeds on this test set, "
                f"{100 * each['error_over_seeds_and_images']:.2f} over seeds and images"
            )
    lines.append(
        f"{verdicts['runs']} runs on seeds that the search had not seen, "
        f"{verdicts['gradient_evaluations']:,} gradient evaluations "
        f"({verdicts['spent_gradient_evaluations']:,} spent)"
    )
    if verdicts["collapsed"]:
        lines.append(f"came to nothing, and count with that: {', '.join(verdicts['collapsed'])}")
    return lines


def stands(claim: Claim, original: Mapping[str, Any], again: Mapping[str, Any]) -> list[str]:
    """Whether what a claim had established was so again on other seeds, over each baseline."""
    now = {each["baseline"]: each for each in again["comparisons"]}
    then = {
        each["baseline"]: each
        for each in original["comparisons"]
        if each["verdict"] == "established" and each["baseline"] in now
    }
    if not then:
        return ["the claim had established nothing, so that there is nothing to stand"]
    found = {arm: _again(each, now[arm]) for arm, each in then.items()}
    kept = [arm for arm, verdict in found.items() if verdict == "established again"]
    part = "stands" if len(kept) == len(found) else "stands in part" if kept else "does not stand"
    lines = [f"the claim {part}: {len(kept)} of {len(found)} sentences are established again"]
    for arm, verdict in found.items():
        values = f"{size(claim, then[arm]['difference'])}{unit(claim)} then"
        if now[arm]["difference"] is not None:
            values += f", {size(claim, now[arm]['difference'])} now"
        lines.append(f"  over {NAMES.get(arm, arm)}: {verdict} ({values})")
    return lines


def _again(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if now["verdict"] == "established":
        return "established again"
    if now["verdict"] == "worse" or (now["high"] is not None and now["high"] < then["low"]):
        return "contradicted"
    return "not established again, nor contradicted"


def outlook(argument: str, deviation: float | None, metric: str = "accuracy") -> str:
    """The command, and what it could establish; `deviation` is that of the reruns, if known: in
    `metric`; of other metrics than accuracies nothing typical is known."""
    command = f"confirm {argument}"
    if deviation is None and not in_points(metric):
        return command
    seeds = sum(BLOCKS)
    level = nominal_level(0.05, tuple(itertools.accumulate(BLOCKS)))
    known = deviation if deviation is not None else TYPICAL
    gain = detectable_gain(known, seeds, level)
    told = f"{100 * gain:.2g} points" if in_points(metric) else f"{gain:.2g}"
    return f"{command}  # tells {told} apart" + (
        "" if deviation is not None else " if reruns differ by 0.3"
    )
