"""`--optimize`: the graph as ONNX Runtime simplifies it, and still of every processor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgeon.runtime.optimized import to_optimized

if TYPE_CHECKING:
    import onnx

    from surgeon.exporting.given import Given


def make(made: onnx.ModelProto, given: Given) -> onnx.ModelProto:
    """Return the simplified graph."""
    level = given.asked.delivery.optimize
    return made if level is None else to_optimized(made, level)
