"""Losses of each sample by itself: `(outputs, targets) -> [n]`.

Targets are codes of classes, −100 where none is known, or numbers, NaN where none is. Classes lie
on the last axis of outputs, of pictures [n, classes, height, width] on the second.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional

from surgeon.plugin.settings import Within

UNKNOWN = -100


def focal(
    outputs: Tensor, targets: Tensor, *, gamma: Annotated[float, Within(0, 100)] = 2.0
) -> Tensor:
    """Return (1 − p)^gamma · −log p of what is right (Lin et al., arXiv 1708.02002)."""
    if targets.is_floating_point():
        told = targets.nan_to_num()
        entropy = functional.binary_cross_entropy_with_logits(outputs, told, reduction="none")
        return _mean((1 - (-entropy).exp()) ** gamma * entropy, ~targets.isnan())
    entropy = _entropy(outputs, targets)
    return _mean((1 - (-entropy).exp()) ** gamma * entropy, targets != UNKNOWN)


def smoothing(
    outputs: Tensor, targets: Tensor, *, amount: Annotated[float, Within(0, 1)] = 0.1
) -> Tensor:
    """Return cross-entropy with smoothed labels (Szegedy et al., arXiv 1512.00567)."""
    return _mean(_entropy(outputs, targets, amount), targets != UNKNOWN)


def huber(
    outputs: Tensor, targets: Tensor, *, delta: Annotated[float, Within(1e-6)] = 1.0
) -> Tensor:
    """Return half the squared error, linear from delta on (Huber 1964)."""
    each = functional.huber_loss(outputs, targets.nan_to_num(), reduction="none", delta=delta)
    return _mean(each, ~targets.isnan())


def ordinal(
    outputs: Tensor, targets: Tensor, *, weight: Annotated[float, Within(0)] = 1.0
) -> Tensor:
    """Return cross-entropy plus the squared earth mover's distance (Hou et al., 1611.05916)."""
    return _entropy(outputs, targets) + weight * distance(outputs, targets)


def distance(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the squared distance of cumulative distributions; 0 where no class is known."""
    right = functional.one_hot(targets.clamp(min=0), outputs.shape[1]).to(outputs)
    apart = (outputs.softmax(1).cumsum(1) - right.cumsum(1)).square().sum(1)
    return torch.where(targets != UNKNOWN, apart, 0.0)


def _entropy(outputs: Tensor, targets: Tensor, amount: float = 0.0) -> Tensor:
    """Return the cross-entropy of every target, 0 where none is known."""
    return functional.cross_entropy(
        outputs.movedim(1 if outputs.ndim == 4 else -1, 1), targets, reduction="none",
        ignore_index=UNKNOWN, label_smoothing=amount,
    )  # fmt: skip


def _mean(each: Tensor, known: Tensor) -> Tensor:
    """Return the mean of each sample's known losses; 0 where none is known."""
    each, known = each.flatten(1) if each.ndim > 1 else each[:, None], known.reshape(len(known), -1)
    return torch.where(known, each, 0.0).sum(1) / known.sum(1).clamp(min=1)
