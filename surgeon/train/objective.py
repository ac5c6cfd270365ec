"""What a fit minimises and is judged by: the one place of training that knows a task.

An objective is made for the targets of the training samples and handed to the loop, which knows
neither classes nor what makes an answer right. What must not enter: the loop, the weights that are
trained, where targets come from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from surgeon.errors import UsageError
from surgeon.tasks.units import Units

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

#: Target of a sample, position or pixel whose class is not told: it is neither learnt nor judged.
#: Among targets that are numbers it is NaN.
UNKNOWN: Final = -100
FEATURES: Final = "features"
"""What a loss calls the value that the head reads, where it asks for it."""


class Objective(Protocol):
    """Loss and judgement of one task. A task names the class of its objective.

    The loop divides sums by sums, so that a batch may come in any number of passes. `repr` tells
    every setting: a checkpoint goes on only where it is the same.

    Five more attributes are looked up and may be missing: `judges`, the name of the figure that
    `judge` gives, where it is not the task's quality; `standardises`, True where targets and
    outputs are numbers in units of their own; `judged_by(targets)`, called with those of the
    samples that judge, as they come to `judge`; `begin(outputs, targets)`, called with what a
    network that does not start at random gives for some training samples; `asks`, names of what
    `loss` (and `begin`) is given by keyword behind the targets (`surgeon.train.losses.asked`).

    Attributes:
        target: type of the targets on their way to the device; their shape is [n, …].
    """

    target: ClassVar[npt.DTypeLike]

    @classmethod
    def of(cls, targets: npt.NDArray[Any], outputs: int, *, scratch: bool = False) -> Self:
        """Make one for training samples.

        Args:
            targets: [n, …] theirs.
            outputs: of the head.
            scratch: whether weights start at random.
        """
        ...

    def to(self, device: torch.device, /) -> Any:
        """Move what it holds to a device."""
        ...

    def total(self, targets: npt.NDArray[Any]) -> float:
        """Return what the sum of the loss over a batch is divided by."""
        ...

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the loss over a pass, as it is minimised."""
        ...

    def judge(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return sums over a pass: of the plain loss, of the quality, and of what was judged.

        More quality is better. It is a figure that adds up over samples, by which the best epoch
        is chosen; a task may tell people another one.
        """
        ...


class CrossEntropy(nn.Module):
    """One of k classes per sample, position or pixel; judged by accuracy."""

    target: ClassVar[npt.DTypeLike] = np.int64

    def __init__(
        self, weights: Sequence[float] | None = None, *, smoothing: float = 0.0, axis: int = 1
    ) -> None:
        """Take how classes count.

        Args:
            weights: of the classes in the loss; None = all alike.
            smoothing: of labels, 0..1 (Szegedy et al. 2016). The judgement is without it.
            axis: of the outputs on which the classes lie.

        Raises:
            UsageError: smoothing that cannot be meant.
        """
        super().__init__()
        if not 0 <= smoothing < 1:
            raise UsageError(
                f"label smoothing {smoothing} is outside 0..1", where="training settings"
            )
        self.weights = None if weights is None else tuple(float(weight) for weight in weights)
        self.smoothing = smoothing
        self.axis = axis
        self.factors: Tensor | None
        self.register_buffer("factors", None if weights is None else torch.tensor(self.weights))

    @classmethod
    def of(cls, targets: npt.NDArray[Any], outputs: int, *, scratch: bool = False) -> Self:
        """Weigh classes where they are uneven.

        Labels are smoothed from a random start only, where it keeps large networks from growing
        overconfident on small data: a solved head fits its samples, and smoothing would first tear
        its logits, then the backbone.
        """
        weights = class_weights(targets[targets != UNKNOWN], outputs, "auto")
        return cls(weights, smoothing=0.1 if scratch else 0.0)

    def extra_repr(self) -> str:
        """Tell every setting."""
        return f"weights={self.weights}, smoothing={self.smoothing}, axis={self.axis}"

    def total(self, targets: npt.NDArray[Any]) -> float:
        """Return the weight of the samples of a batch."""
        known = targets[targets != UNKNOWN]
        if self.weights is None:
            return float(max(len(known), 1))
        total = float(np.asarray(self.weights)[known].sum())
        return total if total > 0 else 1.0

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum, smoothed and weighted."""
        return functional.cross_entropy(
            outputs.movedim(self.axis, 1),
            targets,
            weight=self.factors,
            label_smoothing=self.smoothing,
            reduction="sum",
            ignore_index=UNKNOWN,
        )

    def judge(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return cross-entropy, how many are right, how many there are."""
        outputs = outputs.movedim(self.axis, 1)
        entropy = functional.cross_entropy(outputs, targets, reduction="sum", ignore_index=UNKNOWN)
        return entropy, (outputs.argmax(1) == targets).sum(), (targets != UNKNOWN).sum()


class _PerNumber(nn.Module):
    """Every number of a target counts by itself; NaN is unknown."""

    target: ClassVar[npt.DTypeLike] = np.float32

    @classmethod
    def of(
        cls,
        targets: npt.NDArray[Any],  # noqa: ARG003 - no setting follows from them
        outputs: int,  # noqa: ARG003 - the same
        *,
        scratch: bool = False,  # noqa: ARG003 - the same
    ) -> Self:
        """Make one; no setting follows from the samples."""
        return cls()

    def total(self, targets: npt.NDArray[Any]) -> float:
        """Return how many numbers are known."""
        return float(max(int((~np.isnan(targets)).sum()), 1))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum over the numbers that are known."""
        known = ~targets.isnan()
        each = self.each(outputs.reshape(targets.shape), targets.nan_to_num())
        return torch.where(known, each, 0.0).sum()

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of every number."""
        raise NotImplementedError


class BinaryCrossEntropy(_PerNumber):
    """Any of k labels, each 0 or 1; judged by the share of labels that are told right."""

    judges: ClassVar[str] = "label_accuracy"

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the entropy of every label."""
        return functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none")

    def judge(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss, how many labels are right, how many are known."""
        outputs, known = outputs.reshape(targets.shape), ~targets.isnan()
        right = ((outputs > 0) == (targets > 0.5)) & known
        return self.loss(outputs, targets), right.sum(), known.sum()


class SquaredError(_PerNumber):
    """Numbers, standardised as outputs are; judged by their share in R².

    Attributes:
        standardises: that whoever trains brings targets and the last layer into such units.
    """

    standardises: ClassVar[bool] = True
    judges: ClassVar[str] = "r2"

    def __init__(self, scale: Sequence[float] = (1.0,)) -> None:
        """Take what standardised numbers are multiplied by to be plain ones, for each output."""
        super().__init__()
        self.told = tuple(float(one) for one in scale)
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor(self.told))
        self.spread: Tensor
        self.register_buffer("spread", torch.ones(len(self.told)))

    def judged_by(self, targets: npt.NDArray[Any]) -> None:
        """Take the spread of the targets that outputs are judged by, which R² is a share of."""
        spread = Units.of(targets.reshape(len(targets), -1)).spread
        self.spread = torch.tensor(np.where(spread > 0, spread, np.inf).tolist())

    @classmethod
    def of(
        cls,
        targets: npt.NDArray[Any],
        outputs: int,  # noqa: ARG003 - the targets tell it
        *,
        scratch: bool = False,  # noqa: ARG003 - no setting follows from the start
    ) -> Self:
        """Make one for training samples, their targets in plain units."""
        return cls(Units.of(targets.reshape(len(targets), -1)).scale.tolist())

    def extra_repr(self) -> str:
        """Tell every setting."""
        return f"scale={self.told}"

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the square of every difference."""
        return (outputs - targets).square()

    def judge(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return squared errors in plain units, shares in R², how many numbers are known."""
        known = ~targets.isnan()
        squares = self.each(outputs.reshape(targets.shape), targets.nan_to_num())
        squares = torch.where(known, squares, 0.0)
        share = known.to(squares) - squares / self.spread**2
        return (squares * self.scale**2).sum(), share.sum(), known.sum()


def class_weights(
    labels: npt.NDArray[np.integer[Any]], classes: int, wanted: str | Sequence[float] | None
) -> tuple[float, ...] | None:
    """Return the weight of each class in the loss, mean 1 over the samples, or None for all equal.

    Args:
        labels: [n] ints.
        classes: number of classes.
        wanted: `balanced` (inverse frequency), `auto` (balanced where the largest class has more
            than 1.5 times the samples of the smallest), numbers, or None.

    """
    if wanted is None or not len(labels):
        return None
    if not isinstance(wanted, str):
        return tuple(float(weight) for weight in wanted)
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    present = counts[counts > 0]
    if wanted == "auto" and present.max() <= 1.5 * present.min():
        return None
    weights = np.where(counts > 0, len(labels) / (len(present) * np.maximum(counts, 1)), 0.0)
    return tuple(weights.tolist())
