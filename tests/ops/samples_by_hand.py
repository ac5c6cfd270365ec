"""Samples whose expectation is written out in numpy.

Opsets below 7 said many things differently (broadcasting by an attribute, weights in attributes),
and ONNX Runtime runs none of them; nor has its CPU build a kernel for every operator. Here stands
what their documentation says.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from samples import ML, MS, Maybe, Sample, b, f, i, s

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Drawn:
    """What is right of drawn numbers: shape, type and moments."""

    shape: tuple[int, ...]
    dtype: type
    mean: float
    std: float

    def check(self, found: np.ndarray) -> None:
        assert found.shape == self.shape
        assert found.dtype == self.dtype
        assert abs(found.mean() - self.mean) < 5 * self.std / np.sqrt(found.size)
        assert abs(found.std() / self.std - 1) < 0.05


def hand(
    op: str,
    versions: int | tuple[int, ...],
    *inputs: Any,
    expected: Callable[..., Any],
    outputs: int = 1,
    domain: str = "",
    constant: tuple[int, ...] = (),
    **attributes: Any,
) -> list[Sample]:
    return [
        Sample(op, v, inputs, attributes, outputs, domain, 1e-4, constant, expected, only=True)
        for v in (versions if isinstance(versions, tuple) else (versions,))
    ]


def _normal(x: np.ndarray, *scale: np.ndarray, epsilon: float = 1e-5) -> np.ndarray:
    gamma, beta, mean, variance = (v[None, :, None] for v in scale)
    return (x - mean) / np.sqrt(variance + epsilon) * gamma + beta


def _softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def _gelu(x: np.ndarray) -> np.ndarray:
    from math import erf

    return (x * (1 + np.vectorize(erf)(x / np.sqrt(2))) / 2).astype(np.float32)


def _windows(x: np.ndarray, p: float) -> np.ndarray:
    """Return the p-norm of every 2×2 window of [1, 1, 4, 4]."""
    split = np.abs(x.reshape(2, 2, 2, 2)).astype(np.float64) ** p
    return (split.sum((1, 3)) ** (1 / p))[None, None].astype(np.float32)


def _channels_last(x: np.ndarray, w: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Convolve [n, h, w, in] with [out, kh, kw, in], no padding, step 1."""
    view = np.lib.stride_tricks.sliding_window_view(x, w.shape[1:3], axis=(1, 2))
    return np.einsum("nyxiab,oabi->nyxo", view, w) + bias


def _png(pixels: np.ndarray) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return np.frombuffer(stream.getvalue(), np.uint8)


_PIXELS = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10
_ROWS = np.tile(np.log(np.array([0.2, 0.8], np.float32)), (20000, 1))

_ALONG_AXIS = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
}
_COMPARED = {"Greater": np.greater, "Less": np.less}
_LOGICAL = {"And": np.logical_and, "Or": np.logical_or, "Xor": np.logical_xor}
_TOGETHER = {
    "Max": lambda *x: np.max(x, 0),
    "Min": lambda *x: np.min(x, 0),
    "Sum": lambda *x: np.sum(x, 0),
    "Mean": lambda *x: np.mean(x, 0),
}


def _along(function: Any) -> Any:
    """Broadcast B [3] against A [2, 3, 4] from axis 1 on, as opsets below 7 did."""
    return lambda a, c: function(a, c[None, :, None])


BY_HAND: list[Sample] = [
    # broadcasting by attribute
    *[
        sample
        for op, function in _ALONG_AXIS.items()
        for sample in hand(
            op, (1, 6), f(2, 3, 4), f(3, low=0.5), expected=_along(function), broadcast=1, axis=1
        )
    ],
    *[
        sample
        for op, function in _ALONG_AXIS.items()
        for sample in hand(
            op, (1, 6), f(2, 3, 4), f(3, 4, low=0.5), expected=function, broadcast=1
        )
    ],
    *hand(
        "Pow", 1, f(2, 3, 4, low=0.1), f(3), expected=_along(np.power), broadcast=1, axis=1
    ),
    *hand("Pow", 7, f(2, 3, low=0.1), f(3), expected=np.power),
    *[
        sample
        for op, function in _COMPARED.items()
        for sample in hand(op, 1, f(2, 3, 4), f(3), expected=_along(function), broadcast=1, axis=1)
    ],
    *hand(
        "Equal", 1, i([[1, 2], [3, 4]]), i([1, 4]), broadcast=1, axis=0,
        expected=lambda a, c: a == c[:, None],
    ),
    *[
        sample
        for op, function in _LOGICAL.items()
        for sample in hand(
            op, 1, b(1, 0, 1, 0).reshape(2, 2), b(1, 0), broadcast=1, axis=0,
            expected=lambda a, c, function=function: function(a, c[:, None]),
        )
    ],
    *[
        sample
        for op, function in _TOGETHER.items()
        for sample in hand(op, (1, 6), f(2, 3), f(2, 3), f(2, 3), expected=function)
    ],
    *hand(
        "Gemm", (1, 6), f(4, 3), f(4, 5), f(5), alpha=0.5, beta=2.0, transA=1, broadcast=1,
        expected=lambda a, w, c: 0.5 * a.T @ w + 2 * c,
    ),
    *hand(
        "PRelu", (1, 6), f(2, 3, 4), f(3),
        expected=lambda x, slope: np.where(x < 0, x * slope[None, :, None], x),
    ),
    # what later became an input, or changed its type
    *hand("Reshape", 1, f(2, 3, 4), shape=[0, -1], expected=lambda x: x.reshape(2, 12)),
    *hand("Tile", 1, f(2, 3), i(2), i(1), expected=lambda x, n, axis: np.tile(x, (1, 2))),
    *hand(
        "Pad", 1, f(2, 3), paddings=[0, 1, 1, 2], value=0.5,
        expected=lambda x: np.pad(x, [(0, 1), (1, 2)], constant_values=0.5),
    ),
    *hand(
        "Upsample", 1, f(1, 2, 3, 4), height_scale=2.0, width_scale=3.0,
        expected=lambda x: x.repeat(2, 2).repeat(3, 3),
    ),
    *hand("Cast", 1, f(2, 3), to="DOUBLE", expected=lambda x: x.astype(np.float64)),
    *hand("Cast", 6, f(2, 3), to=7, expected=lambda x: x.astype(np.int64)),
    *hand("Clip", (1, 6), f(3, 4), min=-0.5, max=0.5, expected=lambda x: x.clip(-0.5, 0.5)),
    *hand("Concat", 1, f(2, 3), f(2, 1), expected=lambda x, y: np.concatenate([x, y], 1)),
    *hand("Concat", 4, f(2, 3), f(1, 3), axis=0, expected=lambda x, y: np.concatenate([x, y])),
    *hand(
        "Split", 1, f(6, 2), i([4, 2]), axis=0, outputs=2,
        expected=lambda x, n: (x[:4], x[4:]),
    ),
    *hand("Split", 2, f(2, 6), axis=1, outputs=2, expected=lambda x: (x[:, :3], x[:, 3:])),
    *hand(
        "LpPool", 1, f(1, 1, 4, 4), kernel_shape=[2, 2], strides=[2, 2], p=3.0,
        expected=lambda x: _windows(x, 3),
    ),
    *hand(
        "GlobalLpPool", 1, f(1, 1, 2, 2), p=1.0,
        expected=lambda x: np.abs(x).sum((2, 3), keepdims=True),
    ),
    *hand("Dropout", (1, 6), f(2, 3), is_test=1, ratio=0.4, expected=lambda x: x),
    *hand(
        "Upsample", 10, f(1, 2, 3, 4), np.array([1, 1, 2, 3], np.float32),
        expected=lambda x, scales: x.repeat(2, 2).repeat(3, 3),
    ),
    *hand(
        "Scatter", 11, f(1, 4), i([[2, 0]]), f(1, 2), axis=1,
        expected=lambda x, at, new: np.array([[new[0, 1], x[0, 1], new[0, 0], x[0, 3]]]),
    ),
    *hand(
        "SplitToSequence", (11, 24), f(5, 2), i(2), keepdims=0,  # keepdims counts without split
        expected=lambda x, size: ([x[:2], x[2:4], x[4:]],),
    ),
    *hand(
        "BatchNormalization", 1, f(2, 3, 4), f(3), f(3), f(3), f(3, low=0.5),
        is_test=1, epsilon=1e-3, consumed_inputs=[0, 0, 0, 1, 1],
        expected=lambda *v: _normal(*v, epsilon=1e-3),
    ),
    *hand(
        "BatchNormalization", 6, f(2, 3, 4), f(3), f(3), f(3), f(3, low=0.5), is_test=1,
        expected=_normal,
    ),
    # the same before and after, in the types of before
    *[
        sample
        for op, function in {
            "Abs": np.abs, "Ceil": np.ceil, "Exp": np.exp, "Floor": np.floor,
            "Neg": np.negative, "Relu": lambda x: np.maximum(x, 0), "Tanh": np.tanh,
            "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
            "LeakyRelu": lambda x: np.where(x < 0, np.float32(0.01) * x, x),
            "Elu": lambda x: np.where(x < 0, np.exp(x) - 1, x),
            "Selu": lambda x: 1.0507 * np.where(x < 0, 1.6732 * (np.exp(x) - 1), x).astype("f"),
            "HardSigmoid": lambda x: (0.2 * x + 0.5).clip(0, 1),
        }.items()
        for sample in hand(op, (1, 6), f(2, 3), expected=function)
    ],
    *[
        sample
        for op, function in {
            "Log": np.log, "Sqrt": np.sqrt, "Reciprocal": np.reciprocal,
        }.items()
        for sample in hand(op, (1, 6), f(2, 3, low=0.1), expected=function)
    ],
    # newer than ONNX Runtime's kernels
    *hand("BitCast", 26, f(2, 3), to=6, expected=lambda x: x.view(np.int32)),
    *hand("CumProd", 26, f(3, 4), i(1), expected=lambda x, axis: np.cumprod(x, 1)),
    *hand(
        "CumProd", 26, f(3, 4), i(0), exclusive=1, reverse=1,
        expected=lambda x, axis: np.stack([x[1] * x[2], x[2], np.ones(4, np.float32)]),
    ),
    *hand(
        "ImageDecoder", 20, _png(_PIXELS), pixel_format="RGB", expected=lambda data: _PIXELS,
    ),
    *hand(
        "CastMap", 1, {1: "2", 3: "4"}, cast_to="TO_INT64", domain=ML,
        expected=lambda x: np.array([[2, 4]]),
    ),
    # drawn numbers
    *hand(
        "Bernoulli", (15, 22), np.full((100, 200), 0.3, np.float32),
        expected=lambda p: Drawn((100, 200), np.float32, 0.3, np.sqrt(0.21)),
    ),
    *hand(
        "Multinomial", (7, 22), _ROWS, sample_size=1,
        expected=lambda x: Drawn((20000, 1), np.int32, 0.8, 0.4),
    ),
    *hand(
        "RandomNormal", (1, 22), shape=[100, 200], mean=1.0, scale=2.0,
        expected=lambda: Drawn((100, 200), np.float32, 1, 2),
    ),
    *hand(
        "RandomUniform", (1, 22), shape=[100, 200], low=-1.0, high=3.0,
        expected=lambda: Drawn((100, 200), np.float32, 1, 4 / np.sqrt(12)),
    ),
    *hand(
        "RandomNormalLike", (1, 22), f(100, 200), dtype=11,
        expected=lambda x: Drawn((100, 200), np.float64, 0, 1),
    ),
    *hand(
        "RandomUniformLike", (1, 22), f(100, 200),
        expected=lambda x: Drawn((100, 200), np.float32, 0.5, 1 / np.sqrt(12)),
    ),
    # com.microsoft, without a kernel in the CPU build
    *hand(
        "BiasAdd", 1, f(2, 3, 4), f(4), f(2, 3, 4), domain=MS,
        expected=lambda x, bias, skip: x + bias + skip,
    ),
    *hand(
        "BiasDropout", 1, f(2, 3, 4), f(4), f(2, 3, 4), s(0.4), domain=MS, outputs=2,
        expected=lambda x, bias, rest, ratio: (x + bias + rest, np.ones_like(x, bool)),
    ),
    *hand(
        "BiasSoftmax", 1, f(2, 3, 4, 5), f(2, 1, 1, 5), domain=MS, axis=3, is_inner_broadcast=1,
        expected=lambda x, bias: _softmax(x + bias),
    ),
    *hand(
        "BiasSoftmax", 1, f(2, 3, 4, 5), f(4, 5), domain=MS, axis=2, is_inner_broadcast=0,
        expected=lambda x, bias: _softmax((x + bias).reshape(2, 3, 20)).reshape(x.shape),
    ),
    *hand(
        "BiasSplitGelu", 1, f(2, 3, 8), f(8), domain=MS,
        expected=lambda x, bias: (x + bias)[..., :4] * _gelu((x + bias)[..., 4:]),
    ),
    *hand(
        "NhwcConv", 1, f(2, 5, 6, 3), f(4, 3, 2, 3), f(4), domain=MS, kernel_shape=[3, 2],
        expected=_channels_last,
    ),
    *hand(
        "Rfft", 1, f(2, 3, 8), domain=MS, normalized=0, onesided=1, signal_ndim=1,
        expected=lambda x: np.fft.rfft(x).astype(np.complex64).view(np.float32).reshape(2, 3, 5, 2),
    ),
    *hand(
        "Irfft", 1, f(2, 3, 5, 2), domain=MS, normalized=0, onesided=1, signal_ndim=1,
        expected=lambda x: np.fft.irfft(x[..., 0] + 1j * x[..., 1]).astype(np.float32),
    ),
    *hand(
        "SimplifiedLayerNormalization", 1, f(2, 3, 8), f(8), domain=MS,
        expected=lambda x, scale: x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * scale,
    ),
    *hand(
        "LayerNormalization", 1, f(2, 3, 8), f(8), f(8), domain=MS, epsilon=1e-3,
        expected=lambda x, scale, bias: (
            (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-3) * scale
            + bias
        ),
    ),
]  # fmt: skip
"""Laid out by hand: one line of what is computed, one of what is right."""


def _shifted(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, past: np.ndarray) -> Any:
    """A filter per channel over the past alone, and the positions the next step needs."""
    taps = weight.shape[2]
    whole = np.concatenate([past, x], 2)
    windows = np.lib.stride_tricks.sliding_window_view(whole, taps, 2)
    return (windows * weight).sum(-1) + bias[:, None], whole[:, :, -(taps - 1) :]


def _recurrent(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, state: np.ndarray, decay: np.ndarray,
    beta: np.ndarray,
) -> Any:  # fmt: skip
    """Linear attention of two heads, one token after another: what gated_delta says."""
    n, tokens, width = q.shape
    q, k, v, decay = (x.reshape(n, tokens, 2, width // 2) for x in (q, k, v, decay))
    made = []
    for t in range(tokens):
        state = np.exp(decay[:, t])[..., None] * state
        told = np.einsum("nhk,nhkv->nhv", k[:, t], state)
        change = beta[:, t, :, None] * (v[:, t] - told)
        state = state + np.einsum("nhk,nhv->nhkv", k[:, t], change)
        made.append(np.einsum("nhk,nhkv->nhv", q[:, t], state) / np.sqrt(width // 2))
    return np.stack(made, 1).reshape(n, tokens, width).astype(np.float32), state.astype(np.float32)


def _scattered(cache: np.ndarray, update: np.ndarray, at: np.ndarray) -> np.ndarray:
    made = cache.copy()
    for row, start in enumerate(at):
        made[row, start : start + update.shape[1]] = update[row]
    return made


def _adam(r: Any, t: Any, x: Any, g: Any, v: Any, h: Any) -> Any:
    g = g + 0.01 * x
    v, h = 0.9 * v + 0.1 * g, 0.99 * h + 0.01 * g * g
    rate = r * np.sqrt(1 - 0.99**t) / (1 - 0.9**t)
    return tuple(np.float32(y) for y in ((1 - 0.1) * (x - rate * v / (np.sqrt(h) + 1e-3)), v, h))


def _adagrad(r: Any, t: Any, x: Any, g: Any, h: Any) -> Any:
    g = g + 0.01 * x
    h = h + g * g
    return np.float32(x - r / (1 + 0.1 * t) * g / (np.sqrt(h) + 1e-3)), np.float32(h)


def _momentum(r: Any, t: Any, x: Any, g: Any, v: Any) -> Any:
    g = g + 0.01 * x
    v = 0.9 * v + 0.5 * g
    return np.float32(x - r * (g + 0.9 * v)), np.float32(v)


TRAINING = "ai.onnx.preview.training"

BY_HAND += [
    *hand(
        "SwiGLU", 28, f(2, 4), f(2, 4), alpha=0.5,
        expected=lambda a, value: a / (1 + np.exp(-0.5 * a)) * value,
    ),
    *hand(
        "CausalConvWithState", 27, f(2, 3, 5), f(3, 1, 4), f(3), f(2, 3, 3), outputs=2,
        expected=_shifted,
    ),
    *hand(
        "LinearAttention", 27, f(2, 3, 8), f(2, 3, 8), f(2, 3, 8), f(2, 2, 4, 4),
        f(2, 3, 8, high=0), f(2, 3, 2, low=0), outputs=2, q_num_heads=2, kv_num_heads=2,
        expected=_recurrent,
    ),
    *hand(
        "TensorScatter", 24, f(2, 4, 5), f(2, 2, 5), i(1, 0), mode="linear", expected=_scattered
    ),
    *hand(
        "FlexAttention", 1, f(1, 2, 3, 4), f(1, 2, 5, 4), f(1, 2, 5, 4),
        domain="ai.onnx.preview", expected=lambda q, k, v: _softmax(q @ k.swapaxes(2, 3) / 2) @ v,
    ),
    *hand("OptionalHasElement", 15, Maybe(f(2)), expected=lambda x: np.array(True)),
    *hand("OptionalGetElement", 15, Maybe(f(2)), expected=lambda x: x.value),
    *hand(
        "Adam", 1, s(0.1), s(3, np.int64), f(4), f(4), f(4), f(4, low=0.1), outputs=3,
        domain=TRAINING, alpha=0.9, beta=0.99, epsilon=1e-3, norm_coefficient=0.01,
        norm_coefficient_post=0.1, expected=_adam,
    ),
    *hand(
        "Adagrad", 1, s(0.1), s(3, np.int64), f(4), f(4), f(4, low=0.1), outputs=2,
        domain=TRAINING, decay_factor=0.1, epsilon=1e-3, norm_coefficient=0.01, expected=_adagrad,
    ),
    *hand(
        "Momentum", 1, s(0.1), s(3, np.int64), f(4), f(4), f(4), outputs=2, domain=TRAINING,
        alpha=0.9, beta=0.5, norm_coefficient=0.01, mode="nesterov", expected=_momentum,
    ),
    *hand("Cast", 1, f(2, 3), to="DOUBLE", expected=lambda x: x.astype(np.float64)),
]  # fmt: skip
