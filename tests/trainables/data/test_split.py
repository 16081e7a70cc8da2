"""Stratified draws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.config import DataConfig
from trainables.data.cache import split
from trainables.data.raw import RawData
from trainables.data.split import class_quotas, stratified, wrong_labels


@given(st.lists(st.integers(1, 200), min_size=1, max_size=20), st.data(), st.integers(0, 1))
def test_quotas_sum_up_and_keep_to_their_shares(
    sizes: list[int], data: st.DataObject, leave: int
) -> None:
    counts = np.array(sizes)
    total = data.draw(st.integers(0, int(counts.sum())))
    quotas = class_quotas(counts, total, leave)
    assert quotas.sum() == total
    assert ((quotas >= 0) & (quotas <= counts)).all()
    if total >= len(counts):
        assert (quotas >= 1).all()
    if leave and total <= (counts - 1).sum() and counts.min() > 1:
        assert (quotas < counts).all()
    exact = total * counts / counts.sum()
    if exact.min() >= 1 and (counts - exact).min() >= 1:  # no bound to keep: rounded, no more
        assert np.abs(quotas - exact).max() < 1


@given(st.lists(st.integers(0, 4), min_size=10, max_size=80), st.integers(0, 5), st.data())
def test_a_draw_and_its_rest_are_a_partition(
    labels: list[int], seed: int, data: st.DataObject
) -> None:
    array = np.array(labels)
    total = data.draw(st.integers(1, len(labels) - 1))
    chosen, rest = stratified(array, total, seed, leave=1)
    assert len(chosen) == total
    assert np.array_equal(np.sort(np.concatenate((chosen, rest))), np.arange(len(array)))
    assert np.array_equal(chosen, stratified(array, total, seed, leave=1)[0])


def test_equal_classes_get_equal_shares_and_seeds_differ() -> None:
    labels = np.repeat(np.arange(10), 60)
    chosen, rest = stratified(labels, 60, seed=0)
    assert np.bincount(labels[chosen]).tolist() == [6] * 10
    assert np.bincount(labels[rest]).tolist() == [54] * 10
    assert not np.array_equal(chosen, stratified(labels, 60, seed=1)[0])


@given(
    st.lists(st.integers(0, 4), min_size=10, max_size=80),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 5),
)
def test_exactly_the_share_of_labels_is_wrong_in_each_class(
    labels: list[int], share: float, seed: int
) -> None:
    array = np.array(labels)
    before = array.copy()
    noisy = wrong_labels(array, 5, share, seed)
    assert np.array_equal(array, before)
    wrong = noisy != array
    assert wrong.sum() == round(share * len(array))
    assert ((noisy >= 0) & (noisy < 5)).all()
    counts, wrongs = np.bincount(array, minlength=5), np.bincount(array[wrong], minlength=5)
    assert np.array_equal(wrongs, class_quotas(counts, int(wrong.sum()))[:5])
    assert np.array_equal(noisy, wrong_labels(array, 5, share, seed))


def test_a_wrong_label_is_any_other_class_as_likely_and_seeds_differ() -> None:
    labels = np.repeat(np.arange(3), 3000)
    noisy = wrong_labels(labels, 3, 0.5, seed=0)
    moved = np.histogram2d(labels, noisy, bins=3)[0]
    assert moved.diagonal().tolist() == [1500] * 3
    assert np.abs(moved[~np.eye(3, dtype=bool)] - 750).max() < 100  # 5 deviations
    assert not np.array_equal(noisy, wrong_labels(labels, 3, 0.5, seed=1))


def raw(train_labels: list[int], test_labels: list[int]) -> RawData:
    arrays = [np.array(labels) for labels in (train_labels, test_labels)]
    images = [np.zeros((len(labels), 1, 8, 8), np.uint8) for labels in arrays]
    return RawData(images[0], arrays[0], images[1], arrays[1], flip=False)


def test_the_validation_split_is_carved_from_the_training_subset() -> None:
    data = raw([0] * 100 + [1] * 50, [0, 1] * 10)
    config = DataConfig(train_size=60, test_size=4, validation_fraction=0.2)
    train, validation, test = split(data, config)
    assert not set(train) & set(validation)
    assert np.bincount(data.train_labels[train]).tolist() == [32, 16]
    assert np.bincount(data.train_labels[validation]).tolist() == [8, 4]
    assert np.bincount(data.test_labels[test]).tolist() == [2, 2]


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([0, 0, 1], {}, "class 1 has 1 of the 3 training images; each class needs 2"),
        ([0, 0, 2, 2], {}, "class 1 has 0 of the 4"),
        ([0, 1] * 10, {"train_size": 3}, "use a larger train_size"),
        ([0, 1] * 10, {"train_size": 21}, "train_size 21 is above digits's 20 train images"),
        ([0, 1] * 10, {"test_size": 3}, "test_size 3 is above digits's 2 test images"),
        ([0, 1] * 10, {"validation_fraction": 0.01}, "0.01 of 20 images is 0 images"),
    ],
)
def test_too_few_images_are_one_clear_line(
    labels: list[int], options: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        split(raw(labels, [0, 1]), DataConfig.model_validate(options))
