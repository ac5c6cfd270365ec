"""Products with a matrix of two axes, by the faster of the two libraries that torch has on a CPU.

torch calls MKL for them, whose AVX-512 kernels run on Intel's processors only; oneDNN, which torch
calls for convolutions, chooses its kernels by instruction set. On an AMD EPYC with AVX-512 it takes
half the time (`benchmarks/products.py`). What must not enter: operators, other ways to be faster.
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from surgeon.ops.convert import is_autocast

#: Multiply-adds from which on a call of oneDNN is worth its preparation.
_LEAST: Final = 1 << 20
_PLAIN: Final = {Tensor, nn.Parameter}


def multiply(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return left [..., k] · right [k, m] + bias [m] as torch computes it, up to rounding."""
    if _takes_onednn(left, right, bias):
        rows = left.reshape(-1, left.shape[-1])
        product: Tensor = _Product.apply(rows, right, bias)  # type: ignore[no-untyped-call]
        return product if left.dim() == 2 else _shaped(product, left)
    if bias is None:
        return torch.matmul(left, right)
    same = left.dtype == right.dtype == bias.dtype
    # Autocast brings all to one type inside the one call, and the bias' type would win otherwise.
    if left.dim() < 2 or right.dim() != 2 or not (same or is_autocast(left)):
        return torch.matmul(left, right) + bias
    product = torch.addmm(bias, left.reshape(-1, left.shape[-1]), right)
    return product if left.dim() == 2 else _shaped(product, left)


def _shaped(product: Tensor, left: Tensor) -> Tensor:
    # As torch's matmul shapes its result: no view, so that a sum may be written over it.
    shape = [*left.shape[:-1], product.shape[-1]]
    return cast("Tensor", torch.ops.aten._unsafe_view(product, shape))  # noqa: SLF001


def _takes_onednn(left: Tensor, right: Tensor, bias: Tensor | None) -> bool:
    """Tell whether a product is of the kind that oneDNN takes here, and large enough."""
    if left.dtype is not torch.float32 or right.dtype is not torch.float32 or right.dim() != 2:
        return False
    if left.device.type != "cpu" or torch.compiler.is_compiling() or not _is_faster():
        return False
    if left.dim() < 2 or left.numel() * right.shape[1] < _LEAST:
        return False
    tensors = (left, right) if bias is None else (left, right, bias)
    if any(type(tensor) not in _PLAIN for tensor in tensors):  # traced, or under a transform
        return False
    if bias is not None and not (
        bias.dtype is torch.float32 and bias.shape == right.shape[1:] and bias.is_contiguous()
    ):  # oneDNN reads a bias as if it lay dense
        return False
    transformed = torch._C._functorch.peek_interpreter_stack() is not None  # noqa: SLF001
    forward = forward_ad._current_level >= 0  # noqa: SLF001 - derivatives going forward
    traced = torch._C._is_tracing()  # noqa: SLF001 - torch.jit's own, without its types
    return not (transformed or forward or traced or is_autocast(left))


@cache
def _is_faster() -> bool:
    """Tell whether this machine has what MKL does not use: AVX-512 on a CPU of another maker."""
    both = all(library.is_available() for library in (torch.backends.mkl, torch.backends.mkldnn))
    if not both or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    return hasattr(torch.ops.mkldnn, "_linear_pointwise") and "Intel" not in _maker()


def _maker() -> str:
    described = Path("/proc/cpuinfo")
    if described.exists():
        for line in described.read_text("utf-8", errors="replace").splitlines():
            if line.startswith("vendor_id"):
                return line
    return platform.processor() or "Intel"  # unknown: what torch does by itself


class _Product(torch.autograd.Function):
    """rows [n, k] · right [k, m] + bias [m]."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
        # Each factor is kept for the other's gradient.
        needs_rows, needs_right = ctx.needs_input_grad[1], ctx.needs_input_grad[0]
        ctx.save_for_backward(rows if needs_rows else None, right if needs_right else None)
        call = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001 - torch's only door to it
        return cast("Tensor", call(rows, right.t(), bias, "none", [], ""))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, right = ctx.saved_tensors
        (gradient,) = gradients
        # The gradient of a sum is one number seen everywhere.
        gradient = gradient if gradient.stride(0) and gradient.stride(1) else gradient.contiguous()
        wanted = ctx.needs_input_grad
        return (
            multiply(gradient, right.t()) if wanted[0] else None,
            multiply(rows.t(), gradient) if wanted[1] else None,
            gradient.sum(0) if wanted[2] else None,
        )
