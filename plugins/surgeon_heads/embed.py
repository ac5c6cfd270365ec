"""A linear layer whose output has length one: a vector to be compared by its direction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgeon.records import Built
from surgeon_heads import layers

if TYPE_CHECKING:
    import numpy as np


def build(graph: Any, value: Any, outputs: int, random: np.random.Generator) -> Built:
    """Append a Gemm and the division by the length."""
    made, weights = layers.linear(graph, value, outputs, random)
    return Built(layers.unit(graph, made), weights)
