"""Fourier transforms and what audio models put around them.

What must not enter: windows (their schema defines them by simpler operators).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from surgeon.ops.convert import torch_dtype
from surgeon.ops.registry import op, refuse


def _inverse(value: Tensor, length: int | None, axis: int) -> Tensor:
    """Inverse transform; on the CPU numpy's, whose rounding the official cases store."""
    plain = value.device.type == "cpu" and not value.requires_grad
    if plain and value.dtype == torch.complex64 and not torch.compiler.is_compiling():
        return torch.from_numpy(np.fft.ifft(value.detach().numpy(), length, axis))
    return torch.fft.ifft(value, length, axis)  # type: ignore[no-any-return]


def _dft(input: Tensor, length: int | None, axis: int, *, inverse: bool, onesided: bool) -> Tensor:
    axis = axis if axis >= 0 else axis + input.dim()
    work = input.float() if input.dtype.itemsize == 2 else input
    complex_input = input.shape[-1] == 2
    value = torch.view_as_complex(work.contiguous()) if complex_input else work.squeeze(-1)
    if inverse and onesided:
        size = length if length is not None else 2 * (value.shape[axis] - 1)
        if size // 2 + 1 != value.shape[axis]:
            refuse(f"an inverse onesided DFT of {value.shape[axis]} bins to a length of {size}")
        result = torch.fft.irfft(value, size, axis).unsqueeze(-1)
    elif inverse:
        result = torch.view_as_real(_inverse(value, length, axis).resolve_conj())
    elif onesided and not complex_input:
        result = torch.view_as_real(torch.fft.rfft(value, length, axis))
    else:
        result = torch.view_as_real(torch.fft.fft(value, length, axis))
        if onesided:
            result = result.narrow(axis, 0, result.shape[axis] // 2 + 1)
    return result.to(input.dtype)  # type: ignore[no-any-return]


@op("DFT", 17)
def dft_17(
    input: Tensor,
    dft_length: int | None = None,
    *,
    axis: int,
    inverse: bool,
    onesided: bool,
) -> Tensor:
    """Discrete Fourier transform along an axis; the last axis holds real (and imaginary) parts."""
    return _dft(input, dft_length, axis, inverse=inverse, onesided=onesided)


@op("DFT", 20)
def dft(
    input: Tensor,
    dft_length: int | None = None,
    axis: int | None = None,
    *,
    inverse: bool,
    onesided: bool,
) -> Tensor:
    """Discrete Fourier transform along an axis; the last axis holds real (and imaginary) parts."""
    return _dft(input, dft_length, -2 if axis is None else axis, inverse=inverse, onesided=onesided)


@op("STFT")
def stft(
    signal: Tensor,
    frame_step: int,
    window: Tensor | None = None,
    frame_length: int | None = None,
    *,
    onesided: bool,
) -> Tensor:
    """Fourier transforms of windowed frames: signal [n, length, 1 or 2] → [n, frames, bins, 2].

    A signal [n, length] is real.
    """
    if signal.dim() == 2:
        signal = signal.unsqueeze(-1)
    length = frame_length or (window.shape[0] if window is not None else signal.shape[1])
    frames = signal.unfold(1, length, frame_step).transpose(2, 3)
    if window is not None:
        frames = frames * window.reshape(-1, 1)
    return _dft(frames, None, 2, inverse=False, onesided=onesided)


@op("MelWeightMatrix")
def mel_weight_matrix(
    num_mel_bins: int,
    dft_length: int,
    sample_rate: int,
    lower_edge_hertz: float,
    upper_edge_hertz: float,
    *,
    output_datatype: int,
    device: torch.device,
) -> Tensor:
    """Triangular filters, [spectrum bins, mel bins], as the specification computes them."""
    spectrum = dft_length // 2 + 1
    low = 2595 * math.log10(1 + lower_edge_hertz / 700)
    high = 2595 * math.log10(1 + upper_edge_hertz / 700)
    step = (high - low) / (num_mel_bins + 2)
    edges = []
    for i in range(num_mel_bins + 2):
        hertz = 700 * (10 ** ((low + i * step) / 2595) - 1)
        edges.append(int((dft_length + 1) * hertz // sample_rate))
    table = [[0.0] * num_mel_bins for _ in range(spectrum)]
    for i in range(num_mel_bins):
        begin, centre, end = edges[i : i + 3]
        if centre == begin:
            table[centre][i] = 1.0
        else:
            for j in range(begin, centre + 1):
                table[j][i] = (j - begin) / (centre - begin)
        for j in range(centre, end) if end > centre else ():
            table[j][i] = (end - j) / (end - centre)
    return torch.tensor(table, dtype=torch_dtype(output_datatype), device=device)
