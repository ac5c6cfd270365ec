"""Two linear layers with a Relu between them, and Dropout while it trains."""

from __future__ import annotations

from typing import Any

import numpy as np

from surgeon.records import Built
from surgeon_heads import layers


def build(
    graph: Any,
    value: Any,
    outputs: int,
    random: np.random.Generator,
    *,
    hidden: int = 256,
    dropout: float = 0.1,
) -> Built:
    """Append Gemm, Relu, Dropout, Gemm.

    The Dropout node asks for no training mode: it drops where a module of torch trains, and passes
    everything in ONNX Runtime.
    """
    layers.at_least(hidden, 1, "hidden")
    layers.at_least(dropout, 0, "dropout", below=1)
    made, first = layers.linear(graph, value, hidden, random, "hidden.", gain=np.sqrt(6))
    shape = made.shape
    made = layers.put(graph, "Relu", made)
    if dropout and graph.opset < 12:
        made = layers.put(graph, "Dropout", made, ratio=dropout)
    elif dropout:
        ratio = layers.constant(graph, "ratio", dropout, np.float32)
        made = layers.put(graph, "Dropout", made, ratio)
    made.shape = shape
    scores, last = layers.linear(graph, made, outputs, random)
    return Built(scores, (*first, *last))
