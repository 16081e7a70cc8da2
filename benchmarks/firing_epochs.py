"""Searches that are told the firing epoch against those that are told thresholds of triggers.

Run: python benchmarks/firing_epochs.py [--seeds 8] [--trials 60] [--spaces timing rts]
TPE itself, on the trunk of digits, T = 27, trained first. Nothing else is trained: a trial's value
is made up, of its firing epoch and its schedules, with an optimum at an early, a middle or a late
firing epoch, and with noise as between two runs. A trial is near if it fires at most one epoch from
the optimum and has nine tenths of what there is to be gained. Every trial and every proposal that
never fires counts for itself; what is a known trial's twin counts for nothing.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
import tempfile

from results.storage import SweepFolder
from rts_search.search.known import Told
from rts_search.search.study import SearchStudy
from rts_search.search.trunks import TRUNKS, Effects
from rts_search.spec.model import SweepSpec
from rts_search.stopping.stopper import make_stopper
from search_spaces.registry import get_space
from trainables.config import TrialConfig
from trainables.effect import trunk_of
from trainables.loop import train
from trainables.state import TrainingState
from trainables.trunk import Trunk, trunk_prefix

T = 27
BEST = {"early": 5, "middle": 14, "late": 23}  # firing epochs
SGD, GAIN, NOISE = 0.70, 0.05, 0.002
MOST_NEVER = 0.1
SPEC = SweepSpec.model_validate(
    {
        "data": {"name": "digits", "train_size": 300},
        "model": {"name": "mlp"},
        "train": {"epochs": T, "batch_size": 50, "device": "cpu"},
        "stop": {"policy": "none"},
    }
)


def train_trunk(folder: SweepFolder) -> None:
    sgd = trunk_of(SPEC.base)
    name = f"{trunk_prefix(sgd, 1, {})}cpu-fp32"
    trunk = Trunk(folder.uri_of(TRUNKS), name, 1e9)
    for _ in train(sgd, TrainingState(sgd, watch_all=True), trunk=trunk):
        pass


def gain(config: TrialConfig, epoch: int, best: int) -> float:
    """The share of what there is to be gained; schedules cost up to all of it and more."""
    if epoch > T:
        return 0.0
    rule = config.optimizer
    distance = math.log10(rule.radius(0.5)) ** 2 + math.log10(rule.scale(0.5)) ** 2
    return math.exp(-(((epoch - best) / (0.15 * T)) ** 2)) * (1.5 * math.exp(-distance) - 0.5)


def search(
    effects: Effects, space: str, best: int, seed: int, trials: int, told: bool
) -> tuple[int, float]:
    """The trials until one is near, and the share of proposals that never fire."""
    study = SearchStudy(get_space(space), SPEC.base, "tpe", seed, "maximize")
    study.effects = effects
    sgd = trunk_of(SPEC.base)
    study.know(effects.of(sgd), None, Told("complete", [SGD]))
    if not told:
        study._asks_thresholds = False
    noise = random.Random(seed)
    near = trials + 1
    for count in range(1, trials + 1):
        if (proposal := study.ask()) is None:
            break
        epoch = effects.firing(proposal.config)
        assert epoch is not None
        share = gain(proposal.config, epoch, best)
        study.end(proposal.number, Told("complete", [SGD + GAIN * share + noise.gauss(0, NOISE)]))
        if share >= 0.9 and abs(epoch - best) <= 1:
            near = min(near, count)
    never = study.left_out["never"]
    return near, never / (never + study.handed_out)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--spaces", nargs="+", default=["timing", "rts"])
    asked = parser.parse_args()
    print("| space | best | told | trials until near, median | the mean | not found | never fire |")
    print("|---" * 7 + "|")
    bad = []
    with tempfile.TemporaryDirectory() as storage:
        folder = SweepFolder(storage, "firing")
        train_trunk(folder)
        effects = Effects(folder, make_stopper(SPEC), 1, {})
        for space in asked.spaces:
            for place, best in BEST.items():
                for told in (False, True):
                    found = [
                        search(effects, space, best, seed, asked.trials, told)
                        for seed in range(asked.seeds)
                    ]
                    nears = [near for near, _ in found]
                    never = statistics.mean(share for _, share in found)
                    print(
                        f"| {space} | {place} | {'epoch' if told else 'thresholds'} "
                        f"| {statistics.median(nears):g} | {statistics.mean(nears):.1f} "
                        f"| {sum(near > asked.trials for near in nears)} of {asked.seeds} "
                        f"| {never:.0%} |",
                        flush=True,
                    )
                    if told and never > MOST_NEVER:
                        bad.append(f"{space}, {place}")
    if bad:
        sys.exit(f"over {MOST_NEVER:.0%} never fire: {', '.join(bad)}")


if __name__ == "__main__":
    main()
