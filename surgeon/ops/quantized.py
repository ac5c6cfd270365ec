"""Quantised numbers: rounding to even, saturation, and products computed exactly in integers.

What must not enter: anything that approximates; products are formed in float64, where every integer
they can reach is exact.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from onnx import TensorProto
from torch import Tensor

from surgeon.ops.convert import ONNX, torch_dtype
from surgeon.ops.convolution import conv
from surgeon.ops.creation import cast_to
from surgeon.ops.registry import op, refuse

LIMITS: dict[int, tuple[int, int]] = {
    TensorProto.UINT8: (0, 255),
    TensorProto.INT8: (-128, 127),
    TensorProto.UINT16: (0, 65535),
    TensorProto.INT16: (-32768, 32767),
    TensorProto.UINT4: (0, 15),
    TensorProto.INT4: (-8, 7),
    TensorProto.UINT2: (0, 3),
    TensorProto.INT2: (-2, 1),
    TensorProto.INT32: (-(2**31), 2**31 - 1),
}
_MOST_FLOAT4 = 6.0


def _spread(parameter: Tensor, x: Tensor, axis: int, block_size: int) -> Tensor:
    """Bring a scale or zero point to the shape of x: per tensor, per axis or per block."""
    if parameter.dtype in {torch.uint16, torch.uint32}:
        parameter = parameter.to(torch.int64)
    if parameter.numel() == 1 and parameter.dim() <= 1:
        return parameter.reshape(())
    axis %= max(x.dim(), 1)
    if block_size:
        return parameter.repeat_interleave(block_size, axis).narrow(axis, 0, x.shape[axis])
    if parameter.dim() == 1:
        return parameter.reshape([-1 if i == axis else 1 for i in range(x.dim())])
    if parameter.shape[axis] != x.shape[axis] and parameter.dim() == x.dim():
        blocks = -(-x.shape[axis] // parameter.shape[axis])
        return parameter.repeat_interleave(blocks, axis).narrow(axis, 0, x.shape[axis])
    return parameter


def _whole(tensor: Tensor) -> Tensor:
    """Return an integer tensor in a signed type that holds all its values."""
    return tensor if tensor.dtype == torch.int32 else tensor.to(torch.int64)


def pass_through(ratio: Tensor, whole: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Return rounded numbers with the gradient of what they were rounded from.

    It stops where rounding ended below `low` or above `high` (arXiv 1712.05877).
    """
    if not ratio.requires_grad:
        return whole
    passed = ratio.clamp(low - 0.5, high + 0.5)  # type: ignore[arg-type]
    return whole + (passed - passed.detach())


def quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    to: int,
    *,
    axis: int = 1,
    block_size: int = 0,
    saturate: bool = True,
    precision: int = 0,
    carried: bool = False,
) -> Tensor:
    """Return saturate(round(x / scale) + zero_point) as an ONNX element type.

    With `carried`, where a gradient flows: the same numbers as floats, so that it flows on.
    """
    factor = _spread(scale, x, axis, block_size)
    if precision:
        wide = torch_dtype(precision)
    elif factor.dtype.itemsize == 1:
        wide = torch.float32
    else:
        wide = factor.dtype
    ratio = x.to(wide) / factor.to(wide)
    carried = carried and ratio.requires_grad
    if to not in LIMITS:
        made: Tensor = cast_to(ratio, to, saturate=saturate)
        if not carried:
            return made
        most = torch.finfo(made.dtype).max if made.dtype.itemsize == 1 else _MOST_FLOAT4
        return pass_through(ratio.float(), made.detach().float(), -most, most)
    low, high = LIMITS[to]
    ratio = ratio if ratio.dtype == torch.float64 else ratio.float()
    with torch.no_grad():
        whole = ratio.round()
        zero: Tensor | float = 0.0
        if zero_point is not None:
            zero = _spread(zero_point, x, axis, block_size).to(whole.dtype)
            whole = whole + zero
        whole = whole.clamp(low, high)
    if carried:
        return pass_through(ratio, whole, low - zero, high - zero)
    dtype = torch_dtype(to)
    return (whole.to(torch.int32) if dtype == torch.uint16 else whole).to(dtype)


def dequantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output: torch.dtype | None = None,
) -> Tensor:
    """Return (x − zero_point) · scale in the scale's type, or in `output`."""
    factor = _spread(scale, x, axis, block_size)
    wide = torch.float32 if factor.dtype.itemsize == 1 else factor.dtype
    if x.is_floating_point():  # 8-bit floats, or whole numbers that carry a gradient
        shifted = x if x.dtype in {torch.float32, torch.float64} else x.float()
        if zero_point is not None:
            shifted = shifted - _spread(zero_point, x, axis, block_size).to(shifted.dtype)
        shifted = shifted.to(wide)
    elif zero_point is None:
        shifted = (x.to(torch.int32) if x.dtype == torch.uint16 else x).to(wide)
    else:
        zero = _spread(zero_point, x, axis, block_size)
        shifted = (x.to(torch.int32) - zero.to(torch.int32)).to(wide)
    return (shifted * factor.to(wide)).to(output or wide)


@op("QuantizeLinear", 10)
def quantize_linear_10(
    x: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor | None = None,
    *,
    input_types: tuple[int, ...],
    carried: bool = False,
) -> Tensor:
    """Quantise with one scale for the whole tensor."""
    target = _target(y_zero_point, input_types, 0)
    return quantize(x, y_scale, y_zero_point, target, carried=carried)


def _target(zero_point: Tensor | None, input_types: tuple[int, ...], output_dtype: int) -> int:
    """Return the element type to quantise to: the zero point's, the attribute's, or uint8."""
    if zero_point is not None:
        named = input_types[2] if len(input_types) > 2 else 0
        return named or ONNX[zero_point.dtype]
    return output_dtype or TensorProto.UINT8


@op("QuantizeLinear", 13, 19, 21, 23, 24, 25, 28)
def quantize_linear(
    x: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor | None = None,
    *,
    axis: int,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: bool = True,
    input_types: tuple[int, ...],
    carried: bool = False,
) -> Tensor:
    """Quantise per tensor, per axis or per block."""
    target = _target(y_zero_point, input_types, output_dtype)
    return quantize(
        x, y_scale, y_zero_point, target, axis=axis, block_size=block_size, saturate=saturate,
        precision=precision, carried=carried,
    )  # fmt: skip


@op("DequantizeLinear")
def dequantize_linear(
    x: Tensor,
    x_scale: Tensor,
    x_zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> Tensor:
    """Return what quantised numbers stand for."""
    output = torch_dtype(output_dtype) if output_dtype else None
    return dequantize(x, x_scale, x_zero_point, axis=axis, block_size=block_size, output=output)


@op("DynamicQuantizeLinear")
def dynamic_quantize_linear(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quantise to uint8 with a scale and zero point from the data's own range."""
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = (high - low) / 255
    safe = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = (0 - low / safe).clamp(0, 255).round()
    y = ((x / safe).round() + zero).clamp(0, 255)
    return y.to(torch.uint8), scale, zero.to(torch.uint8)


def _centred(x: Tensor, zero_point: Tensor | None, axis: int | None = None) -> Tensor:
    """Return x − zero_point exactly, in float64."""
    wide = x.to(torch.float64)
    if zero_point is None:
        return wide
    zero = zero_point.to(torch.float64)
    if axis is not None and zero.dim() == 1 and zero.numel() > 1:
        zero = zero.reshape([-1 if i == axis % x.dim() else 1 for i in range(x.dim())])
    elif zero.numel() == 1:
        zero = zero.reshape(())
    return wide - zero


@op("MatMulInteger")
def matmul_integer(
    A: Tensor,
    B: Tensor,
    a_zero_point: Tensor | None = None,
    b_zero_point: Tensor | None = None,
) -> Tensor:
    """Product of quantised matrices in int32; zero points per row of A, per column of B."""
    left, right = _centred(A, a_zero_point, -2), _centred(B, b_zero_point, -1)
    return torch.matmul(left, right).to(torch.int64).to(torch.int32)


@op("ConvInteger")
def conv_integer(
    x: Tensor,
    w: Tensor,
    x_zero_point: Tensor | None = None,
    w_zero_point: Tensor | None = None,
    *,
    auto_pad: str,
    dilations: list[int] | None,
    group: int,
    kernel_shape: list[int] | None,
    pads: list[int] | None,
    strides: list[int] | None,
) -> Tensor:
    """Convolution of quantised numbers in int32; padding stands for the zero point."""
    total = conv(
        _centred(x, x_zero_point), _centred(w, w_zero_point, 0), None, auto_pad=auto_pad,
        dilations=dilations, group=group, kernel_shape=kernel_shape, pads=pads, strides=strides,
    )  # fmt: skip
    return total.to(torch.int64).to(torch.int32)


def requantize(
    total: Tensor, multiplier: Tensor, zero_point: Tensor, axis: int | None = None
) -> Tensor:
    """Scale an exact integer sum (in float64) in single precision, round to even, saturate."""
    factor = multiplier.float()
    if factor.numel() == 1:
        factor = factor.reshape(())
    elif axis is not None and factor.dim() == 1:
        factor = factor.reshape([-1 if i == axis % total.dim() else 1 for i in range(total.dim())])
    low, high = LIMITS.get(ONNX[zero_point.dtype], (0, 0))
    if low == high:
        refuse(f"quantised output of type {zero_point.dtype}")
    zero = zero_point.float()
    zero = zero.reshape(()) if zero.numel() == 1 else zero
    return ((total.float() * factor).round() + zero).clamp(low, high).to(zero_point.dtype)


@op("QLinearMatMul", 10, 21)
def qlinear_matmul(
    a: Tensor,
    a_scale: Tensor,
    a_zero_point: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero_point: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
) -> Tensor:
    """Product of quantised matrices, quantised again."""
    if a.is_floating_point():
        refuse("QLinearMatMul of 8-bit floats")
    total = torch.matmul(_centred(a, a_zero_point, -2), _centred(b, b_zero_point, -1))
    multiplier = _rows(a_scale).float() * b_scale.float() / _rows(y_scale).float()
    return requantize(total, multiplier, _rows(y_zero_point))


def _rows(parameter: Tensor) -> Tensor:
    """Bring a scale or zero point with one element per row of a matrix to the shape of a column."""
    return parameter.reshape(-1, 1) if parameter.dim() == 1 < parameter.numel() else parameter


@op("QLinearConv")
def qlinear_conv(
    x: Tensor,
    x_scale: Tensor,
    x_zero_point: Tensor,
    w: Tensor,
    w_scale: Tensor,
    w_zero_point: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
    B: Tensor | None = None,
    *,
    auto_pad: str,
    dilations: list[int] | None,
    group: int,
    kernel_shape: list[int] | None,
    pads: list[int] | None,
    strides: list[int] | None,
) -> Tensor:
    """Convolution of quantised numbers, quantised again; the bias is int32 in x_scale · w_scale."""
    total = conv(
        _centred(x, x_zero_point), _centred(w, w_zero_point, 0),
        None if B is None else B.to(torch.float64), auto_pad=auto_pad, dilations=dilations,
        group=group, kernel_shape=kernel_shape, pads=pads, strides=strides,
    )  # fmt: skip
    return requantize(total, x_scale.float() * w_scale.float() / y_scale.float(), y_zero_point, 1)


Contrib = Callable[..., Tensor]


def through(
    function: Contrib,
    inputs: list[tuple[Tensor, Tensor, Tensor | None]],
    scale: Tensor,
    zero_point: Tensor | None,
    *,
    inside: bool = False,
) -> Tensor:
    """Apply a float function to quantised inputs and quantise its result.

    With `inside` the zero point is added before rounding, as some kernels of ONNX Runtime do: at a
    tie the nearest even number then depends on it.
    """
    floats = [dequantize(x, s, z) for x, s, z in inputs]
    target = ONNX[zero_point.dtype] if zero_point is not None else ONNX[inputs[0][0].dtype]
    result = function(*floats)
    if not inside or zero_point is None:
        return quantize(result, scale, zero_point, target)
    return saturated((result / scale + zero_point.to(result.dtype)).round(), zero_point.dtype)


def saturated(whole: Tensor, dtype: torch.dtype) -> Tensor:
    """Return whole numbers in an integer type, those beyond it as its limits."""
    limits = torch.iinfo(dtype)
    return whole.clamp(limits.min, limits.max).to(dtype)
