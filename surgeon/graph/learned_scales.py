"""Scales of quantised values that can learn: those that one initializer states everywhere.

A scale learns where all that is rounded by it is dequantised by it again, so that one number can
move without another. What must not enter: how it learns (`surgeon.torch_graph.straight_through`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import TensorProto

from surgeon.graph.walk import consumers, producers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto, NodeProto

    from surgeon.graph.quantized_weights import QuantizedWeight

PAIR = frozenset({"QuantizeLinear", "DequantizeLinear"})


def find(model: ModelProto, weights: Mapping[str, QuantizedWeight]) -> dict[str, tuple[str, ...]]:
    """Return {scale: what it rounds}, values or quantised weights, of a normalized model.

    Args:
        model: the model.
        weights: its quantised weights, by name.
    """
    users, makers = consumers(model.graph), producers(model.graph)
    ends = {value.name for value in model.graph.output}
    found = {}
    for tensor in model.graph.initializer:
        name = tensor.name
        nodes = users.get(name, ())
        if tensor.data_type != TensorProto.FLOAT or not nodes or name in ends:
            continue
        rounded = [_rounded(node, name, users, makers, weights) for node in nodes]
        if all(one is not None for one in rounded):
            found[name] = tuple(dict.fromkeys(one for one in rounded if one))
    return found


def _rounded(
    node: NodeProto,
    scale: str,
    users: Mapping[str, list[NodeProto]],
    makers: Mapping[str, NodeProto],
    weights: Mapping[str, QuantizedWeight],
) -> str | None:
    """Return what one use of a scale rounds; None where the scale cannot move there.

    The values of a pair are told once, by what is quantised; a DequantizeLinear alone tells "".
    """
    if node.op_type not in PAIR or list(node.input).index(scale) != 1:
        return None
    value = node.input[0]
    if node.op_type == "QuantizeLinear":
        readers = users.get(node.output[0], ())
        alike = [one.op_type == "DequantizeLinear" and one.input[1] == scale for one in readers]
        return value if alike and all(alike) else None
    if value in weights:
        return value if _one_scale(weights[value], users[value], scale) else None
    maker = makers.get(value)
    paired = maker is not None and maker.op_type == "QuantizeLinear" and maker.input[1] == scale
    return "" if paired else None


def _one_scale(weight: QuantizedWeight, nodes: list[NodeProto], scale: str) -> bool:
    """Say whether a scale per tensor or per channel is all that a weight is rounded by."""
    alone = all(node.op_type == "DequantizeLinear" and node.input[1] == scale for node in nodes)
    channels = sum(size > 1 for size in weight.scale.shape) <= 1
    return alone and channels and weight.data_type != TensorProto.INT32
