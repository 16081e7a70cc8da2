"""Searches that are told the firing epoch against those that are told thresholds of triggers.

Run: python benchmarks/firing_epochs.py [--seeds 8] [--trials 60] [--spaces rts]
TPE itself, on the trunk of digits, T = 27, trained first. Nothing else is trained: a trial's value
is made up, of its firing epoch and its schedules, with the optimum at an early, a middle or a late
epoch, and with noise as between two runs. "Gained" is the best trial's share of what there is to be
gained over SGD; "near it" the share of the last two thirds of the trials that fire within 2 epochs
of the optimum. Proposals that never fire are SGD's known run, and count as no trials.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
from itertools import product
from statistics import mean

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
NEAR = 2  # epochs
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
    """The share of what there is to be gained; poor schedules cost all of it and more."""
    if epoch > T:
        return 0.0
    rule = config.optimizer
    distance = math.log10(rule.radius(0.5)) ** 2 + math.log10(rule.scale(0.5)) ** 2
    return math.exp(-(((epoch - best) / (0.15 * T)) ** 2)) * (1.5 * math.exp(-distance / 2) - 0.5)


def search(
    effects: Effects, space: str, best: int, seed: int, trials: int, told: bool
) -> tuple[list[float], float, float]:
    """The best gain until each trial, the share of later trials that fire near the optimum, and the
    share of proposals that never fire."""
    study = SearchStudy(get_space(space), SPEC.base, "tpe", seed, "maximize")
    study.effects = effects
    study.know(effects.of(trunk_of(SPEC.base)), None, Told("complete", [SGD]))
    if not told:
        study._asks_thresholds = False
    noise = random.Random(seed)
    gains, near = [0.0], 0
    for count in range(trials):
        if (proposal := study.ask()) is None:
            gains += gains[-1:] * (trials - count)
            break
        epoch = effects.firing(proposal.config)
        assert epoch is not None
        share = gain(proposal.config, epoch, best)
        value = SGD + GAIN * share + noise.gauss(0, NOISE)
        study.end(proposal.number, Told("complete", [value]))
        gains.append(max(gains[-1], share))
        near += count >= trials // 3 and abs(epoch - best) <= NEAR
    never = study.left_out["never"]
    return gains, near / (trials - trials // 3), never / (never + study.handed_out)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--spaces", nargs="+", default=["rts"])
    asked = parser.parse_args()
    places = [asked.trials // 3, 2 * asked.trials // 3, asked.trials]
    after = " | ".join(f"gained by trial {place}" for place in places)
    print(f"| space | best | told | {after} | near it | never fire |")
    print("|---" * (5 + len(places)) + "|")
    bad = []
    with tempfile.TemporaryDirectory() as storage:
        folder = SweepFolder(storage, "firing")
        train_trunk(folder)
        effects = Effects(folder, make_stopper(SPEC), 1, {})
        for space, (place, best), told in product(asked.spaces, BEST.items(), (False, True)):
            found = [
                search(effects, space, best, seed, asked.trials, told)
                for seed in range(asked.seeds)
            ]
            gained = " | ".join(f"{mean(gains[n] for gains, _, _ in found):.2f}" for n in places)
            near, never = (mean(each[i] for each in found) for i in (1, 2))
            how = "epoch" if told else "thresholds"
            row = f"| {space} | {place} | {how} | {gained} | {near:.0%} | {never:.0%} |"
            print(row, flush=True)
            if told and never > MOST_NEVER:
                bad.append(f"{space}, {place}")
    if bad:
        sys.exit(f"over {MOST_NEVER:.0%} never fire: {', '.join(bad)}")


if __name__ == "__main__":
    main()
