"""`rts-search selftest`: what its options and a sweep say, and simulated confirms as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rts_search.claims.design import Design
from rts_search.claims.inference import detectable_gain, seeds_needed
from rts_search.claims.simulate import NULLS, WITHIN, Outcome, Setting
from rts_search.replay.render import Table

if TYPE_CHECKING:
    from results.storage import SweepFolder

POINTS = 100  # a fraction's


def rerun_deviation(folder: SweepFolder) -> tuple[float | None, str]:
    """A sweep's deviation of reruns (fraction), pooled over configurations, and how it is known."""
    from results.ranking import best

    found = best(folder.storage, folder, metric="final_val_accuracy").reruns
    if found is None:
        return None, f"{folder.name} has no configuration that ran on several seeds"
    return found.deviation, (
        f"reruns in {folder.name} deviate by {POINTS * found.deviation:.2f} points of validation "
        f"accuracy ({found.runs} runs of {found.configurations} configurations)"
    )


def told(setting: Setting) -> list[str]:
    """The design in words, and what it can see against one baseline."""
    design, level = setting.design, setting.design.level
    candidates, baselines = len(design.candidates), len(design.baselines)
    raced = f"{candidates} candidates, each" if design.thorough else "the candidate"
    if design.picks:
        raced = f"the best of {candidates} candidates on {len(design.pick_seeds)} seeds"
    looks = ", ".join(map(str, design.looks))
    seeds = seeds_needed(setting.gain, setting.deviation, level)
    least = detectable_gain(setting.deviation, design.looks[-1], level)
    return [
        f"{raced} against {baselines} baseline{'s' * (baselines > 1)}: looks at {looks} seeds, "
        f"each at p < {level:.4f}; reruns deviate by {POINTS * setting.deviation:.2g} points",
        f"over one baseline, a gain of {POINTS * setting.gain:.2g} points is seen in 80 % with "
        f"{seeds or 'more than 1,000'} seeds; {design.looks[-1]} seeds show {POINTS * least:.2g}",
    ]


def table(outcomes: Sequence[Outcome]) -> Table:
    header = ["world", "false claims", "at most", "beats every baseline", f"in {WITHIN} runs"]
    header += ["runs", "90 % in"]
    return header, [
        [
            each.world,
            *(_percent(share, 2) for share in (each.false, each.false_bound)),
            *(_percent(share, 1) for share in (each.beats_all, each.within)),
            f"{each.runs:.0f}",
            f"{each.runs_90:.0f}",
        ]
        for each in outcomes
    ]


def too_often(design: Design, outcomes: Sequence[Outcome]) -> list[str]:
    """The nulls in which false claims may be more than alpha."""
    return [
        each.world for each in outcomes if each.world in NULLS and each.false_bound > design.alpha
    ]


def figures(setting: Setting, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    design = setting.design
    return {
        "candidates": len(design.candidates),
        "baselines": len(design.baselines),
        "pick_seeds": len(design.pick_seeds),
        "looks": list(design.looks),
        "level": design.level,
        **{name: getattr(design, name) for name in ("alpha", "futility", "thorough")},
        **{name: getattr(setting, name) for name in ("deviation", "gain", "correlation")},
        "worlds": [asdict(each) for each in outcomes],
    }


def _percent(share: float, digits: int) -> str:
    return f"{100 * share:.{digits}f} %"
