"""`rts-search reproduce`: a trial trained again, and compared with its rows to the bit."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import groupby
from typing import Any

from results.schema import EPOCHS, json_object
from rts_search.notebook import Sweep, open_sweep, split_trial
from rts_search.spec.folder import sources_at
from rts_search.spec.model import SweepSpec
from rts_search.spec.provenance import fingerprints, provenance
from rts_search.train import resolve, set_threads
from trainables.config import TrialConfig

# of an epoch: what depends on the hour, the machine and the other trials, and not on the training
UNCOMPARED = {
    *("sweep", "trial_id", "shared", "time", "peak_memory_bytes"),
    *("train_seconds", "eval_seconds", "epoch_seconds", "images_per_second"),
}
COMPARED = [name for name in EPOCHS.names if name not in UNCOMPARED]


def reproduce(trial: str, storage: str, trust: bool = False) -> None:
    """Train all epochs that SWEEP/TRIAL has in the ledger, at every rung, and compare each.

    Nothing is recorded. Raises ValueError if it cannot be trained here, and SystemExit, naming
    the first epoch and column, where it parts.
    """
    config, row = resolve(None, trial, [], storage, trust)
    sweep_name, _ = split_trial(trial)
    sweep = open_sweep(sweep_name, storage)
    recorded = sweep.epochs(row["trial_id"]).to_pylist()
    if not recorded:
        raise ValueError(f"{trial} has no epochs in the ledger: there is nothing to compare with")
    set_threads(row["threads"])
    tested = any(row[name] is not None for name in ("test_accuracy", "test_loss", "test_value"))
    from trainables.own.start import new_run, train_run

    for rung, rows in groupby(recorded, key=lambda epoch: epoch["rung"]):
        before = list(rows)
        length = before[0]["total_epochs"]
        final = length == row["total_epochs"] and tested
        run = new_run(config.at_length(length))
        for old, metrics in zip(before, train_run(run, rung, final), strict=False):
            new = asdict(metrics)
            where = f"epoch {old['epoch']} of {length}" + (f" at rung {rung}" if rung else "")
            parts = list(differences(old, new, COMPARED))
            tests = new["test"] or {}
            # of each image only for runs with a stage
            parts += differences(row, tests, [n for n in tests if n != "test_hits" or row["stage"]])
            if parts:
                causes = "; ".join(changes(sweep, row, config)) or "nothing that the ledger knows"
                raise SystemExit(
                    f"rts-search: {trial} parts at {where}: {parts[0]}; changed since: {causes}"
                )
            print(f"{where}: equal  {metrics.in_words}")
    with_test = " and the test set" if tested else ""
    used = ", ".join(f"{name} {row[name] or '?'}" for name in ("device", "threads", "precision"))
    print(f"{trial}: {len(recorded)} epochs{with_test} equal to the bit ({used})")


def differences(old: Mapping[str, Any], new: Mapping[str, Any], names: list[str]) -> Iterator[str]:
    """The columns that differ, with both values; NaN equals itself."""
    for name in names:
        pair = old[name], new[name]
        both_nan = all(isinstance(value, float) and math.isnan(value) for value in pair)
        if pair[0] != pair[1] and not both_nan:
            yield f"{name} {pair[0]!r} in the ledger, {pair[1]!r} now"


def changes(sweep: Sweep, row: Mapping[str, Any], config: TrialConfig) -> Iterator[str]:
    """What may be the cause, as far as the ledger knows."""
    now = provenance()
    versions = json_object(row["versions"])
    for package, version in json.loads(now.versions).items():
        if package in versions and versions[package] != version:
            yield f"{package} from {versions[package]} to {version}"
    for name in ("hardware", "git_commit"):
        if row[name] and row[name] != getattr(now, name):
            yield f"{name} from {row[name]} to {getattr(now, name)}"
    if row["threads"] is None:
        yield "the number of threads is not in the ledger (an earlier version wrote it)"
    if sweep.has_spec:
        known = sources_at(sweep.folder, row["started"])
        spec = sweep.spec.model_copy(update={"space": SweepSpec().space})  # which is not run here
        own = {name for name in spec.base.named.values() if ":" in name}
        if own <= {*config.named.values()}:  # else code that was not asked about
            yield from (k for k, v in fingerprints(spec).items() if known.get(k, v) != v)
