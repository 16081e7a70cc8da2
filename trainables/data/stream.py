"""Images that stay on the host: threads gather batches ahead, which are copied to the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from trainables.config import Residence

AHEAD = 4  # batches that are gathered at once: reads of a disk overlap
MOST = 0.25  # of a GPU's free memory, that images take there: other trials and weights need some
GIB = 2**30


def streams(residence: Residence, size: int, device: torch.device) -> bool:
    """Whether images of so many bytes stay on the host. Of several processes on a GPU each counts
    what is free when it begins; on the CPU `auto` leaves them mapped, and copies nothing.

    Raises ValueError if they shall be on a device that has no room for them.
    """
    free = free_memory(device)
    if residence == "device" and free is not None and size > free:
        raise ValueError(
            f"data.residence: device, but the images take {size / GIB:.1f} GiB and {device} has "
            f"{free / GIB:.1f} free: use auto or stream"
        )
    if residence == "auto":
        return free is not None and size > MOST * free
    return residence == "stream"


def free_memory(device: torch.device) -> int | None:
    """Bytes; None where images are not copied (CPU) or nobody tells (MPS)."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def streamed(
    images: Tensor, parts: Iterable[Tensor], device: torch.device
) -> Generator[Tensor, None, None]:
    """The images that each of `parts` lists, on the device.

    Into page-locked memory for a GPU, from where the copy does not wait for the device: torch keeps
    that memory until the copy is done. An error of a thread is raised here; at the end, or when
    this is closed, no thread is left.
    """
    pinned = device.type == "cuda"
    waiting: deque[Future[Tensor]] = deque()
    pool = ThreadPoolExecutor(AHEAD, "images")
    try:
        for part in parts:
            shape = (len(part), *images.shape[1:])
            batch = torch.empty(shape, dtype=images.dtype, pin_memory=pinned)
            waiting.append(pool.submit(gather, images, part, batch))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result().to(device, non_blocking=pinned)
        while waiting:
            yield waiting.popleft().result().to(device, non_blocking=pinned)
    finally:
        pool.shutdown(cancel_futures=True)


def gather(images: Tensor, chosen: Tensor, out: Tensor) -> Tensor:
    """`out`, filled. With NumPy: torch would start threads of its own in each thread."""
    np.take(images.numpy(), chosen.numpy(), axis=0, out=out.numpy(), mode="clip")
    return out
