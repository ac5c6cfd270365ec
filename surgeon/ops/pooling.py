"""Pooling over windows and over whole planes.

What must not enter: regions of interest (`detection`).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from surgeon.ops.host import elements
from surgeon.ops.padding import pad, window_pads
from surgeon.ops.registry import op, refuse

_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def _windows(
    size: list[int],
    kernel: list[int],
    strides: list[int],
    dilations: list[int],
    begins: list[int],
    ends: list[int],
    ceil_mode: bool,
) -> list[int]:
    """Return how many windows each axis has; one that starts beyond the input does not count."""
    counts = []
    for n, k, s, d, b, e in zip(size, kernel, strides, dilations, begins, ends, strict=True):
        room = n + b + e - (k - 1) * d - 1
        count = (-(-room // s) if ceil_mode else room // s) + 1
        if ceil_mode and (count - 1) * s >= n + b:
            count -= 1
        counts.append(count)
    return counts


def _reach(
    counts: list[int],
    size: list[int],
    kernel: list[int],
    strides: list[int],
    dilations: list[int],
    begins: list[int],
) -> list[int]:
    """Return the end padding with which exactly `counts` windows fit; negative crops."""
    return [
        (c - 1) * s + (k - 1) * d + 1 - n - b
        for c, n, k, s, d, b in zip(counts, size, kernel, strides, dilations, begins, strict=True)
    ]


# `auto_pad` pads as if the window had no gaps (`[1] * rank`), as ONNX Runtime does.


def _plain(begins: list[int], ends: list[int], kernel: list[int]) -> bool:
    """Tell whether torch's own padding does it: equal on both sides, at most half the window."""
    return begins == ends and all(0 <= 2 * b <= k for b, k in zip(begins, kernel, strict=True))


@op("MaxPool")
def max_pool(
    X: Tensor,
    *,
    auto_pad: str,
    ceil_mode: bool = False,
    dilations: list[int] | None = None,
    kernel_shape: list[int],
    pads: list[int] | None,
    storage_order: int = 0,
    strides: list[int] | None,
    outputs: int,
) -> Tensor | tuple[Tensor, Tensor]:
    """X [n, c, *size] → [n, c, *windows], and where each maximum lies in the flattened X."""
    rank = len(kernel_shape)
    size = list(X.shape[2:])
    stride, dilation = strides or [1] * rank, dilations or [1] * rank
    begins, ends = window_pads(auto_pad, pads, size, kernel_shape, stride, [1] * rank)
    pool = _MAX.get(rank)
    if pool is None:
        refuse(f"MaxPool over {rank} axes")
    if not X.is_floating_point():
        narrow = X.dtype
        floating = max_pool(
            X.double(), auto_pad="NOTSET", ceil_mode=ceil_mode, dilations=dilation,
            kernel_shape=kernel_shape, pads=[*begins, *ends], storage_order=storage_order,
            strides=stride, outputs=2,
        )  # fmt: skip
        return floating[0].to(narrow) if outputs == 1 else (floating[0].to(narrow), floating[1])
    if outputs == 1 and _plain(begins, ends, kernel_shape):
        return pool(X, kernel_shape, stride, begins, dilation, ceil_mode)
    counts = _windows(size, kernel_shape, stride, dilation, begins, ends, ceil_mode)
    reach = _reach(counts, size, kernel_shape, stride, dilation, begins)
    padded = pad(X, begins, reach, -math.inf)
    if outputs == 1:
        return pool(padded, kernel_shape, stride, 0, dilation)
    maxima, places = pool(padded, kernel_shape, stride, 0, dilation, return_indices=True)
    return maxima, _flat_places(places, list(padded.shape[2:]), begins, size, storage_order)


def _flat_places(
    places: Tensor, padded: list[int], begins: list[int], size: list[int], storage_order: int
) -> Tensor:
    """Turn positions in a padded plane into positions in the flattened, unpadded tensor."""
    rank = len(size)
    axes = []
    rest = places
    for axis in range(rank - 1, -1, -1):
        axes.append(rest % padded[axis] - begins[axis])
        rest = rest // padded[axis]
    axes.reverse()  # now the first spatial axis comes first
    flat = torch.zeros_like(places)
    for axis in range(rank) if storage_order == 0 else range(rank - 1, -1, -1):
        flat = flat * size[axis] + axes[axis]
    planes = torch.arange(places.shape[0] * places.shape[1], device=places.device)
    planes = planes.reshape(places.shape[0], places.shape[1], *[1] * rank)
    return flat + planes * elements(size)  # type: ignore[no-any-return]


def _window_sums(X: Tensor, kernel: list[int], strides: list[int], dilations: list[int]) -> Tensor:
    """Sum every window of an input that is padded already."""
    rank = len(kernel)
    convolve = _CONV.get(rank)
    if convolve is None:
        refuse(f"pooling over {rank} axes")
    ones = torch.ones(1, 1, *kernel, dtype=X.dtype, device=X.device)
    planes = X.reshape(-1, 1, *X.shape[2:])
    sums = convolve(planes, ones, None, strides, 0, dilations)
    return sums.reshape(*X.shape[:2], *sums.shape[2:])


@op("AveragePool")
def average_pool(
    X: Tensor,
    *,
    auto_pad: str,
    ceil_mode: bool = False,
    count_include_pad: bool = False,
    dilations: list[int] | None = None,
    kernel_shape: list[int],
    pads: list[int] | None,
    strides: list[int] | None,
) -> Tensor:
    """X [n, c, *size] → [n, c, *windows]; padding counts only with `count_include_pad`."""
    rank = len(kernel_shape)
    size = list(X.shape[2:])
    stride, dilation = strides or [1] * rank, dilations or [1] * rank
    begins, ends = window_pads(auto_pad, pads, size, kernel_shape, stride, [1] * rank)
    pool = _AVERAGE.get(rank)
    if pool is not None and _plain(begins, ends, kernel_shape) and set(dilation) == {1}:
        return pool(X, kernel_shape, stride, begins, ceil_mode, count_include_pad)
    counts = _windows(size, kernel_shape, stride, dilation, begins, ends, ceil_mode)
    reach = _reach(counts, size, kernel_shape, stride, dilation, begins)
    sums = _window_sums(pad(X, begins, reach), kernel_shape, stride, dilation)
    one = torch.ones(1, 1, *size, dtype=X.dtype, device=X.device)
    if count_include_pad:  # what ceil_mode adds beyond the pads never counts
        one = pad(one, begins, ends, 1.0)
        beyond = [r - e for r, e in zip(reach, ends, strict=True)]
        one = pad(one, [0] * rank, beyond)
    else:
        one = pad(one, begins, reach)
    return sums / _window_sums(one, kernel_shape, stride, dilation)


@op("LpPool")
def lp_pool(
    X: Tensor,
    *,
    auto_pad: str,
    ceil_mode: bool = False,
    dilations: list[int] | None = None,
    kernel_shape: list[int] | None,
    p: float,
    pads: list[int] | None,
    strides: list[int] | None,
) -> Tensor:
    """The p-norm of every window."""
    if kernel_shape is None:
        refuse("LpPool without kernel_shape")
    rank = len(kernel_shape)
    size = list(X.shape[2:])
    stride, dilation = strides or [1] * rank, dilations or [1] * rank
    begins, ends = window_pads(auto_pad, pads, size, kernel_shape, stride, [1] * rank)
    counts = _windows(size, kernel_shape, stride, dilation, begins, ends, ceil_mode)
    reach = _reach(counts, size, kernel_shape, stride, dilation, begins)
    powers = pad(X.abs() ** p, begins, reach)
    return _window_sums(powers, kernel_shape, stride, dilation) ** (1 / p)


def _spatial(X: Tensor) -> list[int]:
    return list(range(2, X.dim()))


@op("GlobalAveragePool")
def global_average_pool(X: Tensor) -> Tensor:
    """Mean of every plane."""
    return X.mean(_spatial(X), keepdim=True) if X.dim() > 2 else X


@op("GlobalMaxPool")
def global_max_pool(X: Tensor) -> Tensor:
    """Greatest element of every plane."""
    return X.amax(_spatial(X), keepdim=True) if X.dim() > 2 else X


@op("GlobalLpPool")
def global_lp_pool(X: Tensor, *, p: float) -> Tensor:
    """The p-norm of every plane."""
    return (X.abs() ** p).sum(_spatial(X), keepdim=True) ** (1 / p)


@op("MaxUnpool")
def max_unpool(
    X: Tensor,
    I: Tensor,  # noqa: E741 - the specification's name
    output_shape: list[int] | None = None,
    *,
    kernel_shape: list[int],
    pads: list[int] | None,
    strides: list[int] | None,
) -> Tensor:
    """Put values back where MaxPool found them, zeros elsewhere."""
    rank = len(kernel_shape)
    stride = strides or [1] * rank
    begins, ends = (pads[:rank], pads[rank:]) if pads else ([0] * rank, [0] * rank)
    inferred = [
        (n - 1) * s - b - e + k
        for n, s, b, e, k in zip(X.shape[2:], stride, begins, ends, kernel_shape, strict=True)
    ]
    # Indices address the output that is asked for, as in ONNX Runtime.
    shape = [*X.shape[:2], *inferred] if output_shape is None else output_shape
    flat = torch.zeros(elements(shape), dtype=X.dtype, device=X.device)
    return flat.scatter(0, I.flatten(), X.flatten()).reshape(shape)
