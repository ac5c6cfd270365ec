"""LoRA as a parametrization: the weight, and a product of two thin matrices added to it.

E. Hu et al., LoRA: Low-Rank Adaptation of Large Language Models (2021, arXiv 2106.09685);
D. Kalajdzievski, A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA (2023, arXiv
2312.03732); S.-Y. Liu et al., DoRA: Weight-Decomposed Low-Rank Adaptation (2024, arXiv 2402.09353).
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor, nn

from surgeon.plugin.settings import Within


class LoRA(nn.Module):
    """W + s · B·A, where W is seen as [outputs, all else]; the function is unchanged at the start.

    With `dora` each output has a length that learns, too: m · V / |V| of V = W + s · B·A. For the
    gradient |V| is a constant, as in section 4.3 of the paper.

    In evaluation the sum is taken term by term, so that every processor folds to the same bits.
    """

    def __init__(
        self,
        weight: Tensor,
        axis: int,
        operator: str,
        *,
        rank: Annotated[int, Within(1)] = 8,
        alpha: Annotated[float, Within(0)] = 16.0,
        dropout: Annotated[float, Within(0, 0.99)] = 0.0,
        rs: bool = False,
        dora: bool = False,
    ) -> None:
        """Draw first numbers; torch's generator is seeded by the run.

        Args:
            weight: that it stands for.
            axis: of its outputs.
            operator: that reads it: of an embedding, tokens that are not seen stay as they are.
            rank: of the product, at most the weight's smaller side.
            alpha: the product is scaled by alpha ÷ rank.
            dropout: share of the inputs that a training pass leaves out of the product.
            rs: scale by alpha ÷ √rank, so that higher ranks do not learn more slowly.
            dora: let lengths learn apart from directions.
        """
        super().__init__()
        matrix = weight.movedim(axis, 0).flatten(1)
        outputs, inputs = matrix.shape
        held = min(rank, outputs, inputs)
        self.axis, self.dropout = axis, dropout
        self.scale = alpha / (math.sqrt(rank) if rs else rank)
        first, second = matrix.new_zeros(held, inputs), matrix.new_zeros(outputs, held)
        if operator == "Gather":
            nn.init.normal_(second)
        else:
            nn.init.kaiming_uniform_(first, a=math.sqrt(5))
        self.lora_A, self.lora_B = nn.Parameter(first), nn.Parameter(second)
        self.magnitude = nn.Parameter(_lengths(matrix)) if dora else None

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight to compute with."""
        turned = weight.movedim(self.axis, 0)
        if weight.ndim == 2 and self.axis == 1:  # as it lies in memory: whoever reads it need not
            matrix = self._summed(weight, turned=True).mT  # copy it
        else:
            matrix = self._summed(turned.flatten(1))
        if self.magnitude is not None:
            matrix = matrix * (self.magnitude / _lengths(matrix.detach()))
        return matrix.reshape(turned.shape).movedim(0, self.axis)

    def _summed(self, matrix: Tensor, *, turned: bool = False) -> Tensor:
        """Return the weight and the product in one piece of memory, each of the weight's size.

        Args:
            matrix: the weight, [outputs, all else].
            turned: whether it is [all else, outputs] instead.
        """
        first: Tensor = self.lora_A
        second: Tensor = self.lora_B
        if self.training and self.dropout:
            kept = torch.rand(first.shape[1], device=first.device) >= self.dropout
            first = first * kept / (1 - self.dropout)
        left, right = (first.mT, second.mT) if turned else (second, first)
        if self.training:
            with torch.autocast(matrix.device.type, enabled=False):  # which would round the weight
                return torch.addmm(matrix, left, right, alpha=self.scale)
        found = left[:, :1] * right[:1]
        for place in range(1, len(right)):
            found += left[:, place : place + 1] * right[place : place + 1]
        return found.mul_(self.scale).add_(matrix)


def _lengths(matrix: Tensor) -> Tensor:
    """Return the length of every row [outputs, 1]; 1 where it is 0, which changes nothing."""
    found = torch.linalg.vector_norm(matrix.double(), dim=1, keepdim=True).to(matrix.dtype)
    return torch.where(found == 0, torch.ones_like(found), found)
