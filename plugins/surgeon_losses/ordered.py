"""What the task of grades minimises: cross-entropy and the distance in grades."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from surgeon.train.objective import UNKNOWN, CrossEntropy
from surgeon_losses.plain import distance


class Ordered(CrossEntropy):
    """Cross-entropy plus the squared earth mover's distance; judged by distances in grades."""

    judges: ClassVar[str] = "negative_mae"

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum."""
        return super().loss(outputs, targets) + distance(outputs, targets).sum()

    def judge(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return cross-entropy, minus the sum of distances in grades, how many there are."""
        entropy, _, judged = super().judge(outputs, targets)
        apart = torch.where(targets != UNKNOWN, (outputs.argmax(1) - targets).abs(), 0)
        return entropy, -apart.sum(), judged
