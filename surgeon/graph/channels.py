"""Where features lie in a value: which of its axes is the channels'."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgeon.graph.walk import (
    Links,
    attribute,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto, NodeProto

    from surgeon.graph.shapes import Shapes


CHANNELS_FIRST = frozenset(
    {"Conv", "ConvTranspose", "BatchNormalization", "InstanceNormalization", "GroupNormalization",
     "LRN", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "PRelu",
     "DepthToSpace", "SpaceToDepth", "FusedConv", "QLinearConv", "QLinearAveragePool",
     "QLinearGlobalAveragePool", "GridSample", "MaxUnpool", "RoiAlign", "MaxRoiPool", "DeformConv"}
)  # fmt: skip


CHANNELS_LAST = frozenset(
    {"MatMul", "Gemm", "LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization",
     "SkipLayerNormalization", "EmbedLayerNormalization", "Attention", "LSTM", "GRU", "RNN",
     "FusedMatMul", "BiasGelu", "FastGelu", "NhwcMaxPool", "QLinearMatMul", "MatMulInteger",
     "SkipSimplifiedLayerNormalization"}
)  # fmt: skip


def channel_axis(model: ModelProto, shapes: Shapes, tensor: str, links: Links | None = None) -> int:
    """Return the axis of a value along which its channels (features) lie.

    Traced back to the operator that fixes it (Conv: axis 1; MatMul, LayerNormalization, LSTM: the
    last), through Transpose; else forward to the readers; else axis 1 of pictures, the last of
    others.
    """
    rank = len(shapes.one[tensor][1])
    if rank <= 2:
        return rank - 1
    links = links or Links(model.graph)
    axis = _backward(tensor, links.makers, shapes, 64)
    if axis is None:
        axis = _forward(tensor, links.users, shapes, 16)
    if axis is None:
        axis = 1 if rank >= 4 else rank - 1
    if axis == shapes.batch_axes.get(tensor):
        axis = rank - 1
    return axis


def _backward(
    name: str, makers: Mapping[str, NodeProto], shapes: Shapes, budget: int
) -> int | None:
    while budget > 0:
        budget -= 1
        node = makers.get(name)
        if node is None or name not in shapes.one:
            return None
        rank = len(shapes.one[name][1])
        if node.op_type in CHANNELS_FIRST:
            return 1
        if node.op_type in CHANNELS_LAST:
            return rank - 1
        if node.op_type == "Gather" and node.input[0] not in shapes.data:
            return rank - 1  # an embedding
        same = [
            n
            for n in node.input
            if n in shapes.data and n in shapes.one and len(shapes.one[n][1]) == rank
        ]
        if node.op_type == "Transpose" and same:
            perm = attribute(node, "perm")
            order = list(perm.ints) if perm is not None else list(range(rank))[::-1]
            inner = _backward(same[0], makers, shapes, budget)
            return None if inner is None else order.index(inner)
        if node.op_type == "Reshape" and node.input[0] in shapes.one:
            inner = _backward(node.input[0], makers, shapes, budget)
            before, after = shapes.one[node.input[0]][1], shapes.one[name][1]
            if inner == len(before) - 1 and before[-1] == after[-1]:
                return rank - 1
            return 1 if inner == 1 and before[:2] == after[:2] else None
        if node.op_type in ("Flatten", "Shape", "Squeeze", "Unsqueeze") or not same:
            return None
        name = same[0]
    return None


def _forward(
    name: str, users: Mapping[str, list[NodeProto]], shapes: Shapes, budget: int
) -> int | None:
    if budget <= 0 or name not in shapes.one:
        return None
    rank = len(shapes.one[name][1])
    for node in users.get(name, ()):
        if node.input and node.input[0] == name:
            if node.op_type in CHANNELS_FIRST:
                return 1
            if node.op_type in CHANNELS_LAST:
                return rank - 1
        if node.op_type == "Transpose":
            perm = attribute(node, "perm")
            order = list(perm.ints) if perm is not None else list(range(rank))[::-1]
            after = _forward(node.output[0], users, shapes, budget - 1)
            if after is not None:
                return order[after]
        elif node.op_type not in ("Reshape", "Flatten", "Shape"):
            made = shapes.one.get(node.output[0])
            same = made is not None and len(made[1]) == rank
            found = _forward(node.output[0], users, shapes, budget - 1) if same else None
            if found is not None:
                return found
    return None
