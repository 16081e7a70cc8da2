"""Batches: order, normalisation, and what is left over."""

from __future__ import annotations

import pytest
import torch

from trainables.data import Augmentation, DeviceData, epoch_batches, eval_batches, steps_per_epoch


def data_of(count: int, augmentation: Augmentation | None = None) -> DeviceData:
    """Image i has the value i in every pixel and the label i."""
    values = torch.arange(count)
    images = values.to(torch.uint8)[:, None, None, None].expand(-1, 2, 8, 8).contiguous()
    mean, std = torch.tensor([0.25, 0.5]), torch.tensor([0.5, 0.125])
    return DeviceData(
        images, values, images, values, images, values, mean, std, count, augmentation
    )


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("count", "batch_size", "drop_last", "steps"),
    [
        (10, 5, False, 2),
        (12, 5, False, 3),
        (12, 5, True, 2),
        (11, 5, False, 2),  # a last batch of one image
        (4, 5, False, 1),
        (3, 1, False, 3),
        (1, 5, False, 1),
    ],
)
def test_steps(count: int, batch_size: int, drop_last: bool, steps: int) -> None:
    assert steps_per_epoch(count, batch_size, drop_last) == steps
    batches = list(epoch_batches(data_of(count), batch_size, generator(), drop_last))
    assert len(batches) == steps
    assert all(len(x) == len(y) > 0 for x, y in batches)


def test_drop_last_without_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size 5 is above the 4 training images"):
        steps_per_epoch(4, 5, drop_last=True)


def test_an_epoch_holds_every_image_once_with_its_label_in_a_new_order() -> None:
    data, order = data_of(50), generator()
    epochs = [list(epoch_batches(data, 8, order)) for _ in range(2)]
    labels = [torch.cat([y for _, y in epoch]) for epoch in epochs]
    assert all(torch.equal(seen.sort().values, torch.arange(50)) for seen in labels)
    assert not torch.equal(*labels)
    for x, y in epochs[0]:
        expected = (y / 255 - 0.25) / 0.5
        torch.testing.assert_close(x[:, 0, 3, 3], expected)
        torch.testing.assert_close(x[:, 1, 0, 7], (y / 255 - 0.5) / 0.125)


def test_the_generator_decides_order_and_augmentation() -> None:
    data = data_of(50, Augmentation(2, True, 15.0))
    first, again, other = (
        torch.cat([x for x, _ in epoch_batches(data, 8, generator(seed))]) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_saved_generator_goes_on_where_it_stood() -> None:
    data, run = data_of(20, Augmentation(2, True, 15.0)), generator()
    list(epoch_batches(data, 8, run))
    state = run.get_state()
    second = [x for x, _ in epoch_batches(data, 8, run)]
    resumed = torch.Generator()
    resumed.set_state(state)
    again = [x for x, _ in epoch_batches(data, 8, resumed)]
    assert all(torch.equal(a, b) for a, b in zip(second, again, strict=True))


def test_pixels_from_outside_are_black_before_they_are_normalised() -> None:
    data = data_of(200, Augmentation(3, False, 0.0))
    for x, y in epoch_batches(data, 50, generator()):
        values = x[:, 0].flatten(1)
        black = torch.isclose(values, torch.tensor(-0.5))
        own = torch.isclose(values, ((y / 255 - 0.25) / 0.5)[:, None])
        assert (black | own).all()
        assert black.any()
        assert own.any()


def test_evaluation_keeps_the_order_and_augments_nothing() -> None:
    data = data_of(11, Augmentation(3, True, 15.0))
    batches = list(eval_batches(data, data.test_images, data.test_labels, 5))
    assert [len(y) for _, y in batches] == [5, 5, 1]
    assert torch.equal(torch.cat([y for _, y in batches]), torch.arange(11))
    expected = (torch.arange(11)[:, None, None] / 255 - 0.25) / 0.5
    torch.testing.assert_close(torch.cat([x for x, _ in batches])[:, 0], expected.expand(-1, 8, 8))


def test_channels_last_changes_the_layout_only() -> None:
    data = data_of(16, Augmentation(1, True, 15.0))
    (plain, _), (last, _) = (
        next(epoch_batches(data, 16, generator(), False, layout))
        for layout in (torch.contiguous_format, torch.channels_last)
    )
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(plain, last)


def test_moving_to_the_same_device_copies_nothing() -> None:
    data = data_of(4)
    moved = data.to("cpu")
    assert moved.train_images.data_ptr() == data.train_images.data_ptr()
    assert moved.image_shape == (2, 8, 8)


def test_moving_moves_every_tensor() -> None:
    moved = data_of(4, Augmentation(1, True, 15.0)).to("meta")
    assert moved.device.type == "meta"
    x, y = next(eval_batches(moved, moved.test_images, moved.test_labels, 4))
    assert x.is_meta
    assert y.is_meta
    x, _ = next(epoch_batches(moved, 4, generator()))
    assert x.shape == (4, 2, 8, 8)
