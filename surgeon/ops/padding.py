"""Padding as ONNX states it (begin and end per axis, auto_pad) in the terms torch takes.

What must not enter: the windows themselves (`convolution`, `pooling`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from surgeon.ops.registry import refuse

if TYPE_CHECKING:
    from collections.abc import Sequence


def window_pads(
    auto_pad: str,
    pads: Sequence[int] | None,
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> tuple[list[int], list[int]]:
    """Return begin and end padding per spatial axis of a sliding window.

    Args:
        auto_pad: NOTSET, VALID, SAME_UPPER or SAME_LOWER.
        pads: explicit pads, begins then ends, for NOTSET.
        size: spatial size of the input.
        kernel: size of the window.
        strides: its steps.
        dilations: spacing of its elements.
    """
    rank = len(kernel)
    if auto_pad in {"NOTSET", ""}:
        given = list(pads) if pads else [0] * (2 * rank)
        return given[:rank], given[rank:]
    if auto_pad == "VALID":
        return [0] * rank, [0] * rank
    if auto_pad not in {"SAME_UPPER", "SAME_LOWER"}:
        refuse(f"auto_pad={auto_pad!r} is not in the specification")
    begins, ends = [], []
    for n, k, s, d in zip(size, kernel, strides, dilations, strict=True):
        # Negative where the step is longer than the window: pooling in ONNX Runtime then crops.
        total = (-(-n // s) - 1) * s + (k - 1) * d + 1 - n
        half = total + (auto_pad == "SAME_LOWER")
        begins.append(half // 2 if half >= 0 else -(-half // 2))
        ends.append(total - begins[-1])
    return begins, ends


def torch_pads(begins: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Return pads in the order of `torch.nn.functional.pad`: last axis first."""
    order: list[int] = []
    for begin, end in zip(reversed(begins), reversed(ends), strict=True):
        order += [begin, end]
    return order


def pad(x: Tensor, begins: Sequence[int], ends: Sequence[int], value: float = 0.0) -> Tensor:
    """Pad the last axes with a constant; negative pads crop. Nothing is copied where all are 0."""
    if not any(begins) and not any(ends):
        return x
    return F.pad(x, torch_pads(begins, ends), value=value)
