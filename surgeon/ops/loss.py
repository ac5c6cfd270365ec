"""Losses that a graph may compute itself, and the optimiser steps of the preview domain.

What must not enter: the losses and optimisers that `surgeon finetune` trains with.
"""

# ruff: noqa: ARG001 - the specification decides which parameters a function has

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from surgeon.ops.registry import op, refuse

if TYPE_CHECKING:
    from collections.abc import Callable


@op("NegativeLogLikelihoodLoss")
def negative_log_likelihood(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int | None,
    reduction: str,
) -> Tensor:
    """Minus the log-probability of the target class, [n, c, …] and [n, …]."""
    return _nll(input, target, weight, ignore_index, reduction)


def _nll(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int | None, reduction: str
) -> Tensor:
    if reduction not in {"none", "mean", "sum"}:
        refuse(f"reduction={reduction!r} is not in the specification")
    index = target.to(torch.int64)
    kept = torch.ones_like(index, dtype=torch.bool)
    if ignore_index is not None:
        kept = index != ignore_index
        index = torch.where(kept, index, torch.zeros_like(index))
    loss = -input.gather(1, index.unsqueeze(1)).squeeze(1)
    factor = torch.ones_like(loss) if weight is None else weight[index].to(loss.dtype)
    factor = torch.where(kept, factor, torch.zeros_like(factor))
    loss = torch.where(kept, loss, torch.zeros_like(loss)) * factor
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    if weight is None and ignore_index is None:
        return loss.mean()
    return loss.sum() / factor.sum()


@op("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy(
    scores: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    *,
    ignore_index: int | None,
    reduction: str,
) -> tuple[Tensor, Tensor]:
    """Cross entropy of class scores [n, c, …], and the log-probabilities."""
    log_prob = F.log_softmax(scores, 1)
    return _nll(log_prob, labels, weights, ignore_index, reduction), log_prob


@op("Gradient", domain="ai.onnx.preview.training")
def gradient(
    *Inputs: Tensor, xs: list[str], y: str, zs: list[str] | None, steps: Callable[..., list[Tensor]]
) -> tuple[Tensor, ...]:
    """Derivative of the value named `y` by those named `xs`, at the inputs' values.

    `steps` computes y from xs and zs; the result can be differentiated again.
    """
    with torch.enable_grad():
        values = [x if x.requires_grad else x.detach().requires_grad_() for x in Inputs]
        (result,) = steps(*values)
        found = torch.autograd.grad(
            result.sum(), values[: len(xs)], create_graph=True, materialize_grads=True
        )
    return tuple(found)


def _groups(values: tuple[Tensor, ...], parts: int) -> list[tuple[Tensor, ...]]:
    count = len(values) // parts
    return [tuple(values[p * count + i] for p in range(parts)) for i in range(count)]


def _ordered(results: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Return all first results, then all second ones, and so on."""
    return tuple(value for column in zip(*results, strict=True) for value in column)


@op("Adagrad", domain="ai.onnx.preview.training")
def adagrad(
    R: Tensor,
    T: Tensor,
    *inputs: Tensor,
    decay_factor: float,
    epsilon: float,
    norm_coefficient: float,
) -> tuple[Tensor, ...]:
    """One Adagrad step for every (X, G, H); returns the new X, then the new H."""
    rate = R / (1 + T.to(R.dtype) * decay_factor)
    results: list[tuple[Tensor, ...]] = []
    for x, g, h in _groups(inputs, 3):
        regularised = norm_coefficient * x + g
        total = h + regularised * regularised
        results.append((x - rate * regularised / (total.sqrt() + epsilon), total))
    return _ordered(results)


@op("Adam", domain="ai.onnx.preview.training")
def adam(
    R: Tensor,
    T: Tensor,
    *inputs: Tensor,
    alpha: float,
    beta: float,
    epsilon: float,
    norm_coefficient: float,
    norm_coefficient_post: float,
) -> tuple[Tensor, ...]:
    """One Adam step for every (X, G, V, H); returns the new X, V and H."""
    results: list[tuple[Tensor, ...]] = []
    for x, g, v, h in _groups(inputs, 4):
        regularised = norm_coefficient * x + g
        first = alpha * v + (1 - alpha) * regularised
        second = beta * h + (1 - beta) * regularised * regularised
        rate = torch.where(T > 0, R * (1 - beta**T).sqrt() / (1 - alpha**T), R).to(x.dtype)
        moved = x - rate * first / (second.sqrt() + epsilon)
        results.append(((1 - norm_coefficient_post) * moved, first, second))
    return _ordered(results)


@op("Momentum", domain="ai.onnx.preview.training")
def momentum(
    R: Tensor,
    T: Tensor,
    *inputs: Tensor,
    alpha: float,
    beta: float,
    mode: str,
    norm_coefficient: float,
) -> tuple[Tensor, ...]:
    """One step with (Nesterov) momentum for every (X, G, V); returns the new X, then the new V."""
    if mode not in {"standard", "nesterov"}:
        refuse(f"mode={mode!r} is not in the specification")
    results: list[tuple[Tensor, ...]] = []
    for x, g, v in _groups(inputs, 3):
        regularised = norm_coefficient * x + g
        share = torch.where(T > 0, torch.full_like(R, beta), torch.ones_like(R))
        speed = alpha * v + share * regularised
        step = speed if mode == "standard" else regularised + alpha * speed
        results.append((x - R * step, speed))
    return _ordered(results)
