"""Random numbers.

A seed in the node makes it repeat itself; without one torch's own stream is used, so that
`torch.manual_seed` governs it.

What must not enter: Dropout (`activation`).
"""

from __future__ import annotations

import struct

import torch
from torch import Tensor

from surgeon.ops.registry import op


def _generator(seed: float | None, device: torch.device) -> torch.Generator | None:
    if seed is None:
        return None
    (bits,) = struct.unpack("<I", struct.pack("<f", seed))
    return torch.Generator(device).manual_seed(bits)


def _uniform(
    shape: list[int],
    low: float,
    high: float,
    dtype: torch.dtype,
    seed: float | None,
    device: torch.device,
) -> Tensor:
    drawn = torch.rand(shape, generator=_generator(seed, device), device=device)
    return (drawn * (high - low) + low).to(dtype)


def _normal(
    shape: list[int],
    mean: float,
    scale: float,
    dtype: torch.dtype,
    seed: float | None,
    device: torch.device,
) -> Tensor:
    drawn = torch.randn(shape, generator=_generator(seed, device), device=device)
    return (drawn * scale + mean).to(dtype)


@op("RandomUniform")
def random_uniform(
    *,
    dtype: torch.dtype,
    high: float,
    low: float,
    seed: float | None,
    shape: list[int],
    device: torch.device,
) -> Tensor:
    """Uniform numbers in a shape."""
    return _uniform(shape, low, high, dtype, seed, device)


@op("RandomUniformLike")
def random_uniform_like(
    input: Tensor, *, dtype: torch.dtype | None, high: float, low: float, seed: float | None
) -> Tensor:
    """Uniform numbers in the shape of another tensor."""
    shape = list(input.shape)
    return _uniform(shape, low, high, dtype or input.dtype, seed, input.device)


@op("RandomNormal")
def random_normal(
    *,
    dtype: torch.dtype,
    mean: float,
    scale: float,
    seed: float | None,
    shape: list[int],
    device: torch.device,
) -> Tensor:
    """Normally distributed numbers in a shape."""
    return _normal(shape, mean, scale, dtype, seed, device)


@op("RandomNormalLike")
def random_normal_like(
    input: Tensor, *, dtype: torch.dtype | None, mean: float, scale: float, seed: float | None
) -> Tensor:
    """Normally distributed numbers in the shape of another tensor."""
    shape = list(input.shape)
    return _normal(shape, mean, scale, dtype or input.dtype, seed, input.device)


@op("Bernoulli")
def bernoulli(input: Tensor, *, dtype: torch.dtype | None, seed: float | None) -> Tensor:
    """1 with the probability given per element, else 0."""
    drawn = torch.rand(input.shape, generator=_generator(seed, input.device), device=input.device)
    return (drawn < input).to(dtype or input.dtype)


@op("Multinomial")
def multinomial(
    input: Tensor, *, dtype: torch.dtype, sample_size: int, seed: float | None
) -> Tensor:
    """Draw classes from unnormalised log-probabilities, [n, classes] → [n, sample_size]."""
    probabilities = input.float().softmax(-1)
    generator = _generator(seed, input.device)
    drawn = torch.multinomial(probabilities, sample_size, replacement=True, generator=generator)
    return drawn.to(dtype)
