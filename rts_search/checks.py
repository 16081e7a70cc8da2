"""What can be known to fail before Ray starts."""

from __future__ import annotations

from rts_search.spec import SweepSpec
from rts_search.stoppers import make_stopper


def check_spec(spec: SweepSpec) -> None:
    """Prepare the data (once a node), and build the model. Raises ValueError, in one line."""
    import torch

    from trainables.data import prepare, steps_per_epoch
    from trainables.models import build_model

    make_stopper(spec)
    data = prepare(spec.data)
    steps_per_epoch(len(data.train_labels), spec.train.batch_size, spec.train.drop_last)
    with torch.random.fork_rng(devices=[]):
        build_model(spec.model, data.num_classes, data.image_shape)
