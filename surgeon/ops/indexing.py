"""Reading and writing elements by index tensors.

What must not enter: slices by numbers of the host (`shape`).
"""

# ruff: noqa: ARG001 - the specification decides which parameters a function has

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from surgeon.ops.broadcast import WIDER
from surgeon.ops.host import elements
from surgeon.ops.registry import op, refuse


@op("Gather")
def gather(data: Any, indices: Tensor, *, axis: int) -> Any:
    """Take slices of `data` along an axis; negative indices count from the end."""
    if isinstance(data, np.ndarray):
        return np.take(data, indices.numpy(), axis)
    axis %= data.dim()
    size = data.shape[axis]
    index = indices.to(torch.int64)
    index = torch.where(index < 0, index + size, index)
    if index.dim() == 0:
        return data.index_select(axis, index.reshape(1)).squeeze(axis)
    flat = data.index_select(axis, index.flatten())
    if index.dim() == 1:
        return flat
    return flat.reshape(*data.shape[:axis], *index.shape, *data.shape[axis + 1 :])


def _wrapped(indices: Tensor, size: int) -> Tensor:
    index = indices.to(torch.int64)
    return torch.where(index < 0, index + size, index)


@op("GatherElements")
def gather_elements(data: Tensor, indices: Tensor, *, axis: int) -> Tensor:
    """Take single elements along an axis."""
    return data.gather(axis, _wrapped(indices, data.shape[axis]))


@op("GatherND")
def gather_nd(data: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    """Take slices of `data` at index tuples, batch by batch."""
    depth = indices.shape[-1]
    batch = list(data.shape[:batch_dims])
    inner = list(data.shape[batch_dims : batch_dims + depth])
    rest = list(data.shape[batch_dims + depth :])
    lead = elements(batch)
    flat = data.reshape(lead, elements(inner), *rest)
    where = _positions(indices, inner).reshape(lead, -1)
    rows = torch.arange(lead, device=data.device).unsqueeze(1)
    return flat[rows, where].reshape(*indices.shape[:-1], *rest)


def _positions(indices: Tensor, sizes: list[int]) -> Tensor:
    """Turn index tuples in the last axis into positions in the flattened sizes."""
    position = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=indices.device)
    for i, size in enumerate(sizes):
        position = position * size + _wrapped(indices[..., i], size)
    return position


_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@op("ScatterElements")
def scatter_elements(
    data: Tensor, indices: Tensor, updates: Tensor, *, axis: int, reduction: str = "none"
) -> Tensor:
    """Write single elements along an axis, or combine them with what is there."""
    index = _wrapped(indices, data.shape[axis])
    if reduction == "none":
        return data.scatter(axis, index, updates)
    if reduction not in _REDUCTIONS:
        refuse(f"reduction={reduction!r} is not in the specification")
    return data.scatter_reduce(axis, index, updates, _REDUCTIONS[reduction], include_self=True)


@op("Scatter", 9)
def scatter(data: Tensor, indices: Tensor, updates: Tensor, *, axis: int) -> Tensor:
    """Write single elements along an axis."""
    return scatter_elements(data, indices, updates, axis=axis)


@op("Scatter", 11)
def scatter_11(data: Tensor, indices: Tensor, updates: Tensor, *, axis: int) -> Tensor:
    """Write single elements along an axis; deprecated in favour of ScatterElements."""
    return scatter_elements(data, indices, updates, axis=axis)


@op("ScatterND")
def scatter_nd(
    data: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none"
) -> Tensor:
    """Write slices at index tuples, or combine them with what is there."""
    depth = indices.shape[-1]
    sizes, rest = list(data.shape[:depth]), list(data.shape[depth:])
    flat = data.reshape(elements(sizes), elements(rest))
    where = _positions(indices, sizes).flatten()
    values = updates.reshape(where.shape[0], elements(rest))
    where = where.unsqueeze(1).expand_as(values)
    if reduction == "none":
        return flat.scatter(0, where, values).reshape(data.shape)
    if reduction not in _REDUCTIONS:
        refuse(f"reduction={reduction!r} is not in the specification")
    combined = flat.scatter_reduce(0, where, values, _REDUCTIONS[reduction], include_self=True)
    return combined.reshape(data.shape)


@op("TensorScatter")
def tensor_scatter(
    past_cache: Tensor,
    update: Tensor,
    write_indices: Tensor | None = None,
    *,
    axis: int,
    mode: str,
) -> Tensor:
    """Write a run of updates along an axis, at a place of its own in every sample."""
    if mode not in {"linear", "circular"}:
        refuse(f"mode={mode!r} is not in the specification")
    axis %= past_cache.dim()
    steps = torch.arange(update.shape[axis], device=update.device)
    batch = past_cache.shape[0]
    start = steps.new_zeros(batch) if write_indices is None else write_indices
    where = start.reshape(-1, 1) + steps
    if mode == "circular":
        where = where % past_cache.shape[axis]
    view = [1] * update.dim()
    view[0], view[axis] = where.shape
    return past_cache.scatter(axis, where.reshape(view).expand(update.shape), update)


@op("NonZero")
def non_zero(X: Tensor) -> Tensor:
    """Return the indices of what is not zero, [rank, count]."""
    if X.dim() == 0:
        found = int(bool(X != 0))
        return torch.zeros((0, found), dtype=torch.int64, device=X.device)
    return X.nonzero().T


@op("Compress")
def compress(input: Tensor, condition: Tensor, *, axis: int | None) -> Tensor:
    """Take slices along an axis, or elements of the flattened input, where a condition holds."""
    along = input.flatten() if axis is None else input
    kept = condition.nonzero().flatten()
    return along.index_select(0 if axis is None else axis, kept)


@op("OneHot")
def one_hot(indices: Tensor, depth: int, values: Tensor, *, axis: int) -> Tensor:
    """Put values[1] at the index along a new axis, values[0] elsewhere; out of range is all off."""
    index = indices.to(torch.int64)
    valid = (index >= -depth) & (index < depth)
    index = torch.where(index < 0, index + depth, index)
    rank = indices.dim() + 1
    axis %= rank
    classes = torch.arange(depth, device=indices.device)
    classes = classes.reshape([-1 if i == axis else 1 for i in range(rank)])
    hot = (index.unsqueeze(axis) == classes) & valid.unsqueeze(axis)
    return torch.where(hot, values[1], values[0])


@op("Unique")
def unique(
    X: Tensor,
    *,
    axis: int | None,
    sorted: bool,
    outputs: int,
) -> tuple[Tensor, ...]:
    """Return the distinct elements or slices, where each first is, which each one is, how often."""
    work = X.to(torch.int64) if X.dtype in WIDER else X
    along = 0 if axis is None else axis
    if axis is None:
        work = work.flatten()
    _, inverse, counts = torch.unique(
        work.detach(), sorted=True, return_inverse=True, return_counts=True, dim=along
    )
    inverse = inverse.flatten()
    order = torch.arange(inverse.shape[0], device=X.device)
    first = torch.full((counts.shape[0],), inverse.shape[0], device=X.device)
    first = first.scatter_reduce(0, inverse, order, "amin")
    if not sorted:
        rank = first.argsort()
        first, counts = first[rank], counts[rank]
        inverse = torch.empty_like(rank).scatter(0, rank, torch.arange(len(rank), device=X.device))[
            inverse
        ]
    # Taken from X, so that a gradient flows to where each value first stands.
    found = (X.flatten() if axis is None else X).index_select(along, first)
    return found, first, inverse, counts
