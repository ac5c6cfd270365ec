"""Links: how the outputs of a linear head meet the targets, for each kind of answer.

A link says what a sample loses, how loss changes with each output, and how that changes again; the
solver knows no more of the answers. Shapes: n rows, B problems, k outputs; logits are [n, B, k].
What must not enter: points, weights, penalties.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from surgeon.tasks.base import Link as LinkName

#: Curvature of a bias that nothing else holds: of what a problem has no sample of.
FREE = 1e-3


class Link(ABC):
    """One kind of answer.

    Attributes:
        exclusive: whether targets are class codes [n]; else they are numbers [n, k].
        bound: the loss of a sample as the comparison of penalties counts it, at most.
    """

    exclusive = False
    bound = float("inf")

    @abstractmethod
    def meet(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return losses [n, B] and what is expected [n, B, k]; it may be made of `logits`."""

    @abstractmethod
    def residual(self, expected: Tensor, target: Tensor) -> Tensor:
        """Return the derivative of the loss by each logit, [n, B, k]; may be `expected`."""

    @abstractmethod
    def spread(self, expected: Tensor, target: Tensor) -> Tensor:
        """Return the second derivative by each logit, [n, B, k]."""

    @abstractmethod
    def free(self, target: Tensor, weights: Tensor, outputs: int) -> Tensor:
        """Return which biases have no minimum, [B, k], by the weights [B, n] of the samples."""

    @abstractmethod
    def judge(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return answers, quality [n] and losses [n] of one problem's logits [n, k]."""


class Softmax(Link):
    """One of several classes; an answer is its code."""

    exclusive = True
    # A class that a fold never saw has no probability there: bounded, so that it cannot decide.
    bound = 20.0

    def meet(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return cross-entropies and probabilities."""
        logp = logits.log_softmax(-1)
        losses = -logp.gather(2, _own(target, logp))[:, :, 0]
        return losses, logp.exp_()

    def residual(self, expected: Tensor, target: Tensor) -> Tensor:
        """Return p − 1 for the own class, p for others."""
        own = _own(target, expected)
        return expected.scatter_add_(2, own, torch.full_like(own, -1, dtype=expected.dtype))

    def spread(self, expected: Tensor, target: Tensor) -> Tensor:  # noqa: ARG002 - as of all
        """Return p(1 − p)."""
        return expected * (1 - expected)

    def free(self, target: Tensor, weights: Tensor, outputs: int) -> Tensor:
        """Return the classes without a sample."""
        hits = torch.zeros(len(weights), outputs, dtype=torch.float64, device=target.device)
        hits.index_add_(1, target, weights.double())
        return hits == 0

    def judge(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the likeliest class, whether it is right, and the loss in nats."""
        logp = logits.log_softmax(-1)
        predicted = logp.argmax(1)
        losses = -logp.gather(1, target[:, None])[:, 0].double()
        return predicted, (predicted == target).double(), losses


def _own(target: Tensor, like: Tensor) -> Tensor:
    return target[:, None, None].expand(-1, like.shape[1], 1)


class Logistic(Link):
    """Labels that are there or not, each by itself: 0, 1 or NaN = not known."""

    def meet(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return cross-entropies summed over labels, and probabilities."""
        known, told = _known(logits, target)
        every = functional.binary_cross_entropy_with_logits(logits, told, reduction="none")
        return (every * known).sum(-1), logits.sigmoid()

    def residual(self, expected: Tensor, target: Tensor) -> Tensor:
        """Return p − y where y is known."""
        known, told = _known(expected, target)
        return (expected - told) * known

    def spread(self, expected: Tensor, target: Tensor) -> Tensor:
        """Return p(1 − p) where the label is known."""
        return expected * (1 - expected) * _known(expected, target)[0]

    def free(self, target: Tensor, weights: Tensor, outputs: int) -> Tensor:  # noqa: ARG002
        """Return the labels that every sample has, or none."""
        mass = weights.double()
        return (mass @ (target == 1).double() == 0) | (mass @ (target == 0).double() == 0)

    def judge(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return probabilities, the share of known labels that are right, and the loss in nats."""
        known = target.isfinite()
        right = ((logits > 0) == (target > 0.5)) & known
        quality = right.sum(1) / known.sum(1).clamp_min(1)
        losses = self.meet(logits[:, None], target)[0][:, 0]
        return logits.sigmoid().double(), quality.double(), losses.double()


def _known(like: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return which labels are known, and the labels with 0 for those that are not."""
    known = target.isfinite()
    told = target.nan_to_num(0.0).to(like)[:, None, :].expand_as(like)
    return known.to(like)[:, None, :], told


class Squared(Link):
    """Numbers, standardised, or NaN = not known: ridge regression.

    On principal axes the first step of the solver is its closed form, where all are known.
    """

    def meet(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return half the squared errors summed over outputs, and the outputs."""
        return 0.5 * self.residual(logits, target).square().sum(-1), logits

    def residual(self, expected: Tensor, target: Tensor) -> Tensor:
        """Return the errors of what is known."""
        known, told = _known(expected, target)
        return (expected - told) * known

    def spread(self, expected: Tensor, target: Tensor) -> Tensor:
        """Return 1 where the number is known."""
        return _known(expected, target)[0].expand_as(expected)

    def free(self, target: Tensor, weights: Tensor, outputs: int) -> Tensor:  # noqa: ARG002
        """Return outputs of which nothing is known: the mean of others is their bias' minimum."""
        return weights.double() @ target.isfinite().double() == 0

    def judge(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the outputs, their share in R², and the loss."""
        known = target.isfinite()
        squares = torch.where(known, logits - target.nan_to_num(0.0).to(logits), 0.0)
        squares = squares.double().square()
        share = 1 - squares.sum(1) / known.sum(1).clamp_min(1)
        return logits.double(), share, 0.5 * squares.sum(1)


LINKS: dict[LinkName, Link] = {
    "softmax": Softmax(),
    "logistic": Logistic(),
    "squared": Squared(),
}
