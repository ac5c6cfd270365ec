"""Operators of the empty domain that the specification lacks and ONNX Runtime has all the same.

Its optimiser writes some, converters of other frameworks wrote the others before ONNX 1.0 was out.
ONNX Runtime is their only specification. What must not enter: operators that `onnx.defs` knows in
the version a file means.
"""

from __future__ import annotations

import torch
from torch import Tensor

from surgeon.ops.activation import thresholded_relu
from surgeon.ops.contrib import ms_layer_normalization, simplified_layer_normalization
from surgeon.ops.registry import op, refuse

op("LayerNormalization", 1)(ms_layer_normalization)
op("SimplifiedLayerNormalization", 1)(simplified_layer_normalization)


@op("ThresholdedRelu", 1)
def thresholded_relu_1(X: Tensor, *, alpha: float = 1.0) -> Tensor:
    """X where above alpha, else 0."""
    return thresholded_relu(X, alpha=alpha)


@op("Affine", 1)
def affine(X: Tensor, *, alpha: float = 1.0, beta: float = 0.0) -> Tensor:
    """Alpha · X + beta."""
    return alpha * X + beta


@op("Scale", 1)
def scale(input: Tensor, *, scale: float = 1.0) -> Tensor:
    """Scale · input."""
    return scale * input


@op("ScaledTanh", 1)
def scaled_tanh(input: Tensor, *, alpha: float = 0.0, beta: float = 0.0) -> Tensor:
    """Alpha · tanh(beta · input)."""
    return alpha * torch.tanh(beta * input)


@op("ParametricSoftplus", 1)
def parametric_softplus(X: Tensor, *, alpha: float = 0.0, beta: float = 0.0) -> Tensor:
    """Alpha · log(1 + exp(beta · X))."""
    return alpha * torch.logaddexp(beta * X, torch.zeros_like(X))


@op("ImageScaler", 1)
def image_scaler(input: Tensor, *, bias: list[float], scale: float = 1.0) -> Tensor:
    """Scale · input, plus a bias per channel."""
    shift = torch.tensor(bias, dtype=input.dtype, device=input.device)
    return input * scale + shift.reshape(-1, 1, 1)


@op("Crop", 1)
def crop(input: Tensor, *, border: list[int], scale: list[int] | None = None) -> Tensor:
    """Cut the borders (left, top, right, bottom) off pictures, or keep `scale` rows and columns."""
    left, top, right, bottom = border
    height, width = scale or (input.shape[2] - top - bottom, input.shape[3] - left - right)
    if top + height > input.shape[2] or left + width > input.shape[3]:
        refuse(f"a crop of {height} x {width} from {list(input.shape)}")
    return input[:, :, top : top + height, left : left + width]


@op("MeanVarianceNormalization", 1)
def mean_variance_normalization(
    input: Tensor, *, across_channels: bool = False, normalize_variance: bool = True
) -> Tensor:
    """Subtract the mean of every channel, or of all, and divide by its standard deviation."""
    axes = [0, 1, 2, 3] if across_channels else [0, 2, 3]
    variance, mean = torch.var_mean(input, axes, correction=0, keepdim=True)
    return (input - mean) / variance.sqrt() if normalize_variance else input - mean
