"""Stratified subsets and label noise: every class has its share, under a seed of its own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def class_quotas(counts: Indices, total: int, leave: int = 0) -> Indices:
    """How many of each class make up `total` images, in proportion to `counts` [K].

    Rounded by largest remainder, so that they sum to `total`. Where `total` allows it every class
    gets at least one; each class keeps at least `leave` images for the rest if the rest is that
    large. `total` is in 0..sum(counts).
    """
    exact = total * counts / counts.sum()
    low = np.minimum(counts, 1) if total >= np.count_nonzero(counts) else np.zeros_like(counts)
    spare = counts - np.minimum(counts, leave)
    high = spare if total <= spare.sum() else counts
    high = np.maximum(high, low)
    quotas: Indices = np.clip(np.floor(exact).astype(np.int64), low, high)
    while (missing := total - int(quotas.sum())) != 0:
        step = 1 if missing > 0 else -1
        open_classes = quotas < high if step > 0 else quotas > low
        need = np.where(open_classes, step * (exact - quotas), -np.inf)
        quotas[int(need.argmax())] += step
    return quotas


def stratified(
    labels: Indices, total: int, seed: int | np.random.Generator, leave: int = 0
) -> tuple[Indices, Indices]:
    """`total` indices into `labels`, drawn class by class, and the indices of all others.

    Both come sorted. The same labels, total and seed always give the same draw.
    """
    generator = np.random.default_rng(seed)
    quotas = class_quotas(np.bincount(labels), total, leave)
    members = [np.flatnonzero(labels == k) for k in range(len(quotas))]
    drawn = [generator.permutation(own)[:n] for own, n in zip(members, quotas, strict=True)]
    chosen = np.sort(np.concatenate(drawn))
    return chosen, np.setdiff1d(np.arange(len(labels)), chosen)


def wrong_labels(labels: Indices, classes: int, share: float, seed: int) -> Indices:
    """A copy in which round(share · N) labels, the same share of each class, are wrong.

    A wrong label is drawn from the other classes, each as likely.
    """
    generator = np.random.default_rng(seed)
    chosen, _ = stratified(labels, round(share * len(labels)), generator)
    noisy = labels.copy()
    noisy[chosen] = (labels[chosen] + generator.integers(1, classes, len(chosen))) % classes
    return noisy
