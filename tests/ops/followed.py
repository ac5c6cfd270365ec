"""Where ONNX Runtime and the specification differ and ONNX Runtime is followed."""

from __future__ import annotations

from typing import Final

FOLLOWED: Final = {
    ("MaxUnpool with `output_shape`"): (
        "indices address that shape, not the one inferred from the kernel"
    ),
    ("Resize from opset 19 by scales, `align_corners`"): (
        "the resized length is the whole number of elements, not the fraction"
    ),
    ("Resize, Upsample"): (
        "a shape that stays is copied whatever scales and `roi` say; an axis of scale 1 "
        "keeps its places; integers are cut off behind the point, with `antialias` "
        "rounded after every axis"
    ),
    ("Resize with `keep_aspect_ratio_policy`"): ("axes counted from the end keep their sizes"),
    ("Dropout before opset 12"): (
        "where nothing is dropped the mask is 0 or false; before opset 10 it has the type "
        "of the data"
    ),
    ("Cast of floats to texts"): (
        "eight significant digits, no zeros behind them: `1`, `-2.5`, `1e-07`, `NaN`, `INF`"
    ),
    ("Cast of texts to numbers"): (
        "what C reads off the beginning: `1.5` is 1 as an integer, `1e` is 1"
    ),
    ("StringSplit"): (
        "an empty text has no part; without a delimiter, blanks part and are dropped at both ends"
    ),
    ("ReduceLogSumExp of integers"): (
        "exponentials are integers, so that only the greatest elements count"
    ),
    ("LayerNormalization"): (
        "runs from opset 1; `stash_type` 0 is float; mean and inverse deviation have its type"
    ),
    (
        "Affine, Crop, ImageScaler, MeanVarianceNormalization, ParametricSoftplus, Scale, "
        "ScaledTanh, SimplifiedLayerNormalization, ThresholdedRelu"
    ): ("run from opset 1, though the specification lacks them or has them later"),
    ("Loop"): ("a body that declares iteration number or condition as [1] gets them so"),
    ("AffineGrid with `align_corners`"): ("along an axis of one element that element lies at 1"),
}
"""{operator: what ONNX Runtime does}"""

FOLLOWED["MaxPool, AveragePool, LpPool with `auto_pad` SAME"] = (
    "pads as if the window had no gaps (`dilations`); crops where the step is longer than it"
)
FOLLOWED["ConvTranspose with `auto_pad` SAME"] = "a window shorter than its step is not lengthened"

HEAD: Final = """## Where ONNX Runtime is followed

It is what runs a file where the file is used. Where it and the specification differ, its value is
the one computed here:

| operator | what ONNX Runtime does |
|---|---|"""

TAIL: Final = """
Not followed: products of uint8 and int8 (MatMulInteger, QLinearMatMul, ConvInteger,
DynamicQuantizeLSTM), whose sums ONNX Runtime saturates on processors without VNNI. They are exact
here, as on the others. Where one lies in the trained part and saturates, training is refused
before it begins: quantise with `reduce_range=True`, or train the head only.
Refused: Resize of int8 with `antialias`, and an inverse onesided DFT to another length.
"""


def paragraph() -> str:
    """Return the paragraph of the page."""
    return "\n".join([HEAD, *(f"| {what} | {how} |" for what, how in FOLLOWED.items()), TAIL])
