"""Whether an input holds samples along one of its axes, or is a single sample itself.

Read off what the graph does with it: where the axis that a convolution or a recurrent operator
takes its samples from is put there by the graph, the input has no such axis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import numpy_helper

from surgeon.graph.walk import attribute, consumers, producers
from surgeon.graph.weights import to_array

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto, NodeProto, TensorProto

    from surgeon.records import Shape

SAMPLES_FIRST = frozenset(
    {"Conv", "ConvTranspose", "AveragePool", "MaxPool", "LpPool", "GlobalAveragePool",
     "GlobalMaxPool", "BatchNormalization", "InstanceNormalization", "GroupNormalization", "LRN"}
)  # fmt: skip
RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
KEEPING = frozenset(
    {"Identity", "Cast", "Sub", "Div", "Mul", "Add", "Clip", "Sqrt", "Log", "Abs", "Pow", "Max",
     "Min", "Neg", "Relu", "Tanh", "Sigmoid", "Dropout", "Exp"}
)  # fmt: skip
MADE = -1
"""Stands for an axis that the graph put in."""


def unbatched(model: ModelProto, name: str, shape: Shape | None) -> bool:
    """Say whether the graph itself gives an input the axis that samples lie along."""
    if not shape or shape[0] == 1:  # a batch of one does no harm, however it is meant
        return False
    graph = model.graph
    users, makers = consumers(graph), producers(graph)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    axes = list(range(len(shape)))
    while True:
        reading = [node for node in users.get(name, []) if node.op_type not in ("Shape", "Size")]
        if len(reading) != 1 or not reading[0].output:
            return False
        node = reading[0]
        kind = node.op_type
        if kind in SAMPLES_FIRST:
            return axes[0] == MADE
        if kind in RECURRENT:
            layout = attribute(node, "layout")
            place = 0 if layout is not None and layout.i else 1
            return len(axes) > place and axes[place] == MADE
        moved = _moved(node, axes, shape, constants, makers)
        if moved is None:
            return False
        name, axes = node.output[0], moved


def _moved(
    node: NodeProto,
    axes: list[int],
    shape: Shape,
    constants: Mapping[str, TensorProto],
    makers: Mapping[str, NodeProto],
) -> list[int] | None:
    """Return where the axes of a node's input lie in its output, None where that is not known."""
    kind = node.op_type
    if kind in KEEPING:
        ranks = [len(constants[n].dims) for n in node.input if n in constants]
        return axes if max(ranks, default=0) <= len(axes) else None
    if kind == "Transpose":
        perm = attribute(node, "perm")
        order = list(perm.ints) if perm is not None else list(reversed(range(len(axes))))
        return [axes[place] for place in order]
    stated = _ints(node, constants, makers)
    if stated is None:
        return None
    if kind == "Unsqueeze":
        rank = len(axes) + len(stated)
        places = {axis % rank for axis in stated}
        rest = iter(axes)
        return [MADE if place in places else next(rest) for place in range(rank)]
    if kind == "Reshape" and axes == list(range(len(shape))) and stated == [1, *shape]:
        return [MADE, *axes]
    return None


def _ints(
    node: NodeProto, constants: Mapping[str, TensorProto], makers: Mapping[str, NodeProto]
) -> list[int] | None:
    """Return the axes or the target that a node states by a constant."""
    for listed in (attribute(node, "axes"), attribute(node, "shape")):
        if listed is not None:
            return list(listed.ints)
    name = node.input[1] if len(node.input) > 1 else ""
    if name in constants:
        return [int(value) for value in to_array(constants[name]).reshape(-1)]
    maker = makers.get(name)
    value = attribute(maker, "value") if maker is not None else None
    if maker is None or maker.op_type != "Constant" or value is None:
        return None
    return [int(item) for item in numpy_helper.to_array(value.t).reshape(-1)]
