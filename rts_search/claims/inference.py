"""The tests that a claim rests on: levels of looks, Welch, sign flips, Holm, power, errors."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import nctdtr, ndtr, ndtri, stdtr, stdtrit

Array = npt.NDArray[Any]
Number = Array | float

# Of Pocock's level, which is for means of known deviation: few seeds, noise that is not normal and
# Holm, which takes its m-th part and not that of the m-th part of alpha, each err a little more.
MARGIN = 0.8
FLIPS = 20  # so many seeds are flipped in all 2^n ways; more, in 2^16 random ones
POWER = 0.8


def block_sizes(looks: str) -> tuple[int, ...]:
    """Seeds between looks, of `5,8,11`. Raises ValueError for text of another form."""
    try:
        ends = [int(part) for part in looks.split(",")]
    except ValueError:
        ends = []
    sizes = tuple(b - a for a, b in zip([0, *ends], ends, strict=False))
    if not sizes or min(sizes) < 1 or sizes[0] < 2:
        raise ValueError(
            f"--looks {looks!r}: numbers of seeds that grow, from 2 on, as in 5,8,11,15,20"
        )
    return sizes


@lru_cache
def nominal_level(alpha: float, looks: tuple[int, ...]) -> float:
    """The two-sided level at each look that makes all looks together err in `alpha`, or less.

    Pocock's, from the density of the sum of n deviates that crossed at no look before, integrated
    from look to look (Armitage, McPherson and Rowe), times `MARGIN`.
    """
    nodes, weights = np.polynomial.legendre.leggauss(128)

    def crossed(bound: float) -> float:
        density, sums, areas, before = np.ones(1), np.zeros(1), np.ones(1), 0
        for n in looks:
            edge, step = bound * math.sqrt(n), math.sqrt(n - before)
            now = edge * nodes
            kernel = np.exp(-0.5 * ((now[:, None] - sums) / step) ** 2)
            density = kernel @ (density * areas) / (step * math.sqrt(2 * math.pi))
            sums, areas, before = now, edge * weights, n
        return 1 - float(density @ areas)

    bound = brentq(lambda z: crossed(z) - alpha, -ndtri(alpha / 2) - 1e-6, 9.0, xtol=1e-9)
    return MARGIN * 2 * float(ndtr(-bound))


def welch(variance: Number, other: Number, n: Number) -> tuple[Array, Array]:
    """The error of a difference between two means of n runs each, and its degrees of freedom."""
    total = variance + other
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = (n - 1) * total**2 / (variance**2 + other**2)
    return np.sqrt(total / n), np.where(total > 0, freedom, 2.0 * (n - 1))


def two_sided(difference: Number, error: Number, freedom: Number) -> Array:
    """p of a difference under Student's t; 0 for one without error, 1 for none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(difference == 0, 0.0, -np.abs(difference) / error)
    p: Array = 2 * stdtr(freedom, t)
    return p


def half_width(error: float, freedom: float, level: float) -> float:
    return float(stdtrit(freedom, 1 - level / 2)) * error


def sign_flip(differences: Array) -> float:
    """Two-sided p of the mean if each difference could as well have had the other sign."""
    observed = abs(differences.sum()) * (1 - 1e-12)
    if len(differences) <= FLIPS:
        sums = np.zeros(1)
        for one in differences[1:]:  # the first one's sign is given away: the test is two-sided
            sums = np.concatenate([sums + one, sums - one])
        return float(np.mean(np.abs(sums + differences[0]) >= observed))
    signs = np.random.default_rng(0).integers(0, 2, (1 << 16, len(differences)), np.int8)
    hits = np.count_nonzero(np.abs((2.0 * signs - 1) @ differences) >= observed)
    return float((hits + 1) / (len(signs) + 1))


def holm(p: Array) -> Array:
    """Holm's adjusted p over the last axis."""
    order = np.argsort(p, axis=-1, kind="stable")
    stepped = np.take_along_axis(p, order, axis=-1) * np.arange(p.shape[-1], 0, -1)
    adjusted = np.minimum(np.maximum.accumulate(stepped, axis=-1), 1.0)
    answer = np.empty_like(adjusted)
    np.put_along_axis(answer, order, adjusted, axis=-1)
    return answer


# What a budget can establish -----------------------------------------------------------------


def power_of(gain: float, deviation: float, seeds: int, level: float) -> float:
    """The chance that one look at so many seeds, at `level`, says that a true `gain` is one.

    `deviation` is that of reruns of one arm, alike in both.
    """
    if deviation == 0:
        return 1.0
    shift, freedom = gain / deviation * math.sqrt(seeds / 2), 2 * (seeds - 1)
    return 1 - float(nctdtr(freedom, shift, stdtrit(freedom, 1 - level / 2)))


def seeds_needed(gain: float, deviation: float, level: float) -> int | None:
    """The seeds of each arm at which a true gain is seen in 80 %; None for more than 1,000."""
    seeds = range(2, 1001)
    if gain <= 0 or power_of(gain, deviation, seeds[-1], level) < POWER:
        return None
    low, high = 0, len(seeds) - 1  # power grows with seeds
    while low < high:
        middle = (low + high) // 2
        enough = power_of(gain, deviation, seeds[middle], level) >= POWER
        low, high = (low, middle) if enough else (middle + 1, high)
    return seeds[low]


def detectable_gain(deviation: float, seeds: int, level: float) -> float:
    """The smallest true gain that so many seeds of each arm show in 80 %."""
    if deviation == 0:
        return 0.0
    return deviation * float(brentq(lambda d: power_of(d, 1.0, seeds, level) - POWER, 0.0, 1e4))


def seeds_and_images_error(hits_a: Array, hits_b: Array) -> float:
    """The standard error of a difference in accuracy over seeds and over test images drawn anew.

    `hits_*` are boolean, seeds × images. To Welch's variance over seeds that of the images' mean
    differences is added: what belongs to a seed and an image together counts twice, so that this
    errs upwards. Over seeds alone, on this test set, the error is `Comparison.deviation` / √seeds.
    """
    seeds, images = hits_a.shape
    over_seeds = sum(hits.mean(axis=1).var(ddof=1) for hits in (hits_a, hits_b)) / seeds
    over_images = (hits_a.mean(axis=0) - hits_b.mean(axis=0)).var(ddof=1) / images
    return math.sqrt(float(over_seeds + over_images))
