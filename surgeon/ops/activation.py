"""Activation functions.

What must not enter: anything with weights but PRelu's slope.
"""

# ruff: noqa: ARG001 - the specification decides which parameters a function has

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from surgeon.ops.registry import op, refuse

op("Relu")(torch.relu)
op("Sigmoid")(torch.sigmoid)
op("Tanh")(torch.tanh)


@op("LeakyRelu")
def leaky_relu(X: Tensor, *, alpha: float) -> Tensor:
    """X where positive, else alpha·x."""
    return F.leaky_relu(X, alpha)


@op("PRelu")
def prelu(X: Tensor, slope: Tensor) -> Tensor:
    """X where positive, else slope·x; a slope of one axis belongs to the channels of X."""
    if slope.dim() == 1 and X.dim() > 2 and slope.shape[0] not in {1, X.shape[-1]}:
        slope = slope.reshape(-1, *[1] * (X.dim() - 2))
    return torch.where(X < 0, X * slope, X)


@op("Elu")
def elu(X: Tensor, *, alpha: float) -> Tensor:
    """X where positive, else alpha·(eˣ − 1)."""
    return F.elu(X, alpha)


@op("Celu")
def celu(X: Tensor, *, alpha: float) -> Tensor:
    """max(0, x) + min(0, alpha·(e^(x/alpha) − 1))."""
    return F.celu(X, alpha)


@op("Selu")
def selu(X: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """gamma·x where positive, else gamma·alpha·(eˣ − 1)."""
    return torch.where(X > 0, gamma * X, gamma * alpha * torch.expm1(X.clamp(max=0)))


@op("Gelu")
def gelu(X: Tensor, *, approximate: str) -> Tensor:
    """x·Φ(x), exactly or by tanh."""
    return F.gelu(X, approximate=approximate)


@op("HardSigmoid")
def hard_sigmoid(X: Tensor, *, alpha: float, beta: float) -> Tensor:
    """alpha·x + beta, held between 0 and 1."""
    return (alpha * X + beta).clamp(0, 1)


@op("HardSwish")
def hard_swish(X: Tensor) -> Tensor:
    """X · HardSigmoid(x) with alpha 1/6 and beta 1/2."""
    return F.hardswish(X)


@op("Mish")
def mish(X: Tensor) -> Tensor:
    """X · tanh(softplus(x))."""
    return F.mish(X)


@op("Swish")
def swish(X: Tensor, *, alpha: float) -> Tensor:
    """X · sigmoid(alpha·x)."""
    return X * torch.sigmoid(alpha * X)


@op("Softplus")
def softplus(X: Tensor) -> Tensor:
    """log(1 + eˣ), without overflow and without torch's threshold."""
    return torch.logaddexp(X, torch.zeros_like(X))


@op("Softsign")
def softsign(input: Tensor) -> Tensor:
    """X / (1 + |x|)."""
    return F.softsign(input)


@op("ThresholdedRelu")
def thresholded_relu(X: Tensor, *, alpha: float) -> Tensor:
    """X where above alpha, else 0."""
    return torch.where(alpha < X, X, torch.zeros_like(X))


@op("Shrink")
def shrink(input: Tensor, *, bias: float, lambd: float) -> Tensor:
    """X + bias below −lambd, else x − bias above lambd, else 0."""
    wide = input.float() if input.dtype == torch.float16 else input  # the bias is a float
    high = torch.where(wide > lambd, wide - bias, torch.zeros_like(wide))
    return torch.where(wide < -lambd, wide + bias, high).to(input.dtype)


def _flat(input: Tensor, axis: int) -> Tensor:
    """Flatten into two axes at `axis`, as the softmax family did before opset 13."""
    axis = axis % input.dim() if input.dim() else 0
    rows = 1
    for size in input.shape[:axis]:
        rows *= size
    return input.reshape(rows, -1)


@op("Softmax", 1, 11)
def softmax_flattened(input: Tensor, *, axis: int) -> Tensor:
    """One distribution over all axes from `axis` on."""
    return _flat(input, axis).softmax(-1).view_as(input)


@op("Softmax", 13)
def softmax(input: Tensor, *, axis: int) -> Tensor:
    """A distribution along one axis.

    Half precision rounds after each step on the CPU, as the specification computes it.
    """
    if input.dtype == torch.float16 and input.device.type == "cpu":
        powers = (input - input.amax(axis, keepdim=True)).exp()
        return powers / powers.sum(axis, keepdim=True)
    return input.softmax(axis)


@op("LogSoftmax", 1, 11)
def log_softmax_flattened(input: Tensor, *, axis: int) -> Tensor:
    """Logarithm of one distribution over all axes from `axis` on."""
    return _flat(input, axis).log_softmax(-1).view_as(input)


@op("LogSoftmax", 13)
def log_softmax(input: Tensor, *, axis: int) -> Tensor:
    """Logarithm of a distribution along one axis."""
    return input.log_softmax(axis)


@op("Hardmax", 1, 11)
def hardmax_flattened(input: Tensor, *, axis: int) -> Tensor:
    """1 at the first greatest element over all axes from `axis` on, else 0."""
    return hardmax(_flat(input, axis), axis=-1).view_as(input)


@op("Hardmax", 13)
def hardmax(input: Tensor, *, axis: int) -> Tensor:
    """1 at the first greatest element along an axis, else 0."""
    first = input.argmax(axis, keepdim=True)
    return torch.zeros_like(input).scatter(axis, first, 1)


@op("SwiGLU")
def swiglu(A: Tensor, B: Tensor, *, alpha: float) -> Tensor:
    """Swish(A)·B."""
    return A * torch.sigmoid(alpha * A) * B


def _without_training(mask: Tensor, data: Tensor, dropped: Tensor) -> Tensor:
    """Return the mask as it was before opset 12: nothing is kept where nothing is dropped."""
    return torch.zeros_like(mask) if dropped is data else mask


@op("Dropout", 1, 6, 7)
def dropout_1(
    data: Tensor, *, is_test: bool = False, ratio: float, training: bool, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Dropout whose mask has the type of the data."""
    dropped, mask = dropout(data, ratio, training=training, device=device)
    return dropped, _without_training(mask, data, dropped).to(data.dtype)


@op("Dropout", 10)
def dropout_10(
    data: Tensor, *, ratio: float, training: bool, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Dropout whose mask is true where an element was kept, and false where none was dropped."""
    dropped, mask = dropout(data, ratio, training=training, device=device)
    return dropped, _without_training(mask, data, dropped)


@op("Dropout", 12, 13, 22)
def dropout(
    data: Tensor,
    ratio: float | Tensor | None = None,
    training_mode: bool | None = None,
    *,
    seed: int | None = None,
    training: bool,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Drop elements with probability `ratio` and scale the rest, where the module is training.

    Without training it is the identity. A `training_mode` of true and a module in evaluation mode
    drop too: the file says so.
    """
    keep_all = torch.ones_like(data, dtype=torch.bool)
    probability = 0.5 if ratio is None else float(ratio)
    if not (training or training_mode) or probability == 0:
        return data, keep_all
    if probability >= 1:
        refuse(f"a dropout ratio of {probability}, which drops everything")
    if seed is not None and not training:  # numpy's stream, which the specification's cases use
        drawn = np.random.RandomState(seed % 2**32).uniform(0, 1, tuple(data.shape))
        mask = torch.from_numpy(drawn >= probability).to(device)
    else:
        mask = torch.rand(data.shape, device=data.device) >= probability
    return (data * mask / (1 - probability)).to(data.dtype), mask
