"""Samples of operator versions, one line each: operator, opset, inputs, attributes.

ONNX Runtime says what is right (`test_against_runtime.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import GraphProto, TensorProto, numpy_helper, parser

if TYPE_CHECKING:
    from collections.abc import Callable

_rng = np.random.default_rng(7)


def f(*shape: int, low: float = -2, high: float = 2) -> np.ndarray:
    return _rng.uniform(low, high, shape).astype(np.float32)


def i(*values: Any) -> np.ndarray:
    return np.array(values[0] if len(values) == 1 else values, dtype=np.int64)


def steady(*shape: int) -> np.ndarray:
    """Numbers that other samples do not move: coupled probabilities jump where their loop ends."""
    return np.random.default_rng(list(shape)).uniform(-1, 1, shape).astype(np.float32)


def u8(*shape: int) -> np.ndarray:
    return _rng.integers(0, 255, shape).astype(np.uint8)


def i8(*shape: int) -> np.ndarray:
    # Seven bits: beyond them ONNX Runtime's sums are cut off on processors without VNNI.
    return _rng.integers(-64, 64, shape).astype(np.int8)


def s(value: float, dtype: Any = np.float32) -> np.ndarray:
    return np.array(value, dtype=dtype)


@dataclass(frozen=True)
class Maybe:
    """A tensor given as an optional."""

    value: np.ndarray


@dataclass(frozen=True)
class Sample:
    op: str
    opset: int
    inputs: tuple[Any, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    domain: str = ""
    rtol: float = 1e-4
    constant: tuple[int, ...] = ()  # inputs given as initializers instead
    expected: Callable[..., Any] | None = None  # what is right, by hand, of the inputs
    only: bool = False  # not to be run at other versions
    origin: int | None = None  # the opset of the sample this one was derived from

    @property
    def name(self) -> str:
        plain = {
            k: v for k, v in self.attributes.items() if isinstance(v, int | float | str | list)
        }
        text = "-".join(f"{k}={v}" for k, v in plain.items())
        return f"{self.domain}{self.op}-{self.opset}-{text}"[:120]


def _s(
    op: str,
    opset: int,
    *inputs: Any,
    outputs: int = 1,
    constant: Any = (),
    domain: str = "",
    rtol: float = 1e-4,
    **attributes: Any,
) -> Sample:
    return Sample(op, opset, inputs, attributes, outputs, domain, rtol, tuple(constant))


MS = "com.microsoft"
ML = "ai.onnx.ml"

ROIS = {
    "avg": [[0.13, 0.29, 9.17, 8.61], [2.3, 1.2, 7.9, 5.5], [-3.31, -2.47, 20.3, 30.7]],
    "max": [[0, 0, 9, 9], [2.3, 1.2, 7.9, 5.5], [-3, -2, 20, 30]],
}
"""Regions, by how they are pooled: off the corners of pixels, where interpolation has a kink."""

SAMPLES: list[Sample] = [
    *[
        _s(op, v, f(2, 3, 4))
        for op in (
            "Relu",
            "Sigmoid",
            "Tanh",
            "Exp",
            "Abs",
            "Neg",
            "Floor",
            "Ceil",
            "Softplus",
            "Softsign",
            "Elu",
            "Selu",
            "HardSigmoid",
            "LeakyRelu",
        )
        for v in (7, 13)
    ],
    *[_s(op, v, f(2, 3, low=0.1)) for op in ("Sqrt", "Log", "Reciprocal") for v in (7, 13)],
    *[
        _s(op, v, f(2, 3), f(3))
        for op in ("Add", "Sub", "Mul", "Div", "Pow")
        for v in (7, 13)
        if op != "Pow"
    ],
    *[
        _s(op, 13, np.array([7, -7, 7, -7]), np.array([2, 2, -2, -2]))
        for op in ("Add", "Sub", "Mul", "Div", "Mod")
    ],
    _s("Pow", 12, f(2, 3, low=0.1), i([1, 2, 3])),
    _s("Pow", 15, i([1, 2, 3]), f(3, low=0)),
    _s("Pow", 15, np.array([1, 2, 3], np.int32), i([2, 3, 2])),
    _s("Mod", 13, f(4), f(4, low=0.5), fmod=1),
    _s("Clip", 6, f(3, 4), min=-0.5, max=0.5),
    _s("Clip", 11, f(3, 4), s(-0.5), s(0.5)),
    _s("Clip", 13, f(3, 4), None, s(0.5)),
    _s("Clip", 13, f(3, 4), s(0.5), s(-0.5), constant=(1, 2)),
    _s("Clip", 12, np.array([1, 5, 9], np.int8), s(2, np.int8), s(6, np.int8)),
    *[_s(op, v, f(3, 4), f(4), f(3, 1)) for op in ("Max", "Min", "Sum", "Mean") for v in (8, 13)],
    *[
        _s(op, v, f(2, 3, 4), axis=a)
        for op in ("Softmax", "LogSoftmax", "Hardmax")
        for v in (7, 11, 13)
        for a in (0, 1, 2)
    ],
    *[_s(op, 13, f(2, 3, 4), axis=-1) for op in ("Softmax", "LogSoftmax", "Hardmax")],
    *[_s("Gelu", 20, f(3, 4), approximate=a) for a in ("none", "tanh")],
    *[_s(op, 22, f(3, 4)) for op in ("HardSwish", "Mish", "Celu", "ThresholdedRelu")],
    _s("PRelu", 7, f(2, 3, 4, 5), f(3, 1, 1)),
    _s("PRelu", 16, f(2, 3), f(3)),
    _s("Shrink", 9, f(9), bias=0.3, lambd=0.4),
    _s("Shrink", 9, f(9), bias=1.5, lambd=-0.5),
    *[
        _s(op, v, f(2, 3, 4), axes=[1], keepdims=k)
        for op in (
            "ReduceSum",
            "ReduceMean",
            "ReduceMax",
            "ReduceMin",
            "ReduceProd",
            "ReduceL1",
            "ReduceL2",
            "ReduceSumSquare",
            "ReduceLogSumExp",
        )
        for v in (7, 11)
        for k in (0, 1)
    ],
    *[
        _s(op, 18, f(2, 3, 4), i([0, 2]), keepdims=0)
        for op in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceL2")
    ],
    _s("ReduceSum", 13, f(2, 3), i([]), noop_with_empty_axes=1),
    _s("ReduceLogSum", 13, f(2, 3, low=0.1), axes=[-1]),
    *[
        _s(op, v, f(3, 4, 5), axis=1, keepdims=0)
        for op in ("ArgMax", "ArgMin")
        for v in (7, 11, 13)
    ],
    _s("ArgMax", 13, np.array([[1, 3, 3]], np.float32), axis=1, select_last_index=1),
    _s("TopK", 7, f(3, 6), k=2, outputs=2),
    _s("TopK", 10, f(3, 6), i([2]), outputs=2),
    _s("TopK", 11, f(3, 6), i([3]), axis=0, largest=0, outputs=2),
    *[_s("Gemm", v, f(3, 4), f(4, 5), f(5)) for v in (7, 9, 11, 13)],
    _s("Gemm", 13, f(4, 3), f(5, 4), f(3, 1), transA=1, transB=1, alpha=0.5, beta=2.0),
    _s("Gemm", 13, f(3, 4), f(4, 5)),
    *[_s("MatMul", v, f(2, 3, 4), f(4, 5)) for v in (7, 9, 13)],
    _s("MatMul", 13, f(4), f(2, 4, 5)),
    _s("Einsum", 12, f(2, 3, 4), f(2, 4, 5), equation="bij, bjk"),
    _s("Einsum", 12, f(2, 3, 4), equation="...ij->...ji"),
    _s("Det", 11, f(2, 3, 3)),
    # convolution
    _s("Conv", 7, f(2, 3, 8, 9), f(4, 3, 3, 3), f(4), pads=[1, 0, 2, 1], strides=[2, 1]),
    _s("Conv", 11, f(2, 4, 8, 9), f(4, 2, 3, 3), group=2, dilations=[2, 1], pads=[1, 1, 1, 1]),
    *[
        _s("Conv", 11, f(1, 3, 7, 8), f(4, 3, 3, 2), strides=[2, 2], auto_pad=p)
        for p in ("SAME_UPPER", "SAME_LOWER", "VALID")
    ],
    _s("Conv", 11, f(1, 3, 9), f(4, 3, 3), pads=[1, 1]),
    _s("Conv", 11, f(1, 2, 5, 6, 7), f(3, 2, 2, 3, 3)),
    _s(
        "ConvTranspose",
        11,
        f(1, 3, 5, 4),
        f(3, 2, 3, 3),
        f(2),
        strides=[2, 2],
        pads=[1, 1, 1, 1],
        output_padding=[1, 1],
    ),
    _s(
        "ConvTranspose",
        11,
        f(1, 4, 5, 4),
        f(4, 2, 3, 3),
        group=2,
        strides=[3, 2],
        pads=[0, 1, 2, 1],
    ),
    _s("ConvTranspose", 11, f(1, 3, 5, 4), f(3, 2, 3, 3), strides=[2, 2], output_shape=[10, 8]),
    *[
        _s("ConvTranspose", 11, f(1, 3, 5, 4), f(3, 2, 3, 3), strides=[2, 2], auto_pad=p)
        for p in ("SAME_UPPER", "SAME_LOWER", "VALID")
    ],
    _s("ConvTranspose", 7, f(1, 3, 6), f(3, 2, 3), strides=[2], dilations=[2]),
    _s("DeformConv", 19, f(1, 2, 6, 6), f(3, 2, 3, 3), f(1, 18, 4, 4), f(3), f(1, 9, 4, 4)),
    _s(
        "DeformConv",
        19,
        f(1, 4, 6, 6),
        f(4, 2, 3, 3),
        f(1, 36, 6, 6),
        pads=[1, 1, 1, 1],
        group=2,
        offset_group=2,
    ),
    _s("Col2Im", 18, f(1, 5, 5), i([5, 5]), i([1, 5])),
    # pooling
    *[
        _s("MaxPool", v, f(2, 3, 7, 8), kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1])
        for v in (7, 8, 10, 12)
    ],
    *[
        _s("MaxPool", 12, f(1, 2, 7, 8), kernel_shape=[3, 3], strides=[2, 2], auto_pad=p)
        for p in ("SAME_UPPER", "SAME_LOWER", "VALID")
    ],
    _s(
        "MaxPool",
        12,
        f(1, 2, 7, 8),
        kernel_shape=[3, 3],
        strides=[2, 2],
        ceil_mode=1,
        pads=[1, 1, 0, 0],
    ),
    _s("MaxPool", 12, f(1, 2, 9, 9), kernel_shape=[3, 3], dilations=[2, 2], outputs=2),
    _s(
        "MaxPool",
        12,
        f(2, 2, 7, 8),
        kernel_shape=[3, 2],
        strides=[2, 2],
        pads=[1, 0, 1, 1],
        outputs=2,
    ),
    _s(
        "MaxPool",
        12,
        f(1, 2, 5, 6),
        kernel_shape=[2, 2],
        strides=[2, 2],
        storage_order=1,
        outputs=2,
    ),
    _s("MaxPool", 12, u8(1, 2, 5, 6), kernel_shape=[2, 2], strides=[1, 2]),
    _s("MaxPool", 12, f(1, 2, 9), kernel_shape=[3], strides=[2]),
    _s("MaxPool", 12, f(1, 2, 5, 6, 7), kernel_shape=[2, 3, 2], pads=[1, 1, 0, 0, 1, 1]),
    *[
        _s(
            "AveragePool",
            v,
            f(2, 3, 7, 8),
            kernel_shape=[3, 3],
            strides=[2, 2],
            pads=[1, 1, 1, 1],
            count_include_pad=c,
        )
        for v in (7, 10, 11, 19)
        for c in (0, 1)
    ],
    *[
        _s(
            "AveragePool",
            19,
            f(1, 2, 7, 8),
            kernel_shape=[3, 3],
            strides=[2, 2],
            ceil_mode=1,
            pads=[1, 0, 0, 1],
            count_include_pad=c,
        )
        for c in (0, 1)
    ],
    *[
        _s("AveragePool", 11, f(1, 2, 7, 8), kernel_shape=[3, 3], strides=[2, 2], auto_pad=p)
        for p in ("SAME_UPPER", "SAME_LOWER")
    ],
    _s("AveragePool", 19, f(1, 2, 9, 9), kernel_shape=[3, 3], dilations=[2, 2], pads=[1, 1, 1, 1]),
    _s("LpPool", 11, f(1, 2, 7, 8), kernel_shape=[3, 3], p=3, pads=[1, 1, 1, 1]),
    *[_s(op, 7, f(2, 3, 4, 5)) for op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")],
    _s(
        "MaxUnpool",
        11,
        np.array([[[[1, 2], [3, 4]]]], np.float32),
        i([[[[5, 7], [13, 15]]]]),
        kernel_shape=[2, 2],
        strides=[2, 2],
    ),
    # normalisation
    *[
        _s("BatchNormalization", v, f(2, 3, 4, 5), f(3), f(3), f(3), f(3, low=0.5))
        for v in (7, 9, 14, 15)
    ],
    _s("BatchNormalization", 9, f(4, 3), f(3), f(3), f(3), f(3, low=0.5)),
    _s("InstanceNormalization", 7, f(2, 3, 4, 5), f(3), f(3)),
    _s("LayerNormalization", 17, f(2, 3, 4), f(4), f(4)),
    _s("LayerNormalization", 17, f(2, 3, 4), f(3, 4), axis=1, outputs=3),
    _s("LRN", 7, f(2, 6, 4, 4), size=3, alpha=0.1),
    _s("LRN", 13, f(2, 6, 4, 4), size=5, alpha=0.1),
    *[_s("LpNormalization", 7, f(2, 3, 4), p=p, axis=1) for p in (1, 2)],
    _s("MeanVarianceNormalization", 13, f(2, 3, 4, 5)),
    _s("GroupNormalization", 21, f(2, 6, 4, 4), f(6), f(6), num_groups=2),
    # shapes
    *[_s("Reshape", v, f(2, 3, 4), i([0, -1])) for v in (7, 13, 14)],
    _s("Reshape", 14, f(0, 3, 4), i([3, 4, 0]), allowzero=1),
    *[_s("Flatten", v, f(2, 3, 4), axis=2) for v in (7, 9, 11, 13)],
    _s("Flatten", 13, f(2, 3, 4), axis=0),
    _s("Flatten", 13, f(2, 3, 4), axis=-1),
    _s("Squeeze", 7, f(1, 3, 1), axes=[0]),
    _s("Squeeze", 11, f(1, 3, 1), axes=[-1]),
    _s("Squeeze", 13, f(1, 3, 1)),
    _s("Squeeze", 13, f(1, 3, 1), i([2])),
    _s("Unsqueeze", 7, f(3), axes=[0, 2]),
    _s("Unsqueeze", 13, f(3, 4), i([-1, 0])),
    _s("Transpose", 7, f(2, 3, 4), perm=[2, 0, 1]),
    _s("Transpose", 13, f(2, 3, 4)),
    *[_s("Concat", v, f(2, 3), f(2, 1), axis=1) for v in (7, 11, 13)],
    _s("Split", 7, f(6, 2), axis=0, split=[1, 2, 3], outputs=3),
    _s("Split", 13, f(6, 2), i([4, 2]), outputs=2),
    _s("Split", 18, f(7, 2), num_outputs=3, outputs=3),
    _s("Slice", 7, f(4, 5), starts=[1, -3], ends=[3, 1000], axes=[0, 1]),
    _s("Slice", 10, f(4, 5), i([3, 0]), i([-1000, 5]), i([0, 1]), i([-1, 2])),
    _s("Slice", 13, f(9), i([-1]), i([-10]), i([0]), i([-3])),
    _s("Slice", 13, f(4, 5), i([1]), i([np.iinfo(np.int64).max]), i([-1])),
    _s("Slice", 13, f(5), i([4]), i([1]), i([0]), i([1])),
    _s("Expand", 8, f(3, 1), i([2, 1, 4])),
    _s("Tile", 7, f(2, 3), i([2, 1])),
    _s("Pad", 7, f(2, 3), pads=[0, 1, 1, 2], value=0.5),
    *[_s("Pad", 7, f(4, 5), pads=[1, 2, 2, 1], mode=m) for m in ("edge", "reflect")],
    _s("Pad", 11, f(2, 3), i([0, 1, 1, -1]), s(0.5)),
    _s("Pad", 13, f(2, 3), i([0, 1, 1, 2]), s(0.5), constant=(1, 2)),
    _s("Pad", 18, f(2, 3, 4), i([1, 2]), None, i([-1]), mode="edge"),
    _s("Pad", 19, f(2, 3, 4), i([3, 2]), None, i([1]), mode="wrap"),
    _s("DepthToSpace", 7, f(1, 8, 2, 3), blocksize=2),
    _s("DepthToSpace", 13, f(1, 8, 2, 3), blocksize=2, mode="CRD"),
    _s("SpaceToDepth", 13, f(1, 2, 4, 6), blocksize=2),
    *[_s("Trilu", 14, f(2, 4, 5), i(k), upper=u) for k in (-1, 1) for u in (0, 1)],
    _s("ReverseSequence", 10, f(4, 3, 2), i([4, 2, 1])),
    _s("CenterCropPad", 18, f(5, 4, 3), i([3, 6]), axes=[0, 1]),
    _s("Shape", 15, f(2, 3, 4), start=-2),
    _s("Size", 13, f(2, 3, 4)),
    # indexing
    *[_s("Gather", v, f(4, 3), i([[0, 2], [1, 3]]), axis=0) for v in (7, 11, 13)],
    _s("Gather", 13, f(4, 3), i(-1), axis=1),
    _s("GatherElements", 13, f(3, 4), i([[0, -1, 2, 1]]), axis=0),
    _s("GatherND", 12, f(2, 3, 4), i([[[1], [0]], [[2], [-1]]]), batch_dims=1),
    _s("ScatterElements", 11, f(3, 4), i([[0, 2, 1, -1]]), f(1, 4), axis=0),
    *[
        _s(
            "ScatterElements",
            18,
            f(3, 4),
            i([[0, 0, 1, 1], [0, 0, 0, 0]]),
            f(2, 4),
            axis=0,
            reduction=r,
        )
        for r in ("add", "mul", "max", "min")
    ],
    _s("ScatterND", 11, f(4, 3), i([[0], [2]]), f(2, 3)),
    *[
        _s("ScatterND", 18, f(4, 3), i([[0], [0]]), f(2, 3), reduction=r)
        for r in ("add", "mul", "max", "min")
    ],
    _s("NonZero", 13, np.array([[1, 0], [0, 2]], np.float32)),
    _s("Compress", 11, f(3, 4), np.array([True, False, True]), axis=0),
    _s("Compress", 11, f(3, 4), np.array([True, False, True])),
    _s("OneHot", 11, i([0, -1, 7]), i(3), np.array([0, 5], np.float32), axis=0),
    _s("Unique", 11, np.array([[2.5, 1], [-3, 0.5]], np.float32), outputs=4),
    _s("Unique", 11, np.array([2, 1, 1, 3, 2], np.float32), outputs=4),
    _s("Unique", 11, np.array([2, 1, 1, 3, 2], np.float32), sorted=0, outputs=4),
    _s("Unique", 11, np.array([[1, 0], [1, 0], [2, 3]], np.float32), axis=0, outputs=4),
    *[_s("CumSum", 14, f(3, 4), i(1), exclusive=e, reverse=r) for e in (0, 1) for r in (0, 1)],
    _s("Where", 16, np.array([True, False]), f(2), f(2)),
    # creation and types
    _s("ConstantOfShape", 9, i([2, 3])),
    *[
        _s("Range", 11, np.array(a, t), np.array(b, t), np.array(c, t))
        for a, b, c in ((1, 8, 3), (5, 0, -2), (3, 3, 1))
        for t in (np.float32, np.int64)
    ],
    _s("EyeLike", 9, f(3, 4), k=1),
    *[_s("Cast", v, f(3, 4), to=to) for v in (9, 13, 19) for to in (6, 7, 9, 10, 11)],
    _s("Cast", 13, np.array([-1, 0, 300], np.int32), to=2),
    _s("IsInf", 10, np.array([np.inf, -np.inf, 1, np.nan], np.float32), detect_negative=0),
    _s(
        "BitShift",
        11,
        np.array([1, 2, 255], np.uint8),
        np.array([1, 7, 3], np.uint8),
        direction="RIGHT",
    ),
    # resizing
    _s("Upsample", 7, f(1, 2, 3, 4), scales=[1.0, 1.0, 2.0, 3.0]),
    _s("Upsample", 7, f(1, 2, 3, 4), scales=[1.0, 1.0, 2.0, 1.5], mode="linear"),
    _s("Upsample", 9, f(1, 2, 3, 4), np.array([1, 1, 2.5, 1.7], np.float32)),
    *[
        _s("Resize", 10, f(1, 2, 7, 9), np.array([1, 1, a, b], np.float32), mode=m)
        for a, b in ((2, 1.5), (0.6, 0.7))
        for m in ("nearest", "linear")
    ],
    *[
        _s(
            "Resize",
            11,
            f(1, 2, 7, 9),
            np.array([], np.float32),
            np.array([1, 1, a, b], np.float32),
            mode=m,
            coordinate_transformation_mode=c,
        )
        for a, b in ((2, 1.5), (0.6, 0.7))
        for m in ("nearest", "linear", "cubic")
        for c in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
    ],
    *[
        _s(
            "Resize",
            13,
            f(1, 2, 7, 9),
            None,
            None,
            i([1, 2, a, b]),
            mode=m,
            coordinate_transformation_mode=c,
        )
        for a, b in ((14, 13), (4, 5), (1, 1))
        for m in ("nearest", "linear", "cubic")
        for c in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
    ],
    *[
        _s(
            "Resize",
            13,
            f(1, 2, 5, 6),
            None,
            np.array([1, 1, 1.6, 0.55], np.float32),
            mode="nearest",
            nearest_mode=n,
            coordinate_transformation_mode=c,
        )
        for n in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
        for c in ("half_pixel", "asymmetric", "tf_half_pixel_for_nn")
    ],
    *[
        _s("Resize", 18, f(1, 2, 9, 9), None, None, i([1, 2, 4, 5]), mode=m, antialias=1)
        for m in ("linear", "cubic")
    ],
    _s(
        "Resize",
        18,
        f(1, 2, 9, 8),
        None,
        None,
        i([4, 5]),
        mode="linear",
        axes=[2, 3],
        keep_aspect_ratio_policy="not_larger",
    ),
    _s(
        "Resize",
        13,
        f(1, 2, 9, 8),
        None,
        np.array([1, 1, 0.5, 0.7], np.float32),
        mode="cubic",
        exclude_outside=1,
    ),
    _s(
        "Resize",
        13,
        f(1, 1, 6, 6),
        np.array([0, 0, 0.2, 0.3, 1, 1, 0.9, 1.2], np.float32),
        None,
        i([1, 1, 4, 4]),
        mode="linear",
        coordinate_transformation_mode="tf_crop_and_resize",
        extrapolation_value=5.0,
    ),
    _s("Resize", 13, f(2, 5, 6), None, np.array([1, 2, 2], np.float32), mode="linear"),
    # recurrent
    *[
        _s(
            "LSTM",
            14,
            f(4, 2, 3),
            f(d, 20, 3),
            f(d, 20, 5),
            f(d, 40),
            hidden_size=5,
            direction=n,
            outputs=3,
        )
        for n, d in (("forward", 1), ("reverse", 1), ("bidirectional", 2))
    ],
    _s(
        "LSTM",
        7,
        f(4, 2, 3),
        f(1, 20, 3),
        f(1, 20, 5),
        f(1, 40),
        np.array([4, 2], np.int32),
        f(1, 2, 5),
        f(1, 2, 5),
        f(1, 15),
        hidden_size=5,
        outputs=3,
    ),
    _s(
        "LSTM",
        14,
        f(4, 2, 3),
        f(2, 20, 3),
        f(2, 20, 5),
        f(2, 40),
        np.array([4, 2], np.int32),
        hidden_size=5,
        direction="bidirectional",
        outputs=3,
    ),
    _s(
        "LSTM",
        7,
        f(4, 2, 3),
        f(1, 20, 3),
        f(1, 20, 5),
        hidden_size=5,
        clip=0.5,
        input_forget=1,
        outputs=3,
    ),
    _s(
        "LSTM",
        7,
        f(4, 2, 3),
        f(1, 20, 3),
        f(1, 20, 5),
        hidden_size=5,
        activations=["HardSigmoid", "Softsign", "Relu"],
        activation_alpha=[0.3],
        activation_beta=[0.4],
        outputs=3,
    ),
    *[
        _s(
            "GRU",
            14,
            f(4, 2, 3),
            f(d, 15, 3),
            f(d, 15, 5),
            f(d, 30),
            hidden_size=5,
            direction=n,
            linear_before_reset=b,
            outputs=2,
        )
        for n, d in (("forward", 1), ("reverse", 1), ("bidirectional", 2))
        for b in (0, 1)
    ],
    _s(
        "GRU",
        7,
        f(4, 2, 3),
        f(2, 15, 3),
        f(2, 15, 5),
        None,
        np.array([1, 4], np.int32),
        f(2, 2, 5),
        hidden_size=5,
        direction="bidirectional",
        outputs=2,
    ),
    *[
        _s(
            "RNN",
            14,
            f(4, 2, 3),
            f(d, 5, 3),
            f(d, 5, 5),
            f(d, 10),
            hidden_size=5,
            direction=n,
            outputs=2,
        )
        for n, d in (("forward", 1), ("reverse", 1), ("bidirectional", 2))
    ],
    _s(
        "RNN",
        7,
        f(4, 2, 3),
        f(1, 5, 3),
        f(1, 5, 5),
        None,
        np.array([2, 3], np.int32),
        hidden_size=5,
        activations=["Relu"],
        outputs=2,
    ),
    # quantised
    *[
        _s("QuantizeLinear", v, f(3, 4, high=5), s(0.03), s(z, t))
        for v in (10, 13, 19, 21)
        for z, t in ((12, np.uint8), (-3, np.int8))
    ],
    _s("QuantizeLinear", 13, f(3, 4), f(4, low=0.01, high=0.1), i8(4), axis=1),
    _s("DequantizeLinear", 10, u8(3, 4), s(0.1), s(7, np.uint8)),
    _s("DequantizeLinear", 13, i8(3, 4), f(3, low=0.1), i8(3), axis=0),
    _s("DequantizeLinear", 13, np.array([5, -9], np.int32), s(0.1)),
    _s("DynamicQuantizeLinear", 11, f(5, 6), outputs=3),
    _s("MatMulInteger", 10, u8(3, 4), i8(4, 5), s(12, np.uint8), s(3, np.int8)),
    _s(
        "ConvInteger",
        10,
        u8(1, 2, 5, 5),
        u8(3, 2, 3, 3),
        s(7, np.uint8),
        s(9, np.uint8),
        pads=[1, 1, 1, 1],
    ),
    _s(
        "QLinearConv",
        10,
        u8(1, 2, 5, 5),
        s(0.02),
        s(100, np.uint8),
        u8(3, 2, 3, 3),
        f(3, low=0.01, high=0.05),
        np.array([127] * 3, np.uint8),
        s(0.1),
        s(120, np.uint8),
        np.array([10, -20, 30], np.int32),
        pads=[1, 1, 1, 1],
        constant=(3, 4, 5),
    ),
    _s(
        "QLinearMatMul",
        10,
        u8(3, 4),
        s(0.02),
        s(100, np.uint8),
        u8(4, 5),
        s(0.03),
        s(110, np.uint8),
        s(0.2),
        s(128, np.uint8),
    ),
    # detection
    *[
        _s(
            "RoiAlign",
            v,
            f(2, 3, 10, 12),
            np.array(ROIS[m], np.float32),
            i([0, 1, 0]),
            output_height=3,
            output_width=4,
            spatial_scale=0.8,
            sampling_ratio=r,
            mode=m,
        )
        for v in (10, 16)
        for r in (0, 2)
        for m in ("avg", "max")
    ],
    _s(
        "MaxRoiPool",
        7,
        f(2, 3, 10, 12),
        np.array([[0, 0, 0, 9, 9], [1, 2, 1, 7, 5]], np.float32),
        pooled_shape=[3, 4],
        spatial_scale=0.8,
    ),
    *[
        _s(
            "NonMaxSuppression",
            11,
            f(2, 8, 4, low=0, high=3),
            f(2, 3, 8, low=0, high=1),
            i([3]),
            s(0.3)[None],
            s(0.2)[None],
            center_point_box=c,
        )
        for c in (0, 1)
    ],
    *[
        _s(
            "GridSample",
            16,
            f(1, 2, 5, 6),
            f(1, 4, 3, 2, low=-1.3, high=1.3),
            mode=m,
            padding_mode=p,
            align_corners=a,
        )
        for m in ("bilinear", "nearest", "bicubic")
        for p in ("zeros", "border", "reflection")
        for a in (0, 1)
    ],
    _s("GridSample", 20, f(1, 2, 4, 5, 6), f(1, 2, 4, 3, 3, low=-1.2, high=1.2), mode="linear"),
    # signal
    _s("DFT", 17, f(2, 8, 1), axis=1, onesided=1),
    _s("STFT", 17, f(1, 32, 1), i(8), f(16), i(16)),
    _s("STFT", 17, f(2, 32), i(8), f(16), i(16)),
    _s("MelWeightMatrix", 17, i(8), i(32), i(8000), s(100.0), s(3500.0)),
    _s("HannWindow", 17, i(10)),
    # losses
    *[
        _s(
            "SoftmaxCrossEntropyLoss",
            13,
            f(4, 3, 2),
            i([[0, 1], [2, 0], [1, 1], [2, 2]]),
            f(3, low=0.1),
            reduction=r,
            ignore_index=1,
            outputs=2,
        )
        for r in ("mean", "sum", "none")
    ],
    # com.microsoft
    _s(
        "FusedConv",
        1,
        f(1, 3, 6, 6),
        f(4, 3, 3, 3),
        f(4),
        activation="LeakyRelu",
        activation_params=[0.2],
        domain=MS,
    ),
    _s("FusedGemm", 1, f(3, 4), f(4, 5), f(5), activation="Relu", alpha=0.5, domain=MS),
    _s("FusedMatMul", 1, f(2, 3, 4), f(2, 5, 4), alpha=0.7, transB=1, domain=MS),
    _s("Gelu", 1, f(3, 4), domain=MS),
    _s("FastGelu", 1, f(3, 4), f(4), domain=MS),
    _s("BiasGelu", 1, f(3, 4), f(4), domain=MS),
    _s("QuickGelu", 1, f(3, 4), domain=MS),
    _s("SkipLayerNormalization", 1, f(2, 3, 8), f(2, 3, 8), f(8), f(8), f(8), domain=MS),
    _s("SkipLayerNormalization", 1, f(2, 3, 8), f(2, 3, 8), f(8), domain=MS, outputs=4),
    _s("SkipSimplifiedLayerNormalization", 1, f(2, 3, 8), f(2, 3, 8), f(8), domain=MS, outputs=4),
    _s(
        "EmbedLayerNormalization",
        1,
        np.array([[1, 2, 3]], np.int32),
        np.array([[0, 1, 1]], np.int32),
        f(10, 8),
        f(5, 8),
        f(2, 8),
        f(8),
        f(8),
        np.array([[1, 1, 0]], np.int32),
        outputs=2,
        domain=MS,
        constant=(2, 3, 4, 5, 6),
    ),
    _s(
        "Attention",
        1,
        f(2, 4, 8),
        f(8, 24),
        f(24),
        np.array([3, 4], np.int32),
        num_heads=2,
        domain=MS,
        constant=(1, 2),
    ),
    _s("Attention", 1, f(2, 4, 8), f(8, 24), f(24), num_heads=2, unidirectional=1, domain=MS),
    _s("MultiHeadAttention", 1, f(2, 4, 8), f(2, 5, 8), f(2, 5, 8), f(24), num_heads=2, domain=MS),
    _s("RotaryEmbedding", 1, f(2, 3, 16), i([0]), f(10, 4), f(10, 4), domain=MS),
    _s(
        "RotaryEmbedding",
        1,
        f(2, 2, 3, 8),
        i([[0, 1, 2], [3, 4, 5]]),
        f(10, 4),
        f(10, 4),
        interleaved=1,
        domain=MS,
    ),
    _s(
        "GroupQueryAttention",
        1,
        f(1, 4, 32),
        f(1, 4, 16),
        f(1, 4, 16),
        None,
        None,
        np.array([3], np.int32),
        np.array(4, np.int32),
        num_heads=4,
        kv_num_heads=2,
        outputs=3,
        domain=MS,
    ),
    _s(
        "GroupQueryAttention",
        1,
        f(1, 1, 64),
        f(1, 1, 32),
        f(1, 1, 32),
        f(1, 2, 6, 16),
        f(1, 2, 6, 16),
        np.array([6], np.int32),
        np.array(7, np.int32),
        f(16, 8),
        f(16, 8),
        num_heads=4,
        kv_num_heads=2,
        do_rotary=1,
        outputs=3,
        domain=MS,
    ),
    *[
        _s(
            op,
            1,
            u8(3, 4),
            s(0.05),
            s(120, np.uint8),
            u8(3, 4),
            s(0.04),
            s(110, np.uint8),
            s(0.2),
            s(100, np.uint8),
            domain=MS,
        )
        for op in ("QLinearAdd", "QLinearMul")
    ],
    _s(
        "QLinearSigmoid",
        1,
        u8(3, 40),
        s(0.05),
        s(120, np.uint8),
        s(1 / 256),
        s(0, np.uint8),
        domain=MS,
        constant=(1, 2, 3, 4),
    ),
    _s(
        "QLinearLeakyRelu",
        1,
        u8(3, 40),
        s(0.05),
        s(120, np.uint8),
        s(0.06),
        s(20, np.uint8),
        alpha=0.1,
        domain=MS,
        constant=(1, 2, 3, 4),
    ),
    _s(
        "QLinearGlobalAveragePool",
        1,
        u8(2, 3, 4, 4),
        s(0.05),
        s(120, np.uint8),
        s(0.02),
        s(110, np.uint8),
        domain=MS,
    ),
    _s(
        "QLinearAveragePool",
        1,
        u8(2, 3, 6, 6),
        s(0.05),
        s(120, np.uint8),
        s(0.037),
        s(110, np.uint8),
        kernel_shape=[3, 3],
        pads=[1, 1, 1, 1],
        domain=MS,
    ),
    _s(
        "QLinearConcat",
        1,
        s(0.1),
        s(110, np.uint8),
        u8(2, 3),
        s(0.05),
        s(120, np.uint8),
        u8(2, 3),
        s(0.07),
        s(100, np.uint8),
        axis=1,
        domain=MS,
        constant=(0, 1, 3, 4, 6, 7),
    ),
    _s(
        "QGemm",
        1,
        u8(3, 4),
        s(0.02),
        s(100, np.uint8),
        u8(4, 5),
        s(0.03),
        s(110, np.uint8),
        None,
        s(0.2),
        s(128, np.uint8),
        domain=MS,
    ),
    _s(
        "DynamicQuantizeMatMul",
        1,
        f(3, 4),
        u8(4, 5),
        s(0.03),
        s(110, np.uint8),
        f(5),
        domain=MS,
        rtol=1e-3,
    ),
    _s(
        "MatMulIntegerToFloat",
        1,
        u8(3, 4),
        u8(4, 5),
        s(0.02),
        s(0.03),
        s(100, np.uint8),
        s(110, np.uint8),
        domain=MS,
    ),
    _s(
        "MatMulNBits",
        1,
        f(3, 32),
        u8(5, 2, 8),
        f(10, low=0.01, high=0.1),
        K=32,
        N=5,
        bits=4,
        block_size=16,
        domain=MS,
        rtol=2e-3,
        constant=(1, 2),
    ),
    _s("NhwcMaxPool", 1, u8(1, 6, 6, 3), kernel_shape=[2, 2], strides=[2, 2], domain=MS),
    _s("Inverse", 1, f(2, 3, 3), domain=MS, rtol=1e-3),
    _s("Trilu", 1, f(4, 4), domain=MS),
    _s("Unique", 1, np.array([2, 1, 1, 3, 2], np.float32), outputs=3, domain=MS),
    _s("Unique", 1, np.array([2.5, 1, -3, 0.5], np.float32), outputs=3, domain=MS),
    _s("ExpandDims", 1, f(2, 3), np.array(1, np.int32), domain=MS),
    # ai.onnx.ml
    _s("Scaler", 1, f(3, 4), offset=[1.0, 2.0, 3.0, 4.0], scale=[0.5, 2.0, 1.0, 1.0], domain=ML),
    *[_s("Normalizer", 1, f(3, 4), norm=n, domain=ML) for n in ("MAX", "L1", "L2")],
    _s("Binarizer", 1, f(3, 4), threshold=0.3, domain=ML),
    _s(
        "Imputer",
        1,
        np.array([[1, np.nan], [np.nan, 2]], np.float32),
        imputed_value_floats=[7.0, 8.0],
        replaced_value_float=float("nan"),
        domain=ML,
    ),
    _s(
        "LinearRegressor",
        1,
        f(3, 4),
        coefficients=[float(v) for v in f(8)],
        intercepts=[0.5, -0.5],
        targets=2,
        domain=ML,
    ),
    *[
        _s(
            "LinearClassifier",
            1,
            f(5, 4),
            coefficients=[float(v) for v in f(12)],
            intercepts=[0.5, -0.5, 0.1],
            classlabels_ints=[3, 5, 9],
            post_transform=p,
            outputs=2,
            domain=ML,
        )
        for p in ("NONE", "SOFTMAX", "LOGISTIC")
    ],
    *[
        _s(
            "LinearClassifier",
            1,
            f(5, 4),
            coefficients=[float(v) for v in f(4)],
            intercepts=[0.5],
            classlabels_ints=[0, 1],
            post_transform=p,
            outputs=2,
            domain=ML,
        )
        for p in ("NONE", "LOGISTIC")
    ],
    _s(
        "LabelEncoder",
        2,
        i([1, 2, 9]),
        keys_int64s=[1, 2],
        values_floats=[0.5, 1.5],
        default_float=-7.0,
        domain=ML,
    ),
    _s("OneHotEncoder", 1, i([1, 2, 9]), cats_int64s=[1, 2, 3], domain=ML),
    _s("ArrayFeatureExtractor", 1, f(3, 4), i([0, 2]), domain=ML),
    _s("FeatureVectorizer", 1, f(3, 2), f(3, 1), inputdimensions=[2, 1], domain=ML),
    *[
        _s(
            "SVMRegressor",
            1,
            f(5, 3),
            coefficients=[0.5, -1.0],
            support_vectors=[float(v) for v in f(6)],
            n_supports=2,
            kernel_type=k,
            kernel_params=[0.5, 0.2, 2.0],
            rho=[0.3],
            domain=ML,
        )
        for k in ("LINEAR", "POLY", "RBF", "SIGMOID")
    ],
    _s(
        "TreeEnsembleRegressor",
        1,
        f(9, 2),
        nodes_treeids=[0, 0, 0],
        nodes_nodeids=[0, 1, 2],
        nodes_featureids=[1, 0, 0],
        nodes_values=[0.1, 0.0, 0.0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"],
        nodes_truenodeids=[1, 0, 0],
        nodes_falsenodeids=[2, 0, 0],
        target_treeids=[0, 0],
        target_nodeids=[1, 2],
        target_ids=[0, 0],
        target_weights=[1.5, -2.5],
        n_targets=1,
        base_values=[0.5],
        domain=ML,
    ),
    _s(
        "TreeEnsembleClassifier",
        1,
        f(9, 2),
        nodes_treeids=[0, 0, 0],
        nodes_nodeids=[0, 1, 2],
        nodes_featureids=[1, 0, 0],
        nodes_values=[0.1, 0.0, 0.0],
        nodes_modes=["BRANCH_GT", "LEAF", "LEAF"],
        nodes_truenodeids=[1, 0, 0],
        nodes_falsenodeids=[2, 0, 0],
        class_treeids=[0, 0, 0],
        class_nodeids=[1, 2, 2],
        class_ids=[0, 1, 2],
        class_weights=[1.0, 0.4, 0.6],
        classlabels_int64s=[4, 5, 6],
        post_transform="SOFTMAX",
        outputs=2,
        domain=ML,
    ),
    _s(
        "TreeEnsembleClassifier",
        1,
        f(9, 2),
        nodes_treeids=[0, 0, 0],
        nodes_nodeids=[0, 1, 2],
        nodes_featureids=[1, 0, 0],
        nodes_values=[0.1, 0.0, 0.0],
        nodes_modes=["BRANCH_LT", "LEAF", "LEAF"],
        nodes_truenodeids=[1, 0, 0],
        nodes_falsenodeids=[2, 0, 0],
        class_treeids=[0, 0],
        class_nodeids=[1, 2],
        class_ids=[1, 1],
        class_weights=[0.8, 0.3],
        classlabels_int64s=[0, 1],
        outputs=2,
        domain=ML,
    ),
    *[
        _s(
            "TreeEnsembleClassifier",
            1,
            f(9, 2),
            nodes_treeids=[0, 0, 0],
            nodes_nodeids=[0, 1, 2],
            nodes_featureids=[1, 0, 0],
            nodes_values=[0.1, 0.0, 0.0],
            nodes_modes=["BRANCH_LT", "LEAF", "LEAF"],
            nodes_truenodeids=[1, 0, 0],
            nodes_falsenodeids=[2, 0, 0],
            class_treeids=[0] * len(c),
            class_nodeids=n,
            class_ids=c,
            class_weights=w,
            classlabels_int64s=[0, 1],
            post_transform=p,
            outputs=2,
            domain=ML,
        )
        for n, c, w in (
            ([1, 1, 2, 2], [0, 1, 0, 1], [0.7, 0.3, 0.2, 0.8]),
            ([1, 2], [0, 0], [0.8, 0.3]),
            ([1, 2], [0, 0], [0.8, -0.3]),
            ([1, 2], [1, 1], [0.8, -0.3]),
        )
        for p in ("NONE", "LOGISTIC")
    ],
    # attention
    _s("Attention", 23, f(2, 4, 5, 8), f(2, 2, 6, 8), f(2, 2, 6, 8)),
    _s(
        "Attention",
        23,
        f(2, 5, 32),
        f(2, 6, 32),
        f(2, 6, 24),
        f(5, 6),
        q_num_heads=4,
        kv_num_heads=4,
        scale=0.3,
    ),
    _s(
        "Attention",
        23,
        f(2, 4, 5, 8),
        f(2, 4, 3, 8),
        f(2, 4, 3, 8),
        None,
        f(2, 4, 2, 8),
        f(2, 4, 2, 8),
        is_causal=1,
        softcap=2.0,
        outputs=3,
    ),
    *[
        _s(
            "RotaryEmbedding",
            23,
            f(2, 4, 3, 8),
            f(10, 4),
            f(10, 4),
            i([[0, 1, 2], [4, 5, 6]]),
            interleaved=v,
        )
        for v in (0, 1)
    ],
]


def g(text: str) -> GraphProto:
    """Return a subgraph from ONNX's own notation."""
    return parser.parse_graph(text)


def t(value: Any, dtype: Any = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.array(value, dtype=dtype))


def b(*values: int) -> np.ndarray:
    return np.array(values, dtype=bool)


def words(*values: Any) -> np.ndarray:
    return np.array(values, dtype=object)


YES, NO = np.array(True), np.array(False)
COUNT = g(
    "body (int64 n, bool c, float[2] s) => (bool go, float[2] next, float[2] seen) {"
    " go = Identity(c) next = Add(s, s) seen = Identity(next) }"
)
SUM_UP = g(
    "body (float[2] s, float[2] x) => (float[2] next, float[2] seen)"
    " { next = Add(s, x) seen = Identity(next) }"
)
THEN, ELSE = (
    g(f"branch () => (float[2] {name}) {{ {name} = Constant <value = float[2] {{{v}}}> () }}")
    for name, v in (("yes", "1, 2"), ("no", "3, 4"))
)

SAMPLES += [
    *[_s(op, 7, f(3, 4, low=-0.9, high=0.9)) for op in ("Acos", "Asin", "Atan", "Sin", "Cos")],
    _s("Tan", 7, f(3, 4, low=-0.9, high=0.9)),
    *[_s(op, 9, f(3, 4)) for op in ("Sinh", "Cosh", "Asinh", "Erf", "Sign")],
    _s("Acosh", 9, f(3, 4, low=1.1, high=3)),
    _s("Atanh", 9, f(3, 4, low=-0.9, high=0.9)),
    _s("Round", 11, np.array([-2.5, -0.5, 0.5, 1.5, 2.4], np.float32)),
    _s("Swish", 24, f(3, 4), alpha=1.5),
    *[_s(op, 7, b(1, 1, 0, 0), b(1, 0, 1, 0)) for op in ("And", "Or", "Xor")],
    _s("Not", 7, b(1, 0)),
    _s("Equal", 7, i([[1, 2, 3]]), i([[1], [3]])),
    _s("Equal", 13, f(3), f(3)),
    _s("Equal", 19, words("a", "b"), words("a", "c")),
    *[_s(op, 7, f(2, 3), f(3)) for op in ("Greater", "Less")],
    *[_s(op, 9, i([1, 2, 3]), i([2, 2, 2])) for op in ("Greater", "Less")],
    *[_s(op, 12, i([1, 2, 3]), i([2])) for op in ("GreaterOrEqual", "LessOrEqual")],
    *[_s(op, 18, i([6, 5]), i([3, 3])) for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")],
    _s("BitwiseNot", 18, i([6, -1])),
    _s("IsNaN", 9, np.array([1, np.nan, np.inf], np.float32)),
    *[
        _s(op, 18, f(2, 3, 4), i([1]))
        for op in ("ReduceL1", "ReduceLogSumExp", "ReduceMin", "ReduceProd", "ReduceSumSquare")
    ],
    _s("ReduceMin", 20, np.array([[True, False], [True, True]]), i([1])),
    _s("ReduceLogSum", 18, f(2, 3, low=0.1), i([0]), keepdims=0),
    _s("GatherND", 11, f(2, 3, 4), i([[0, 1], [1, -1]])),
    *[_s("Scatter", v, f(3, 4), i([[0, 2, 1, 2]]), f(1, 4), axis=0) for v in (9,)],
    _s("Scatter", 10, f(3, 4), i([[0, 2, 1, 2]]), f(1, 4), axis=0),
    _s("Shape", 7, f(2, 3, 4)),
    _s("Identity", 7, f(2, 3)),
    _s("Identity", 14, [f(2), f(3, 2)]),
    _s("CastLike", 15, f(2, 3), i(1)),
    _s("Constant", 9, value=t([[1, 2], [3, 4]])),
    _s("Constant", 12, value_floats=[1.5, 2.5]),
    _s("Constant", 13, value_ints=[1, 2]),
    *[_s("Dropout", v, f(2, 3), ratio=0.4, outputs=2) for v in (7, 10)],
    _s("Dropout", 12, f(2, 3), s(0.4), outputs=2),
    _s("GroupNormalization", 18, f(2, 6, 4, 4), f(2), f(2), num_groups=2),
    _s("RMSNormalization", 23, f(2, 3, 4), f(4), epsilon=1e-3),
    _s("DFT", 20, f(2, 8, 1), None, i(1), onesided=1),
    _s("NegativeLogLikelihoodLoss", 12, f(3, 4), i([0, 3, 1]), f(4, low=0.1), ignore_index=3),
    _s("AffineGrid", 20, f(2, 2, 3), i([2, 1, 3, 4]), align_corners=1),
    _s("AffineGrid", 20, f(1, 2, 3), i([1, 1, 3, 4])),
    _s("AffineGrid", 20, f(1, 3, 4), i([1, 1, 2, 3, 4]), align_corners=1, constant=(1,)),
    _s("AffineGrid", 20, f(2, 3, 4), i([2, 1, 2, 3, 1]), align_corners=1),
    *[_s(op, 17, i(9), periodic=0) for op in ("BlackmanWindow", "HammingWindow")],
    # control flow
    *[_s("If", v, YES, then_branch=THEN, else_branch=ELSE) for v in (7, 11)],
    _s("If", 13, NO, then_branch=THEN, else_branch=ELSE),
    *[_s("Loop", v, i(3), YES, f(2), body=COUNT, outputs=2) for v in (7, 11)],
    _s("Loop", 13, i(3), None, f(2), body=COUNT, outputs=2),
    _s("Scan", 8, None, f(1, 2), f(1, 4, 2), body=SUM_UP, num_scan_inputs=1, outputs=2),
    _s("Scan", 9, f(2), f(4, 2), body=SUM_UP, num_scan_inputs=1, outputs=2),
    _s(
        "Scan",
        11,
        f(2),
        f(2, 4),
        body=SUM_UP,
        num_scan_inputs=1,
        scan_input_axes=[-1],
        scan_input_directions=[1],
        scan_output_axes=[-1],
        scan_output_directions=[1],
        outputs=2,
    ),
    # sequences, optionals, strings
    _s("SequenceConstruct", 11, f(2, 3), f(1)),
    _s("SequenceAt", 11, [f(2), f(3)], i(-1)),
    _s("SequenceEmpty", 11, dtype=7),
    _s("SequenceErase", 11, [f(2), f(3), f(1)], i(1)),
    _s("SequenceErase", 11, [f(2), f(3)]),
    _s("SequenceInsert", 11, [f(2), f(3)], f(4), i(1)),
    _s("SequenceLength", 11, [f(2), f(3)]),
    _s("ConcatFromSequence", 11, [f(2, 3), f(1, 3)], axis=0),
    _s("ConcatFromSequence", 11, [f(2, 3), f(2, 3)], axis=1, new_axis=1),
    _s("SplitToSequence", 11, f(5, 2), i(2)),
    _s("SplitToSequence", 11, f(5, 2), i([1, 4]), axis=0),
    _s("SplitToSequence", 11, f(3, 2), keepdims=0),
    _s(
        "SequenceMap",
        17,
        [f(2), f(3)],
        body=g("body (float[n] x) => (float[n] y) { y = Neg(x) }"),
    ),
    _s("Optional", 15, f(2)),
    _s("OptionalHasElement", 18, f(2)),
    _s("OptionalGetElement", 18, f(2)),
    _s("StringConcat", 20, words("a", "b"), words("c", "")),
    _s("StringSplit", 20, words("a b", " c  d e"), outputs=2),
    _s("StringSplit", 20, words("", "a"), delimiter=",", outputs=2),
    _s("StringSplit", 20, words("a b  c ", "", "d"), maxsplit=1, outputs=2),
    _s("StringSplit", 20, words("a,b", ",c"), delimiter=",", maxsplit=1, outputs=2),
    _s("RegexFullMatch", 20, words("www.a.com", "b"), pattern=r"www\.[a-z]+\.com"),
    _s("StringNormalizer", 10, words("The", "the", "Cat"), case_change_action="UPPER", locale="C"),
    _s(
        "StringNormalizer",
        10,
        words("The", "the", "Cat"),
        case_change_action="LOWER",
        locale="C",
        is_case_sensitive=1,
        stopwords=["the"],
    ),
    _s(
        "TfIdfVectorizer",
        9,
        i([1, 2, 3, 2, 3]),
        max_gram_length=2,
        max_skip_count=1,
        min_gram_length=1,
        mode="TFIDF",
        ngram_counts=[0, 2],
        ngram_indexes=[0, 1, 2],
        pool_int64s=[2, 3, 2, 3],
        weights=[0.5, 2.0, 3.0],
    ),
    # com.microsoft
    _s(
        "ConvTransposeWithDynamicPads",
        1,
        f(1, 3, 5, 4),
        f(3, 2, 3, 3),
        i([1, 0, 1, 2]),
        f(2),
        strides=[2, 2],
        kernel_shape=[3, 3],
        domain=MS,
    ),
    _s("QuantizeLinear", 1, f(3, 4), s(0.02), s(100, np.uint8), domain=MS),
    _s("QuantizeLinear", 1, f(3, 4), f(4, low=0.01, high=0.1), i8(4), axis=1, domain=MS),
    _s("DequantizeLinear", 1, u8(3, 4), s(0.02), s(100, np.uint8), domain=MS),
    _s("DequantizeLinear", 1, i8(3, 4), f(3, low=0.1), i8(3), axis=0, domain=MS),
    _s(
        "GridSample",
        1,
        f(1, 2, 5, 6),
        f(1, 4, 3, 2, low=-1.3, high=1.3),
        padding_mode="border",
        domain=MS,
    ),
    _s("SimplifiedLayerNormalization", 1, f(2, 3, 8), f(8), axis=-1, outputs=2),
    _s("LayerNormalization", 7, f(2, 3, 8), f(8), f(8), axis=-1, outputs=3),
    _s("LayerNormalization", 12, f(2, 3, 8), f(8), axis=-1),
    _s("LayerNormalization", 17, f(2, 3, 4), f(4), f(4), stash_type=0),
    _s("ThresholdedRelu", 7, f(2, 3), alpha=0.5),
    _s("Affine", 7, f(2, 3), alpha=2.0, beta=1.0),
    _s("Scale", 7, f(2, 3), scale=3.0),
    _s("ScaledTanh", 7, f(2, 3), alpha=2.0, beta=0.5),
    _s("ParametricSoftplus", 7, f(2, 3), alpha=2.0, beta=0.5),
    _s("ImageScaler", 7, f(2, 3, 4, 5), bias=[1.0, 2.0, 3.0], scale=2.0),
    _s("Crop", 7, f(2, 3, 6, 7), border=[1, 2, 1, 0]),
    _s("Crop", 7, f(2, 3, 6, 7), border=[1, 2, 1, 0], scale=[2, 3]),
    _s("MeanVarianceNormalization", 7, f(2, 3, 4, 5)),
    _s("MeanVarianceNormalization", 7, f(2, 3, 4, 5), across_channels=1, normalize_variance=0),
    _s("Pad", 1, f(2, 3), i([0, 1, 1, 2]), s(0.5)[None], domain=MS),
    _s("Pad", 1, f(4, 5), i([1, 2, 2, 1]), mode="reflect", domain=MS),
    _s("TransposeMatMul", 1, f(2, 4, 3), f(2, 5, 4), transA=1, transB=1, alpha=0.5, domain=MS),
    *[
        Sample(
            "QLinearSoftmax",
            1,
            (u8(2, 3, 40), s(0.05), s(120, np.uint8), s(1 / 256), s(0, np.uint8)),
            {"axis": a, "opset": v},
            domain=MS,
        )
        for a, v in ((-1, 13), (1, 13), (1, 12))
    ],
    _s(
        "QAttention",
        1,
        u8(2, 4, 8),
        i8(8, 24),
        f(24),
        s(0.02),
        s(0.03),
        np.array([3, 4], np.int32),
        s(120, np.uint8),
        s(3, np.int8),
        num_heads=2,
        domain=MS,
        constant=(1, 3, 4, 6, 7),
    ),
    *[
        _s(
            "DynamicQuantizeLSTM",
            1,
            f(4, 1, 3),
            u8(d, 3, 20),
            u8(d, 5, 20),
            f(d, 40),
            None,
            None,
            None,
            None,
            f(d, low=0.01, high=0.02),
            np.array([120] * d, np.uint8),
            f(d, low=0.01, high=0.02),
            np.array([130] * d, np.uint8),
            hidden_size=5,
            direction=n,
            outputs=3,
            domain=MS,
            constant=(1, 2, 3, 8, 9, 10, 11),
        )
        for n, d in (("forward", 1), ("reverse", 1), ("bidirectional", 2))
    ],
    # rounding at ties: powers of two make every second result one
    *[
        _s(
            "QLinearAveragePool",
            1,
            u8(1, 8, 12, 12),
            s(0.5),
            s(z, np.uint8),
            s(2.0),
            s(y, np.uint8),
            kernel_shape=[2, 2],
            domain=MS,
        )
        for z, y in ((120, 110), (0, 3), (7, 101))
    ],
    *[
        _s(
            "QLinearGlobalAveragePool",
            1,
            u8(4, 16, 2, 2),
            s(x),
            s(z, np.uint8),
            s(y),
            s(111, np.uint8),
            domain=MS,
        )
        for x, z, y in ((0.5, 120, 0.25), (0.5, 7, 1.0), (0.1, 7, 0.2))
    ],
    *[
        _s(
            op,
            1,
            u8(9, 400),
            s(x),
            s(120, np.uint8),
            u8(9, 400),
            s(0.25),
            s(111, np.uint8),
            s(y),
            s(101, np.uint8),
            domain=MS,
        )
        for op in ("QLinearAdd", "QLinearMul")
        for x, y in ((0.5, 1.0), (0.1, 0.8), (0.037, 0.304))
    ],
    # ai.onnx.ml
    _s("CastMap", 1, {1: 0.5, 3: 2.0, 0: 7.0}, domain=ML),
    _s("CastMap", 1, {1: 0.5, 3: 2.0}, map_form="SPARSE", max_map=5, domain=ML),
    *[
        _s("CategoryMapper", 1, x, cats_int64s=[1, 2], cats_strings=["a", "b"], domain=ML)
        for x in (i([1, 2, 9]), words("a", "z"))
    ],
    _s("DictVectorizer", 1, {"a": 1.5, "c": 2.5}, string_vocabulary=["c", "b", "a"], domain=ML),
    _s("DictVectorizer", 1, {1: 1.5, 7: 2.5}, int64_vocabulary=[7, 1, 3], domain=ML),
    *[
        _s("LabelEncoder", 1, x, classes_strings=["a", "b"], default_string="none", domain=ML)
        for x in (words("b", "z"), i([1, 0, 5]))
    ],
    *[
        _s(
            "SVMClassifier",
            1,
            f(7, 3),
            classlabels_ints=[3, 5],
            coefficients=[0.5, -1.0, 0.7, -0.2],
            support_vectors=[float(v) for v in f(12)],
            vectors_per_class=[2, 2],
            kernel_type=k,
            kernel_params=[0.5, 0.2, 2.0],
            rho=[0.3],
            outputs=2,
            domain=ML,
        )
        for k in ("LINEAR", "POLY", "RBF", "SIGMOID")
    ],
    _s(
        "SVMClassifier",
        1,
        f(7, 3),
        classlabels_ints=[3, 5, 6],
        coefficients=[float(v) for v in f(8)],
        support_vectors=[float(v) for v in f(12)],
        vectors_per_class=[1, 2, 1],
        kernel_type="RBF",
        kernel_params=[0.5, 0.2, 2.0],
        rho=[0.3, -0.2, 0.1],
        outputs=2,
        domain=ML,
    ),
    _s(
        "SVMClassifier",
        1,
        f(7, 3),
        classlabels_ints=[3, 5],
        coefficients=[0.5, -1.0, 0.7, -0.2],
        support_vectors=[float(v) for v in f(12)],
        vectors_per_class=[2, 2],
        kernel_type="RBF",
        kernel_params=[0.5, 0.2, 2.0],
        rho=[0.3],
        prob_a=[-1.5],
        prob_b=[0.2],
        outputs=2,
        domain=ML,
    ),
    _s(
        "SVMClassifier",
        1,
        f(7, 3),
        classlabels_ints=[3, 5, 6],
        coefficients=[float(v) for v in f(9)],
        kernel_type="LINEAR",
        kernel_params=[0.5, 0.2, 2.0],
        rho=[0.3, -0.2, 0.1],
        outputs=2,
        domain=ML,
    ),
    *[
        _s(
            "SVMClassifier",
            1,
            steady(7, 3),
            classlabels_ints=[int(v) for v in range(3, 3 + c)],
            coefficients=[float(v) for v in steady(4 * (c - 1))],
            support_vectors=[float(v) for v in steady(12)],
            vectors_per_class=[1, 3] if c == 2 else [1, 2, 1],
            kernel_type="RBF",
            kernel_params=[0.5, 0.2, 2.0],
            rho=[0.3, -0.2, 0.1][: c * (c - 1) // 2],
            post_transform=p,
            outputs=2,
            domain=ML,
            **(
                {"prob_a": [-1.5, 0.7, 2.0][: 2 * c - 3], "prob_b": [0.2, 0.1, 0.0][: 2 * c - 3]}
                if proba
                else {}
            ),
        )
        for c in (2, 3)
        for p in ("NONE", "LOGISTIC", "SOFTMAX")
        for proba in (False, True)
    ],
    *[
        _s(
            "SVMClassifier",
            1,
            f(7, 3),
            classlabels_strings=["no", "yes"],
            coefficients=[float(v) for v in f(6, low=low)],
            kernel_type="LINEAR",
            kernel_params=[0.0, 0.0, 0.0],
            rho=[0.1],
            outputs=2,
            domain=ML,
        )
        for low in (0.1, -2)
    ],
    _s("ZipMap", 1, f(2, 3), classlabels_int64s=[4, 5, 6], domain=ML),
    _s("ZipMap", 1, f(2, 2), classlabels_strings=["a", "b"], domain=ML),
    *[
        _s(
            "TreeEnsemble",
            5,
            f(9, 2),
            aggregate_function=a,
            leaf_targetids=[0, 0],
            leaf_weights=t([1.5, -2.5]),
            n_targets=1,
            nodes_falseleafs=[1],
            nodes_falsenodeids=[1],
            nodes_featureids=[1],
            nodes_modes=t([0], np.uint8),
            nodes_splits=t([0.1]),
            nodes_trueleafs=[1],
            nodes_truenodeids=[0],
            tree_roots=[0],
            domain=ML,
        )
        for a in (0, 1, 2, 3)
    ],
]

SAMPLES += [  # of trees, whose operators opset 5 deprecates and ONNX Runtime no longer runs there
    replace(sample, opset=5, origin=3)
    for sample in SAMPLES
    if sample.op in {"TreeEnsembleClassifier", "TreeEnsembleRegressor"} and sample.opset == 1
]

DOUBLE = TensorProto.DOUBLE

SAMPLES += [  # floats at versions whose other samples are integers or truth values
    _s("Clip", 12, f(2, 3), s(-0.5), s(0.7)),
    *[_s("Pow", v, f(2, 3, low=0.5), f(2, 3)) for v in (13, 15)],
    _s("ReduceMin", 20, f(2, 3, 4), i([1])),
    _s("Mod", 10, f(2, 3), f(2, 3, low=0.5), fmod=1),
    replace(_s("Mod", 28, f(2, 3), f(2, 3, low=0.5), fmod=1), origin=13),
    *[_s("Cast", v, f(2, 3), to=DOUBLE) for v in (6, 9, 13, 19, 21, 23, 24, 25)],
    replace(_s("Cast", 28, f(2, 3), to=DOUBLE), origin=25),
    *[_s("CastLike", v, f(2, 3), s(0, np.float64)) for v in (15, 19, 21, 23, 24, 25)],
    _s(
        "EmbedLayerNormalization", 1, np.array([[1, 2, 3]], np.int32),
        np.array([[0, 1, 1]], np.int32), f(10, 8), f(5, 8), f(2, 8), f(8), f(8), outputs=2,
        domain=MS,
    ),
]  # fmt: skip

SAMPLES += [
    # int8, scales by channel; halved, since sums of eight bits saturate without VNNI
    *[
        _s(
            "DynamicQuantizeLSTM",
            1,
            f(7, 1, 4),
            i8(d, 4, 24) // 2,
            i8(d, 6, 24) // 2,
            f(d, 48),
            None,
            f(d, 1, 6),
            f(d, 1, 6),
            peepholes,
            f(d, 24, low=0.005, high=0.02),
            np.zeros((d, 24), np.int8),
            f(d, 24, low=0.005, high=0.02),
            np.zeros((d, 24), np.int8),
            hidden_size=6,
            direction=n,
            outputs=3,
            domain=MS,
            constant=(1, 2, 3, 8, 9, 10, 11),
        )
        for n, d, peepholes in (("forward", 1, f(1, 18)), ("bidirectional", 2, None))
    ],
]
