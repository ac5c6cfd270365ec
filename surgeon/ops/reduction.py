"""Reductions over axes.

What must not enter: pooling windows.
"""

# ruff: noqa: ARG001 - the specification decides which parameters a function has

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from surgeon.ops.broadcast import WIDER, flip
from surgeon.ops.registry import op

if TYPE_CHECKING:
    from collections.abc import Callable


def _sum(data: Tensor, axes: list[int], keepdims: bool) -> Tensor:
    return data.sum(axes, keepdim=keepdims, dtype=data.dtype)


def _mean(data: Tensor, axes: list[int], keepdims: bool) -> Tensor:
    if data.is_floating_point():
        return data.mean(axes, keepdim=keepdims)
    count = math.prod(data.shape[a] for a in axes)
    return torch.div(_sum(data, axes, keepdims), count, rounding_mode="trunc")


def _prod(data: Tensor, axes: list[int], keepdims: bool) -> Tensor:
    wide = data.float() if data.dtype == torch.float16 else data
    for axis in sorted((a % data.dim() for a in axes), reverse=True):
        wide = wide.prod(axis, keepdim=keepdims, dtype=wide.dtype)
    return wide.to(data.dtype)


def _max(data: Tensor, axes: list[int], keepdims: bool) -> Tensor:
    if not all(data.shape[a] for a in axes):
        return _empty(data, axes, keepdims, lowest=True)
    return data.amax(axes, keepdim=keepdims)


def _min(data: Tensor, axes: list[int], keepdims: bool) -> Tensor:
    if not all(data.shape[a] for a in axes):
        return _empty(data, axes, keepdims, lowest=False)
    return data.amin(axes, keepdim=keepdims)


def _empty(data: Tensor, axes: list[int], keepdims: bool, *, lowest: bool) -> Tensor:
    """Reduce nothing: the least value the type has, or the greatest."""
    if data.is_floating_point():
        value: float = -math.inf if lowest else math.inf
    elif data.dtype == torch.bool:
        value = not lowest
    else:
        limits = torch.iinfo(data.dtype)
        value = limits.min if lowest else limits.max
    shape = data.sum(axes, keepdim=keepdims).shape
    return torch.full(shape, value, dtype=data.dtype, device=data.device)


def _l1(data: Tensor, axes: list[int], keepdims: bool) -> Tensor:
    return _sum(data.abs(), axes, keepdims)


def _sum_square(data: Tensor, axes: list[int], keepdims: bool) -> Tensor:
    return _sum(data * data, axes, keepdims)


def _l2(data: Tensor, axes: list[int], keepdims: bool) -> Tensor:
    if data.is_floating_point():
        return torch.linalg.vector_norm(data, dim=axes, keepdim=keepdims)  # type: ignore[no-any-return]
    return _sum_square(data, axes, keepdims).double().sqrt().to(data.dtype)


def _log_sum(data: Tensor, axes: list[int], keepdims: bool) -> Tensor:
    if data.is_floating_point():
        return _sum(data, axes, keepdims).log()
    return _sum(data, axes, keepdims).double().log().to(data.dtype)


def _log_sum_exp(data: Tensor, axes: list[int], keepdims: bool) -> Tensor:
    if data.is_floating_point():
        return data.logsumexp(axes, keepdim=keepdims)
    # As ONNX Runtime has it, whose exponentials are whole numbers too: those below the greatest
    # element count for nothing.
    greatest = data.amax(axes, keepdim=True)
    count = (data == greatest).sum(axes, keepdim=True)
    found = greatest + count.double().log().to(data.dtype)
    return found if keepdims else found.squeeze(axes)


def _reduction(function: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[..., Tensor]:
    def run(
        data: Tensor,
        axes: list[int] | None = None,
        *,
        keepdims: bool,
        noop_with_empty_axes: bool = False,
    ) -> Tensor:
        if not axes:
            if noop_with_empty_axes:
                axes = []
                if function in {_sum, _mean, _max, _min, _prod}:
                    return data
                return function(data.unsqueeze(0), [0], False)
            axes = list(range(data.dim()))
        if data.dim() == 0:
            return function(data.unsqueeze(0), [0], False)
        narrow = data.dtype
        if narrow in WIDER:
            if narrow == torch.uint64 and function in {_max, _min}:
                least = torch.iinfo(torch.int64).min
                return (function(flip(data), axes, keepdims) ^ least).to(narrow)
            wide = torch.float64 if function is _log_sum_exp else WIDER[narrow]
            return function(data.to(wide), axes, keepdims).to(narrow)
        return function(data, axes, keepdims)

    return run


for _name, _function in {
    "ReduceL1": _l1,
    "ReduceL2": _l2,
    "ReduceLogSum": _log_sum,
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceMax": _max,
    "ReduceMean": _mean,
    "ReduceMin": _min,
    "ReduceProd": _prod,
    "ReduceSum": _sum,
    "ReduceSumSquare": _sum_square,
}.items():
    op(_name)(_reduction(_function))


def _arg(greatest: bool) -> Callable[..., Tensor]:
    def run(data: Tensor, *, axis: int, keepdims: bool, select_last_index: bool = False) -> Tensor:
        if data.dtype in WIDER:
            data = flip(data) if data.dtype == torch.uint64 else data.to(WIDER[data.dtype])
        find = torch.argmax if greatest else torch.argmin
        if not select_last_index:
            return find(data, axis, keepdim=keepdims)
        size = data.shape[axis]
        return size - 1 - find(data.flip(axis), axis, keepdim=keepdims)

    return run


op("ArgMax")(_arg(greatest=True))
op("ArgMin")(_arg(greatest=False))


@op("TopK")
def top_k(
    X: Tensor,
    K: int | None = None,
    *,
    axis: int,
    largest: bool = True,
    sorted: bool = True,
    k: int = 0,
) -> tuple[Tensor, Tensor]:
    """The K greatest (or least) elements along an axis and where they were; equal ones by index."""
    count = k if K is None else K
    narrow = X.dtype
    data = X
    if narrow in WIDER:
        data = flip(X) if narrow == torch.uint64 else X.to(WIDER[narrow])
    # A stable sort, because the specification wants the lower index of equal elements.
    indices = data.sort(dim=axis, descending=largest, stable=True).indices.narrow(axis, 0, count)
    values = data.gather(axis, indices)
    if narrow == torch.uint64:
        values = values ^ torch.iinfo(torch.int64).min
    return values.to(narrow), indices
