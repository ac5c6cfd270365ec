"""Broadcasting and element types that operators of several families share.

What must not enter: operators.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}
"""Unsigned types torch can store but hardly compute with, and where their arithmetic is exact."""


def align(A: Tensor, B: Tensor, axis: int | None, broadcast: bool) -> tuple[Tensor, Tensor]:
    """Reshape B for opsets 1 to 6, where its axes match A's from `axis` on, or the last ones."""
    if not broadcast or axis is None:
        return A, B
    start = axis % A.dim() if A.dim() else 0
    trailing = A.dim() - start - B.dim()
    return A, B.reshape(*B.shape, *[1] * max(trailing, 0))


def legacy(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """Return the form of a binary operator with the attributes `axis` and `broadcast`."""

    def run(A: Tensor, B: Tensor, *, axis: int | None, broadcast: bool) -> Tensor:
        return function(*align(A, B, axis, broadcast))

    return run


def widened(function: Callable[..., Any], *, keep: bool = True) -> Callable[..., Any]:
    """Let a function of tensors take unsigned types by computing in a wider one.

    uint64 is computed modulo 2⁶⁴ in int64; order and quotients are only right below 2⁶³, so the
    functions for which that matters say so with `ordered`.

    Args:
        function: tensors in, tensor out.
        keep: cast the result back to the input's type (False: it is boolean).
    """

    @functools.wraps(function)
    def run(*inputs: Any, **attributes: Any) -> Any:
        narrow = next((i.dtype for i in inputs if isinstance(i, Tensor) and i.dtype in WIDER), None)
        if narrow is None:
            return function(*inputs, **attributes)
        wide = WIDER[narrow]
        result = function(
            *(i.to(wide) if isinstance(i, Tensor) and i.dtype == narrow else i for i in inputs),
            **attributes,
        )
        return result.to(narrow) if keep else result

    return run


def flip(value: Tensor) -> Tensor:
    """Map uint64 onto int64 so that the order is kept: torch compares no uint64."""
    return value.to(torch.int64) ^ torch.iinfo(torch.int64).min


def ordered(function: Callable[[Tensor, Tensor], Tensor], *, keep: bool) -> Callable[..., Tensor]:
    """Let a function that depends on the order of two tensors take unsigned types."""
    widen = widened(function, keep=keep)

    def run(A: Tensor, B: Tensor) -> Tensor:
        if A.dtype != torch.uint64:
            return widen(A, B)  # type: ignore[no-any-return]
        result = function(flip(A), flip(B))
        if not keep:
            return result
        return (result ^ torch.iinfo(torch.int64).min).to(torch.uint64)

    return run
