"""One linear layer at every position: [n, length, features] → [n, length, outputs]."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from surgeon.records import Built
from surgeon_heads import layers


def build(graph: Any, value: Any, outputs: int, random: np.random.Generator) -> Built:
    """Append Transpose of the weight, MatMul and Add.

    The weight is [outputs, features] as that of a Gemm, so that it is solved for, and brought into
    other units, alike; MatMul wants it the other way round.
    """
    first = layers.drawn(random, (outputs, value.shape[2]), value.dtype)
    weight = gs.Constant("weight", first)
    bias = gs.Constant("bias", np.zeros(outputs, value.dtype))
    turned = layers.put(graph, "Transpose", weight, perm=[1, 0])
    scores = layers.put(graph, "MatMul", value, turned)
    return Built(layers.put(graph, "Add", scores, bias), (weight, bias))
