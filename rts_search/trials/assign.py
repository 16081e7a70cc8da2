"""What a worker is told of its trial."""

from __future__ import annotations

import json
from collections.abc import Callable

from results.meanings import column
from results.storage import SweepFolder
from rts_search.spec.model import SweepSpec, patience_seconds
from rts_search.stopping.stopper import Stopper
from rts_search.trials.rows import trial_row
from rts_search.trials.trial import LiveTrial
from trainables.tune import Assignment, package_fingerprints


def make_assign(
    spec: SweepSpec,
    folder: SweepFolder,
    claim: tuple[str, str],
    stopper: Stopper,
    threads: int,
    gpus: float,
    in_words: Callable[[LiveTrial], str],
    trunks: str | None = None,
) -> Callable[[LiveTrial], Assignment]:
    """How the sweep turns a trial into what its worker is told; `trunks` is the URI of their folder
    where SGD is shared."""
    packages = package_fingerprints()

    def climb(trial: LiveTrial) -> list[list[int]]:
        if trial.number is None:
            return [[0, trial.total_epochs]]
        return [list(rung) for rung in stopper.climb(trial.number)]

    def assign(trial: LiveTrial) -> Assignment:
        return Assignment(
            sweep=spec.name,
            trial_id=trial.trial_id,
            number=trial.number,
            words=in_words(trial),
            config=trial.config.model_dump_json(),
            climb=climb(trial),
            checkpoints=folder.uri_of(f"checkpoints/{trial.trial_id}"),
            claim=claim,
            checkpoint_seconds=spec.checkpoint.every_seconds,
            keep_weights=spec.checkpoint.keep_top > 0,
            keep_stopped=spec.checkpoint.keep_stopped,
            patience_seconds=patience_seconds(spec),
            objective=column(spec.search.objective),
            threads=threads,
            row=json.dumps(trial_row(trial, spec.search.objective), default=str),
            gpus=gpus,
            packages=packages,
            # a control of another length shares with nobody
            trunks=trunks if trial.total_epochs == spec.train.epochs else None,
            trunk_bytes=spec.checkpoint.trunk_mb * 1e6,
        )

    return assign
