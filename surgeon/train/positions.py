"""Objectives of answers that are one class per position: tokens of a sequence, pixels.

Positions whose class is not told (`UNKNOWN`) are neither learnt nor judged. What must not enter:
what positions are, and where their classes come from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional

from surgeon.plugin.settings import Within
from surgeon.train.objective import UNKNOWN, CrossEntropy

if TYPE_CHECKING:
    import numpy.typing as npt


class PositionEntropy(CrossEntropy):
    """One of k classes per position of a sequence, outputs [n, length, k]; judged by accuracy."""

    judges: ClassVar[str] = "accuracy"

    @classmethod
    def of(
        cls,
        targets: npt.NDArray[Any],  # noqa: ARG003 - no setting follows from them
        outputs: int,  # noqa: ARG003 - the same
        *,
        scratch: bool = False,
    ) -> Self:
        """Count all classes alike, however uneven: most positions are outside of any span."""
        return cls(smoothing=0.1 if scratch else 0.0, axis=-1)


class EntropyDice(CrossEntropy):
    """One of k classes per pixel, outputs [n, k, height, width]: cross-entropy + Dice.

    Cross-entropy is of pixels, most of which are background; Dice is of classes (Milletari et al.,
    "V-Net", arXiv 1606.04797; their sum as in nnU-Net, Isensee et al., arXiv 1809.10486). Judged by
    the mean over pictures of their intersection over union, by pixels that are told.
    """

    @classmethod
    def of(
        cls,
        targets: npt.NDArray[Any],  # noqa: ARG003 - no setting follows from them
        outputs: int,  # noqa: ARG003 - the same
        *,
        scratch: bool = False,  # noqa: ARG003 - the same
    ) -> Self:
        """Count all pixels alike: Dice counts classes."""
        return cls()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum: a picture's Dice loss counts as often as it has pixels that are told."""
        told = (targets != UNKNOWN).flatten(1).sum(1)
        return super().loss(outputs, targets) + (dice(outputs, targets) * told).sum()

    def judge(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return cross-entropy, intersection over union, and how many pixels are told."""
        entropy, _, judged = super().judge(outputs, targets)
        told = targets != UNKNOWN
        right, said = (_marked(one, told, outputs.shape[1]) for one in (targets, outputs.argmax(1)))
        both, union = (right & said).sum(-1), (right | said).sum(-1)
        share = (both / union.clamp(min=1)).sum(1) / (union > 0).sum(1).clamp(min=1)
        return entropy, (share * told.flatten(1).sum(1)).sum(), judged


def dice(
    outputs: Tensor, targets: Tensor, *, smooth: Annotated[float, Within(1e-6)] = 1.0
) -> Tensor:
    """Return [n] 1 − the mean Dice coefficient of the classes that a sample has.

    Args:
        outputs: [n, k, …] scores.
        targets: [n, …] classes; below 0 = none.
        smooth: added above and below the line, in pixels, so that small classes do not jump.
    """
    told = targets >= 0
    right = _marked(targets, told, outputs.shape[1])
    said = outputs.softmax(1).flatten(2) * told.flatten(1)[:, None]
    coefficient = (2 * (said * right).sum(-1) + smooth) / (said.sum(-1) + right.sum(-1) + smooth)
    present = right.any(-1)
    mean = (coefficient * present).sum(1) / present.sum(1).clamp(min=1)
    return torch.where(present.any(1), 1 - mean, 0.0)


def _marked(codes: Tensor, told: Tensor, classes: int) -> Tensor:
    """Return [n, classes, positions] whether a position that is told has the class."""
    marked = functional.one_hot(codes.clamp(min=0).flatten(1), classes).movedim(-1, 1)
    return marked.bool() & told.flatten(1)[:, None]
