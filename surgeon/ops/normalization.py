"""Normalisation layers.

What must not enter: losses, activations.
"""

# ruff: noqa: ARG001 - the specification decides which parameters a function has

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from surgeon.ops.convert import is_autocast, torch_dtype
from surgeon.ops.host import elements
from surgeon.ops.registry import op, refuse


def _per_channel(tensor: Tensor, rank: int) -> Tensor:
    return tensor.reshape(1, -1, *[1] * (rank - 2)) if rank > 1 else tensor


def _batch_norm(
    X: Tensor, scale: Tensor, B: Tensor, mean: Tensor, var: Tensor, epsilon: float
) -> Tensor:
    """Normalise with given statistics, in the widest of the types involved."""
    given = not (mean.requires_grad or var.requires_grad)  # torch's own takes them as constants
    if given and _as_torch_takes_it(X, scale, B, mean, var) and X.dim() >= 2:
        return F.batch_norm(X, mean, var, scale, B, False, 0.0, epsilon)
    wide = torch.promote_types(torch.promote_types(X.dtype, mean.dtype), scale.dtype)
    factor = scale.to(wide) / torch.sqrt(var.to(wide) + epsilon)
    shift = B.to(wide) - mean.to(wide) * factor
    rank = X.dim()
    return (X.to(wide) * _per_channel(factor, rank) + _per_channel(shift, rank)).to(X.dtype)


def _as_torch_takes_it(X: Tensor, *others: Tensor) -> bool:
    """Tell whether all are of one type, or a half-precision X among float32, as autocast makes."""
    kinds = {tensor.dtype for tensor in others}
    half = X.dtype in {torch.float16, torch.bfloat16}
    return kinds == {X.dtype} or (half and kinds == {torch.float32})


def _batch_statistics(X: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population variance per channel, at least in single precision."""
    wide = X if X.dtype in {torch.float32, torch.float64} else X.float()
    axes = [0, *range(2, X.dim())]
    variance, mean = torch.var_mean(wide, axes, correction=0)
    return mean, variance


def _learns(training: bool, scale: Tensor, B: Tensor) -> bool:
    """Tell whether batch statistics apply: frozen layers stay in evaluation mode."""
    return training and (scale.requires_grad or B.requires_grad)


def _train(
    X: Tensor,
    scale: Tensor,
    B: Tensor,
    mean: Tensor,
    var: Tensor,
    epsilon: float,
    momentum: float,
) -> Tensor:
    """Normalise with the batch's statistics and move the running ones.

    As ONNX states it: running · momentum + batch · (1 − momentum), with the population variance.
    """
    count = elements([X.shape[0], *X.shape[2:]]) if X.dim() >= 2 else 0
    same = _as_torch_takes_it(X, scale, B, mean, var)
    constants = not (mean.requires_grad or var.requires_grad)
    if same and constants and count > 1:
        # One pass over X: torch moves statistics too, by the variance of a sample, not of a
        # population. It moves copies: what it is given, its backward pass wants untouched.
        moved_mean, moved_var = mean.detach().clone(), var.detach().clone()
        result = F.batch_norm(X, moved_mean, moved_var, scale, B, True, 1 - momentum, epsilon)
        share = (count - 1) / count
        with torch.no_grad():
            mean.copy_(moved_mean)
            var.mul_((1 - share) * momentum).add_(moved_var, alpha=share)
        return result
    batch_mean, batch_var = _batch_statistics(X)
    with torch.no_grad():
        for running, batch in ((mean, batch_mean), (var, batch_var)):
            running.mul_(momentum).add_(batch.detach().to(running.dtype), alpha=1 - momentum)
    if _as_torch_takes_it(X, scale, B) and X.dim() >= 2:
        return F.batch_norm(X, None, None, scale, B, True, 0.0, epsilon)
    return _batch_norm(X, scale, B, batch_mean, batch_var, epsilon)


@op("BatchNormalization", 1, 6, 7, 9)
def batch_normalization_7(
    X: Tensor,
    scale: Tensor,
    B: Tensor,
    mean: Tensor,
    var: Tensor,
    *,
    epsilon: float,
    momentum: float,
    spatial: bool = True,
    is_test: bool = False,
    training: bool,
    outputs: int,
) -> Tensor:
    """Normalise per channel (`spatial`) or per element; in evaluation with the given statistics."""
    if outputs > 1:
        refuse("training mode, which more than one output means: export it for evaluation")
    if not spatial:
        if _learns(training, scale, B):
            refuse("training a BatchNormalization with spatial=0")
        return (X - mean) / torch.sqrt(var + epsilon) * scale + B
    if _learns(training, scale, B):
        return _train(X, scale, B, mean, var, epsilon, momentum)
    return _batch_norm(X, scale, B, mean, var, epsilon)


@op("BatchNormalization", 14, 15)
def batch_normalization(
    X: Tensor,
    scale: Tensor,
    B: Tensor,
    input_mean: Tensor,
    input_var: Tensor,
    *,
    epsilon: float,
    momentum: float,
    training_mode: bool,
    training: bool,
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """Normalise per channel.

    With `training_mode` by the batch's statistics, which then blend into the other two outputs.
    """
    if training_mode:
        mean, var = _batch_statistics(X)
        blended = tuple(
            (old * momentum + new.to(old.dtype) * (1 - momentum))
            for old, new in ((input_mean, mean), (input_var, var))
        )
        return _batch_norm(X, scale, B, mean, var, epsilon), blended[0], blended[1]
    if _learns(training, scale, B):
        return _train(X, scale, B, input_mean, input_var, epsilon, momentum)
    return _batch_norm(X, scale, B, input_mean, input_var, epsilon)


@op("InstanceNormalization")
def instance_normalization(input: Tensor, scale: Tensor, B: Tensor, *, epsilon: float) -> Tensor:
    """Normalise every plane of every sample by itself."""
    axes = list(range(2, input.dim()))
    variance, mean = torch.var_mean(input, axes, correction=0, keepdim=True)
    rank = input.dim()
    normal = (input - mean) * torch.rsqrt(variance + epsilon)
    return normal * _per_channel(scale, rank) + _per_channel(B, rank)


@op("LayerNormalization")
def layer_normalization(
    X: Tensor,
    Scale: Tensor,
    B: Tensor | None = None,
    *,
    axis: int,
    epsilon: float,
    stash_type: int,
    outputs: int,
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """Normalise over the axes from `axis` on, in the type `stash_type`."""
    axis %= X.dim()
    shape = list(X.shape[axis:])
    told = _stash(stash_type)
    stash = torch.promote_types(told, X.dtype)  # never less than X has
    simple = Scale.shape == X.shape[axis:] and (B is None or B.shape == Scale.shape)
    # Under autocast X may come in half precision: torch's own computes in float32 all the same.
    cast = X.dtype != Scale.dtype == stash and is_autocast(X)
    if outputs == 1 and simple and (cast or X.dtype == stash == Scale.dtype):
        return F.layer_norm(X, shape, Scale, B, epsilon)
    wide = X.to(stash)
    axes = list(range(axis, X.dim()))
    variance, mean = torch.var_mean(wide, axes, correction=0, keepdim=True)
    inverse = torch.rsqrt(variance + epsilon)
    normal = ((wide - mean) * inverse).to(X.dtype) * Scale
    return (normal if B is None else normal + B), mean.to(told), inverse.to(told)


def _stash(number: int) -> torch.dtype:
    """Return the type that sums are formed in; ONNX Runtime takes a file's 0 for float."""
    return torch_dtype(number) if number else torch.float32


@op("RMSNormalization")
def rms_normalization(
    X: Tensor, scale: Tensor, *, axis: int, epsilon: float, stash_type: int
) -> Tensor:
    """Divide by the root mean square over the axes from `axis` on."""
    return by_root_mean_square(X, scale, axis, epsilon, stash_type)[0]


def by_root_mean_square(
    X: Tensor, scale: Tensor, axis: int, epsilon: float, stash_type: int = 1
) -> tuple[Tensor, Tensor]:
    """Divide by the root mean square; also return what was multiplied by instead."""
    wide = X.to(torch.promote_types(_stash(stash_type), X.dtype))
    axes = list(range(axis % X.dim(), X.dim()))
    inverse = torch.rsqrt(wide.square().mean(axes, keepdim=True) + epsilon)
    return (wide * inverse).to(X.dtype) * scale, inverse


def _group_normal(X: Tensor, groups: int, epsilon: float) -> Tensor:
    grouped = X.reshape(X.shape[0], groups, -1)
    variance, mean = torch.var_mean(grouped, 2, correction=0, keepdim=True)
    return ((grouped - mean) * torch.rsqrt(variance + epsilon)).reshape(X.shape)


@op("GroupNormalization", 18)
def group_normalization_18(
    X: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float, num_groups: int
) -> Tensor:
    """Normalise groups of channels; scale and bias belong to a group."""
    per_group = X.shape[1] // num_groups
    rank = X.dim()
    factor = _per_channel(scale.repeat_interleave(per_group), rank)
    shift = _per_channel(bias.repeat_interleave(per_group), rank)
    return _group_normal(X, num_groups, epsilon) * factor + shift


@op("GroupNormalization", 21)
def group_normalization(
    X: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float, num_groups: int, stash_type: int
) -> Tensor:
    """Normalise groups of channels; scale and bias belong to a channel."""
    wide = X.to(torch.promote_types(_stash(stash_type), X.dtype))
    normal = _group_normal(wide, num_groups, epsilon).to(X.dtype)
    rank = X.dim()
    return normal * _per_channel(scale, rank) + _per_channel(bias, rank)


@op("MeanVarianceNormalization")
def mean_variance_normalization(X: Tensor, *, axes: list[int]) -> Tensor:
    """(x − mean) / (standard deviation + 1e-9) over some axes."""
    mean = X.mean(axes, keepdim=True)
    spread = (X.square().mean(axes, keepdim=True) - mean.square()).clamp(min=0).sqrt()
    return (X - mean) / (spread + 1e-9)


@op("LpNormalization")
def lp_normalization(input: Tensor, *, axis: int, p: int) -> Tensor:
    """Divide by the p-norm along an axis; a zero vector stays zero."""
    norm = torch.linalg.vector_norm(input, p, axis, keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(input), input / norm)


@op("LRN")
def local_response_normalization(
    X: Tensor, *, alpha: float, beta: float, bias: float, size: int
) -> Tensor:
    """Divide by (bias + alpha/size · sum of squares over neighbouring channels) to the beta."""
    squares = X.square()
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    shape = squares.shape
    planes = squares.reshape(shape[0], shape[1], -1)
    padded = F.pad(planes, [0, 0, before, after])
    total = padded.unfold(1, size, 1).sum(-1).reshape(shape)
    return X / (bias + alpha / size * total) ** beta
