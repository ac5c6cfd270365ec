"""How raw bytes, sounds, series and pictures become the inputs of the indexed models.

One function per kind of `encoding` in the index, in plain numpy (and scipy for resampling), each
after the rule that the model's own package states. What must not enter: data sets, models.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

_BLANKS = b" \t\n\r\x0b\x0c"
_BLOCK = 4096
_HALF = 1024
_PADDING = 256
_SPINDLE_LENGTH = 7500  # samples: 30 s at 250 Hz
_SPINDLE_SCALES = np.geomspace(135, 270, num=15)
_BANDWIDTH, _CENTRE = 6.0, 13.0  # of the complex Shannon wavelet
_SEIZURE_RATE = 200  # Hz, the lowest rate whose spectrum has 100 bins of 1 Hz
_TINY = 1e-12


def bytes_features(contents: Sequence[bytes]) -> np.ndarray:
    """Return magika's view of files: int32 [n, 2048].

    The first 1,024 bytes (blanks in front stripped, padded behind) and the last 1,024 (blanks
    behind stripped, padded in front), each out of a block of at most 4,096; padding is 256.
    """
    features = np.full((len(contents), 2 * _HALF), _PADDING, np.int32)
    for row, content in zip(features, contents, strict=True):
        begin = content[:_BLOCK].lstrip(_BLANKS)[:_HALF]
        end = content[-_BLOCK:].rstrip(_BLANKS)[-_HALF:]
        row[: len(begin)] = np.frombuffer(begin, np.uint8)
        row[2 * _HALF - len(end) :] = np.frombuffer(end, np.uint8)
    return features


def resize_pictures(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize pictures bilinearly with Pillow.

    Args:
        images: uint8 [n, height, width] or [n, height, width, 3].
        size: height and width in pixels.

    Returns:
        float32 [n, height, width, 3], 0..255; grey pictures have three equal channels.
    """
    from PIL import Image

    height, width = size
    resized = [
        np.asarray(
            Image.fromarray(image).convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        )
        for image in images
    ]
    return np.stack(resized).astype(np.float32)


def to_rate(sounds: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Resample sounds [n, length] from one rate in Hz to another, float32, along the last axis."""
    from math import gcd

    from scipy.signal import resample_poly

    common = gcd(rate, new_rate)
    resampled = resample_poly(sounds, new_rate // common, rate // common, axis=-1)
    return np.asarray(resampled, np.float32)


def log_power(sounds: np.ndarray, window: int, hop: int) -> np.ndarray:
    """Return log10 power spectra: float32 [n, frames, window // 2 + 1].

    Args:
        sounds: [n, length], −1..1.
        window: samples of one Hann window.
        hop: samples from one window to the next.
    """
    return np.asarray(np.log10(np.maximum(_power(sounds, window, hop), _TINY)), np.float32)


def mel_decibels(
    sounds: np.ndarray, rate: int, window: int, hop: int, bands: int, frames: int
) -> np.ndarray:
    """Return mel spectra as the speech quality models take them: float32 [n, frames, bands].

    (10 log10(power / loudest power of the sound), not below −80 dB, + 40) / 40; mel bands of equal
    area after Slaney's Auditory Toolbox (linear below 1 kHz, logarithmic above).
    """
    half = window // 2
    padded = np.pad(sounds, ((0, 0), (half, half)))
    power = _power(padded, window, hop)[:, :frames] @ _mel_filters(rate, window, bands)
    loudest = np.maximum(power.max(axis=(1, 2), keepdims=True), _TINY)
    decibels = 10 * np.log10(np.maximum(power, _TINY) / loudest)
    return np.asarray((np.maximum(decibels, -80) + 40) / 40, np.float32)


def spindle_features(series: np.ndarray) -> dict[str, np.ndarray]:
    """Return the spindle detector's inputs for series of any length.

    Each series is stretched to 7,500 samples (to the model: 30 s at 250 Hz) and standardised; the
    second input is the standardised magnitude of its wavelet transform at 15 scales.

    Args:
        series: [n, length].

    Returns:
        `raw_signal` float32 [n, 1, 7500] and `spectrogram` float32 [n, 15, 7500].
    """
    signal = _standardise(_stretch(series, _SPINDLE_LENGTH))
    magnitudes = _standardise(np.stack([_wavelet_magnitudes(each) for each in signal]))
    return {
        "raw_signal": signal[:, None].astype(np.float32),
        "spectrogram": magnitudes.astype(np.float32),
    }


def seizure_features(series: np.ndarray, seconds: int = 30) -> dict[str, np.ndarray]:
    """Return the seizure detector's input for series of any length.

    Each series is stretched to `seconds` at 200 Hz and standardised; then power spectra of 1 s
    windows every 0.5 s, 0..99 Hz, each frequency standardised over time.

    Args:
        series: [n, length].
        seconds: how long the model shall take each series to last.

    Returns:
        `x` float32 [n, 100, 2 · seconds − 1].
    """
    signal = _standardise(_stretch(series, seconds * _SEIZURE_RATE))
    power = _power(signal, _SEIZURE_RATE, _SEIZURE_RATE // 2)[..., :100]
    return {"x": _standardise(power.swapaxes(1, 2)).astype(np.float32)}


def _power(sounds: np.ndarray, window: int, hop: int) -> np.ndarray:
    frames = np.lib.stride_tricks.sliding_window_view(sounds, window, axis=-1)[:, ::hop]
    shape = np.hanning(window + 1)[:-1]
    return np.stack([np.abs(np.fft.rfft(each * shape)) ** 2 for each in frames])


@cache
def _mel_filters(rate: int, window: int, bands: int) -> np.ndarray:
    """Return triangles of equal area on the mel scale: [window // 2 + 1, bands]."""
    knee, per_mel, step = 1000.0, 200 / 3, np.log(6.4) / 27
    top = knee / per_mel + np.log(rate / 2 / knee) / step
    mels = np.linspace(0, top, bands + 2)
    above = knee * np.exp(step * (mels - knee / per_mel))
    corners = np.where(mels < knee / per_mel, mels * per_mel, above)
    frequencies = np.fft.rfftfreq(window, 1 / rate)[:, None]
    rising = (frequencies - corners[:-2]) / np.diff(corners)[:-1]
    falling = (corners[2:] - frequencies) / np.diff(corners)[1:]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return np.asarray(triangles * 2 / (corners[2:] - corners[:-2]))


def _stretch(series: np.ndarray, length: int) -> np.ndarray:
    places = np.linspace(0, series.shape[-1] - 1, length)
    own = np.arange(series.shape[-1])
    return np.stack([np.interp(places, own, each) for each in series])


def _standardise(values: np.ndarray) -> np.ndarray:
    spread = values.std(axis=-1, keepdims=True)
    centred = values - values.mean(axis=-1, keepdims=True)
    return np.asarray(np.divide(centred, spread, out=np.zeros_like(centred), where=spread > _TINY))


def _wavelet_magnitudes(signal: np.ndarray) -> np.ndarray:
    """Return |continuous wavelet transform| at the detector's scales: [15, length].

    As PyWavelets defines it: the integral of the conjugated wavelet is sampled at 1,024 points,
    read at each scale, convolved with the signal and differentiated.
    """
    grid = np.linspace(-20, 20, 1024)
    wavelet = np.sqrt(_BANDWIDTH) * np.sinc(_BANDWIDTH * grid)
    wavelet = wavelet * np.exp(-2j * np.pi * _CENTRE * grid)  # conjugated
    step = grid[1] - grid[0]
    integral = np.cumsum(wavelet) * step
    spectrum_length = 2 * _power_of_two(len(signal) + int(40 * _SPINDLE_SCALES[-1]))
    spectrum = np.fft.fft(signal, spectrum_length)
    rows = []
    for scale in _SPINDLE_SCALES:
        places = (np.arange(40 * scale + 1) / (scale * step)).astype(int)
        kernel = integral[places[places < len(grid)]][::-1]
        convolved = np.fft.ifft(spectrum * np.fft.fft(kernel, spectrum_length))
        change = np.diff(convolved[: len(signal) + len(kernel) - 1])
        start = (len(change) - len(signal)) // 2
        rows.append(np.sqrt(scale) * np.abs(change[start : start + len(signal)]))
    return np.stack(rows)


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
