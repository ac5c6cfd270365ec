"""Arithmetic, element by element.

What must not enter: activations with a name of their own (`activation`), comparisons (`logic`).
"""

from __future__ import annotations

import functools
import operator
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from surgeon.ops.broadcast import WIDER, align, legacy, ordered, widened
from surgeon.ops.registry import op, refuse

if TYPE_CHECKING:
    from collections.abc import Callable


def absolute(X: Tensor) -> Tensor:
    """Absolute value; torch has none for the wide unsigned types, which are their own."""
    return X if X.dtype in WIDER else torch.abs(X)


for _name, _function in {
    "Abs": absolute,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Log": torch.log,
    "Neg": torch.neg,
    "Reciprocal": torch.reciprocal,
    "Round": torch.round,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "BitwiseNot": widened(torch.bitwise_not),
}.items():
    op(_name)(cast("Callable[..., Tensor]", _function))


@op("Sign")
def sign(input: Tensor) -> Tensor:
    """Return -1, 0 or 1 per element, in the input's type."""
    return widened(torch.sign)(input)  # type: ignore[no-any-return]


def divide(A: Tensor, B: Tensor) -> Tensor:
    """Divide; integers truncate towards zero."""
    if A.is_floating_point() or A.is_complex():
        return torch.div(A, B)
    if A.dtype == torch.uint64:
        return _divide_uint64(A, B)
    if A.dtype in WIDER:
        wide = WIDER[A.dtype]
        return torch.div(A.to(wide), B.to(wide), rounding_mode="trunc").to(A.dtype)
    return torch.div(A, B, rounding_mode="trunc")


def _divide_uint64(A: Tensor, B: Tensor) -> Tensor:
    a, b = A.to(torch.int64), B.to(torch.int64)
    if bool((a < 0).any()) or bool((b < 0).any()):
        refuse("Div of uint64 beyond 2**63")
    return torch.div(a, b, rounding_mode="trunc").to(torch.uint64)


for _name, _binary in {
    "Add": widened(torch.add),
    "Sub": widened(torch.sub),
    "Mul": widened(torch.mul),
    "Div": divide,
}.items():
    op(_name, 1, 6)(legacy(_binary))
    op(_name, 7, 13, 14)(_binary)


@op("Pow")
def power(X: Tensor, Y: Tensor, *, axis: int | None = None, broadcast: bool = True) -> Tensor:
    """Return X to the power of Y in the type of X."""
    X, Y = align(X, Y, axis, broadcast)
    if X.dtype == Y.dtype or (X.is_floating_point() and not Y.is_floating_point()):
        if not X.is_floating_point() and X.dtype in WIDER:
            return widened(torch.pow)(X, Y)  # type: ignore[no-any-return]
        return torch.pow(X, Y.to(X.dtype) if Y.dtype in WIDER else Y)
    if X.is_floating_point():
        return torch.pow(X.to(torch.promote_types(X.dtype, Y.dtype)), Y).to(X.dtype)
    if Y.is_floating_point():
        return torch.pow(X.double(), Y.double()).to(X.dtype)
    return torch.pow(X.to(torch.int64), Y.to(torch.int64)).to(X.dtype)


@op("Mod")
def mod(A: Tensor, B: Tensor, *, fmod: bool) -> Tensor:
    """Remainder with the sign of the divisor, or with `fmod` of the dividend."""
    if A.dtype == torch.uint64:
        a, b = A.to(torch.int64), B.to(torch.int64)
        if bool((a < 0).any()) or bool((b < 0).any()):
            refuse("Mod of uint64 beyond 2**63")
    function = torch.fmod if fmod else torch.remainder
    return widened(function)(A, B)  # type: ignore[no-any-return]


for _name, _pair in {"Max": torch.maximum, "Min": torch.minimum}.items():

    def _extreme(*data_0: Tensor, pair: Any = ordered(_pair, keep=True)) -> Tensor:  # noqa: B008 - bound once, when declared
        return functools.reduce(pair, data_0)

    op(_name)(_extreme)


@op("Sum")
def add_all(*data_0: Tensor) -> Tensor:
    """Add any number of tensors."""
    return functools.reduce(operator.add, data_0)


@op("Mean")
def mean_all(*data_0: Tensor) -> Tensor:
    """Average any number of tensors."""
    return functools.reduce(operator.add, data_0) / len(data_0)


@op("Clip")
def clip(
    input: Tensor,
    min: float | Tensor | None = None,
    max: float | Tensor | None = None,
) -> Tensor:
    """Bound from below, then from above: where the bounds cross, `max` wins."""
    if min is None and max is None:
        return input
    if input.dtype in WIDER:
        wide = WIDER[input.dtype]
        low, high = (b.to(wide) if isinstance(b, Tensor) else b for b in (min, max))
        return clip(input.to(wide), low, high).to(input.dtype)
    if isinstance(min, Tensor) and isinstance(max, Tensor):
        return torch.clamp(input, min, max)
    if isinstance(min, Tensor) or isinstance(max, Tensor):  # torch takes two of one kind
        bounded = input if min is None else torch.clamp(input, min=min)
        return bounded if max is None else torch.clamp(bounded, max=max)
    return torch.clamp(input, min, max)


@op("CumSum")
def cumulative_sum(x: Tensor, axis: int, *, exclusive: bool, reverse: bool) -> Tensor:
    """Running sum along an axis.

    With `reverse` from the end, with `exclusive` without the element itself.
    """
    return _running(x, axis, exclusive, reverse, torch.cumsum, 0)


@op("CumProd")
def cumulative_product(x: Tensor, axis: int, *, exclusive: bool, reverse: bool) -> Tensor:
    """Running product along an axis; options as for `CumSum`."""
    return _running(x, axis, exclusive, reverse, torch.cumprod, 1)


def _running(
    x: Tensor, axis: int, exclusive: bool, reverse: bool, function: Any, neutral: int
) -> Tensor:
    if reverse:
        x = x.flip(axis)
    if exclusive:
        first = torch.full_like(x.narrow(axis, 0, 1), neutral)
        x = torch.cat([first, x.narrow(axis, 0, x.shape[axis] - 1)], axis)
    dtype = x.dtype
    total = function(x.to(WIDER.get(dtype, dtype)), axis, dtype=WIDER.get(dtype, dtype)).to(dtype)
    return total.flip(axis) if reverse else total  # type: ignore[no-any-return]
