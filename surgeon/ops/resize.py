"""Resizing by interpolation, axis by axis.

Coordinates are computed in single precision with ONNX Runtime's formulas, because at a pixel's edge
the last bit decides which neighbour is nearest. What must not enter: sampling at given points
(`detection`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from surgeon.ops.host import single
from surgeon.ops.registry import op, refuse

if TYPE_CHECKING:
    from collections.abc import Callable

_NEAREST: dict[str, Callable[[Tensor], Tensor]] = {
    "round_prefer_floor": lambda x: torch.floor(x) + (x - torch.floor(x) > 0.5),
    "round_prefer_ceil": lambda x: torch.floor(x) + (x - torch.floor(x) >= 0.5),
    "floor": torch.floor,
    "ceil": torch.ceil,
}


def _coordinates(
    mode: str,
    size: int,
    wanted: int,
    scale: float,
    roi: tuple[float, float],
    device: torch.device,
) -> Tensor:
    """Return where in the input every output element of one axis lies.

    The resized length is ONNX Runtime's whole number, also where scale · size is none; since
    version 19 the specification has the fraction. At a scale of 1 every element stays in its place.
    """
    x = torch.arange(wanted, dtype=torch.float32, device=device)
    scale = single(scale)
    if scale == 1:
        return x
    if mode == "half_pixel":
        return (x + 0.5) / scale - 0.5
    if mode == "pytorch_half_pixel":
        return (x + 0.5) / scale - 0.5 if wanted > 1 else x * 0
    if mode == "asymmetric":
        return x / scale
    if mode == "align_corners":
        return x * (size - 1) / (wanted - 1) if wanted > 1 else x * 0
    if mode == "tf_half_pixel_for_nn":
        return (x + 0.5) / scale
    if mode == "half_pixel_symmetric":
        adjustment = single(wanted / single(scale * size))
        return single(size / 2 * single(1 - adjustment)) + (x + 0.5) / scale - 0.5
    if mode == "tf_crop_and_resize":
        start, end = roi
        if wanted > 1:
            return single(start * (size - 1)) + x * single(end - start) * (size - 1) / (wanted - 1)
        return x * 0 + 0.5 * (start + end) * (size - 1)
    return refuse(f"coordinate_transformation_mode={mode!r} is not in the specification")


def _cubic(distance: Tensor, a: float) -> Tensor:
    d = distance.abs()
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))


def _interpolate(
    data: Tensor,
    axis: int,
    where: Tensor,
    scale: float,
    mode: str,
    *,
    antialias: bool,
    cubic_coeff_a: float,
    exclude_outside: bool,
) -> Tensor:
    """Interpolate one axis at given coordinates, as a sum over neighbours."""
    size = data.shape[axis]
    base = torch.floor(where)
    ratio = where - base
    reach = 1.0 if mode == "linear" else 2.0
    shrink = min(scale, 1.0) if antialias else 1.0
    start = math.floor(-reach / shrink) + 1
    offsets = range(start, 2 - start)
    weights = []
    for offset in offsets:
        distance = (offset - ratio) * shrink
        if mode == "linear":
            weights.append((1 - distance.abs()).clamp(0, 1))
        else:
            weights.append(_cubic(distance, cubic_coeff_a))
    table = torch.stack(weights)
    index = torch.stack([base + offset for offset in offsets])
    if exclude_outside:
        inside = (index >= 0) & (index < size)
        table = torch.where(inside, table, torch.zeros_like(table))
    if exclude_outside or antialias:
        table = table / table.sum(0)
    table = table.to(data.dtype)
    places = index.clamp(0, size - 1).to(torch.int64)
    view = [1] * data.dim()
    view[axis] = -1
    total = None
    for weight, place in zip(table, places, strict=True):
        part = data.index_select(axis, place) * weight.reshape(view)
        total = part if total is None else total + part
    assert total is not None
    return total  # type: ignore[no-any-return]


def _torch_mode(
    data: Tensor,
    axes: list[int],
    sizes: list[int],
    scales: list[float],
    mode: str,
    transformation: str,
    nearest_mode: str,
    cubic_coeff_a: float,
) -> tuple[str, bool | None] | None:
    """Return torch's own mode and align_corners where it computes exactly this."""
    if data.dim() != 4 or axes != [2, 3] or not data.is_floating_point():
        return None
    exact = all(n * s == w for n, s, w in zip(data.shape[2:], scales, sizes, strict=True))
    if mode == "nearest":
        whole = all(s == int(s) for s in scales)
        simple = transformation == "asymmetric" and nearest_mode == "floor"
        return ("nearest", None) if simple and whole and exact else None
    name = {"linear": "bilinear", "cubic": "bicubic"}[mode]
    if mode == "cubic" and cubic_coeff_a != -0.75:
        return None
    if transformation == "align_corners" and exact:
        return name, True
    if transformation == "half_pixel" and exact:
        return name, False
    if transformation == "pytorch_half_pixel" and exact and min(sizes) > 1:
        return name, False
    return None


def _resize(
    data: Tensor,
    axes: list[int],
    sizes: list[int],
    scales: list[float],
    roi: list[float] | None,
    *,
    mode: str,
    transformation: str,
    nearest_mode: str = "round_prefer_floor",
    antialias: bool = False,
    cubic_coeff_a: float = -0.75,
    exclude_outside: bool = False,
    extrapolation_value: float = 0.0,
) -> Tensor:
    if mode not in {"nearest", "linear", "cubic"}:
        refuse(f"mode={mode!r} is not in the specification")
    if [data.shape[axis] for axis in axes] == sizes:
        return data  # ONNX Runtime copies, whatever scales and region of interest say
    cropped = transformation == "tf_crop_and_resize"
    if not cropped:
        kept = [
            i
            for i, (axis, size) in enumerate(zip(axes, sizes, strict=True))
            if size != data.shape[axis] or scales[i] != 1
        ]
        if not (
            data.dim() == 4 and axes[-2:] == [2, 3] and set(kept) <= {len(axes) - 2, len(axes) - 1}
        ):
            axes = [axes[i] for i in kept]
            sizes = [sizes[i] for i in kept]
            scales = [scales[i] for i in kept]
        else:
            axes, sizes, scales = axes[-2:], sizes[-2:], scales[-2:]
    if not antialias and not exclude_outside and not cropped:
        fast = _torch_mode(
            data, axes, sizes, scales, mode, transformation, nearest_mode, cubic_coeff_a
        )
        if fast is not None:
            return F.interpolate(data, sizes, mode=fast[0], align_corners=fast[1])
    if antialias and data.dtype == torch.int8:
        refuse("Resize of int8 with antialias, of which ONNX Runtime makes negative numbers 0")
    dtype = data.dtype
    work = data if mode == "nearest" or data.is_floating_point() else data.float()
    outside: list[tuple[int, Tensor]] = []
    rank = len(axes)
    for i in reversed(range(rank)):
        axis, wanted, scale = axes[i], sizes[i], scales[i]
        size = data.shape[axis]
        span = (roi[i], roi[i + rank]) if roi and cropped else (0.0, 1.0)
        where = _coordinates(transformation, size, wanted, scale, span, data.device)
        if cropped:
            outside.append((axis, (where < 0) | (where > size - 1)))
        if mode == "nearest":
            choose = _NEAREST.get(nearest_mode)
            if choose is None:
                refuse(f"nearest_mode={nearest_mode!r} is not in the specification")
            index = choose(where).clamp(0, size - 1).to(torch.int64)
            work = work.index_select(axis, index)
        else:
            work = _interpolate(
                work, axis, where, scale, mode, antialias=antialias,
                cubic_coeff_a=cubic_coeff_a, exclude_outside=exclude_outside,
            )  # fmt: skip
            if antialias and not dtype.is_floating_point:
                work = _fitting(work.abs().add(0.5).copysign(work), dtype).to(work.dtype)
    for axis, beyond in outside:
        view = [1] * data.dim()
        view[axis] = -1
        fill = torch.full_like(work, extrapolation_value)
        work = torch.where(beyond.reshape(view), fill, work)
    return _fitting(work, dtype)


def _fitting(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return interpolated values in the input's type: of integers what stands before the point.

    ONNX Runtime rounds them only where it smooths (`antialias`), and then after every axis.
    """
    if values.dtype != dtype and not dtype.is_floating_point:
        limits = torch.iinfo(dtype)
        values = values.trunc().clamp(limits.min, limits.max)
    return values.to(dtype)


def scaled(size: int, scale: float) -> int:
    """Return the output size of one axis: floor(size · scale) in single precision."""
    if scale == int(scale):
        return size * int(scale)
    return math.floor(single(size * scale))


@op("Upsample", 1)
def upsample_1(X: Tensor, *, height_scale: float, mode: str, width_scale: float) -> Tensor:
    """Enlarge height and width."""
    return upsample(X, [1.0, 1.0, height_scale, width_scale], mode=mode)


@op("Upsample", 7, 9, 10)
def upsample(X: Tensor, scales: list[float], *, mode: str) -> Tensor:
    """Enlarge every axis; sampling is asymmetric, nearest rounds down."""
    return resize_10(X, scales, mode=mode)


@op("Resize", 10)
def resize_10(X: Tensor, scales: list[float], *, mode: str) -> Tensor:
    """Resize every axis; sampling is asymmetric, nearest rounds down (up where it shrinks)."""
    sizes = [scaled(n, s) for n, s in zip(X.shape, scales, strict=True)]
    kind = "linear" if mode == "bilinear" else mode
    if kind == "nearest" and sizes != list(X.shape):
        for axis, (size, scale) in enumerate(zip(sizes, scales, strict=True)):
            where = _coordinates("asymmetric", X.shape[axis], size, scale, (0.0, 1.0), X.device)
            index = where.ceil() if scale < 1 else where.floor()
            X = X.index_select(axis, index.clamp(0, X.shape[axis] - 1).to(torch.int64))
        return X
    return _resize(
        X, list(range(X.dim())), sizes, scales, None, mode=kind, transformation="asymmetric"
    )


@op("Resize", 11, 13, 18, 19)
def resize(
    X: Tensor,
    roi: list[float] | None = None,
    scales: list[float] | None = None,
    sizes: list[int] | None = None,
    *,
    antialias: bool = False,
    axes: list[int] | None = None,
    coordinate_transformation_mode: str,
    cubic_coeff_a: float,
    exclude_outside: bool,
    extrapolation_value: float,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str,
    nearest_mode: str,
) -> Tensor:
    """Resize axes to sizes or by scales."""
    rank = X.dim()
    along = list(range(rank)) if axes is None else [a % rank for a in axes]
    have = [X.shape[a] for a in along]
    if sizes:
        if keep_aspect_ratio_policy != "stretch":
            choose = min if keep_aspect_ratio_policy == "not_larger" else max
            common = choose(w / n for w, n in zip(sizes, have, strict=True))
            # Axes counted from the end keep their sizes here: ONNX Runtime does not find them.
            counted = [a >= 0 for a in axes or along]
            factors = [common if here else 1.0 for here in counted]
            sizes = [math.floor(f * n + 0.5) for f, n in zip(factors, have, strict=True)]
        else:
            factors = [w / n if n else 1.0 for w, n in zip(sizes, have, strict=True)]
    elif scales:
        factors = list(scales)
        sizes = [scaled(n, s) for n, s in zip(have, scales, strict=True)]
    else:
        refuse("Resize with neither scales nor sizes")
    spans = list(roi) if roi else [0.0] * len(along) + [1.0] * len(along)
    order = sorted(range(len(along)), key=lambda i: along[i])
    count = len(along)
    return _resize(
        X,
        [along[i] for i in order],
        [sizes[i] for i in order],
        [factors[i] for i in order],
        [spans[i] for i in order] + [spans[i + count] for i in order],
        mode=mode,
        transformation=coordinate_transformation_mode,
        nearest_mode=nearest_mode,
        antialias=antialias,
        cubic_coeff_a=cubic_coeff_a,
        exclude_outside=exclude_outside,
        extrapolation_value=extrapolation_value,
    )
