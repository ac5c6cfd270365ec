"""Boxes, regions of interest and sampling at given points.

What must not enter: resizing on a regular grid (`resize`).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from surgeon.ops.registry import op, refuse


@op("NonMaxSuppression")
def non_max_suppression(
    boxes: Tensor,
    scores: Tensor,
    max_output_boxes_per_class: int | None = None,
    iou_threshold: float | None = None,
    score_threshold: float | None = None,
    *,
    center_point_box: bool,
) -> Tensor:
    """Keep the best boxes that do not overlap: rows of (batch, class, box), int64.

    boxes [n, b, 4] as corners in any order, or as centre and size; scores [n, classes, b].
    """
    most = max_output_boxes_per_class or 0
    limit = iou_threshold or 0.0
    first, second = boxes[..., :2], boxes[..., 2:]
    if center_point_box:
        low, high = first - second / 2, first + second / 2
    else:
        low, high = torch.minimum(first, second), torch.maximum(first, second)
    area = (high - low).prod(-1)
    selected: list[tuple[int, int, int]] = []
    if most <= 0:
        return torch.zeros(0, 3, dtype=torch.int64, device=boxes.device)
    for batch in range(scores.shape[0]):
        for category in range(scores.shape[1]):
            points = scores[batch, category]
            order = points.argsort(descending=True, stable=True)
            if score_threshold is not None:
                order = order[points[order] > score_threshold]
            kept = 0
            while order.numel() and kept < most:
                best, order = order[0], order[1:]
                selected.append((batch, category, int(best)))
                kept += 1
                corner = torch.minimum(high[batch, order], high[batch, best])
                overlap = corner - torch.maximum(low[batch, order], low[batch, best])
                shared = overlap.clamp(min=0).prod(-1)
                union = area[batch, order] + area[batch, best] - shared
                order = order[~(shared > limit * union)]
    return torch.tensor(selected, dtype=torch.int64, device=boxes.device).reshape(-1, 3)


def _roi_align(
    X: Tensor,
    rois: Tensor,
    batch_indices: Tensor,
    mode: str,
    height: int,
    width: int,
    sampling_ratio: int,
    spatial_scale: float,
    offset: float,
) -> Tensor:
    """Sample every region on a regular grid and pool each bin (arXiv 1703.06870).

    Regions are grouped by nothing: each has its own number of samples per bin if `sampling_ratio`
    is 0, so they are taken one after another.
    """
    if mode not in {"avg", "max"}:
        refuse(f"mode={mode!r} is not in the specification")
    pooled = []
    rows, columns = X.shape[2:]
    for index, roi in zip(batch_indices.tolist(), rois, strict=True):
        x1, y1, x2, y2 = (roi * spatial_scale - offset).unbind()
        w, h = x2 - x1, y2 - y1
        if offset == 0:  # the form of version 10 keeps malformed regions at least one pixel large
            w, h = w.clamp(min=1), h.clamp(min=1)
        gh = sampling_ratio or max(math.ceil(float(h.detach()) / height), 0)
        gw = sampling_ratio or max(math.ceil(float(w.detach()) / width), 0)
        if gh == 0 or gw == 0:
            pooled.append(X.new_zeros(X.shape[1], height, width))
            continue
        y = _grid(y1, h / height, height, gh)
        x = _grid(x1, w / width, width, gw)
        corners, weights = _bilinear(y, x, rows, columns)
        plane = X[index].reshape(X.shape[1], -1)
        parts = [plane[:, c] * v for c, v in zip(corners, weights, strict=True)]
        if mode == "avg":
            sampled = sum(parts[1:], parts[0])
            bins = sampled.reshape(-1, height, gh, width, gw)
            pooled.append(bins.mean((2, 4)))
        else:
            # ONNX Runtime takes the maximum of the weighted corners, not of the interpolation.
            best = torch.stack(parts).amax(0)
            pooled.append(best.reshape(-1, height, gh, width, gw).amax((2, 4)))
    if not pooled:
        return X.new_zeros(0, X.shape[1], height, width)
    return torch.stack(pooled)


def _grid(start: Tensor, bin_size: Tensor, bins: int, samples: int) -> Tensor:
    b = torch.arange(bins, device=start.device, dtype=start.dtype).unsqueeze(1)
    s = torch.arange(samples, device=start.device, dtype=start.dtype)
    return (start + b * bin_size + (s + 0.5) * bin_size / samples).flatten()


def _bilinear(y: Tensor, x: Tensor, rows: int, columns: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return the four corners (flat positions) and weights of every point y × x."""
    lows, highs, low_weights, high_weights = [], [], [], []
    for value, size in ((y, rows), (x, columns)):
        outside = (value < -1) | (value > size)
        v = value.clamp(min=0)
        low = v.floor().to(torch.int64)
        at_end = low >= size - 1
        low = torch.where(at_end, size - 1, low)
        high = torch.where(at_end, size - 1, low + 1)
        v = torch.where(at_end, low.to(v.dtype), v)
        fraction = v - low.to(v.dtype)
        inside = (~outside).to(v.dtype)
        lows.append(low)
        highs.append(high)
        low_weights.append((1 - fraction) * inside)
        high_weights.append(fraction * inside)
    corners, weights = [], []
    for yy, wy in ((lows[0], low_weights[0]), (highs[0], high_weights[0])):
        for xx, wx in ((lows[1], low_weights[1]), (highs[1], high_weights[1])):
            corners.append((yy.unsqueeze(1) * columns + xx).flatten())
            weights.append((wy.unsqueeze(1) * wx).flatten())
    return corners, weights


@op("RoiAlign", 10)
def roi_align_10(
    X: Tensor,
    rois: Tensor,
    batch_indices: Tensor,
    *,
    mode: str,
    output_height: int,
    output_width: int,
    sampling_ratio: int,
    spatial_scale: float,
) -> Tensor:
    """Pool regions (x1, y1, x2, y2) of X into [regions, c, height, width]; pixel corners."""
    return _roi_align(
        X, rois, batch_indices, mode, output_height, output_width, sampling_ratio,
        spatial_scale, 0.0,
    )  # fmt: skip


@op("RoiAlign", 16, 22)
def roi_align(
    X: Tensor,
    rois: Tensor,
    batch_indices: Tensor,
    *,
    coordinate_transformation_mode: str,
    mode: str,
    output_height: int,
    output_width: int,
    sampling_ratio: int,
    spatial_scale: float,
) -> Tensor:
    """Pool regions (x1, y1, x2, y2) of X into [regions, c, height, width]; pixel centres."""
    if coordinate_transformation_mode not in {"half_pixel", "output_half_pixel"}:
        refuse(
            f"coordinate_transformation_mode={coordinate_transformation_mode!r} is not in the "
            "specification"
        )
    offset = 0.5 if coordinate_transformation_mode == "half_pixel" else 0.0
    return _roi_align(
        X, rois, batch_indices, mode, output_height, output_width, sampling_ratio,
        spatial_scale, offset,
    )  # fmt: skip


@op("MaxRoiPool")
def max_roi_pool(
    X: Tensor, rois: Tensor, *, pooled_shape: list[int], spatial_scale: float
) -> Tensor:
    """Maximum per bin of every region (batch, x1, y1, x2, y2), as Fast R-CNN rounds it."""
    height, width = pooled_shape
    rows, columns = X.shape[2:]
    pooled = []
    for roi in rois.detach():
        batch = int(roi[0])
        x1, y1, x2, y2 = (math.floor(float(v) * spatial_scale + 0.5) for v in roi[1:])
        h, w = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
        bins = []
        for i in range(height):
            top = min(max(math.floor(i * h / height) + y1, 0), rows)
            bottom = min(max(math.ceil((i + 1) * h / height) + y1, 0), rows)
            for j in range(width):
                left = min(max(math.floor(j * w / width) + x1, 0), columns)
                right = min(max(math.ceil((j + 1) * w / width) + x1, 0), columns)
                if bottom <= top or right <= left:
                    bins.append(X.new_zeros(X.shape[1]))
                else:
                    bins.append(X[batch, :, top:bottom, left:right].amax((1, 2)))
        pooled.append(torch.stack(bins, 1).reshape(-1, height, width))
    return torch.stack(pooled) if pooled else X.new_zeros(0, X.shape[1], height, width)


@op("GridSample")
def grid_sample(
    X: Tensor, grid: Tensor, *, align_corners: bool, mode: str, padding_mode: str
) -> Tensor:
    """Sample X [n, c, *size] at points in −1..1, grid [n, *points, axes]."""
    kinds = {
        "bilinear": "bilinear", "linear": "bilinear", "nearest": "nearest",
        "bicubic": "bicubic", "cubic": "bicubic",
    }  # fmt: skip
    if mode not in kinds or padding_mode not in {"zeros", "border", "reflection"}:
        refuse(f"mode={mode!r} with padding_mode={padding_mode!r} is not in the specification")
    if X.dim() == 5 and kinds[mode] == "bicubic":
        refuse("GridSample with cubic interpolation over three axes")
    if X.dim() not in {4, 5}:
        refuse(f"GridSample over {X.dim() - 2} axes")
    return F.grid_sample(
        X, grid.to(X.dtype), mode=kinds[mode], padding_mode=padding_mode,
        align_corners=align_corners,
    )  # fmt: skip


@op("AffineGrid")
def affine_grid(theta: Tensor, size: list[int], *, align_corners: bool) -> Tensor:
    """Where in the input every place of the output lies: [n, (depth,) height, width, axes]."""
    wide = theta if theta.dtype.itemsize > 2 else theta.float()
    along = []
    for count in size[2:]:
        place = torch.arange(count, dtype=wide.dtype, device=theta.device)
        if not align_corners:
            along.append((2 * place + 1) / count - 1)
        else:  # a single place lies at the end, as in ONNX Runtime
            along.append(place * 2 / (count - 1) - 1 if count > 1 else place + 1)
    axes = torch.meshgrid(*along, indexing="ij")
    points = torch.stack([*reversed(axes), torch.ones_like(axes[0])], -1)
    moved = points.flatten(0, -2) @ wide.transpose(1, 2)
    return moved.reshape(theta.shape[0], *size[2:], len(along)).to(theta.dtype)
