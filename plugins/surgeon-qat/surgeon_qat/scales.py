"""Scales that learn beside the weights (Esser et al. 2020, arXiv 1902.08153).

What must not enter: how they learn, which is the core's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from onnx import ModelProto, TensorProto, numpy_helper

import surgeon

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import GraphProto, NodeProto

OWN: Final = "surgeon."


def let_learn(
    model: ModelProto, trainable: Sequence[str]
) -> tuple[ModelProto, dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Choose the scales that learn: of trained weights, and of the values behind them.

    A bias of int32 is stored in steps of what its input and its weight are stored in: it becomes a
    float, which ONNX Runtime rounds when it loads the file.

    Args:
        model: a QDQ file.
        trainable: initializers that train.

    Returns:
        The file, the biases that are floats now, {as stored: (as float,)}, and the scales.
    """
    result = ModelProto()
    result.CopyFrom(model)
    instead = _float_biases(result.graph)
    trained = {one for name in trainable for one in instead.get(name, (name,))}
    behind = _behind(result.graph, trained)
    scales = surgeon.load(result).scales()
    found = tuple(name for name, rounded in scales.items() if (trained | behind) & {*rounded})
    return result, instead, found


def _behind(graph: GraphProto, names: set[str]) -> set[str]:
    """Return the values that depend on some initializers."""
    reached, found = set(names), set[str]()
    for node in graph.node:
        if reached.intersection(node.input):
            reached.update(node.output)
            found.update(node.output)
    return found


def _float_biases(graph: GraphProto) -> dict[str, tuple[str, ...]]:
    """Put a float initializer in the place of every dequantised int32; return the new names."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    made = dict[str, str]()
    for node in list(graph.node):
        bias = tensors.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if bias is None or bias.data_type != TensorProto.INT32 or node.input[1] not in tensors:
            continue
        scale = numpy_helper.to_array(tensors[node.input[1]])
        values = (numpy_helper.to_array(bias) * scale.astype("f8")).astype(scale.dtype)
        name = f"{OWN}{bias.name}.float"
        if name not in made.values():
            graph.initializer.append(numpy_helper.from_array(values, name))
        made[bias.name] = name
        _renamed(graph.node, node.output[0], name)
        graph.node.remove(node)
    sweep(graph)
    return {stored: (name,) for stored, name in made.items()}


def _renamed(nodes: Sequence[NodeProto], before: str, after: str) -> None:
    for node in nodes:
        node.input[:] = [after if name == before else name for name in node.input]


def sweep(graph: GraphProto) -> None:
    """Drop the initializers of 32 bits, and scales, that nothing reads any more."""
    read = {name for node in graph.node for name in node.input} | {one.name for one in graph.output}
    for tensor in [one for one in graph.initializer if one.name not in read]:
        graph.initializer.remove(tensor)
