"""Steps of an epoch."""


def steps_per_epoch(count: int, batch_size: int, drop_last: bool) -> int:
    """Batches in an epoch of `count` images.

    A last batch that is not full is dropped if asked; one of a single image always is, since
    batch norm cannot train on it. Raises ValueError if `drop_last` leaves no batch.
    """
    full, rest = divmod(count, batch_size)
    if drop_last and full == 0:
        raise ValueError(
            f"batch_size {batch_size} is above the {count} training images, and drop_last leaves "
            "no batch: use a smaller batch_size or drop_last: false"
        )
    return full if drop_last or (rest == 1 and full > 0) else full + (rest > 0)
