"""Shapes: reshaping, joining, splitting, slicing, padding. No arithmetic on the data.

What must not enter: selecting by index tensors (`indexing`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from surgeon.ops.host import Host, elements, slice_of
from surgeon.ops.padding import torch_pads
from surgeon.ops.registry import op, refuse

if TYPE_CHECKING:
    from collections.abc import Sequence


@op("Identity")
def identity(input: Any) -> Any:
    """The value itself: tensor, sequence or optional."""
    return input


@op("Shape")
def shape_of(data: Tensor, *, start: int = 0, end: int | None = None) -> Host:
    """The shape, or a part of it, as an array of the host."""
    part = tuple(data.shape[start:end])
    return Host(part, (len(part),), torch.int64)


@op("Size")
def size_of(data: Tensor) -> Host:
    """The number of elements, as an array of the host."""
    return Host((elements(data.shape),), (), torch.int64)


@op("Reshape")
def reshape(data: Tensor, shape: list[int] | None = None, *, allowzero: bool = False) -> Tensor:
    """Give the data a new shape; 0 keeps an axis (unless `allowzero`), -1 is what remains."""
    wanted = list(shape or ())
    if not allowzero:
        wanted = [data.shape[i] if d == 0 else d for i, d in enumerate(wanted)]
    elif -1 in wanted and 0 in wanted:
        refuse("Reshape with allowzero and both 0 and -1, which the specification forbids")
    elif -1 not in wanted and 0 in wanted:
        return data.reshape(wanted)
    if -1 in wanted and 0 in wanted:  # torch finds -1 ambiguous beside an empty axis
        wanted[wanted.index(-1)] = 0
    return data.reshape(wanted)


@op("Flatten")
def flatten(input: Tensor, *, axis: int) -> Tensor:
    """Make two axes of the input, split at `axis`."""
    axis = axis + input.dim() if axis < 0 else axis
    return input.reshape(elements(input.shape[:axis]), elements(input.shape[axis:]))


@op("Squeeze")
def squeeze(data: Any, axes: list[int] | None = None) -> Any:
    """Drop axes of size one: those named, or all."""
    if isinstance(data, np.ndarray):
        return np.squeeze(data, None if axes is None else tuple(axes))
    if axes is None:
        return data.squeeze()
    for axis in axes:
        if data.shape[axis] != 1:
            raise ValueError(f"axis {axis} has size {data.shape[axis]}, not 1")
    return data.squeeze(tuple(axes))


@op("Unsqueeze")
def unsqueeze(data: Any, axes: list[int]) -> Any:
    """Insert axes of size one; positions count in the result."""
    if isinstance(data, np.ndarray):
        return np.expand_dims(data, tuple(axes))
    rank = data.dim() + len(axes)
    for axis in sorted(a % rank for a in axes):
        data = data.unsqueeze(axis)
    return data


@op("Transpose")
def transpose(data: Any, *, perm: list[int] | None) -> Any:
    """Reorder the axes; reverse them where no order is given."""
    if isinstance(data, np.ndarray):
        return np.transpose(data, perm)
    return data.permute(perm or list(range(data.dim()))[::-1])


def _concat(inputs: Sequence[Any], axis: int) -> Any:
    if isinstance(inputs[0], np.ndarray):
        return np.concatenate(inputs, axis)
    return torch.cat(list(inputs), axis)


@op("Concat", 1)
def concat_1(*inputs: Tensor, axis: int | None) -> Tensor:
    """Join tensors along an axis, the second where none is named."""
    return _concat(inputs, 1 if axis is None else axis)  # type: ignore[no-any-return]


@op("Concat", 4, 11, 13)
def concat(*inputs: Tensor, axis: int) -> Tensor:
    """Join tensors along an axis."""
    return _concat(inputs, axis)  # type: ignore[no-any-return]


@op("Split")
def split(
    input: Tensor,
    split: list[int] | None = None,
    *,
    axis: int | None = None,
    num_outputs: int | None = None,
    outputs: int,
) -> tuple[Tensor, ...]:
    """Cut a tensor along an axis, into given lengths or equal ones (the last may be shorter)."""
    along = axis or 0
    size = input.shape[along]
    if split is None:
        count = num_outputs or outputs
        width = -(-size // count)
        split = [min(width, size - i * width) for i in range(count)]
    return tuple(torch.split(input, split, along))


@op("Slice")
def slice_(
    data: Any,
    starts: list[int],
    ends: list[int],
    axes: list[int] | None = None,
    steps: list[int] | None = None,
) -> Any:
    """Take ranges along axes; steps may be negative."""
    along = list(range(len(starts))) if axes is None else axes
    stride = [1] * len(starts) if steps is None else steps
    if isinstance(data, np.ndarray):
        index = [slice(None)] * data.ndim
        for axis, start, end, step in zip(along, starts, ends, stride, strict=True):
            index[axis] = slice_of(start, end, step, data.shape[axis])
        return data[tuple(index)]
    for axis, start, end, step in zip(along, starts, ends, stride, strict=True):
        size = data.shape[axis]
        if step > 0:
            window = [slice(None)] * data.dim()
            window[axis] = slice(max(start, -size), max(end, -size), step)
            data = data[tuple(window)]
        else:  # torch knows no negative step: turn the axis round first
            chosen = range(size)[slice_of(start, end, step, size)]
            if len(chosen) == 0:
                data = data.narrow(axis, 0, 0)
            else:
                low, high = chosen[-1], chosen[0]
                window = [slice(None)] * data.dim()
                part = data.narrow(axis, low, high - low + 1).flip(axis)
                window[axis] = slice(None, None, -step)
                data = part[tuple(window)]
    return data


@op("Expand")
def expand(input: Any, shape: list[int]) -> Any:
    """Broadcast with a shape, in both directions."""
    if isinstance(input, np.ndarray):
        return np.broadcast_to(input, np.broadcast_shapes(input.shape, tuple(shape)))
    rank = max(input.dim(), len(shape))
    have = [1] * (rank - input.dim()) + list(input.shape)
    want = [1] * (rank - len(shape)) + list(shape)
    return input.expand([h if w == 1 else w for h, w in zip(have, want, strict=True)])


@op("Tile", 6, 13)
def tile(input: Any, repeats: list[int]) -> Any:
    """Repeat along every axis."""
    if isinstance(input, np.ndarray):
        return np.tile(input, repeats)
    return input.repeat(repeats) if repeats else input


@op("Tile", 1)
def tile_1(input: Tensor, tiles: int, axis: int) -> Tensor:
    """Repeat along one axis."""
    repeats = [1] * input.dim()
    repeats[axis] = tiles
    return input.repeat(repeats)


def _pad(
    data: Tensor, pads: list[int], value: float | Tensor | None, axes: list[int] | None, mode: str
) -> Tensor:
    rank = data.dim()
    along = list(range(rank)) if axes is None else [a % rank for a in axes]
    begins, ends = [0] * rank, [0] * rank
    for i, axis in enumerate(along):
        begins[axis], ends[axis] = pads[i], pads[i + len(along)]
    if mode == "constant":
        if isinstance(value, Tensor):
            return _pad_with_tensor(data, begins, ends, value)
        return F.pad(data, torch_pads(begins, ends), value=0 if value is None else value)
    if mode not in {"reflect", "edge", "wrap"}:
        refuse(f"Pad mode {mode!r} is not in the specification")
    for axis in range(rank):  # by index, which torch can differentiate on any axis and type
        begin, end = begins[axis], ends[axis]
        if begin == 0 and end == 0:
            continue
        size = data.shape[axis]
        if begin < 0 or end < 0:
            data = data.narrow(axis, max(-begin, 0), size + min(begin, 0) + min(end, 0))
            begin, end, size = max(begin, 0), max(end, 0), data.shape[axis]
        index = torch.arange(-begin, size + end, device=data.device)
        if mode == "edge":
            index = index.clamp(0, size - 1)
        elif mode == "wrap":
            index = index % size
        else:
            period = max(2 * (size - 1), 1)
            index = index.abs() % period
            index = torch.where(index >= size, period - index, index)
        data = data.index_select(axis, index)
    return data


def _pad_with_tensor(data: Tensor, begins: list[int], ends: list[int], value: Tensor) -> Tensor:
    """Pad with a value that is only known on the device, without asking for it."""
    order = torch_pads(begins, ends)
    inside = F.pad(torch.ones_like(data, dtype=torch.bool), order, value=False)
    return torch.where(inside, F.pad(data, order), value.reshape(()).to(data.dtype))


@op("Pad", 1)
def pad_1(data: Tensor, *, mode: str, paddings: list[int], value: float) -> Tensor:
    """Pad every axis; `paddings` holds the begins, then the ends."""
    return _pad(data, paddings, value, None, mode)


@op("Pad", 2)
def pad_2(data: Tensor, *, mode: str, pads: list[int], value: float) -> Tensor:
    """Pad every axis; `pads` holds the begins, then the ends. Negative ones crop."""
    return _pad(data, pads, value, None, mode)


@op("Pad", 11, 13, 18, 19, 21, 23, 24, 25)
def pad(
    data: Tensor,
    pads: list[int],
    constant_value: float | Tensor | None = None,
    axes: list[int] | None = None,
    *,
    mode: str,
) -> Tensor:
    """Pad some axes with a constant, the edge, the mirrored or the wrapped data."""
    return _pad(data, pads, constant_value, axes, mode)


def _blocks(input: Tensor, block: int, mode: str, *, to_space: bool) -> Tensor:
    if mode not in {"DCR", "CRD"}:
        refuse(f"mode={mode!r} is not in the specification")
    n, c, h, w = input.shape
    if to_space:
        if mode == "DCR":
            parts = input.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
        else:
            parts = input.reshape(n, c // block**2, block, block, h, w).permute(0, 1, 4, 2, 5, 3)
        return parts.reshape(n, c // block**2, h * block, w * block)
    parts = input.reshape(n, c, h // block, block, w // block, block)
    order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    return parts.permute(order).reshape(n, c * block**2, h // block, w // block)


@op("DepthToSpace")
def depth_to_space(input: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """Move blocks of channels into space."""
    return _blocks(input, blocksize, mode, to_space=True)


@op("SpaceToDepth")
def space_to_depth(input: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """Move blocks of space into channels."""
    return _blocks(input, blocksize, mode, to_space=False)


@op("CenterCropPad")
def center_crop_pad(input_data: Tensor, shape: list[int], *, axes: list[int] | None) -> Tensor:
    """Crop or zero-pad axes to a size, keeping the centre."""
    along = list(range(input_data.dim())) if axes is None else axes
    for axis, wanted in zip(along, shape, strict=True):
        size = input_data.shape[axis]
        if wanted < size:
            input_data = input_data.narrow(axis, (size - wanted) // 2, wanted)
        elif wanted > size:
            before = (wanted - size) // 2
            rank = input_data.dim()
            begins, ends = [0] * rank, [0] * rank
            begins[axis], ends[axis] = before, wanted - size - before
            input_data = F.pad(input_data, torch_pads(begins, ends))
    return input_data


@op("Trilu")
def triangle(input: Tensor, k: int | None = None, *, upper: bool) -> Tensor:
    """Keep the upper or lower triangle of the last two axes."""
    return torch.triu(input, k or 0) if upper else torch.tril(input, k or 0)


@op("ReverseSequence")
def reverse_sequence(
    input: Tensor, sequence_lens: Tensor, *, batch_axis: int, time_axis: int
) -> Tensor:
    """Reverse the first `sequence_lens` steps of every sample."""
    moved = input.movedim((batch_axis, time_axis), (0, 1))
    steps = torch.arange(moved.shape[1], device=input.device).unsqueeze(0)
    lengths = sequence_lens.unsqueeze(1)
    index = torch.where(steps < lengths, lengths - 1 - steps, steps)
    index = index.reshape(*index.shape, *[1] * (moved.dim() - 2)).expand(moved.shape)
    return moved.gather(1, index).movedim((0, 1), (batch_axis, time_axis))
