"""Quantised values as floats: whose scale and zero point they have, and the node that says so.

In a graph quantised operator by operator, eight-bit integers carry the features. They may be cut at
like floats, because a DequantizeLinear makes them floats, exactly.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, count
from typing import TYPE_CHECKING

from onnx import ModelProto, TensorProto, helper

from surgeon.graph.walk import all_names, consumers, producers

if TYPE_CHECKING:
    from onnx import NodeProto

    from surgeon.graph.shapes import Shapes

INTEGERS = frozenset({TensorProto.UINT8, TensorProto.INT8})

READ_AT = {
    "DequantizeLinear": {0: 1}, "QLinearConv": {0: 1}, "QLinearMatMul": {0: 1, 3: 4},
    "QGemm": {0: 1}, "QLinearAdd": {0: 1, 3: 4}, "QLinearMul": {0: 1, 3: 4},
    "QLinearGlobalAveragePool": {0: 1}, "QLinearAveragePool": {0: 1}, "QLinearSigmoid": {0: 1},
    "QLinearLeakyRelu": {0: 1}, "QLinearSoftmax": {0: 1},
}  # fmt: skip
"""Where a reader keeps the scale of what it reads: {operator: {input slot: slot of its scale}}."""

MADE_AT = {
    "QuantizeLinear": 1, "QLinearConv": 6, "QLinearMatMul": 6, "QGemm": 7, "QLinearAdd": 6,
    "QLinearMul": 6, "QLinearGlobalAveragePool": 3, "QLinearAveragePool": 3, "QLinearSigmoid": 3,
    "QLinearLeakyRelu": 3, "QLinearSoftmax": 3, "QLinearConcat": 0,
}  # fmt: skip
"""Where a maker keeps the scale of what it makes: {operator: slot of the scale}."""

MOVED = frozenset(
    {"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "MaxPool", "Pad", "Slice",
     "Identity", "Dropout", "Expand", "Gather"}
)  # fmt: skip
"""Operators that move values about and leave their scale."""


class Scales:
    """Scale and zero point of every quantised value of a graph, found on demand."""

    def __init__(self, model: ModelProto) -> None:
        self._makers = producers(model.graph)
        self._users = consumers(model.graph)
        self._scalars = {t.name for t in model.graph.initializer if not t.dims or t.dims == [1]}

    def of(self, name: str) -> tuple[str, str] | None:
        """Return the names of (scale, zero point) of a value, or None where they are not known."""
        for node in self._users.get(name, ()):
            table = READ_AT.get(node.op_type, {})
            for slot, place in table.items():
                if slot < len(node.input) and node.input[slot] == name:
                    found = self._pair(node, place)
                    if found is not None:
                        return found
        maker = self._makers.get(name)
        if maker is None:
            return None
        if maker.op_type in MADE_AT:
            return self._pair(maker, MADE_AT[maker.op_type])
        return self.of(maker.input[0]) if maker.op_type in MOVED else None

    def _pair(self, node: NodeProto, place: int) -> tuple[str, str] | None:
        if len(node.input) <= place + 1:
            return None
        scale, zero = node.input[place], node.input[place + 1]
        return (scale, zero) if {scale, zero} <= self._scalars else None


def dequantize(
    model: ModelProto, original: ModelProto, tensor: str, shapes: Shapes
) -> tuple[ModelProto, str, Shapes]:
    """Append the DequantizeLinear that makes a quantised value a float.

    Args:
        model: graph truncated at `tensor`.
        original: the graph it was cut from, which has the scales.
        tensor: quantised value.
        shapes: shapes of the original.

    Returns:
        The graph, the name of the float value, and the shapes with that value in them.
    """
    pair = Scales(original).of(tensor)
    assert pair is not None
    result = ModelProto()
    result.CopyFrom(model)
    taken = all_names(result.graph)
    endings = chain([""], (f".{number}" for number in count(2)))
    ending = next(e for e in endings if f"surgeon.dequantized{e}" not in taken)
    name = f"surgeon.dequantized{ending}"
    there = {item.name for item in result.graph.initializer}
    for item in original.graph.initializer:
        if item.name in pair and item.name not in there:
            result.graph.initializer.append(item)
    called = f"surgeon.dequantizelinear{ending}"
    node = helper.make_node("DequantizeLinear", [tensor, *pair], [name], called)
    result.graph.node.append(node)
    dims = shapes.one[tensor][1]
    return (
        result,
        name,
        replace(
            shapes,
            one={**shapes.one, name: (int(TensorProto.FLOAT), dims)},
            batch_axes={**shapes.batch_axes, name: shapes.batch_axes[tensor]},
            symbolic={**shapes.symbolic, name: shapes.symbolic[tensor]},
            data=shapes.data | {name},
        ),
    )
