"""Which samples have a gradient to check, with respect to which inputs, and how closely."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from samples import Maybe

if TYPE_CHECKING:
    from samples import Sample

WITHOUT: Final = {
    "results are whole numbers, truth values or positions, constant between jumps": (
        "And ArgMax ArgMin BitCast Ceil Equal Floor Greater GreaterOrEqual Hardmax IsInf IsNaN "
        "Less LessOrEqual NonMaxSuppression NonZero Not OptionalHasElement Or Round SequenceLength "
        "Shape Sign Size Xor ai.onnx.ml::Binarizer"
    ),
    "results do not depend on a float input": "Constant ConstantOfShape EyeLike SequenceEmpty",
    "the inputs are whole numbers": (
        "BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow ConvInteger "
        "HammingWindow HannWindow MatMulInteger com.microsoft::NhwcMaxPool"
    ),
    "the inputs are strings or files": (
        "ImageDecoder RegexFullMatch StringConcat StringNormalizer StringSplit TfIdfVectorizer"
    ),
    "results are rounded to integers, or made of inputs that are: constant between jumps": (
        "DynamicQuantizeLinear DynamicQuantizeLSTM QGemm "
        "QLinearAdd QLinearAveragePool QLinearConcat QLinearConv QLinearGlobalAveragePool "
        "QLinearLeakyRelu QLinearMatMul QLinearMul QLinearSigmoid QLinearSoftmax QuantizeLinear"
    ),
    "numbers are drawn anew in every run": (
        "Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike"
    ),
    "the inputs decide the shape of the result and are read on the host": "Range",
    "edges of a filter are rounded to bins: constant between jumps": "MelWeightMatrix",
    "trees compare with thresholds: constant between jumps": (
        "ai.onnx.ml::TreeEnsemble ai.onnx.ml::TreeEnsembleClassifier "
        "ai.onnx.ml::TreeEnsembleRegressor"
    ),
    "maps, strings and categories, which have no gradient": (
        "ai.onnx.ml::CastMap ai.onnx.ml::CategoryMapper ai.onnx.ml::DictVectorizer "
        "ai.onnx.ml::LabelEncoder ai.onnx.ml::OneHotEncoder ai.onnx.ml::ZipMap"
    ),
}
"""Operators nobody checks, by reason; where no domain stands before a name, in every domain."""

ONLY: Final = {
    "CastLike": (0,),  # the other gives its type
    "BiasDropout": (0, 1, 2),  # not the ratio, which is drawn against
    "Dropout": (0,),
    "DynamicQuantizeMatMul": (2, 4),  # scale and bias; the data is rounded
    "MaxRoiPool": (0,),  # regions are rounded to whole bins
    "Resize": (0,),  # scales decide a shape
    "Upsample": (0,),
}
"""Inputs with a gradient, of operators where not every float input has one."""

SINGLE: Final = frozenset(
    {"DynamicQuantizeMatMul", "FeatureVectorizer", "LayerNormalization", "LinearAttention",
     "LinearClassifier", "LinearRegressor", "Normalizer", "SVMClassifier", "SVMRegressor", "Scaler"}
)  # fmt: skip
"""Operators computed in float32 by their definition, so that differences are coarser."""

_WITHOUT: Final = frozenset(" ".join(WITHOUT.values()).split())
_DOUBLE: Final = {11, "DOUBLE"}

IN_A_GRAPH: Final = {
    **{("", "If", since): "its branches take values from around it"
       for since in (1, 11, 13, 16, 19, 21, 23, 24, 25)},
    ("ai.onnx.preview.training", "Gradient", 1): "it is about the graph around it",
}  # fmt: skip
"""Versions whose gradient is tested in a graph made for them, and why no sample can."""


def _is_real(value: Any) -> bool:
    if isinstance(value, Maybe):
        return _is_real(value.value)
    if isinstance(value, list):
        return all(_is_real(item) for item in value)
    return isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.size > 0


def learned(sample: Sample) -> list[int]:
    """Return the positions of the inputs whose gradient is checked; empty where there is none."""
    if {sample.op, f"{sample.domain}::{sample.op}"} & _WITHOUT:
        return []
    if sample.op == "Cast" and sample.attributes["to"] not in _DOUBLE:  # else it rounds
        return []
    if sample.op == "CastLike" and sample.inputs[1].dtype.kind != "f":
        return []
    if sample.op == "SVMRegressor" and sample.attributes.get("one_class"):  # a sign
        return []
    if sample.op == "Unique" and len(np.unique(sample.inputs[0])) < sample.inputs[0].size:
        return []  # equal values that part are one result more
    if sample.op == "Pow" and sample.inputs[0].dtype.kind == "i":
        return []
    among = ONLY.get(sample.op, range(len(sample.inputs)))
    if sample.op == "RoiAlign" and not np.all(sample.inputs[1] % 1):  # on the kinks between pixels
        among = (0,)
    return [
        number
        for number in among
        if number < len(sample.inputs)
        and _is_real(sample.inputs[number])
        and number not in sample.constant
    ]
