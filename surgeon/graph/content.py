"""A coarse form of what goes into a graph, as one more output: 16×16 cells of each picture.

Encoding a picture again, or at another size, hardly changes it, so it tells copies from pictures
that a network merely finds alike; and since it comes out of the pass that is made anyway, nothing
is read twice. What must not enter: what is concluded from it.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from onnx import TensorProto, ValueInfoProto, helper

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import ModelProto

    from surgeon.records import TensorInfo

CELLS = 16
"""Cells along each side of a picture."""
LEAST, MOST = 64, 4096
"""Numbers of one sample between which an input that is no picture is taken as it is."""
OUTPUT = "surgeon.content"
_FLOATS = {"float": False, "float16": True, "uint8": True}


def add_content(
    model: ModelProto, inputs: Sequence[TensorInfo], shape: Sequence[int], layout: str | None
) -> str | None:
    """Append the coarse form of the one input that differs between samples.

    Args:
        model: the graph of the pass; changed in place.
        inputs: its inputs that differ between samples.
        shape: of one sample of the first of them, without the batch axis.
        layout: NCHW or NHWC where it takes pictures, else None.

    Returns:
        The name of a value to read: a new output, or the input itself where that is small; None
        where nothing coarse says what a sample is (several inputs, token ids, a few numbers).
    """
    if len(inputs) != 1 or inputs[0].batch_axis != 0:
        return None
    info = inputs[0]
    if info.name not in {value.name for value in model.graph.input}:
        return None
    if layout is None or len(shape) != 3:
        small = LEAST <= prod(shape) <= MOST and len(shape) > 1
        return info.name if small and info.dtype == "float" else None
    if info.dtype not in _FLOATS:
        return None
    value = info.name
    if _FLOATS[info.dtype]:
        value = _append(model, "Cast", value, "float", to=TensorProto.FLOAT)
    height, width = shape[1:] if layout == "NCHW" else shape[:2]
    if layout == "NHWC":
        value = _append(model, "Transpose", value, "planes", perm=[0, 3, 1, 2])
    cell = [max(1, height // CELLS), max(1, width // CELLS)]
    node = helper.make_node(
        "AveragePool", [value], [OUTPUT], name=OUTPUT, kernel_shape=cell, strides=cell
    )
    model.graph.node.append(node)
    model.graph.output.append(ValueInfoProto(name=OUTPUT))
    return OUTPUT


def _append(model: ModelProto, operator: str, value: str, suffix: str, **attributes: Any) -> str:
    name = f"{OUTPUT}.{suffix}"
    model.graph.node.append(helper.make_node(operator, [value], [name], name=name, **attributes))
    return name
