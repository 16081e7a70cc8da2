"""Levels, tests and errors against slow references and simulation."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rts_search.claims.inference import (
    MARGIN,
    detectable_gain,
    holm,
    nominal_level,
    power_of,
    seeds_and_images_error,
    seeds_needed,
    sign_flip,
    two_sided,
    welch,
)

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=6)


def test_pococks_constant() -> None:
    """Jennison and Turnbull, table 2.1: 2.361 for four looks at 5 %, 2.939 at 1 %."""
    for alpha, constant in ((0.05, 2.361), (0.01, 2.939)):
        assert nominal_level(alpha, (5, 10, 15, 20)) == pytest.approx(
            MARGIN * 2 * stats.norm.sf(constant), rel=2e-3
        )
    assert nominal_level(0.05, (7,)) == pytest.approx(MARGIN * 0.05)


@pytest.mark.parametrize("looks", [(5, 8, 11, 15, 20), (3, 4, 12)])
def test_looks_of_a_known_deviation_err_in_alpha(looks: tuple[int, ...]) -> None:
    """Before the margin, which is for what is not known."""
    sums = np.random.default_rng(0).standard_normal((200_000, looks[-1])).cumsum(axis=1)
    z = np.abs(sums[:, np.array(looks) - 1]) / np.sqrt(looks)
    level = nominal_level(0.05, looks) / MARGIN
    assert (2 * stats.norm.sf(z) < level).any(axis=1).mean() == pytest.approx(0.05, abs=0.0015)


@pytest.mark.parametrize("looks", [(5, 10, 15, 20), (5, 8, 11, 15, 20), (2, 4)])
def test_holms_part_of_the_level_is_below_the_level_of_the_part(looks: tuple[int, ...]) -> None:
    for m in range(2, 9):
        assert nominal_level(0.05, looks) / m < nominal_level(0.05 / m, looks) / MARGIN


@given(st.lists(st.integers(-5, 5), min_size=2, max_size=9))
def test_sign_flips(differences: list[int]) -> None:
    observed = abs(sum(differences))
    sums = [abs(np.dot(s, differences)) for s in product((1, -1), repeat=len(differences))]
    expected = np.mean([each >= observed for each in sums])
    assert sign_flip(np.array(differences, float)) == pytest.approx(expected)


def test_sign_flips_of_many_seeds_are_sampled() -> None:
    drawn = np.random.default_rng(1).normal(0.4, 1, 25)
    test = stats.permutation_test((drawn,), np.mean, permutation_type="samples", rng=2)
    assert sign_flip(drawn) == pytest.approx(test.pvalue, abs=0.01)
    assert sign_flip(drawn) == sign_flip(drawn)


@given(P_VALUES)
def test_holm(p: list[float]) -> None:
    left, expected, worst = sorted(range(len(p)), key=lambda i: p[i]), {}, 0.0
    for position, i in enumerate(left):
        worst = max(worst, (len(p) - position) * p[i])
        expected[i] = min(1.0, worst)
    assert holm(np.array(p)).tolist() == pytest.approx([expected[i] for i in range(len(p))])


def test_power_and_seeds() -> None:
    rng, level = np.random.default_rng(0), 0.0131
    seeds = seeds_needed(0.005, 0.003, level)
    assert seeds is not None
    assert power_of(0.005, 0.003, seeds - 1, level) < 0.8 <= power_of(0.005, 0.003, seeds, level)
    assert detectable_gain(0.003, seeds, level) < 0.005 < detectable_gain(0.003, seeds - 1, level)
    ours, theirs = rng.normal(0, 0.003, (2, 20_000, seeds))
    ours += 0.005
    error, freedom = welch(ours.var(axis=1, ddof=1), theirs.var(axis=1, ddof=1), seeds)
    seen = two_sided(ours.mean(axis=1) - theirs.mean(axis=1), error, freedom) <= level
    assert seen.mean() == pytest.approx(power_of(0.005, 0.003, seeds, level), abs=0.015)
    assert seeds_needed(1e-6, 0.003, level) is None
    assert seeds_needed(0.0, 0.003, level) is None
    assert seeds_needed(0.005, 0.0, level) == 2


@pytest.mark.parametrize("own", [0.0, 0.5])
def test_the_error_over_seeds_and_images(own: float) -> None:
    """Images differ in what they gain, seeds in luck; drawn anew, differences deviate so much."""
    rng, seeds, images = np.random.default_rng(0), 6, 400
    differences, told = [], []
    for _ in range(2_000):
        hardness = rng.normal(0.8, 1, images)
        hits = []
        for arm in range(2):
            gained = rng.normal(0, own, images) if arm else 0
            luck = rng.normal(0, 0.1, (seeds, 1))
            hits.append(hardness + gained + luck + rng.normal(0, 0.5, (seeds, images)) > 0)
        differences.append(hits[0].mean() - hits[1].mean())
        told.append(seeds_and_images_error(*hits))
    deviation = np.std(differences)
    assert deviation < np.sqrt(np.mean(np.square(told))) < 1.3 * deviation
