"""What can be known to fail before Ray starts."""

from __future__ import annotations

from rts_search.samplers import check_sampler
from rts_search.spec import SweepSpec
from rts_search.stoppers import make_stopper
from search_spaces.registry import also, get_space, start_points
from search_spaces.space import Space
from trainables.config import TrialConfig


def search_space(spec: SweepSpec) -> Space:
    """The spec's space, with the training settings that are searched beside it."""
    space = get_space(spec.space)
    return also(space, spec.search.also) if spec.search.also else space


def check_spec(spec: SweepSpec) -> list[str]:
    """Check space, sampler, stopper, start points, data and model together.

    Prepares the data (once a node). Returns notes for the user. Raises ValueError, in one line.
    """
    space = search_space(spec)
    check_objectives(spec)
    objectives = 2 if spec.search.against else 1
    note = check_sampler(spec.search.sampler, space, spec.stop.policy, objectives=objectives)
    make_stopper(spec)
    if spec.search.start_from != "none":
        start_points(space, spec.search.start_from)
    check_trainable(spec.base)
    return [note] if note else []


def check_objectives(spec: SweepSpec) -> None:
    """Refuse a stopper beside two objectives."""
    if spec.search.against and spec.stop.policy != "none":
        raise ValueError(
            f"search.against {spec.search.against} goes with stop.policy none, not "
            f"{spec.stop.policy}: a stopped trial has no final accuracy and cost to weigh"
        )


def check_trainable(config: TrialConfig) -> None:
    """Prepare the data and build the model, which a worker would fail to do."""
    import torch

    from trainables.data import prepare, steps_per_epoch
    from trainables.models import build_model
    from trainables.state import resolve_device

    resolve_device(config.train.device)
    data = prepare(config.data)
    steps_per_epoch(len(data.train_labels), config.train.batch_size, config.train.drop_last)
    with torch.random.fork_rng(devices=[]):
        build_model(config.model, data.num_classes, data.image_shape)
