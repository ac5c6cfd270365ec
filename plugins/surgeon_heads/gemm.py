"""The linear head: weight [outputs, features] and bias [outputs]."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from surgeon.records import Built


def build(graph: Any, value: Any, outputs: int, random: np.random.Generator) -> Built:
    """Append one Gemm.

    The weight is drawn from the uniform distribution on ±1/sqrt(features) (LeCun et al., "Efficient
    BackProp", 1998); the bias is zero.
    """
    features = value.shape[1]
    bound = 1.0 / np.sqrt(features)
    drawn = random.uniform(-bound, bound, (outputs, features)).astype(value.dtype)
    weight = gs.Constant("weight", drawn)
    bias = gs.Constant("bias", np.zeros(outputs, value.dtype))
    attributes = {"transB": 1} | ({"broadcast": 1} if graph.opset < 7 else {})
    (scores,) = graph.layer(
        op="Gemm", inputs=[value, weight, bias], outputs=["scores"], attrs=attributes
    )
    return Built(scores, (weight, bias))
