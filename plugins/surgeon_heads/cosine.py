"""The cosine between features and a direction per output, times a scale, plus a bias.

After Gidaris and Komodakis, "Dynamic Few-Shot Visual Learning without Forgetting", 2018
(arXiv 1804.09458): the length of features, which differs from class to class where data are few,
says nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from surgeon.errors import UsageError
from surgeon.records import Built
from surgeon_heads import layers


def build(
    graph: Any,
    value: Any,
    outputs: int,
    random: np.random.Generator,
    *,
    scale: float = 16.0,
    learned: bool = True,
) -> Built:
    """Append both normalisations, the scale (trained too where `learned`) and a Gemm."""
    if not scale > 0 or not np.isfinite(scale):
        raise UsageError(f"scale is {scale}", where="--head", remedy="give a number above 0")
    factor = gs.Constant("scale", np.asarray([scale], value.dtype))
    first = layers.drawn(random, (outputs, value.shape[1]), value.dtype)
    weight = gs.Constant("weight", first)
    bias = gs.Constant("bias", np.zeros(outputs, value.dtype))
    scaled = layers.put(graph, "Mul", layers.unit(graph, value), factor)
    scores = layers.gemm(graph, scaled, layers.unit(graph, weight), bias)
    return Built(scores, (*([factor] if learned else []), weight, bias))
