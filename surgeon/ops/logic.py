"""Comparisons, boolean and bitwise operators, and Where.

What must not enter: arithmetic.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from surgeon.ops.broadcast import legacy, ordered, widened
from surgeon.ops.registry import op, refuse

for _name, _function in {
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
}.items():
    op(_name, 1)(legacy(_function))
    op(_name, 7)(_function)

for _name, _function in {
    "Greater": ordered(torch.gt, keep=False),
    "Less": ordered(torch.lt, keep=False),
}.items():
    op(_name, 1)(legacy(_function))
    op(_name, 7, 9, 13)(_function)

op("GreaterOrEqual")(ordered(torch.ge, keep=False))
op("LessOrEqual")(ordered(torch.le, keep=False))
op("Not")(torch.logical_not)


def equal(A: Any, B: Any) -> Tensor:
    """Compare numbers, booleans or strings."""
    if isinstance(A, np.ndarray) or isinstance(B, np.ndarray):
        return torch.from_numpy(np.asarray(np.equal(A, B), dtype=bool))
    return widened(torch.eq, keep=False)(A, B)  # type: ignore[no-any-return]


op("Equal", 1)(legacy(equal))


@op("Equal", 7, 11, 13, 19)
def equal_any(A: Tensor, B: Tensor) -> Tensor:
    """Compare numbers, booleans or strings."""
    return equal(A, B)


@op("IsNaN")
def is_nan(X: Tensor) -> Tensor:
    """Tell which elements are not a number."""
    if X.dtype.is_floating_point and X.dtype.itemsize == 1:
        X = X.float()
    return torch.isnan(X)


@op("IsInf")
def is_inf(X: Tensor, *, detect_negative: bool, detect_positive: bool) -> Tensor:
    """Tell which elements are infinite, of the signs asked for."""
    if X.dtype.is_floating_point and X.dtype.itemsize == 1:
        X = X.float()
    if detect_negative and detect_positive:
        return torch.isinf(X)
    if detect_positive:
        return torch.isposinf(X)
    return torch.isneginf(X) if detect_negative else torch.zeros_like(X, dtype=torch.bool)


@op("Where")
def where(condition: Tensor, X: Tensor, Y: Tensor) -> Any:
    """Take X where the condition holds, else Y."""
    if isinstance(X, np.ndarray):
        return np.where(condition.numpy(), X, Y)
    return widened(lambda x, y: torch.where(condition, x, y))(X, Y)


for _name, _function in {
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
}.items():
    op(_name)(widened(_function))


@op("BitShift")
def bit_shift(X: Tensor, Y: Tensor, *, direction: str) -> Tensor:
    """Shift bits left or right; what leaves is lost."""
    if direction not in {"LEFT", "RIGHT"}:
        refuse(f"direction={direction!r} is not in the specification")
    bits = X.dtype.itemsize * 8
    x, y = X.to(torch.int64), Y.to(torch.int64)
    beyond = y >= bits
    y = y.clamp(max=bits - 1)
    if direction == "LEFT":
        shifted = x << y
    elif X.dtype == torch.uint64:  # a logical shift of the two's complement
        mask = torch.where(y > 0, (torch.ones_like(x) << (64 - y).clamp(max=63)) - 1, -1)
        shifted = (x >> y) & mask
    else:
        shifted = x >> y
    emptied = torch.where(x < 0, -1, 0) if X.dtype.is_signed and direction == "RIGHT" else 0
    return torch.where(beyond, emptied, shifted).to(X.dtype)
