"""Tensors made from nothing or from a shape, and changes of type.

What must not enter: shape arithmetic (`host`).
"""

from __future__ import annotations

import math
import re
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import torch
from onnx import TensorProto
from torch import Tensor

from surgeon.ops.broadcast import WIDER
from surgeon.ops.convert import CARRIERS, ONNX, Fill, from_numpy, to_numpy, torch_dtype
from surgeon.ops.registry import op, refuse


@op("Constant")
def constant(
    *,
    value: Tensor | None = None,
    sparse_value: Tensor | None = None,
    value_float: float | None = None,
    value_floats: list[float] | None = None,
    value_int: int | None = None,
    value_ints: list[int] | None = None,
    value_string: str | None = None,
    value_strings: list[str] | None = None,
) -> Any:
    """The tensor that the node carries in one of its attributes."""
    if value is not None:
        return value
    if sparse_value is not None:
        return sparse_value
    if value_float is not None or value_floats is not None:
        return torch.tensor(value_floats if value_float is None else value_float)
    if value_int is not None or value_ints is not None:
        return torch.tensor(value_ints if value_int is None else value_int, dtype=torch.int64)
    strings = value_strings if value_string is None else value_string
    if strings is None:
        refuse("a Constant without a value")
    return np.array(strings, dtype=object)


@op("ConstantOfShape")
def constant_of_shape(
    input: list[int], *, value: Fill | None = None, device: torch.device
) -> Tensor:
    """A tensor of a shape, filled with one value."""
    if value is None:
        return torch.zeros(input, dtype=torch.float32, device=device)
    return torch.full(input, value.value, dtype=value.dtype, device=device)


def _count(start: Any, limit: Any, delta: Any) -> Any:
    return max(math.ceil((limit - start) / delta), 0)


@op("Range", 11)
def range_(
    start: float | Tensor,
    limit: float | Tensor,
    delta: float | Tensor,
    *,
    input_types: tuple[int, ...],
    device: torch.device,
) -> Tensor:
    """Numbers from start to before limit."""
    dtype = next((v.dtype for v in (start, limit, delta) if isinstance(v, Tensor)), None)
    if dtype is None:
        known = [t for t in input_types if t]
        if known:
            dtype = torch_dtype(known[0])
        else:
            dtype = torch.float32 if isinstance(start, float) else torch.int64
    first, last, step = (v.item() if isinstance(v, Tensor) else v for v in (start, limit, delta))
    if not dtype.is_floating_point:
        return (
            torch.arange(first, last, step, dtype=dtype, device=device)
            if ((last - first) * step > 0)
            else torch.zeros(0, dtype=dtype, device=device)
        )
    count = _count(first, last, step)
    # start + i·delta in the type itself, as ONNX Runtime computes it
    steps = torch.arange(count, dtype=dtype, device=device)
    return first + steps * step


@op("EyeLike")
def eye_like(input: Tensor, *, dtype: torch.dtype | None, k: int) -> Tensor:
    """Ones on a diagonal, in the shape of a matrix."""
    rows, columns = input.shape
    row = torch.arange(rows, device=input.device).unsqueeze(1)
    column = torch.arange(columns, device=input.device)
    return (column - row == k).to(dtype or input.dtype)


_STRING_TYPES = {
    name: number for name, number in TensorProto.DataType.items() if number != TensorProto.UNDEFINED
}


@op("Cast", 1)
def cast_1(input: Tensor, *, to: str) -> Tensor:
    """Change the element type, which opset 1 names in words."""
    number = _STRING_TYPES.get(to.upper())
    if number is None:
        refuse(f"to={to!r} is not an element type")
    return cast_to(input, number)  # type: ignore[no-any-return]


@op("Cast", 6, 9, 13, 19, 21, 23, 24, 25, 28)
def cast(
    input: Any,
    *,
    to: int,
    saturate: bool = True,
    round_mode: str = "up",
    input_types: tuple[int, ...],
) -> Any:
    """Change the element type."""
    return cast_to(input, to, saturate=saturate, round_mode=round_mode, source=input_types[0])


@op("CastLike")
def cast_like(
    input: Any,
    target_type: Any,
    *,
    saturate: bool = True,
    round_mode: str = "up",
    input_types: tuple[int, ...],
) -> Any:
    """Change the element type to that of another tensor."""
    if isinstance(target_type, np.ndarray):
        to: int = TensorProto.STRING
    else:
        to = input_types[1] or ONNX[target_type.dtype]
    return cast_to(input, to, saturate=saturate, round_mode=round_mode, source=input_types[0])


_FLOAT8 = {
    TensorProto.FLOAT8E4M3FN,
    TensorProto.FLOAT8E4M3FNUZ,
    TensorProto.FLOAT8E5M2,
    TensorProto.FLOAT8E5M2FNUZ,
}


def cast_to(
    value: Any, to: int, *, saturate: bool = True, round_mode: str = "up", source: int = 0
) -> Any:
    """Change the element type of a tensor or of strings to an ONNX element type."""
    if isinstance(value, np.ndarray):
        return _from_strings(value, to)
    if to == TensorProto.STRING:
        return _to_strings(value, source)
    dtype = torch_dtype(to)
    if to in _FLOAT8:
        return to_float8(value, dtype, saturate)
    if to == TensorProto.FLOAT8E8M0:
        return to_float8_scale(value, round_mode, saturate)
    if to == TensorProto.FLOAT4E2M1:
        return to_float4(value)
    if value.dtype.is_floating_point and value.dtype.itemsize == 1:
        value = value.float()
    if to in CARRIERS:
        return to_small_integer(value, to)
    if dtype == torch.bool:
        return value != 0
    if value.is_complex() and not dtype.is_complex:
        value = value.real
    if value.is_floating_point() and dtype in {torch.uint16, torch.uint32, torch.uint64}:
        return value.to(torch.int64).to(dtype)
    if value.dtype in {torch.uint16, torch.uint32, torch.uint64} and dtype.is_floating_point:
        return _unsigned_to_float(value, dtype)
    return value.to(dtype)


def _unsigned_to_float(value: Tensor, dtype: torch.dtype) -> Tensor:
    if value.dtype != torch.uint64:
        return value.to(WIDER[value.dtype]).to(dtype)
    bits = value.to(torch.int64)
    halves = ((bits >> 1) & torch.iinfo(torch.int64).max) | (bits & 1)
    return torch.where(bits < 0, halves.double() * 2, bits.double()).to(dtype)


def to_float8(value: Tensor, dtype: torch.dtype, saturate: bool) -> Tensor:
    """Round to an 8-bit float; beyond its range saturate, or give what the format has for it."""
    wide = value.float() if value.dtype != torch.float64 else value
    if not saturate:
        return from_numpy(to_numpy(wide.float()).astype(_ML[dtype])).to(value.device)  # type: ignore[no-any-return]
    limit = torch.finfo(dtype).max
    held = torch.where(torch.isnan(wide), wide, wide.clamp(-limit, limit))
    return from_numpy(to_numpy(held.float()).astype(_ML[dtype])).to(value.device)  # type: ignore[no-any-return]


_ML: dict[torch.dtype, Any] = {
    torch.float8_e4m3fn: ml_dtypes.float8_e4m3fn,
    torch.float8_e4m3fnuz: ml_dtypes.float8_e4m3fnuz,
    torch.float8_e5m2: ml_dtypes.float8_e5m2,
    torch.float8_e5m2fnuz: ml_dtypes.float8_e5m2fnuz,
}


def to_float8_scale(value: Tensor, round_mode: str, saturate: bool) -> Tensor:
    """Round to a power of two (E8M0): up, down or to the nearest."""
    array = onnx.numpy_helper.to_float8e8m0(
        to_numpy(value.float()), saturate=saturate, round_mode=round_mode
    )
    return from_numpy(array).to(value.device)  # type: ignore[no-any-return]


def to_float4(value: Tensor) -> Tensor:
    """Round to E2M1, ties to even, saturating; it travels in float32."""
    wide = value.float()
    array = to_numpy(wide).astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
    return torch.from_numpy(array).to(value.device)


_RANGES: dict[int, tuple[int, int]] = {
    TensorProto.INT4: (-8, 7),
    TensorProto.UINT4: (0, 15),
    TensorProto.INT2: (-2, 1),
    TensorProto.UINT2: (0, 3),
}


def to_small_integer(value: Tensor, to: int) -> Tensor:
    """Bring to a 2- or 4-bit integer: the low bits, sign-extended; it travels in 8."""
    low, high = _RANGES[to]
    span = high - low + 1
    if value.is_floating_point():
        value = value.trunc()
    whole = value.to(torch.int64)
    return (torch.remainder(whole - low, span) + low).to(torch_dtype(to))


def _from_strings(value: np.ndarray[Any, Any], to: int) -> Any:
    if to == TensorProto.STRING:
        return value
    kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(to))
    if kind.kind in "biu":
        whole = np.array([_leading_integer(str(v)) for v in value.flatten()], np.int64)
        return from_numpy(whole.reshape(value.shape).astype(kind))
    numbers = np.array([_leading_number(str(v)) for v in value.flatten()], np.float64)
    return from_numpy(numbers.reshape(value.shape).astype(kind))


_INTEGER = re.compile(r"\s*([+-]?\d+)", re.ASCII)
_NUMBER = re.compile(
    r"\s*([+-]?)(inf(?:inity)?|nan|0x(?:[\da-f]+\.?[\da-f]*|\.[\da-f]+)(?:p[+-]?\d+)?"
    r"|(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)",
    re.ASCII | re.IGNORECASE,
)
"""What C reads off the beginning of a text as a number; ONNX Runtime reads no further either."""


def _leading_integer(text: str) -> int:
    found = _INTEGER.match(text)
    if found is None or not -(2**63) <= int(found[1]) < 2**63:
        raise ValueError(f"{text!r} does not begin with an integer of 64 bits")
    return int(found[1])


def _leading_number(text: str) -> float:
    found = _NUMBER.match(text)
    if found is None:
        raise ValueError(f"{text!r} does not begin with a number")
    number = float.fromhex(found[2]) if found[2][:2].lower() == "0x" else float(found[2])
    return -number if found[1] == "-" else number


def _to_strings(value: Tensor, source: int) -> np.ndarray[Any, Any]:
    array = to_numpy(value, source)
    if array.dtype.kind not in "biu" and array.dtype != np.float64:
        array = array.astype(np.float32)
    text = [_text(v) for v in array.flatten()]
    return np.array(text, dtype=object).reshape(array.shape)


def _text(value: Any) -> str:
    """Write a number as ONNX Runtime does: plain or scientific, special values in words.

    Eight significant digits, no zeros behind them.
    """
    if isinstance(value, np.bool_):
        return str(int(value))
    if isinstance(value, np.floating):
        if np.isnan(value):
            return "NaN"
        if np.isinf(value):
            return "INF" if value > 0 else "-INF"
        return f"{value:.8g}"
    return str(value)


@op("BitCast")
def bit_cast(input: Tensor, *, to: int) -> Tensor:
    """Read the same bits as another type of the same width."""
    if to in CARRIERS:
        refuse("BitCast to a type narrower than a byte")
    return input.view(torch_dtype(to))
