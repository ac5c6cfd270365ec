"""Attention pooling: learned queries say how much each position counts, then a linear layer.

After Lin et al., "A Structured Self-attentive Sentence Embedding", 2017 (arXiv 1703.03130), with
one linear score per query. Positions are tokens, steps of a series, or places of a picture's map.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from surgeon.records import Built
from surgeon_heads import layers

HIDDEN = 1e9
"""Taken from the score of a position that the mask hides."""


def build(
    graph: Any,
    value: Any,
    outputs: int,
    random: np.random.Generator,
    mask: Any,
    *,
    queries: int = 1,
) -> Built:
    """Append the scores, their softmax over positions, the weighted means and a Gemm.

    The value is [n, length, features], the mask [n, length] with 1 where a position counts, or
    None; `queries` is how many weighted means the linear layer reads side by side.
    """
    layers.at_least(queries, 1, "queries")
    features, dtype = value.shape[2], value.dtype
    first = layers.drawn(random, (queries, features), dtype).T
    query = gs.Constant("query", np.ascontiguousarray(first))
    scores = layers.put(graph, "MatMul", value, query)
    scores = layers.put(graph, "Transpose", scores, perm=[0, 2, 1])
    if mask is not None:
        lost = layers.put(graph, "Sub", mask, layers.constant(graph, "one", [1], dtype))
        lost = layers.put(graph, "Mul", lost, layers.constant(graph, "hidden", [HIDDEN], dtype))
        scores = layers.put(graph, "Add", scores, layers.over(graph, "Unsqueeze", lost, [1]))
    # Over the last axis all versions of Softmax are one.
    shares = layers.put(graph, "Softmax", scores, axis=2)
    means = layers.put(graph, "MatMul", shares, value)
    means = layers.put(graph, "Flatten", means, axis=1)
    means.shape = [value.shape[0], queries * features]
    scores, last = layers.linear(graph, means, outputs, random)
    return Built(scores, (query, *last))
