"""Flat buffers: all parameters of one dtype and device as views of one weight vector."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import cached_property
from itertools import compress, pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils import dlpack

ALIGNMENT = 64  # elements: each parameter starts on a cache line, whatever its dtype
ROW = 4096  # elements: norms are taken over rows, then over the rows' norms


def norm(vectors: Sequence[Tensor]) -> Tensor:
    """The L2 norm over all `vectors` together, 0-dim, at least float32, on the first one's device.

    Each length must be a multiple of `ROW`. A single float32 sum over 11 M elements errs by 4e-4
    on the CPU; norms of rows, then the norm of those, err by 1e-7.
    """
    rows = []
    for vector in vectors:
        dtype = torch.promote_types(vector.dtype, torch.float32)
        rows.append(torch.linalg.vector_norm(vector.view(-1, ROW), dim=1, dtype=dtype))
    device = rows[0].device
    total: Tensor = torch.linalg.vector_norm(torch.cat([row.to(device) for row in rows]))
    return total


class FlatVector(NamedTuple):
    """One vector as long as a buffer's weights, and each parameter's view of it.

    On the CPU and on CUDA a view has a storage of its own over the vector's memory, so that
    saving it writes no more.
    """

    data: Tensor
    views: list[Tensor]


class FlatBuffer:
    """Parameters of one dtype and device, and the vectors that an optimizer keeps beside them.

    Construction moves the parameters: each `p.data` becomes an aligned slice of `weights`, with
    its shape and, where dense (channels_last), its strides. Parameters stay in the order given.
    The padding between slices is zero in every vector.
    """

    def __init__(self, parameters: Sequence[Tensor], groups: Sequence[int]) -> None:
        _refuse_shared_memory(parameters)
        self.parameters = list(parameters)
        self.groups = list(groups)  # the parameter group's index of each parameter
        self.edges = [0]  # parameter i lies in edges[i]:edges[i + 1]
        for parameter in parameters:
            self.edges.append(self.edges[-1] + _round_up(parameter.numel(), ALIGNMENT))
        self.weights = self._vector()
        for parameter, view in zip(self.parameters, self.weights.views, strict=True):
            view.copy_(parameter.detach())
            parameter.data = view
        self._addresses = [parameter.data_ptr() for parameter in self.parameters]
        self.gradient = self._vector()

    # Plain SGD never touches these three: made at their first use.
    @cached_property
    def momentum(self) -> FlatVector:
        return self._vector()

    @cached_property
    def direction(self) -> FlatVector:
        return self._vector()

    @cached_property
    def clean(self) -> Tensor:
        """The weights w while `weights` holds w + ε."""
        return torch.zeros_like(self.weights.data)

    def gather(self, out: FlatVector) -> tuple[bool, ...]:
        """Copies the gradients to `out`, 0 where one is None; says which parameters have one."""
        self._check_addresses()
        gradients = [parameter.grad for parameter in self.parameters]
        given = [gradient for gradient in gradients if gradient is not None]
        present = tuple([gradient is not None for gradient in gradients])
        views = out.views
        if len(given) < len(gradients):
            out.data.zero_()
            views = list(compress(views, present))
        if given:
            try:
                torch._foreach_copy_(views, given)
            except RuntimeError:
                if any(gradient.layout != torch.strided for gradient in given):
                    raise RuntimeError(
                        "sparse gradients have no place in a flat buffer: make the layer that "
                        "gives them with sparse=False"
                    ) from None
                raise
        return present

    def runs(self, labels: Sequence[Hashable]) -> dict[Hashable, list[slice]]:
        """Slices of the vectors by label, as few as cover the parameters; None is left out."""
        runs: dict[Hashable, list[slice]] = {}
        previous: Hashable = None
        for label, (start, end) in zip(labels, pairwise(self.edges), strict=True):
            if label is not None:
                slices = runs.setdefault(label, [])
                if label == previous:
                    start = slices.pop().start
                slices.append(slice(start, end))
            previous = label
        return runs

    def _vector(self) -> FlatVector:
        first = self.parameters[0]
        length = _round_up(max(self.edges[-1], 1), ROW)
        data = torch.zeros(length, dtype=first.dtype, device=first.device)
        views = []
        for parameter, start in zip(self.parameters, self.edges[:-1], strict=True):
            strides = torch.empty_like(parameter, device="meta").stride()
            views.append(_own_storage(data.as_strided(parameter.shape, strides, start)))
        return FlatVector(data, views)

    def _check_addresses(self) -> None:
        if [parameter.data_ptr() for parameter in self.parameters] != self._addresses:
            raise RuntimeError(
                "a parameter's storage was replaced after the optimizer was made (model.to(...), "
                "p.data = ..., another optimizer or a copy of this one): make the optimizer after "
                "the model has its device, dtype and layout, and one only"
            )


def _own_storage(view: Tensor) -> Tensor:
    """The same memory under a storage as long as the view, where DLPack can tell its address."""
    if view.device.type not in ("cpu", "cuda"):
        return view
    # a capsule, since a tensor itself is exported from the current CUDA device only
    return dlpack.from_dlpack(dlpack.to_dlpack(view))  # type: ignore[attr-defined]


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _refuse_shared_memory(parameters: Sequence[Tensor]) -> None:
    """Two parameters over the same memory would silently come apart in a flat buffer."""
    spans = sorted(
        (p.data_ptr(), p.data_ptr() + p.numel() * p.element_size()) for p in parameters if p.numel()
    )
    for (_, end), (start, _) in pairwise(spans):
        if start < end:
            raise ValueError(
                "two parameters share memory: tie weights by using one Parameter object twice, "
                "and give each to the optimizer once"
            )
