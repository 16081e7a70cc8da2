"""Writes into a worker's log which trials it serves."""

from __future__ import annotations

import sys

from trainables.metrics import EpochMetrics

ACTOR_NAME = ":actor_name:"  # a line that begins so names the lines after it, for Ray's log monitor


def speak_as(name: str) -> None:
    """Let Ray prefix what this process prints from now on with `(name pid=…)`.

    Ray fixes an actor's name when it is created; this is the one name that can follow the trial.
    """
    for stream in (sys.stdout, sys.stderr):
        print(f"{ACTOR_NAME}{name}", file=stream, flush=True)


def begins(
    name: str,
    words: str,
    climb: list[list[int]],
    done: list[EpochMetrics],
    streams: bool = False,
) -> None:
    """As in `demo/t0003 begins: rts radius cos 2→0.01 · epoch at 4; 1 → 3 → 9 epochs`."""
    line = f"{name} begins: {words}; {' → '.join(str(epochs) for _, epochs in climb)} epochs"
    line += "; its images stream" if streams else ""
    _say(line + (f"; goes on after {_place(done[-1])}" if done else ""))


def ends(name: str, outcome: str, last: EpochMetrics | None) -> None:
    """As in `demo/t0003 ends: completed after epoch 9/9 of rung 2, val accuracy 0.9667`."""
    reached = f" after {_place(last)}, {last.in_words}" if last else ""
    _say(f"{name} ends: {outcome}{reached}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # the one of the two that the dashboard opens


def _place(metrics: EpochMetrics) -> str:
    return f"epoch {metrics.epoch}/{metrics.total_epochs} of rung {metrics.rung}"
