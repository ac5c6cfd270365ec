"""The ONNX specification as a lookup: which version of an operator a node means, and its slots.

The tables here say what the specification's schemas do not: where weights stand, and which input
slots carry no gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import TensorProto

from surgeon.graph.walk import FLOATS, attribute

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

STANDARD = ("", "ai.onnx")


def opsets(model: ModelProto) -> dict[str, int]:
    """Return {domain: version}; the standard domain is `""`."""
    return {
        ("" if item.domain in STANDARD else item.domain): item.version
        for item in model.opset_import
    }


WEIGHT_SLOTS: dict[str, tuple[int, ...]] = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "DeformConv": (1, 3),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "Gather": (0,),
    "LSTM": (1, 2, 3, 7),
    "GRU": (1, 2, 3),
    "RNN": (1, 2, 3),
    "BatchNormalization": (1, 2, 3, 4),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "RMSNormalization": (1,),
    "SimplifiedLayerNormalization": (1,),
    "SkipLayerNormalization": (2, 3, 4),
    "FusedConv": (1, 2),
    "FusedMatMul": (0, 1),
    "FusedGemm": (0, 1, 2),
    "PRelu": (1,),
}
"""Input slots where a weight stands, by operator."""

LINEAR = frozenset({"Conv", "ConvTranspose", "DeformConv", "Gemm", "MatMul", "FusedMatMul"})

STATISTICS_SLOTS = {"BatchNormalization": (3, 4)}

SETTING_SLOTS: dict[str, tuple[int, ...]] = {
    "Clip": (1, 2),
    "Resize": (1, 2),
    "Upsample": (1,),
    "Pow": (1,),
    "Pad": (2,),
    "Dropout": (1,),
    "QuantizeLinear": (1,),
    "DequantizeLinear": (1,),
}
"""Input slots of float settings: bounds, scales, exponents, pad values, ratios."""

WITHOUT_GRADIENT = frozenset(
    {
        "Shape", "Size", "ArgMax", "ArgMin", "NonZero", "Equal", "Less", "LessOrEqual", "Greater",
        "GreaterOrEqual", "And", "Or", "Not", "Xor", "IsNaN", "IsInf", "NonMaxSuppression",
        "Range", "ConstantOfShape", "EyeLike", "RandomNormalLike", "RandomUniformLike",
        "Bernoulli", "Multinomial", "Unique", "DynamicQuantizeLinear", "ConvInteger",
        "MatMulInteger", "QLinearConv", "QLinearMatMul", "StringNormalizer", "Hardmax",
    }
)  # fmt: skip
"""Operators none of whose outputs carries a gradient."""

SLOTS_WITHOUT_GRADIENT: dict[str, tuple[int, ...]] = {
    "Slice": (1, 2, 3, 4),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Pad": (1, 2, 3),
    "Dropout": (1, 2),
    "Where": (0,),
    "OneHot": (0, 1),
    "BatchNormalization": (3, 4),
    "RoiAlign": (1, 2),
    "Compress": (1,),
    "QuantizeLinear": (1, 2),
    "DequantizeLinear": (1, 2),
    "LSTM": (4,),
    "GRU": (4,),
    "RNN": (4,),
    "Loop": (0, 1),
    "If": (0,),
    "SoftmaxCrossEntropyLoss": (1,),
    "NegativeLogLikelihoodLoss": (1,),
}


def carries_gradient(node: NodeProto, slot: int) -> bool:
    """Say whether a gradient reaches input `slot` of a node; settings and indices never get one."""
    kind = node.op_type
    if kind in WITHOUT_GRADIENT:
        return False
    if kind.startswith(("Reduce", "Squeeze", "Unsqueeze")) and slot > 0:
        return False
    if slot in SETTING_SLOTS.get(kind, ()) or slot in SLOTS_WITHOUT_GRADIENT.get(kind, ()):
        return False
    if kind in ("Cast", "CastLike"):
        to = attribute(node, "to")
        return slot == 0 and (to is None or to.i in FLOATS)
    return True


def type_name(element: int) -> str:
    """Return the ONNX element type in lower case: `float`, `int64`, `bfloat16`."""
    try:
        return str(TensorProto.DataType.Name(element)).lower()
    except ValueError:
        return "undefined"
