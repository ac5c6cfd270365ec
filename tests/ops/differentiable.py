"""Which samples have a gradient to check, and with respect to which inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from samples import Sample

WITHOUT: Final = {
    "whole or true-or-false results": (
        "And ArgMax ArgMin BitCast Cast CastLike Ceil Equal Floor Greater GreaterOrEqual Hardmax "
        "IsInf IsNaN Less LessOrEqual NonMaxSuppression NonZero OptionalHasElement Range Round "
        "SequenceLength Shape Sign Size Unique"
    ),
    "what they compute does not depend on values": "EyeLike ConstantOfShape SequenceEmpty",
    "quantised: the gradient goes straight through, tested in tests/tune": (
        "DequantizeLinear DynamicQuantizeLinear DynamicQuantizeLSTM DynamicQuantizeMatMul "
        "MatMulIntegerToFloat MatMulNBits QAttention QGemm QLinearAdd QLinearAveragePool "
        "QLinearConcat QLinearConv QLinearGlobalAveragePool QLinearLeakyRelu QLinearMatMul "
        "QLinearMul QLinearSigmoid QLinearSoftmax QuantizeLinear"
    ),
    "drawn numbers": (
        "Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike"
    ),
    "parameters of a fixed filter": "MelWeightMatrix",
    "a kink at every whole offset": "DeformConv",
}
"""Operators nobody checks, by reason."""

ONLY_DATA: Final = frozenset(
    {"BiasDropout", "Dropout", "MaxRoiPool", "Resize", "RoiAlign", "Upsample"}
)
"""Operators of which only the first input is differentiable."""

_WITHOUT: Final = frozenset(" ".join(WITHOUT.values()).split())


def _is_real(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_real(item) for item in value)
    return isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.size > 0


def learned(sample: Sample) -> list[int]:
    """Return the positions of the inputs whose gradient is checked; empty where there is none."""
    if sample.op == "Cast" and sample.attributes["to"] == 11:  # double to double
        return [0]
    if sample.op in _WITHOUT or sample.domain == "ai.onnx.ml":  # classic models run in float32
        return []
    if sample.op == "Pow" and sample.inputs[0].dtype.kind == "i":
        return []
    return [
        number
        for number, value in enumerate(sample.inputs)
        if _is_real(value)
        and number not in sample.constant
        and (number == 0 or sample.op not in ONLY_DATA)
    ]
