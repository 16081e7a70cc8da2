"""What can be known to fail before Ray starts."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import FixedTrial

from rts_search.apart import apart
from rts_search.search.suits import check_sampler
from rts_search.spec.model import SweepSpec
from rts_search.stopping.stopper import make_stopper
from rts_search.trials.trial import SGD
from search_spaces.registry import also, get_space, start_points
from search_spaces.space import Space, apply, check_draws
from trainables.config import TrainConfig, TrialConfig
from trainables.effect import has_trunk, trunk_of


def search_space(spec: SweepSpec) -> Space:
    """The spec's space, with the training settings that are searched beside it."""
    space = get_space(spec.space)
    return also(space, spec.search.also) if spec.search.also else space


def check_spec(spec: SweepSpec, download: bool = True) -> list[str]:
    """Check space, sampler, stopper, start points, data and model together; the space is applied to
    random draws.

    Prepares the data (once a node), and downloads what is missing only if it may. Returns notes for
    the user. Raises ValueError, in one line.
    """
    space = search_space(spec)
    configs, left_out = check_draws(space, spec.base)
    check_objectives(spec)
    objectives = 2 if spec.search.against else 1
    note = check_sampler(spec.search.sampler, space, spec.stop.policy, objectives=objectives)
    make_stopper(spec)
    check_clock(spec, configs)
    if spec.search.start_from != "none":
        for point in start_points(space, spec.search.start_from):
            apply(space, FixedTrial(point), spec.base)
    lines = [sharing(spec, configs)[1], note, left_out]
    lines += apart("trainables.own.start:check_run", spec.base, download)
    lines.append(untuned_controls(spec, configs))
    return [line for line in lines if line]


def untuned_controls(spec: SweepSpec, configs: Sequence[TrialConfig]) -> str | None:
    """A line if training settings differ between these configurations of trials, and the controls
    keep the spec's."""
    asked, also = spec.search.baselines, list(spec.search.also)
    if asked is None:
        return None
    tuned = also if asked.trials > 1 else []
    fixed = [
        key
        for key in TrainConfig.model_fields
        if key not in tuned and len({getattr(config.train, key) for config in configs}) > 1
    ]
    if not fixed:
        return None
    how = "search.controls={trials: 8} gives each control as many tries"
    if not set(fixed) <= set(also):
        how = f"search them by search.also, with {how.replace(' gives', ', which gives')}"
    return (
        f"the controls keep the spec's {', '.join(fixed)}, which the trials search: comparisons "
        f"will say untuned; {how}"
    )


def check_clock(spec: SweepSpec, configs: Sequence[TrialConfig]) -> None:
    """Refuse a clock that starts at firing where the sgd control is not what these configurations
    are before theirs."""
    if spec.stop.clock != "firing":
        return
    if spec.search.baselines is None or SGD not in spec.search.baselines.families:
        raise ValueError(
            "stop.clock firing judges by the difference to the sgd control, and search.controls "
            "leaves that out: let it have sgd, or use stop.clock epoch"
        )
    differing = {
        f"{part}.{key}"
        for config in configs
        for part in TrialConfig.model_fields.keys() - {"optimizer", "task"}
        for key in type(getattr(config, part)).model_fields
        if getattr(getattr(config, part), key) != getattr(getattr(spec, part), key)
    } | {"task.args" for config in configs if config.task != spec.task}
    if differing:
        raise ValueError(
            f"stop.clock firing judges by the difference to the sgd control, and {spec.space} "
            f"searches {', '.join(sorted(differing))} too, which that keeps: use stop.clock epoch"
        )


def check_objectives(spec: SweepSpec) -> None:
    """Refuse a stopper beside two objectives."""
    if spec.search.against and spec.stop.policy != "none":
        raise ValueError(
            f"search.against {spec.search.against} goes with stop.policy none, not "
            f"{spec.stop.policy}: a stopped trial has no final accuracy and cost to weigh"
        )


def sharing(
    spec: SweepSpec, configs: Sequence[TrialConfig] | None = None
) -> tuple[bool, str | None]:
    """Whether trials share the SGD before their triggers fire, and a line for the user about it.
    `configs` are random ones of the space."""
    if configs is None:
        configs, _ = check_draws(search_space(spec), spec.base)
    begin_alike = [trunk_of(config) for config in configs if has_trunk(config)]
    if not begin_alike:
        return False, None
    if spec.search.share is False:
        return False, "SGD epochs are not shared: search.share false"
    asked = begin_alike[: max(2, spec.search.trials)]
    if 2 * len({config.model_dump_json() for config in asked}) <= len(asked):
        if not spec.checkpoint.trunk_mb:
            return True, (
                "SGD epochs are trained by each trial, for checkpoint.trunk_mb 0 keeps no "
                "snapshots; proposals that never fire, or when another did, are not trained"
            )
        return True, "SGD epochs before triggers fire are trained once, and shared"
    searched = [
        key
        for group in ("data", "model", "train")
        for key in type(getattr(asked[0], group)).model_fields
        if len({str(getattr(getattr(config, group), key)) for config in asked}) > 1
    ]
    return False, (
        f"nothing is shared: {', '.join(searched)} searched, and each value has SGD epochs of its "
        "own"
    )
