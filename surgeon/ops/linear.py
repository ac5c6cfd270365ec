"""Matrix products.

What must not enter: quantised products (`quantized`).
"""

# ruff: noqa: ARG001 - the specification decides which parameters a function has

from __future__ import annotations

import torch
from torch import Tensor

from surgeon.ops.broadcast import WIDER
from surgeon.ops.products import multiply
from surgeon.ops.registry import op


def scale(tensor: Tensor, factor: float) -> Tensor:
    """Multiply by a number, integers by its integer; by 1 not at all."""
    if factor == 1:
        return tensor
    return tensor * (factor if tensor.is_floating_point() else int(factor))


@op("Gemm")
def gemm(
    A: Tensor,
    B: Tensor,
    C: Tensor | None = None,
    *,
    alpha: float,
    beta: float,
    transA: bool,
    transB: bool,
    broadcast: bool = True,
) -> Tensor:
    """Alpha · A B + beta · C."""
    left, right = (A.mT if transA else A), (B.mT if transB else B)
    if C is not None and alpha == 1 and beta == 1 and A.is_floating_point() and C.dim() <= 2:
        return multiply(left, right, C) if C.dim() == 1 else torch.addmm(C, left, right)
    product = scale(matmul(left, right), alpha)
    return product if C is None else product + scale(C, beta)


@op("MatMul")
def matmul(A: Tensor, B: Tensor) -> Tensor:
    """Matrix product as numpy's matmul."""
    if A.dtype in WIDER:
        return torch.matmul(A.to(torch.int64), B.to(torch.int64)).to(A.dtype)
    return multiply(A, B)


@op("Einsum")
def einsum(*Inputs: Tensor, equation: str) -> Tensor:
    """Sum of products by Einstein's notation."""
    text = equation.replace(" ", "")
    if "->" not in text:  # numpy's implicit form sorts by code point, torch's by its own order
        terms = text.replace(",", "").replace("...", "")
        single = sorted(c for c in set(terms) if terms.count(c) == 1)
        text += "->" + ("..." if "..." in text else "") + "".join(single)
    return torch.einsum(text, *Inputs)


@op("Det")
def determinant(X: Tensor) -> Tensor:
    """Determinant of the last two axes."""
    return torch.linalg.det(X)  # type: ignore[no-any-return]
