"""A linear head's loss as a function of its weights, for any link, and the way to its minimum.

Several problems on the same points (the folds of a cross-validation) are one function. A value and
its gradient cost two products of samples · features · outputs multiply-adds for each problem; the
rows go through in pieces, so that memory is that of the weights, not of samples · outputs. What
must not enter: where points come from, and which penalty is right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from surgeon.ops.products import multiply
from surgeon.probe.links import FREE, LINKS

if TYPE_CHECKING:
    from surgeon.probe.links import Link

#: Logits computed at once, over all problems.
AT_ONCE = 2**23
#: Numbers that the history of a minimisation may hold.
HISTORY = 2**28
#: Inverse penalty whose first Newton step is the closed form: with it the axes of small variance
#: are shrunk so far that what is left is near the classes' means.
CLOSED_C = 0.1
#: Rows on which its scale is chosen, and scales tried.
SCALED_ROWS, SCALES = 512, (0.125, 0.25, 0.5, 1.0)
_MEMORY = 20


class Problem:
    """B weighted fits of a linear head to the same points, as one function.

    `theta` is [B, outputs, r + 1]; its last column is the bias, which is not penalised, except
    where it has no minimum otherwise (a class that a problem has no sample of).
    """

    def __init__(
        self,
        points: Tensor,
        target: Tensor,
        outputs: int,
        weights: Tensor,
        link: Link = LINKS["softmax"],
    ) -> None:
        self.points = points
        self.target = target
        self.outputs = outputs
        self.link = link
        self.total = weights.double().sum(1)  # [B]
        self.share = (weights / self.total[:, None]).to(points.dtype)  # [B, n], sums to 1
        self.free = link.free(target, weights, outputs).to(points.dtype) * FREE  # [B, outputs]
        self.squares = self.share @ points.square()  # [B, r]
        self.at_once = max(1, AT_ONCE // (len(weights) * outputs))

    def zeros(self) -> Tensor:
        """Return `theta` where it begins."""
        shape = (len(self.share), self.outputs, self.points.shape[1] + 1)
        return torch.zeros(shape, dtype=self.points.dtype, device=self.points.device)

    def closed_form(self, c: float) -> Tensor:
        """Return the Newton step from nothing at a strong penalty: close, and nearly for nothing.

        For softmax alone. There all classes are as likely, so that gradient and curvature need sums
        over classes only. Three steps from here were worth eight from nothing, on 2,000 classes of
        two samples.
        """
        penalty = (1 / (min(c, CLOSED_C) * self.total)).to(self.points)
        gradient = self.zeros()
        gradient += self.share.sum(1)[:, None, None] / self.outputs
        gradient[:, :, :-1] *= (self.share @ self.points)[:, None, :]
        for one, share in zip(gradient, self.share, strict=True):
            one[:, :-1].index_add_(0, self.target, self.points * -share[:, None])
            one[:, -1].index_add_(0, self.target, -share)
        spread = torch.full_like(gradient[:, :, 0], 1 / self.outputs)
        step = -gradient / self.curvature(spread, penalty)
        rows = slice(None, None, -(-len(self.target) // SCALED_ROWS))
        points, target = self.points[rows], self.target[rows]
        for one in step:
            losses = [judge(points, target, scale * one)[2].mean() for scale in SCALES]
            one.mul_(SCALES[int(torch.stack(losses).argmin())])
        return step

    def value(
        self, theta: Tensor, penalty: Tensor, *, spread: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return losses [B] in float64 and gradients like `theta`.

        With `spread`, also the means of the link's curvature over samples, [B, outputs].
        """
        bias, weight = theta[:, :, -1], theta[:, :, :-1]
        loss = 0.5 * penalty.double() * _squared(weight)
        loss += 0.5 * (self.free * bias.square()).double().sum(1)
        gradient = torch.empty_like(theta)
        gradient[:, :, :-1] = penalty[:, None, None] * weight
        gradient[:, :, -1] = self.free * bias
        mean = torch.zeros_like(bias) if spread else None
        for first in range(0, len(self.target), self.at_once):
            rows = slice(first, first + self.at_once)
            share = self.share[:, rows]
            target = self.target[rows]
            losses, expected = self.link.meet(outputs_of(self.points[rows], theta), target)
            loss += (losses.T.double() * share.double()).sum(1)
            if mean is not None:
                mean += (self.link.spread(expected, target) * share.T[:, :, None]).sum(0)
            residual = self.link.residual(expected, target)
            residual *= share.T[:, :, None]
            flat = residual.view(len(residual), -1)
            gradient[:, :, :-1] += multiply(flat.T, self.points[rows]).view_as(weight)
            gradient[:, :, -1] += flat.sum(0).view_as(bias)
        return loss, gradient, mean

    def curvature(self, spread: Tensor, penalty: Tensor) -> Tensor:
        """Return the diagonal of the Hessian, the link's averaged apart from the features."""
        mean = spread.clamp_min(1e-4)  # [B, outputs]
        diagonal = self.zeros()
        diagonal[:, :, :-1] = mean[:, :, None] * self.squares[:, None, :] + penalty[:, None, None]
        diagonal[:, :, -1] = mean + self.free
        return diagonal


def outputs_of(points: Tensor, theta: Tensor) -> Tensor:
    """Return [n, B, outputs]."""
    problems, outputs, width = theta.shape
    weight = theta[:, :, :-1].reshape(problems * outputs, width - 1)
    logits = multiply(points, weight.T, theta[:, :, -1].reshape(-1))
    return logits.view(-1, problems, outputs)


def judge(
    points: Tensor, target: Tensor, theta: Tensor, link: Link = LINKS["softmax"]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what one problem's weights [outputs, r + 1] say of each row, quality [n], loss [n]."""
    at_once = max(1, AT_ONCE // len(theta))
    parts = []
    for first in range(0, len(target), at_once):
        rows = slice(first, first + at_once)
        parts.append(link.judge(outputs_of(points[rows], theta[None])[:, 0], target[rows]))
    answers, quality, losses = zip(*parts, strict=True)
    return torch.cat(answers), torch.cat(quality), torch.cat(losses)


@dataclass(frozen=True)
class Minimum:
    """Where a minimisation ended: `gradient_norm` is the largest entry of the gradient."""

    theta: Tensor
    iterations: int
    gradient_norm: float
    converged: bool


def minimise(problem: Problem, start: Tensor, c: float, tolerance: float, limit: int) -> Minimum:
    """Minimise all problems at once by preconditioned L-BFGS (Nocedal & Wright, ch. 7).

    Every problem has its own history, step and end. The function is convex, so a backtracking line
    search suffices: pairs with s·y ≤ 0 (rounding) are left out of the history.
    """
    memory = max(4, min(_MEMORY, HISTORY // (2 * start.numel())))
    penalty = (1 / (c * problem.total)).to(start)
    theta = start.clone()
    loss, gradient, spread = problem.value(theta, penalty, spread=True)
    assert spread is not None
    inverse = 1 / problem.curvature(spread, penalty)
    history: list[tuple[Tensor, Tensor, Tensor]] = []  # s, y, 1/(s·y), newest last
    noise = 8 * torch.finfo(start.dtype).eps
    done = torch.zeros(len(theta), dtype=torch.bool, device=theta.device)
    left = torch.full_like(loss, torch.inf)
    iteration = 0
    for iteration in range(limit + 1):
        direction = -_two_loop(gradient, inverse, history)
        slope = _dot(direction, gradient)
        # −½·slope estimates the loss still to be gained (the Newton decrement).
        left = torch.where(done, left, -0.5 * slope)
        done |= left <= tolerance
        if bool(done.all()) or iteration == limit:
            break
        step = torch.where(done, 0.0, 1.0).to(slope)
        for _ in range(30):
            trial = theta + step.to(theta)[:, None, None] * direction
            trial_loss, trial_gradient, _ = problem.value(trial, penalty)
            room = noise * loss.abs()
            bad = ~(trial_loss <= loss + 1e-4 * step * slope + room) & ~done
            if not bool(bad.any()):
                break
            step = torch.where(bad, step * 0.4, step)
        else:
            done |= bad  # no descent left at this precision
            trial = torch.where(bad[:, None, None], theta, trial)
            trial_loss, trial_gradient, _ = problem.value(trial, penalty)
        s, y = trial - theta, trial_gradient - gradient
        product = _dot(s, y)
        usable = product > noise * _dot(y, y * inverse).sqrt() * _dot(s, s / inverse).sqrt()
        rho = torch.where(usable, 1 / torch.where(usable, product, 1.0), 0.0).to(theta)
        history = [*history[-(memory - 1) :], (s, y, rho)]
        theta, loss, gradient = trial, trial_loss, trial_gradient
    return Minimum(theta, iteration, float(gradient.abs().max()), bool((left <= tolerance).all()))


def _two_loop(
    gradient: Tensor, inverse: Tensor, history: list[tuple[Tensor, Tensor, Tensor]]
) -> Tensor:
    """Apply the inverse Hessian as L-BFGS knows it, problem by problem."""
    q = gradient
    steps = []
    for s, y, rho in reversed(history):
        alpha = rho * _dot(s, q).to(rho)
        q = q - alpha[:, None, None] * y
        steps.append(alpha)
    if history:
        _, y, rho = history[-1]
        # Scale of the newest pair, measured in the preconditioner's metric.
        curvature = _dot(y, y * inverse).to(rho) * rho
        gamma = torch.where(curvature > 0, 1 / curvature.clamp_min(1e-30), 1.0)
        r = q * inverse * gamma[:, None, None]
    else:
        r = q * inverse
    for (s, y, rho), alpha in zip(history, reversed(steps), strict=True):
        beta = rho * _dot(y, r).to(rho)
        r = r + (alpha - beta)[:, None, None] * s
    return r


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner product of each problem in float64, [B]."""
    return (
        (a * b).double().sum((1, 2))
        if a.dtype == torch.float64
        else (a * b).sum((1, 2), dtype=torch.float64)
    )


def _squared(values: Tensor) -> Tensor:
    """Return the sum of squares of each problem in float64, [B]."""
    return values.square().sum((1, 2), dtype=torch.float64)
