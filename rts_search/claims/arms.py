"""Which configurations a claim compares: the search's best, and baselines that were tuned."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from results.meanings import merit, metric_of
from results.trials import Row
from rts_search.search.known import identity
from rts_search.spec.claim import Arm
from rts_search.spec.model import SweepSpec
from rts_search.trials.trial import TWICE, LiveTrial
from search_spaces.registry import training_points
from trainables.config import Family, OptimizerConfig, TrialConfig
from trainables.effect import in_effect

BASELINES: tuple[Family, ...] = ("sgd", "pugd", "sam", "asam")
EQUAL = "sgd-equal"  # SGD for as many gradients as the winner's
# SAM's and ASAM's ρ is tuned as well (RTS.md): times what the papers have
RHO_FACTORS = (1.0, 4.0, 2.0, 0.5)
TRAINED_WITHOUT = 1e-4  # weight decay, around which it is tuned where the spec has none


def best_in_effect(spec: SweepSpec, rows: Sequence[Row], count: int) -> dict[str, Arm]:
    """The best searched trials, `count` at most, as candidates: completed ones that were perturbed,
    different in effect from each other and from PUGD and SGD with the spec's settings.

    `rows` are those of the search. Raises ValueError if there are none.
    """
    searched = [row for row in rows if row["number"] is not None]
    baselines = [with_family(spec, family, {}) for family in ("sgd", "pugd")]
    known = {effect(config, first) for config, first in zip(baselines, (None, 1), strict=True)}
    found: dict[str, Arm] = {}
    for place, row in enumerate(ranked(spec, searched, spec.train.epochs), 1):
        config = config_of(row)
        key = effect(config, row["trigger_epoch"])
        if len(found) == count or key in known or not is_perturbed(config, row):
            continue
        known.add(key)
        value = f"{metric_of(spec.search.objective)} {row['final_objective']:.4f}"
        chosen = f"place {place} of {len(searched)} searched trials by {value}"
        found[row["trial_id"]] = Arm(chosen=chosen, tried=len(searched), config=config)
    if not found:
        raise ValueError(
            f"none of the {len(searched)} searched trials completed all of T = "
            f"{spec.train.epochs} and was perturbed, so that there is nothing to confirm"
        )
    return found


def baselines(
    spec: SweepSpec, rows: Sequence[Row], candidates: Mapping[str, Arm]
) -> dict[str, Arm]:
    """SGD at T and at the winner's gradients, PUGD, SAM and ASAM, each with the best settings that
    `rows` (controls and tuning) have for it, or with the spec's own."""
    arms: dict[str, Arm] = {family: tuned(spec, rows, family) for family in BASELINES}
    twice = tried(rows, TWICE)
    longer = tuned(spec, rows, "sgd", TWICE, 2 * spec.train.epochs)
    source = longer if len(twice) >= arms["sgd"].tried else arms["sgd"]
    lengths = {
        name: gradient_epochs(arm.config, first_of(rows, name)) for name, arm in candidates.items()
    }
    equal = Arm(
        chosen=f"as many gradients as the winner; {source.chosen}",
        tried=source.tried,
        config=source.config.at_length(spec.train.epochs),
        epochs_for=lengths,
    )
    return {"sgd": arms.pop("sgd"), EQUAL: equal, **arms}


def tuned(
    spec: SweepSpec, rows: Sequence[Row], family: Family, arm: str = "", epochs: int = 0
) -> Arm:
    """A baseline with the best settings that were tried for it."""
    runs = tried(rows, arm or family)
    best = next(iter(ranked(spec, runs, epochs or spec.train.epochs)), None)
    if best is None:
        return Arm(chosen="the spec's settings", tried=1, config=with_family(spec, family, {}))
    value = f"{metric_of(spec.search.objective)} {best['final_objective']:.4f}"
    return Arm(
        chosen=f"{best['trial_id']}, the best of {len(runs)} by {value}",
        tried=len(runs),
        config=config_of(best),
    )


def tuning(spec: SweepSpec, rows: Sequence[Row], count: int) -> list[LiveTrial]:
    """The runs that are missing for `count` trials of each baseline: over the training settings
    that the search tried too or, where it tried none, lr and weight decay around the spec's; and ρ.
    """
    also: Mapping[str, Any] | Sequence[str] = spec.search.also or {
        "lr": around(spec.train.lr),
        "weight_decay": around(spec.train.weight_decay or TRAINED_WITHOUT),
    }
    points = [{}, *training_points(also, count - 1, spec.search.seed)]
    runs = []
    families: dict[str, Family] = {family: family for family in BASELINES} | {TWICE: "sgd"}
    for arm, family in families.items():
        ran = (row for row in tried(rows, arm) if row["outcome"] in ("completed", "diverged"))
        there = {identity(config_of(row)) for row in ran}
        for number, point in enumerate(points):
            config = with_family(spec, family, point, RHO_FACTORS[number % len(RHO_FACTORS)])
            config = config.at_length((2 if arm == TWICE else 1) * spec.train.epochs)
            if identity(config) not in there:
                name = f"tune-{arm}.{number}"
                runs.append(LiveTrial(name, config, params=point, stage="tune", arm=arm))
    return runs


def around(value: float) -> list[float]:
    return [value / 10, 10 * value]


def with_family(
    spec: SweepSpec, family: Family, point: Mapping[str, Any], rho_factor: float = 1.0
) -> TrialConfig:
    """The spec's protocol with another optimizer and these training settings."""
    rule = OptimizerConfig.model_validate({"family": family})
    if family in ("sam", "asam") and rho_factor != 1:
        rule = rule.model_copy(update={"rho": rho_factor * rule.effective_rho})
    train = spec.train.model_copy(update=dict(point))
    return spec.base.model_copy(update={"train": train, "optimizer": rule})


def tried(rows: Iterable[Row], arm: str) -> list[Row]:
    """The runs of a baseline on the search's seed: controls, and those of a tuning."""
    return [
        row for row in rows if row["control"] == arm or (row["stage"], row["arm"]) == ("tune", arm)
    ]


def ranked(spec: SweepSpec, rows: Iterable[Row], epochs: int) -> list[Row]:
    """Those that completed a run of this length, the best by the objective first."""
    whole = [
        row
        for row in rows
        if row["outcome"] == "completed" and row["total_epochs"] == epochs
        if row["final_objective"] is not None and math.isfinite(row["final_objective"])
    ]
    objective = spec.search.objective
    return sorted(whole, key=lambda r: (-merit(r["final_objective"], objective), r["trial_id"]))


def config_of(row: Row) -> TrialConfig:
    return TrialConfig.model_validate_json(row["config_json"])


def effect(config: TrialConfig, first: int | None) -> str:
    """What a configuration is in effect, by its first perturbed epoch (None: never)."""
    return identity(in_effect(config, first or config.train.epochs + 1))


def is_perturbed(config: TrialConfig, row: Row) -> bool:
    return config.optimizer.family in ("sam", "asam") or (
        row["trigger_epoch"] is not None and row["trigger_epoch"] <= config.train.epochs
    )


def first_of(rows: Iterable[Row], trial_id: str) -> int | None:
    return next((row["trigger_epoch"] for row in rows if row["trial_id"] == trial_id), None)


def gradient_epochs(config: TrialConfig, first: int | None) -> int:
    """The epochs of SGD that take as many gradients: a perturbed epoch takes those of two."""
    total = config.train.epochs
    return 2 * total + 1 - (first or 1)
