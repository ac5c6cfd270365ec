"""The loss of a student: the task's own beside what a teacher says (Hinton et al. 1503.02531).

Or beside what the student's features tell of the teacher's, through a projection that is learnt
with it and that no file gets (Romero et al., "FitNets", arXiv 1412.6550).
"""

from __future__ import annotations

from typing import Annotated, Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from surgeon.plugin.settings import Within

UNKNOWN = -100
RIDGE = 1e-2
"""Penalty of the first projection, in mean squares of the features."""


class Distill(nn.Module):
    """(1 − weight) · the task's own loss + weight · the distance from the teacher.

    The distance is temperature² · KL(teacher ‖ student) of softened answers; of numbers, which are
    in units of training, the squared difference; of features, the share of the teacher's variance
    that the student's do not tell. It is judged as the task judges.
    """

    def __init__(
        self,
        own: Any,
        shapes: Any,
        *,
        teacher: str = "original",
        temperature: Annotated[float, Within(0.01, 1000)] = 2.0,
        weight: Annotated[float, Within(0, 1)] = 0.5,
        features: str | None = None,
        preprocess: str | None = None,
    ) -> None:
        """Take the task's own objective, shapes of a sample's values, and the settings."""
        super().__init__()
        self.own, self.target = own, own.target
        self.temperature, self.weight = temperature, weight
        self.told = (teacher, temperature, weight, features, preprocess)
        self.projection: nn.Linear | None = None
        if features is not None:
            shape = shapes["features"]
            width = shape[-1] if len(shape) < 3 else shape[0]
            self.projection = nn.Linear(width, shapes["teacher"][0])
            drawn = torch.Generator().manual_seed(0)
            with torch.no_grad():
                self.projection.weight.normal_(0, width**-0.5, generator=drawn)
                self.projection.bias.zero_()

    @classmethod
    def of(
        cls,
        targets: Any,  # noqa: ARG003 - the task's own objective has seen them
        outputs: int,  # noqa: ARG003 - the same
        *,
        own: Any,
        shapes: Any,
        scratch: bool = False,  # noqa: ARG003 - the same
        **options: Any,
    ) -> Self:
        """Make one around the task's own objective."""
        return cls(own, shapes, **options)

    def extra_repr(self) -> str:
        """Tell every setting."""
        return ", ".join(map(str, self.told))

    def total(self, targets: Any) -> float:
        """Return what the task's own loss is divided by."""
        total: float = self.own.total(targets)
        return total

    def begin(self, outputs: Tensor, targets: Tensor, teacher: Tensor, features: Tensor) -> None:
        """Fit the projection to what the features tell already, so that it teaches at once."""
        if hasattr(self.own, "begin"):
            self.own.begin(outputs, targets)
        if self.projection is None:
            return
        values, wanted = _pooled(features).double(), teacher.double()
        mean = values.mean(0)
        centred = values - mean
        squares = centred.T @ centred / len(centred)
        squares += (RIDGE * squares.diagonal().mean() + 1e-12) * torch.eye(len(squares)).double()
        weight = torch.linalg.solve(squares, centred.T @ (wanted - wanted.mean(0)) / len(centred)).T
        with torch.no_grad():
            self.projection.weight.copy_(weight)
            self.projection.bias.copy_(wanted.mean(0) - weight @ mean)

    def loss(self, outputs: Tensor, targets: Tensor, teacher: Tensor, features: Tensor) -> Tensor:
        """Return the sum: a sample's distance counts as often as answers of it are known."""
        known = ~targets.isnan() if targets.is_floating_point() else targets != UNKNOWN
        if self.projection is None:
            each = self._apart(outputs, targets, teacher)
            apart = torch.where(known, each, 0.0).sum()
        else:
            each = (self.projection(_pooled(features)) - teacher).square().mean(1)
            apart = (each * known.reshape(len(known), -1).sum(1)).sum()
        own: Tensor = self.own.loss(outputs, targets)
        return (1 - self.weight) * own + self.weight * apart

    def _apart(self, outputs: Tensor, targets: Tensor, teacher: Tensor) -> Tensor:
        """Return how far every answer is from the teacher's, in the shape of the targets."""
        if getattr(self.own, "standardises", False):
            return (outputs.reshape(targets.shape) - teacher.reshape(targets.shape)).square()
        soft = self.temperature
        if targets.is_floating_point():
            right = (teacher / soft).sigmoid()
            entropy, least = (
                functional.binary_cross_entropy_with_logits(one / soft, right, reduction="none")
                for one in (outputs.reshape(targets.shape), teacher)
            )
            return soft**2 * (entropy - least)
        axis = 1 if outputs.ndim == 4 else -1
        said, right = ((one / soft).log_softmax(axis) for one in (outputs, teacher))
        return soft**2 * (right.exp() * (right - said)).sum(axis)

    def judge(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the task's objective judges."""
        judged: tuple[Tensor, Tensor, Tensor] = self.own.judge(outputs, targets)
        return judged


def _pooled(features: Tensor) -> Tensor:
    """Return features [n, d] of those of a sample's positions or pixels."""
    if features.ndim < 3:
        return features
    return features.flatten(2).mean(2) if features.ndim > 3 else features.mean(1)
