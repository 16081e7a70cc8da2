"""When a trial is lost: diverged, collapsed, or neither."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from trainables.guard import RISK, chance, lucky, verdict
from trainables.metrics import EpochMetrics

CHANCE = chance((10,) * 10)  # ten classes, a hundred validation images
LOST, LEARNING = 0.10, 0.17


def epoch(number: int, val_accuracy: float, total: int = 40, **fields: float) -> EpochMetrics:
    metrics = EpochMetrics(
        epoch=number,
        total_epochs=total,
        rung=0,
        lr=0.1,
        train_loss=2.3,
        train_accuracy=0.1,
        perturbed_loss=None,
        loss_rise=None,
        val_loss=2.3,
        val_accuracy=val_accuracy,
        generalization_gap=0.0,
        radius=1.0,
        scale=1.0,
        perturbing=False,
        trigger_statistic=None,
        trigger_threshold=None,
        trigger_epoch=None,
        gradient_evaluations=number,
        train_seconds=1.0,
        eval_seconds=1.0,
        epoch_seconds=2.0,
        images_per_second=1.0,
        peak_memory_bytes=None,
    )
    return replace(metrics, **fields)


def history(accuracies: list[float], total: int = 40) -> list[EpochMetrics]:
    return [epoch(i, accuracy, total) for i, accuracy in enumerate(accuracies, start=1)]


def outcome(epochs: list[EpochMetrics]) -> str | None:
    found = verdict(epochs, CHANCE)
    return found[0] if found else None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["train_loss", "val_loss", "perturbed_loss"])
@pytest.mark.parametrize("number", [1, 40])
def test_a_loss_that_is_not_finite_has_diverged(name: str, value: float, number: int) -> None:
    found = verdict([epoch(number, 0.9, **{name: value})], CHANCE)
    assert found == ("diverged", f"{name} is {value} at epoch {number}")


def test_an_earlier_loss_does_not_count() -> None:
    assert outcome([epoch(1, 0.9, val_loss=math.nan), epoch(2, 0.9)]) is None


def test_chance_level_has_collapsed_after_the_warm_up_only() -> None:
    lost = history([LOST] * 39)
    verdicts = [outcome(lost[:n]) for n in range(1, 40)]
    assert verdicts == [None] * 9 + ["collapsed"] * 30  # T/4 = 10


@pytest.mark.parametrize(
    ("total", "first"), [(6, 5), (8, 5), (20, 5), (24, 6), (100, 25), (5, None), (1, None)]
)
def test_the_warm_up_is_a_quarter_of_the_run_but_five_epochs(total: int, first: int | None) -> None:
    lost = history([LOST] * total, total)
    found = [n for n in range(1, total + 1) if outcome(lost[:n])]
    assert (found[0] if found else None) == first
    assert total not in found  # a run that is at its end has its result


def test_the_message_tells_accuracy_and_chance() -> None:
    found = verdict(history([LOST] * 12), CHANCE)
    assert found is not None
    assert found[1] == (
        "val_accuracy 0.100 at epoch 12 of 40, no better than chance (0.100, with luck 0.160) for "
        "3 epochs"
    )


def test_one_epoch_above_chance_in_three_is_enough() -> None:
    for accuracies in ([LEARNING, LOST, LOST], [LOST, LEARNING, LOST], [LOST, LOST, LEARNING]):
        assert outcome(history([LOST] * 17 + accuracies)) is None
    assert outcome(history([LEARNING] * 17 + [LOST] * 3)) == "collapsed"


def test_more_validation_images_tell_chance_more_finely() -> None:
    lost = history([0.12] * 20)
    assert verdict(lost, CHANCE) is not None
    assert verdict(lost, chance((1000,) * 10)) is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(30, 60))
def test_a_run_is_ended_exactly_when_its_last_three_epochs_are_at_chance(
    accuracies: list[float], total: int
) -> None:
    epochs = len(accuracies)
    at_chance = all(accuracy <= 0.16 for accuracy in accuracies[-3:])
    old_enough = epochs >= max(5, total // 4) and epochs < total
    wanted = "collapsed" if at_chance and old_enough else None
    assert outcome(history(accuracies, total)) == wanted


@given(st.integers(1, 3000), st.floats(0.001, 0.5))
def test_the_bound_of_luck_is_the_exact_binomial_one(images: int, share: float) -> None:
    right = lucky(images, share)
    assert binom.sf(right - 1, images, share) > RISK * (1 - 1e-6)  # so many or more
    assert binom.sf(right, images, share) <= RISK * (1 + 1e-6)


@pytest.mark.parametrize("counts", [(2, 2), (1, 1), (3, 0), (5, 0, 0), (1, 1, 0)])
def test_a_split_that_tells_nothing_ends_no_trial(counts: tuple[int, ...]) -> None:
    assert chance(counts) is None  # guesses may all be right
    assert verdict(history([0.0] * 20), None) is None
    assert verdict([epoch(20, 0.0, val_loss=math.nan)], None) is not None  # diverged all the same


@given(st.lists(st.integers(0, 60), min_size=2, max_size=20).filter(any))
def test_perfect_trials_are_never_ended(counts: list[int]) -> None:
    assert verdict(history([1.0] * 20), chance(tuple(counts))) is None


@given(st.lists(st.integers(1, 500), min_size=2, max_size=20))
def test_naming_one_class_always_is_chance_wherever_that_can_be_told(counts: list[int]) -> None:
    found = chance(tuple(counts))
    for images in counts:
        constant = history([images / sum(counts)] * 20)
        assert found is None or verdict(constant, found) is not None


def test_a_rare_class_learned_is_above_chance() -> None:
    rare = chance((950, 50))
    assert rare is not None
    assert rare.level == rare.bound == 0.95
    assert verdict(history([0.951] * 20), rare) is None
