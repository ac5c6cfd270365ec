"""Convolutions. Weights are inputs, so that one initializer stays one Parameter."""

# ruff: noqa: ARG001 - the specification decides which parameters a function has

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from surgeon.ops.padding import pad, window_pads
from surgeon.ops.registry import op, refuse

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@op("Conv")
def conv(
    X: Tensor,
    W: Tensor,
    B: Tensor | None = None,
    *,
    auto_pad: str,
    dilations: list[int] | None,
    group: int,
    kernel_shape: list[int] | None,
    pads: list[int] | None,
    strides: list[int] | None,
) -> Tensor:
    """X [n, c, *size], W [m, c/group, *kernel], B [m] → [n, m, *windows]."""
    rank = W.dim() - 2
    kernel = list(W.shape[2:])
    if kernel_shape and kernel_shape != kernel:
        refuse(f"kernel_shape {kernel_shape} contradicts the weight's {kernel}")
    stride, dilation = strides or [1] * rank, dilations or [1] * rank
    begins, ends = window_pads(auto_pad, pads, X.shape[2:], kernel, stride, dilation)
    if auto_pad.startswith("SAME"):  # where the step is longer than the window, nothing is cropped
        begins, ends = ([max(b, 0) for b in side] for side in (begins, ends))
    convolve = _CONV.get(rank)
    if convolve is None:
        if rank == 0:
            return F.linear(X, W, B)
        refuse(f"a convolution over {rank} axes")
    if begins == ends and min(begins) >= 0:
        return convolve(X, W, B, stride, begins, dilation, group)
    return convolve(pad(X, begins, ends), W, B, stride, 0, dilation, group)


@op("ConvTranspose")
def conv_transpose(
    X: Tensor,
    W: Tensor,
    B: Tensor | None = None,
    *,
    auto_pad: str,
    dilations: list[int] | None,
    group: int,
    kernel_shape: list[int] | None,
    output_padding: list[int] | None,
    output_shape: list[int] | None,
    pads: list[int] | None,
    strides: list[int] | None,
) -> Tensor:
    """X [n, c, *size], W [c, m/group, *kernel] → [n, m, *size']; pads crop the full result."""
    rank = W.dim() - 2
    kernel = list(W.shape[2:])
    if kernel_shape and kernel_shape != kernel:
        refuse(f"kernel_shape {kernel_shape} contradicts the weight's {kernel}")
    stride, dilation = strides or [1] * rank, dilations or [1] * rank
    extra = output_padding or [0] * rank
    size = X.shape[2:]
    full = [
        s * (n - 1) + o + (k - 1) * d + 1
        for n, s, o, k, d in zip(size, stride, extra, kernel, dilation, strict=True)
    ]
    if output_shape or auto_pad in {"SAME_UPPER", "SAME_LOWER"}:
        wanted = (
            output_shape[-rank:]
            if output_shape
            else [n * s for n, s in zip(size, stride, strict=True)]
        )
        totals = [f - w for f, w in zip(full, wanted, strict=True)]
        if not output_shape:  # a window shorter than its step is not lengthened
            totals = [max(t, 0) for t in totals]
        begins = [t // 2 if auto_pad == "SAME_UPPER" else t - t // 2 for t in totals]
        ends = [t - b for t, b in zip(totals, begins, strict=True)]
    elif auto_pad == "VALID":
        begins = ends = [0] * rank
    else:
        begins, ends = (pads[:rank], pads[rank:]) if pads else ([0] * rank, [0] * rank)
    convolve = _TRANSPOSED.get(rank)
    if convolve is None:
        refuse(f"a transposed convolution over {rank} axes")
    fits = all(o < max(s, d) for o, s, d in zip(extra, stride, dilation, strict=True))
    if begins == ends and min(begins) >= 0 and fits:
        return convolve(X, W, B, stride, begins, extra, group, dilation)
    whole = convolve(X, W, None, stride, 0, 0, group, dilation)
    # output_padding lengthens the end; what is left of the pads is a crop (or, negative, zeros).
    whole = pad(whole, [-b for b in begins], [o - e for o, e in zip(extra, ends, strict=True)])
    return whole if B is None else whole + B.reshape(-1, *[1] * rank)


@op("Col2Im")
def col2im(
    input: Tensor,
    image_shape: list[int],
    block_shape: list[int],
    *,
    dilations: list[int] | None,
    pads: list[int] | None,
    strides: list[int] | None,
) -> Tensor:
    """Sum columns [n, c·block, windows] back into an image [n, c, *image_shape].

    Written as a transposed convolution with a kernel of unit impulses, which works in 1 to 3 axes.
    """
    rank = len(block_shape)
    stride, dilation = strides or [1] * rank, dilations or [1] * rank
    begins, ends = (pads[:rank], pads[rank:]) if pads else ([0] * rank, [0] * rank)
    windows = [
        (n + b + e - d * (k - 1) - 1) // s + 1
        for n, b, e, k, d, s in zip(
            image_shape, begins, ends, block_shape, dilation, stride, strict=True
        )
    ]
    elements = 1
    for k in block_shape:
        elements *= k
    batch, channels = input.shape[0], input.shape[1] // elements
    columns = input.reshape(batch * channels, elements, *windows)
    impulses = torch.eye(elements, dtype=input.dtype, device=input.device)
    impulses = impulses.reshape(elements, 1, *block_shape)
    convolve = _TRANSPOSED.get(rank)
    if convolve is None:
        refuse(f"Col2Im over {rank} axes")
    image = convolve(columns, impulses, None, stride, 0, 0, 1, dilation)
    # A window that does not reach the end leaves a rest, which is zero.
    after = [n + b - have for n, b, have in zip(image_shape, begins, image.shape[2:], strict=True)]
    image = pad(image, [-b for b in begins], after)
    return image.reshape(batch, channels, *image_shape)


@op("DeformConv")
def deform_conv(
    X: Tensor,
    W: Tensor,
    offset: Tensor,
    B: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    dilations: list[int] | None,
    group: int,
    kernel_shape: list[int] | None,
    offset_group: int,
    pads: list[int] | None,
    strides: list[int] | None,
) -> Tensor:
    """Two-dimensional deformable convolution (arXiv 1703.06211), bilinear, zeros outside.

    X [n, c, h, w], W [m, c/group, kh, kw], offset [n, offset_group·kh·kw·2, oh, ow] as (y, x).
    """
    if W.dim() != 4:
        refuse("DeformConv is converted for two spatial axes only")
    batch, channels, height, width = X.shape
    kh, kw = W.shape[2:]
    stride, dilation = strides or [1, 1], dilations or [1, 1]
    begins, _ = (pads[:2], pads[2:]) if pads else ([0, 0], [0, 0])
    oh, ow = offset.shape[2:]
    taps = kh * kw
    shifts = offset.reshape(batch, offset_group, taps, 2, oh, ow)
    floats: Any = {"dtype": X.dtype, "device": X.device}
    rows = torch.arange(oh, **floats).mul(stride[0]).sub(begins[0]).reshape(1, oh, 1)
    cols = torch.arange(ow, **floats).mul(stride[1]).sub(begins[1]).reshape(1, 1, ow)
    tap_rows = torch.arange(kh, **floats).mul(dilation[0]).repeat_interleave(kw)
    tap_cols = torch.arange(kw, **floats).mul(dilation[1]).repeat(kh)
    y = shifts[:, :, :, 0] + rows + tap_rows.reshape(taps, 1, 1)
    x = shifts[:, :, :, 1] + cols + tap_cols.reshape(taps, 1, 1)
    planes = X.reshape(batch, offset_group, channels // offset_group, height * width)
    y0, x0 = y.floor(), x.floor()
    sampled: Tensor | None = None
    for dy in (0, 1):
        for dx in (0, 1):
            yy, xx = y0 + dy, x0 + dx
            weight = (1 - (y - yy).abs()) * (1 - (x - xx).abs())
            inside = (yy >= 0) & (yy < height) & (xx >= 0) & (xx < width)
            weight = torch.where(inside, weight, torch.zeros_like(weight))
            position = yy.clamp(0, height - 1).long() * width + xx.clamp(0, width - 1).long()
            flat = position.reshape(batch, offset_group, 1, -1)
            flat = flat.expand(-1, -1, planes.shape[2], -1)
            part = planes.gather(3, flat) * weight.reshape(batch, offset_group, 1, -1)
            sampled = part if sampled is None else sampled + part
    assert sampled is not None
    if mask is not None:
        sampled = sampled * mask.reshape(batch, offset_group, 1, -1)
    columns = sampled.reshape(batch, group, channels // group * taps, oh * ow)
    kernels = W.reshape(group, W.shape[0] // group, -1)
    result = (kernels @ columns).reshape(batch, W.shape[0], oh, ow)
    return result if B is None else result + B.reshape(-1, 1, 1)
